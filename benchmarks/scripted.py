"""What both servers answer: a scripted respond, written once for either package's types.

The user's message is a command in JSON, so that one running server serves every measurement:

    {"deltas": 200, "size": 8, "pause": 0.01, "deadline": 1.0}   stream so many pieces of text
    {"deltas": 200, "pause": 0.01, "timed": true}               each piece says when it was made
    {"recall": true}                                            say what the history holds

`pause` is in seconds; null means that nothing is awaited between events, 0 means a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_MOST_TOGETHER = 256  # frames, as many as chatkit_trio sends at once
BARE_FRAME = b"data: " + b"." * 180 + b"\n\n"  # as long as a short delta's

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Command:
    """A message's command."""

    deltas: int = 0
    size: int = 8
    pause: float | None = None
    deadline: float | None = None
    timed: bool = False
    recall: bool = False


def command_of(user_message: Any) -> Command:
    """Return the command in a user message or its input."""
    return Command(**json.loads(user_message.content[0].text))


def piece(number: int, size: int) -> str:
    """Return the text of one delta: its number, padded, so that a text tells what it holds."""
    return f"{number:07d} ".ljust(size, ".")


def time_now() -> str:
    """Return the time by the machine's monotonic clock, which all processes read alike."""
    return f"{time.monotonic():.6f} "


def text_of(count: int, size: int) -> str:
    """Return the text of the first `count` deltas."""
    return "".join(piece(number, size) for number in range(count))


def fingerprint(text: str) -> list[int | str]:
    """Return what the recall answer says of a text."""
    return [len(text), hashlib.sha256(text.encode()).hexdigest()]


async def bare_frames(body: bytes, sleep: Sleep, window: float) -> AsyncIterator[bytes]:
    """Yield the frames of an answer without any SDK, in as few pieces as `window` seconds allow.

    This is the floor: no server on this web stack can send as many frames for less.
    """
    command = Command(**json.loads(json.loads(body)["params"]["input"]["content"][0]["text"]))
    waiting, sent_at = [BARE_FRAME] * 5, 0.0
    for _ in range(command.deltas):
        now = time.monotonic()
        if now - sent_at >= window or len(waiting) >= _MOST_TOGETHER:
            yield b"".join(waiting)
            waiting, sent_at = [], now
        if command.pause is not None:
            await sleep(command.pause)
        frame = BARE_FRAME
        if command.timed:
            frame = b'data: {"delta":"%s"}' % time_now().encode()
            frame = frame.ljust(len(BARE_FRAME) - 2, b" ") + b"\n\n"
        waiting.append(frame)
    yield b"".join(waiting)


class Script:
    """The events of an answer, made of the types of the package it was given."""

    def __init__(self, types: Any, store: Any, sleep: Sleep) -> None:
        self.types = types
        self.store = store
        self.sleep = sleep

    async def respond(self, thread: Any, user_message: Any, context: Any) -> AsyncIterator[Any]:
        command = command_of(user_message)
        if command.recall:
            yield await self._recall(thread, context)
            return
        item = self._message(thread, context, "")
        yield self.types.ThreadItemAddedEvent(item=item)
        for number in range(command.deltas):
            if command.pause is not None:
                await self.sleep(command.pause)
            text = time_now() if command.timed else piece(number, command.size)
            yield self._delta(item.id, text)
        text = text_of(command.deltas, command.size)
        done = item.model_copy(update={"content": [self._content(text)]})
        yield self.types.ThreadItemDoneEvent(item=done)

    async def _recall(self, thread: Any, context: Any) -> Any:
        page = await self.store.load_thread_items(thread.id, None, 100, "asc", context)
        history = [[item.type, *fingerprint(_text(item))] for item in page.data]
        message = self._message(thread, context, json.dumps(history))
        return self.types.ThreadItemDoneEvent(item=message)

    def _delta(self, item_id: str, text: str) -> Any:
        update = self.types.AssistantMessageContentPartTextDelta(content_index=0, delta=text)
        return self.types.ThreadItemUpdatedEvent(item_id=item_id, update=update)

    def _message(self, thread: Any, context: Any, text: str) -> Any:
        return self.types.AssistantMessageItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=[self._content(text)],
        )

    def _content(self, text: str) -> Any:
        return self.types.AssistantMessageContent(text=text, annotations=[])


def _text(item: Any) -> str:
    if item.type == "assistant_message":
        return "".join(part.text for part in item.content)
    return item.content if isinstance(item.content, str) else ""
