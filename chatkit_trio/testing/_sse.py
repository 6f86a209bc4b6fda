"""Reading server-sent events from bytes that arrive in pieces. No waiting here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SSEReader", "ServerSentEvent"]


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its data, and the name and id it came with, if any."""

    data: bytes
    name: str | None = None
    id: str | None = None


class SSEReader:
    """Parses chunks, cut anywhere, into events; counts the comments, which are heartbeats."""

    def __init__(self) -> None:
        self.heartbeats = 0
        """How many comments have been read."""
        self._buffer = b""
        self._data: list[bytes] = []
        self._name: str | None = None
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Parse a chunk, and return the events that it completes."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        events = (self._line(line.removesuffix(b"\r")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not field:
            self.heartbeats += 1
        elif field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode()
        elif field == b"id":
            self._id = value.decode()
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        if not self._data:
            return None
        event = ServerSentEvent(b"\n".join(self._data), self._name, self._id)
        self._data, self._name = [], None
        return event
