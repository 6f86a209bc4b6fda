"""Playing a recorded turn: when each of its lines is due, and how it looks on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ._plain import one_line, plain
from ._recordings import End, Gap, Line, Recording

_BECAUSE = {"size": "the file had reached its limit", "disk": "the disk was too slow"}
_DELTA = "assistant_message.content_part.text_delta"
_OF_PARTS = ("assistant_message.content_part.added", "assistant_message.content_part.done")


def play(
    lines: Iterable[Line],
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Line]:
    """Yield each line when it is due; with a speed of 2 in half the time, with 0 at once."""
    began_at = clock()
    for line in lines:
        if speed:
            wait = began_at + line.ms / 1000 / speed - clock()
            if wait > 0:
                sleep(wait)
        yield line


def headline(recording: Recording) -> str:
    """Return which turn it is."""
    return one_line(
        f"{recording.turn_id} of thread {recording.thread_id}: {recording.request},"
        f" {when(recording)}"
    )


def when(recording: Recording) -> str:
    """Return when the turn was asked for, to the second."""
    return recording.began_at[:19].replace("T", " ")


def told_gap(gap: Gap) -> str:
    """Return what is missing, and why."""
    what = "1 event is missing" if gap.missing == 1 else f"{gap.missing} events are missing"
    return f"{what}: {_BECAUSE.get(gap.because, one_line(gap.because))}"


class Script:
    """Makes the text of a turn's lines: answers as they grow, and a line for each other event."""

    def __init__(self) -> None:
        self._growing: str | None = None
        """The id of the message whose line isn't over."""
        self._said: dict[str, str] = {}
        """What has been shown of each message."""

    def show(self, line: Line) -> str:
        """Return what is to be shown now."""
        match line:
            case End(ended=ended):
                return self._whole(line.ms, f"ended: {one_line(ended)}")
            case Gap():
                return self._whole(line.ms, told_gap(line))
        event, item = line.event, line.event.get("item")
        update = _text(event, "update", "type")
        if _text(item, "type") == "assistant_message":
            return self._message(line.ms, event, item)
        if update == _DELTA:
            return self._grow(line.ms, _text(event, "item_id"), _text(event, "update", "delta"))
        if update in _OF_PARTS:
            return ""
        if _text(item, "type") == "user_message":
            return self._whole(line.ms, f"user: {plain(_said(item))}")
        return self._whole(line.ms, _told(event))

    def finish(self) -> str:
        """Return the end of a line that isn't over."""
        is_open, self._growing = self._growing is not None, None
        return "\n" if is_open else ""

    def _message(self, ms: int, event: dict[str, Any], item: Any) -> str:
        item_id, text = _text(item, "id"), _said(item)
        if event["type"] == "thread.item.added":
            return self._grow(ms, item_id, text)
        if text and self._said.get(item_id) == text:
            return self.finish() if self._growing == item_id else ""
        return self._whole(ms, f"assistant: {plain(text)}" if text else _told(event))

    def _grow(self, ms: int, item_id: str, text: str) -> str:
        if not text:
            return ""
        self._said[item_id] = self._said.get(item_id, "") + text
        if self._growing == item_id:
            return plain(text)
        begun = self.finish() + f"{_time(ms)} assistant: {plain(text)}"
        self._growing = item_id
        return begun

    def _whole(self, ms: int, text: str) -> str:
        return f"{self.finish()}{_time(ms)} {text}\n"


def _time(ms: int) -> str:
    return f"[{ms / 1000:.3f}]"


def _told(event: dict[str, Any]) -> str:
    """Return an event as a line: its type, and what of it says most."""
    kind: str = event["type"]
    match kind:
        case "error" | "notice":
            return f"{kind}: {one_line(_text(event, 'message') or _text(event, 'code'))}"
        case "thread.item.added" | "thread.item.done" | "thread.item.replaced":
            more = [_text(event, "item", "type"), _text(event, "item", "id")]
        case "thread.item.updated" | "thread.item.removed":
            more = [_text(event, "update", "type"), _text(event, "item_id")]
        case "thread.created" | "thread.updated":
            more = [_text(event, "thread", "id"), _text(event, "thread", "title")]
        case _:
            more = [_text(event, "text"), _text(event, "name")]
    return one_line(" ".join([kind, *filter(None, more)]))


def _said(item: Any) -> str:
    parts = item.get("content")
    return "".join(_text(part, "text") for part in parts) if isinstance(parts, list) else ""


def _text(value: Any, *path: str) -> str:
    """Return the text that is at a place in an event, "" if there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
