"""Logs on standard error, for people or for machines, and never in the way of the server.

The records are those of `logging`: whoever configures it in another way gets the same ones, with
the same fields. docs/reference/logs.md has them. No text of users is among them.

Nothing here is of Trio. A terminal that is stopped, or a pipe that nobody reads, blocks whoever
writes to it; so a thread writes, and what it can't keep up with is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

__all__ = ["JSONFormatter", "LogFormat", "set_up_logs"]

LogFormat: TypeAlias = Literal["text", "json"]

_TEXT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_MOST_WAITING = 5000  # lines
_LAST_WORDS = 1.0  # seconds that the writer gets when the process ends
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JSONFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, process, message, and its extra fields.

    `time` is UTC, as ISO 8601. An exception is in `exception`, as the text of its traceback. Extra
    fields that JSON doesn't know are told as text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": time,
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(fields, default=str, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # such as a key that is no text
            return json.dumps({name: _plain(value) for name, value in fields.items()})


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int) else str(value)


def set_up_logs(
    format: LogFormat = "text", *, level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Log to standard error, or to `stream`, as `chatkit-trio serve` does.

        from chatkit_trio.logs import set_up_logs

        set_up_logs("json")
        app = create_app(MyServer(store))

    In an app that Hypercorn runs, this gives one line for each request, for each turn's beginning
    and for its end. The first call does nothing if something has given the root logger a handler
    already; later calls change what the first has set up. Not a checkpoint, and for any thread.
    """
    root = logging.getLogger()
    handler = next((each for each in root.handlers if isinstance(each, _Handler)), None)
    if handler is None:
        if root.handlers:
            return
        handler = _Handler()
        root.addHandler(handler)
    handler.stream = stream
    handler.setFormatter(JSONFormatter() if format == "json" else logging.Formatter(_TEXT))
    root.setLevel(level)


class _Handler(logging.Handler):
    """Has lines written by a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: TextIO | None = None
        self._lines: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._all_written = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record, at once."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._thread is None:
            # Not before there is something to write: a process that is forked has no threads.
            name = "chatkit_trio log"
            self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        with self._all_written:
            self._all_written.wait_for(lambda: not self._lines.unfinished_tasks, _LAST_WORDS)

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            with suppress(OSError, ValueError):  # the terminal is gone, or the stream is closed
                self._write(line, dropped)
            self._lines.task_done()
            with self._all_written:
                self._all_written.notify_all()

    def _write(self, line: str, dropped: int) -> None:
        stream = self.stream or sys.stderr
        stream.write(f"{line}\n")
        if dropped:
            text = "%d lines of the log were dropped: nobody has read them in time"
            fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            record = logging.makeLogRecord({**fields, "msg": text, "args": (dropped,)})
            stream.write(f"{self.format(record)}\n")
        stream.flush()
