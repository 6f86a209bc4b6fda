"""The app that is attacked: `chatkit-trio serve benchmarks.attacks.victim:app`.

Everything is as a user gets it: the SQLite store, attachments on disk, the page. The user's message
is a command in JSON:

    {"deltas": 1000, "size": 8, "pause": 0.01}    stream so many pieces of text
    {"do": "block", "seconds": 60}                block a thread of the default limiter

`SIEGE_OWNER_LIMITS` and `SIEGE_POLICY`, JSON objects, are settings of the server. With
`SIEGE_OWNERS` the header `User` says who asks; without it all requests have one owner.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from quart import Request

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import DiskAttachmentStore, SQLiteStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import create_app

DIRECTORY = Path(os.environ["SIEGE_DIRECTORY"])

Command = dict[str, Any]


class VictimServer(ChatKitServer[str]):
    """Does what the message says."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: str
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


def _one_owner(request: Request) -> str:
    return ""


def _user(request: Request) -> str:
    return request.headers["User"]


store = SQLiteStore[str](DIRECTORY / "chat.db", owner=str)
attachments = DiskAttachmentStore[str](
    DIRECTORY / "attachments",
    metadata=store,
    base_url="http://127.0.0.1/attachments",
    secret="a secret of the siege, which is no secret",
    owner=str,
)
server = VictimServer(
    store,
    attachments,
    policy=TurnPolicy(**json.loads(os.environ.get("SIEGE_POLICY", "{}"))),
    owner_limits=OwnerLimits(**json.loads(os.environ.get("SIEGE_OWNER_LIMITS", "{}"))),
)
app = create_app(server, context=_user if "SIEGE_OWNERS" in os.environ else _one_owner)
