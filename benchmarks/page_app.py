"""The server of `benchmarks.page`: it answers with long texts, 100 pieces a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import ThreadMetadata, UserMessageItem
from chatkit_trio.web import create_app

RATE = 100  # pieces a second

WORDS = "Structured concurrency gives each task a nursery that waits for it, and a scope to end it."


def mixed() -> Iterator[str]:
    for number in range(170):
        yield f"## Part {number}\n\n{WORDS} **{WORDS}** and `code`, [a link](https://example.com).\n\n"
        yield f"- one\n- two {number}\n- three\n\n```python\nprint({number})\n```\n\n> {WORDS}\n\n"


TEXTS = {
    "mixed": "".join(mixed()),
    "list": "".join(f"- Item {number} with **bold** words and `code`\n" for number in range(1500)),
    "table": "| Name | Number | Words |\n|---|--:|---|\n"
    + "".join(f"| Row {number} | {number * 7} | some words of it |\n" for number in range(2500)),
    "code": "```python\n"
    + "".join(f"    value_{number} = compute({number}, 'text')\n" for number in range(2200))
    + "```\n",
    "short": WORDS * 12,
}


class Server(ChatKitServer[Any]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[Any]:
        assert input_user_message is not None
        name, _, seconds = input_user_message.content[0].text.partition(" ")
        pieces = _pieces(TEXTS[name], float(seconds)) if seconds else [TEXTS[name]]
        async for event in stream_text(thread, _paced(pieces) if seconds else pieces):
            yield event


def _pieces(text: str, seconds: float) -> list[str]:
    length = max(1, round(len(text) / (seconds * RATE)))
    return [text[start : start + length] for start in range(0, len(text), length)]


async def _paced(pieces: list[str]) -> AsyncIterator[str]:
    begun = trio.current_time()
    for number, piece in enumerate(pieces):
        yield piece
        await trio.sleep_until(begun + (number + 1) / RATE)


app = create_app(Server(MemoryStore()))
