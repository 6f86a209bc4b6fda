"""Recording turns: for each a file with its events as clients could read them, and when.

    server.observe(TurnRecorder("recordings"))

`chatkit-trio serve --record DIR` does it too, and `chatkit-trio replay` plays what is recorded. The
files hold what users and models say; docs/reference/cli.md tells their format.

A recording is worth less than any turn. Lines wait in a bounded buffer, and a thread writes them;
what finds no room there is left out, and the file says so. The thread opens a file for each write:
thousands of live turns must not use up the descriptors that connections need.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from ._settings import check_count
from .observe import Event, TurnAsked, TurnEnded, TurnInfo
from .server import current_turn
from .stores._private_files import make_private_directory, open_private

__all__ = ["TurnRecorder"]

FORMAT, VERSION = "chatkit-trio turn", 1

_LAST_WORDS = 1.0  # seconds that the writer gets when the process ends
_AROUND = len(b"data: "), -len(b"\n\n")  # the event within a frame

logger = logging.getLogger(__name__)


class TurnRecorder:
    """An observer that writes the events of each turn to a file of its own, in `directory`.

        server.observe(TurnRecorder("recordings"))

    A file has `max_turn_bytes` at most, or little more: its last line, which tells how the turn
    ended, comes in any case. `max_waiting_bytes` is how much may wait for the disk, over all turns;
    what comes then is left out. The log has a warning when the disk fails. No turn waits for the
    disk or fails with it.

    The directory is made if it isn't there, and readable by its owner only, as the files are.
    Nothing deletes files. Raises `OSError` if the directory can't be made or written to. Not a
    checkpoint; making one looks at the disk.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_turn_bytes: int = 16 * 1024 * 1024,
        max_waiting_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        check_count("max_turn_bytes", max_turn_bytes)
        check_count("max_waiting_bytes", max_waiting_bytes)
        self.directory = Path(directory)
        """Where the files are."""
        make_private_directory(self.directory)
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(f"this user may not make files in {self.directory}")
        self._max_turn_bytes = max_turn_bytes
        self._waiting = _Waiting(max_waiting_bytes)
        self._live: dict[str, _Recording] = {}
        self._thread: threading.Thread | None = None
        self._is_behind = False
        self._has_failed = False

    def __call__(self, event: Event) -> None:
        """Take note of an event of a server."""
        match event:
            case TurnAsked(turn=turn):
                self._begin(turn)
            case TurnEnded(turn=turn, reason=reason, seconds=seconds, events=events):
                recording = self._live.pop(turn.turn_id, None)
                if recording is not None:
                    recording.end(reason, _milliseconds(seconds), events)

    def flush(self, seconds: float) -> bool:
        """Wait, so long at most, until all is written; say whether it is. It blocks the thread."""
        return self._waiting.wait_until_empty(seconds)

    def _begin(self, turn: TurnInfo) -> None:
        if self._thread is None:
            # Not before there is something to write: a process that is forked has no threads.
            name = "chatkit_trio recorder"
            self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
            self._thread.start()
            atexit.register(self.flush, _LAST_WORDS)
        now = datetime.now(UTC)
        path = self.directory / f"{now:%Y%m%d-%H%M%S-%f}_{turn.turn_id}.jsonl"
        recording = _Recording(path, self._waiting, self._max_turn_bytes, trio.current_time())
        head = {
            "format": FORMAT,
            "version": VERSION,
            "turn_id": turn.turn_id,
            "thread_id": turn.thread_id,
            "request": turn.request,
            "began_at": now.isoformat(timespec="milliseconds"),
        }
        if recording.begin(head):
            self._live[turn.turn_id] = recording
            current_turn().log.tap(recording.take)
        elif not self._is_behind:
            logger.warning(
                "%s isn't recorded, and no other turn until the disk has caught up: too much waits"
                " to be written to %s",
                turn.turn_id,
                self.directory,
            )
        self._is_behind = turn.turn_id not in self._live

    # --- In the thread that writes -------------------------------------------------------------

    def _write_all(self) -> None:
        while True:
            texts: dict[_Recording, list[bytes]] = {}
            for recording, line in self._waiting.take():
                texts.setdefault(recording, []).append(line)
            for recording, lines in texts.items():
                self._write(recording, b"".join(lines))

    def _write(self, recording: _Recording, text: bytes) -> None:
        if recording.is_given_up:
            return
        try:
            fd = (
                os.open(recording.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
                if recording.is_made
                else open_private(recording.path, os.O_WRONLY | os.O_EXCL)
            )
            recording.is_made = True
            with open(fd, "wb") as file:
                file.write(text)
        except OSError as error:
            recording.is_given_up = True
            if not self._has_failed:
                self._has_failed = True
                logger.warning("a turn can't be recorded in %s any more: %s", self.directory, error)
        else:
            self._has_failed = False


@dataclass(slots=True, eq=False)
class _Recording:
    """One turn, and how much of it is written."""

    path: Path
    waiting: _Waiting
    max_bytes: int
    began_at: float
    size: int = 0
    missing: int = 0
    """Events that were left out since the last line."""
    all_missing: int = 0
    is_cut: bool = False
    """Whether it is as long as it may be."""
    # What the writing thread knows.
    is_made: bool = False
    is_given_up: bool = False

    def begin(self, head: dict[str, Any]) -> bool:
        """Write the first line; say whether there is room for it."""
        return self._put(_line(head))

    def take(self, frame: bytes) -> None:
        """Write an event, if there is room for it."""
        ms = _milliseconds(trio.current_time() - self.began_at)
        line = b'{"ms":%d,"event":%b}\n' % (ms, frame[slice(*_AROUND)])
        self.is_cut = self.is_cut or self.size + len(line) > self.max_bytes
        if not self.is_cut and self._put(self._gap(ms) + line):
            self.missing = 0
        else:
            self.missing += 1
            self.all_missing += 1

    def end(self, reason: str, ms: int, events: int) -> None:
        """Write the last line, also if there is no room: a turn has only one."""
        end = {"ms": ms, "ended": reason, "events": events, "missing": self.all_missing}
        self._put(self._gap(ms) + _line(end), always=True)

    def _gap(self, ms: int) -> bytes:
        """Return a line that tells of events that are left out, if any are."""
        if not self.missing:
            return b""
        because = "size" if self.is_cut else "disk"
        return _line({"ms": ms, "missing": self.missing, "because": because})

    def _put(self, line: bytes, *, always: bool = False) -> bool:
        is_taken = self.waiting.put(self, line, always=always)
        if is_taken:
            self.size += len(line)
        return is_taken


class _Waiting:
    """Lines that wait to be written: so many bytes at most, or one line that is longer."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lines: list[tuple[_Recording, bytes]] = []
        self._size = 0
        """With what has been taken and isn't written yet."""
        self._taken = 0
        # Held for a moment only, never while anything is written.
        self._has_changed = threading.Condition()

    def put(self, recording: _Recording, line: bytes, *, always: bool) -> bool:
        """Add a line; say whether there was room."""
        with self._has_changed:
            if self._size and self._size + len(line) > self._max_bytes and not always:
                return False
            self._lines.append((recording, line))
            self._size += len(line)
            self._has_changed.notify_all()
            return True

    def take(self) -> list[tuple[_Recording, bytes]]:
        """Wait for lines and return them all; those that were returned before are written."""
        with self._has_changed:
            self._size -= self._taken
            self._taken = 0
            self._has_changed.notify_all()
            self._has_changed.wait_for(lambda: self._lines)
            lines, self._lines = self._lines, []
            self._taken = self._size
            return lines

    def wait_until_empty(self, seconds: float) -> bool:
        with self._has_changed:
            return self._has_changed.wait_for(lambda: not self._size, seconds)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
