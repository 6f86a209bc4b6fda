"""The app of each node in `benchmarks.cluster`: answers tell which message they belong to.

The user's message is a command in JSON: `{"label": "7.2", "pieces": 20, "parts": 2, "pause": 0.2}`
asks for two assistant messages of twenty pieces each, with a pause in seconds before each piece.
Every response says in `X-Node` which node has made it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import trio
from quart import Response

from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
)
from chatkit_trio.web import create_app

HEARTBEAT = 2.0


def piece(label: str, part: int, number: int) -> str:
    """Return one piece of a text: it says where it belongs."""
    return f"{label}:{part}:{number:04d} "


def text_of(label: str, part: int, pieces: int) -> str:
    """Return the whole text of a part."""
    return "".join(piece(label, part, number) for number in range(pieces))


class LabellingServer(ChatKitServer[None]):
    """Answers as commanded, and tells by a file which node this process is."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert self.store.coordination is not None
        self.node = self.store.coordination.node
        # Written beside its place: who looks finds all of it or nothing.
        folder = Path(os.environ["CLUSTER_NODES"])
        (folder / f".{os.getpid()}").write_text(self.node)
        (folder / f".{os.getpid()}").rename(folder / str(os.getpid()))
        return self

    async def respond(
        self, thread: Any, input_user_message: Any, context: None
    ) -> AsyncIterator[Any]:
        command = json.loads(input_user_message.content[0].text)
        thread.title = thread.title or command["label"]
        for part in range(command["parts"]):
            item = AssistantMessageItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=datetime.now(UTC),
                content=[AssistantMessageContent(text="")],
            )
            yield ThreadItemAddedEvent(item=item)
            for number in range(command["pieces"]):
                if command["pause"] is not None:
                    await trio.sleep(command["pause"])
                delta = piece(command["label"], part, number)
                update = AssistantMessageContentPartTextDelta(content_index=0, delta=delta)
                yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
            text = text_of(command["label"], part, command["pieces"])
            content = [AssistantMessageContent(text=text)]
            yield ThreadItemDoneEvent(item=item.model_copy(update={"content": content}))


def make_app() -> Any:
    """Make the app that the environment describes."""
    store = PostgreSQLStore[None](
        os.environ["CLUSTER_DATABASE"],
        connect_timeout=3.0,
        statement_timeout=5.0,
        lease_timeout=float(os.environ["CLUSTER_LEASE"]),
    )
    server = LabellingServer(store, policy=TurnPolicy(heartbeat=HEARTBEAT))
    app = create_app(server, context=lambda _: None, page=False)

    @app.after_request
    async def tell_node(response: Response) -> Response:
        response.headers["X-Node"] = server.node
        return response

    return app


if "CLUSTER_DATABASE" in os.environ:
    app = make_app()
