"""The app that the tests of `/admin` look at: `serve tests.browser.administered:app`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer, TurnPolicy, current_turn, stream_text
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.web import create_app


class Counter(ChatKitServer[Any]):
    """Counts for a long time, while another task of the turn looks for a title."""

    async def find_title(self) -> None:
        await trio.sleep_forever()

    async def numbers(self) -> AsyncIterator[str]:
        for number in range(5000):
            yield f"{number} "
            await trio.sleep(0.02)

    async def respond(self, thread: Any, input_user_message: Any, context: Any) -> Any:
        if "fail" in input_user_message.content[0].text:
            raise RuntimeError("a secret of the server")
        if "short" in input_user_message.content[0].text:
            async for event in stream_text(thread, "That was all."):
                yield event
            return
        current_turn().nursery.start_soon(self.find_title)
        async for event in stream_text(thread, self.numbers()):
            yield event


app = create_app(
    Counter(
        SQLiteStore(os.environ["ADMINISTERED_DATABASE"]), policy=TurnPolicy(on_disconnect="finish")
    ),
    admin_token=os.environ["ADMINISTERED_TOKEN"],
)
