"""The files of a `TurnRecorder`, read: also one that is still written, or that broke off.

A file may come from anywhere, so what is in it is looked at before it is used. The format is in
docs/reference/cli.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import click

from chatkit_trio.recording import FORMAT, VERSION

_LONGEST_HEAD = 64 * 1024  # bytes
_END_IS_WITHIN = 4096  # bytes
_LATEST = 10**10  # milliseconds: no turn takes a third of a year


@dataclass(frozen=True, slots=True)
class Told:
    """An event, as it was on the wire."""

    ms: int
    """Since the turn was asked for."""
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that were left out."""

    ms: int
    missing: int
    because: str


@dataclass(frozen=True, slots=True)
class End:
    """How the turn ended."""

    ms: int
    ended: str
    events: int
    missing: int


Line: TypeAlias = Told | Gap | End


@dataclass(frozen=True, slots=True)
class Recording:
    """One turn."""

    path: Path
    turn_id: str
    thread_id: str
    request: str
    began_at: str

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Return what a file records. Raises `click.ClickException` if it isn't a recording."""
        with _opened(path) as file:
            head = _object(file.readline(_LONGEST_HEAD))
        if head.get("format") != FORMAT or not _is_count(head.get("version")):
            raise _foreign(path)
        if head["version"] != VERSION:
            raise click.ClickException(
                f"{path} has version {head['version']} of the format, and this release reads"
                f" version {VERSION}"
            )
        fields = [head.get(name) for name in ("turn_id", "thread_id", "request", "began_at")]
        if not all(isinstance(each, str) for each in fields) or not _is_time(fields[-1]):
            raise _foreign(path)
        return cls(path, *fields)  # type: ignore[arg-type]

    def end(self) -> End | None:
        """Return how the turn ended, None if the file doesn't tell."""
        with _opened(self.path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _END_IS_WITHIN))
            lines = file.read().splitlines()
        last = _line(lines[-1]) if lines else None
        return last if isinstance(last, End) else None

    def lines(self) -> Iterator[Line]:
        """Yield what comes after the first line, as far as it can be read.

        Raises `click.ClickException` behind that, unless the last line is the turn's end.
        """
        with _opened(self.path) as file:
            file.readline()
            for number, text in enumerate(file, 2):
                line = _line(text)
                if line is None:
                    if not text.endswith(b"\n"):
                        break
                    raise click.ClickException(f"line {number} of {self.path} can't be read")
                yield line
                if isinstance(line, End):
                    return
        raise click.ClickException(
            f"{self.path} has no end: the turn goes on, or its process or its disk has failed"
        )


def recordings_in(directory: Path) -> tuple[list[Recording], list[str]]:
    """Return the recordings in a directory, the newest first, and what is wrong with others."""
    found: list[Recording] = []
    wrong: list[str] = []
    for path in sorted(directory.glob("*.jsonl")):
        try:
            found.append(Recording.open(path))
        except click.ClickException as error:
            wrong.append(error.message)
    found.sort(key=lambda recording: recording.began_at, reverse=True)
    return found, wrong


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise click.ClickException(f"{path} can't be read: {error.strerror}") from error


def _foreign(path: Path) -> click.ClickException:
    return click.ClickException(f"{path} isn't the recording of a turn")


def _object(text: bytes) -> dict[str, Any]:
    """Return the object that a line is, an empty one if it isn't any."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _line(text: bytes) -> Line | None:
    """Return what a line says, None if it can't be read."""
    match _object(text):
        case {"ms": ms, "event": {"type": str()} as event} if _is_count(ms):
            return Told(ms, event)
        case {"ms": ms, "missing": missing, "because": str(because)} if _are_counts(ms, missing):
            return Gap(ms, missing, because)
        case {"ms": ms, "ended": str(ended), "events": events, "missing": missing} if _are_counts(
            ms, events, missing
        ):
            return End(ms, ended, events, missing)
    return None


def _are_counts(*values: Any) -> bool:
    return all(map(_is_count, values))


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and 0 <= value <= _LATEST


def _is_time(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
