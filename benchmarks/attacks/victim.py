"""The app that is attacked: `chatkit-trio serve benchmarks.attacks.victim:app`.

Everything is as a user gets it: the SQLite store, attachments on disk, the page. The user's message
is a command in JSON:

    {"deltas": 1000, "size": 8, "pause": 0.01}    stream so many pieces of text
    {"do": "block", "seconds": 60}                block a thread of the default limiter
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import DiskAttachmentStore, SQLiteStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import create_app

DIRECTORY = Path(os.environ["SIEGE_DIRECTORY"])

Command = dict[str, Any]


class VictimServer(ChatKitServer[Any]):
    """Does what the message says."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        command = _command_of(input_user_message)
        if "do" in command:
            await DEEDS[command["do"]](command)
        async for event in stream_text(thread, _pieces(command)):
            yield event


def _command_of(message: UserMessageItem | None) -> Command:
    try:
        command = json.loads("" if message is None else message.content[0].text)
    except (ValueError, IndexError):
        command = None
    return command if isinstance(command, dict) else {"deltas": 3}


async def _pieces(command: Command) -> AsyncIterator[str]:
    for number in range(command.get("deltas", 3)):
        await trio.sleep(command.get("pause", 0.0))
        yield f"{number:07d} ".ljust(command.get("size", 8), ".")


async def _block(command: Command) -> None:
    await trio.to_thread.run_sync(time.sleep, command["seconds"])


DEEDS: dict[str, Callable[[Command], Awaitable[None]]] = {"block": _block}

store = SQLiteStore[Any](DIRECTORY / "chat.db")
attachments = DiskAttachmentStore[Any](
    DIRECTORY / "attachments",
    metadata=store,
    base_url="http://127.0.0.1/attachments",
    secret="a secret of the siege, which is no secret",
)
server = VictimServer(store, attachments)
app = create_app(server)
