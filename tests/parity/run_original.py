"""Hold every conversation with openai-chatkit on asyncio and print what it sent, as JSON.

A process of its own: the original lives on asyncio, and patches nothing of ours.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import types
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import chatkit.errors  # noqa: E402
import chatkit.server  # noqa: E402
import chatkit.store  # noqa: E402
import chatkit.types  # noqa: E402
import chatkit.widgets  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from scenarios import CONVERSATIONS, Scripts, body  # noqa: E402

SDK = types.SimpleNamespace(
    types=chatkit.types,
    widgets=chatkit.widgets,
    server=chatkit.server,
    errors=chatkit.errors,
)


ITEM: TypeAdapter[Any] = TypeAdapter(chatkit.types.ThreadItem)


def through_json(item: Any) -> Any:
    """Return what a database would give back."""
    return ITEM.validate_json(ITEM.dump_json(item))


class ListStore(chatkit.store.Store[None]):
    """Threads and items in lists, copied in and out: enough for the original's contract."""

    def __init__(self) -> None:
        self.threads: dict[str, Any] = {}
        self.items: dict[str, list[Any]] = {}
        self.attachments: dict[str, Any] = {}
        self.numbers = itertools.count(1)

    def new_id(self, kind: str) -> str:
        return f"{kind}_{next(self.numbers)}"

    def generate_thread_id(self, context: None) -> str:
        return self.new_id("thread")

    def generate_item_id(self, item_type: Any, thread: Any, context: None) -> str:
        return self.new_id(item_type)

    async def load_thread(self, thread_id: str, context: None) -> Any:
        return self.threads[thread_id].model_copy(deep=True)

    async def save_thread(self, thread: Any, context: None) -> None:
        # The original hands over a Thread with items here (its PR 9): narrowed, as users must.
        fields = {name: getattr(thread, name) for name in chatkit.types.ThreadMetadata.model_fields}
        self.threads[thread.id] = chatkit.types.ThreadMetadata(**fields).model_copy(deep=True)
        self.items.setdefault(thread.id, [])

    def _page(self, data: list[Any], after: str | None, limit: int, order: str) -> Any:
        data = data if order == "asc" else data[::-1]
        start = 0
        if after is not None:
            start = 1 + next(i for i, value in enumerate(data) if value.id == after)
        chosen = [value.model_copy(deep=True) for value in data[start : start + limit]]
        more = start + limit < len(data)
        return chatkit.types.Page(data=chosen, has_more=more, after=chosen[-1].id if more else None)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: None
    ) -> Any:
        return self._page(self.items[thread_id], after, limit, order)

    async def load_threads(self, limit: int, after: str | None, order: str, context: None) -> Any:
        return self._page(list(self.threads.values()), after, limit, order)

    async def save_attachment(self, attachment: Any, context: None) -> None:
        self.attachments[attachment.id] = attachment

    async def load_attachment(self, attachment_id: str, context: None) -> Any:
        return self.attachments[attachment_id]

    async def delete_attachment(self, attachment_id: str, context: None) -> None:
        del self.attachments[attachment_id]

    async def add_thread_item(self, thread_id: str, item: Any, context: None) -> None:
        self.items[thread_id].append(through_json(item))

    async def save_item(self, thread_id: str, item: Any, context: None) -> None:
        items = self.items[thread_id]
        place = next(i for i, stored in enumerate(items) if stored.id == item.id)
        items[place] = through_json(item)

    async def load_item(self, thread_id: str, item_id: str, context: None) -> Any:
        return next(item for item in self.items[thread_id] if item.id == item_id).model_copy(
            deep=True
        )

    async def delete_thread(self, thread_id: str, context: None) -> None:
        del self.threads[thread_id], self.items[thread_id]

    async def delete_thread_item(self, thread_id: str, item_id: str, context: None) -> None:
        self.items[thread_id] = [i for i in self.items[thread_id] if i.id != item_id]


class Attachments(chatkit.store.AttachmentStore[None]):
    def __init__(self, store: ListStore) -> None:
        self.store = store

    async def create_attachment(self, input: Any, context: None) -> Any:
        return chatkit.types.ImageAttachment(
            id=self.store.new_id("attachment"),
            name=input.name,
            mime_type=input.mime_type,
            preview_url="https://example.com/p",
            metadata={"secret": 1},
        )

    async def delete_attachment(self, attachment_id: str, context: None) -> None:
        pass


class OriginalServer(chatkit.server.ChatKitServer[None]):
    def __init__(self) -> None:
        store = ListStore()
        super().__init__(store, Attachments(store))
        scripts = Scripts(SDK, store.new_id)
        self.respond = scripts.respond
        self.action = scripts.action
        self.sync_action = scripts.sync_action
        self.transcribe = scripts.transcribe

    def respond(self, *args: Any) -> Any:
        """Satisfy the abstract method; replaced in __init__."""


OriginalServer.__abstractmethods__ = frozenset()


async def hold(requests: list[dict[str, Any]]) -> list[list[str]]:
    server = OriginalServer()
    answers = []
    for request in requests:
        result = await server.process(body(request), None)
        if isinstance(result, chatkit.server.StreamingResult):
            answers.append([frame.decode() async for frame in result])
        else:
            answers.append([result.json.decode()])
    return answers


async def main() -> None:
    print(json.dumps({name: await hold(turns) for name, turns in CONVERSATIONS.items()}))


asyncio.run(main())
