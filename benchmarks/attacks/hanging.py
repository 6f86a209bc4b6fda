"""The app of the attacks in `ends`: after its answer, a message may have something hang.

{"do": "cleanup", "deltas": 10}    stream ten pieces, then hang in the cleanup of respond
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer, TurnPolicy, current_turn, stream_text
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import StoreWrapper
from chatkit_trio.types import ThreadItem, ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import create_app

from .victim import _command_of as command_of

_FOR_EVER = 1000.0  # seconds


class Disk(StoreWrapper[Any]):
    """A store whose writes hang in their thread from some moment on."""

    hangs = False

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.hangs:
            await trio.to_thread.run_sync(time.sleep, _FOR_EVER)
        return await call()


class HangingServer(ChatKitServer[Any]):
    """Answers, and hangs as it is told."""

    hook_hangs = False

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        command = command_of(input_user_message)
        way = command.get("do")
        try:
            async for event in stream_text(thread, self._pieces(way, command["deltas"])):
                yield event
        finally:
            if way == "cleanup":
                await _shielded()

    async def _pieces(self, way: str | None, count: int) -> AsyncIterator[str]:
        for number in range(count):
            await trio.sleep(0.01)
            yield f"{number:07d} "
        if way is not None:
            await self._hang(way)

    async def _hang(self, way: str) -> None:
        await trio.sleep(0.6)  # the journal has what was sent
        if way == "thread":
            await trio.to_thread.run_sync(time.sleep, _FOR_EVER)
        elif way == "nursery":
            current_turn().nursery.start_soon(_shielded)
        elif way == "disk":
            store.hangs = True
        elif way == "hook":
            self.hook_hangs = True
        elif way == "swallow":
            while True:
                with suppress(trio.Cancelled):
                    await trio.sleep(_FOR_EVER)
        elif way == "busy":
            while True:
                pass
        await trio.sleep(_FOR_EVER)

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        if self.hook_hangs:
            await _shielded()
        await super().handle_stream_cancelled(thread, pending_items, context)


async def _shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(_FOR_EVER)


store = Disk(SQLiteStore[Any](Path(os.environ["SIEGE_DIRECTORY"]) / "chat.db"))
app = create_app(
    HangingServer(store, policy=TurnPolicy(settle_timeout=1.0, on_disconnect="finish"))
)
