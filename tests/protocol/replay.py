"""Replay recorded conversations against a server, and compare its answers. It needs only Python.

    python tests/protocol/replay.py http://127.0.0.1:8000/chatkit     # compare
    python tests/protocol/replay.py URL --only original               # without our extensions
    python tests/protocol/replay.py URL --record                      # write the answers anew

docs/reference/protocol.md says what the server has to answer, and how the files are read.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

FIXTURES = Path(__file__).parents[1] / "fixtures" / "protocol"
NAME = re.compile(r"\$\{(\w+)\}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")

Json = Any


class Different(Exception):
    """The server's answer isn't the recorded one."""


class Names:
    """What the placeholders stand for: `${thread}` is the same text wherever it comes."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"key": uuid4().hex}

    def filled(self, value: Json) -> Json:
        """Return a request with the values of its placeholders."""
        if isinstance(value, dict):
            return {name: self.filled(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        if isinstance(value, str):
            return NAME.sub(lambda found: self.values[found[1]], value)
        return value

    def compare(self, recorded: Json, answered: Json, where: str) -> None:
        """Raise `Different` unless it is the same; a name that is new takes what is there."""
        if isinstance(recorded, dict) and isinstance(answered, dict):
            recorded = {self.filled(name): each for name, each in recorded.items()}
            if recorded.keys() != answered.keys():
                raise Different(f"{where} has {sorted(answered)}, not {sorted(recorded)}")
            for name, each in recorded.items():
                self.compare(each, answered[name], f"{where}.{name}")
        elif isinstance(recorded, list) and isinstance(answered, list):
            if len(recorded) != len(answered):
                raise Different(f"{where} has {len(answered)} entries, not {len(recorded)}")
            for index, (each, other) in enumerate(zip(recorded, answered, strict=True)):
                self.compare(each, other, f"{where}[{index}]")
        elif isinstance(recorded, str) and isinstance(answered, str) and "${" in recorded:
            self._take(recorded, answered, where)
        elif recorded != answered or type(recorded) is not type(answered):
            raise Different(f"{where} is {answered!r}, not {recorded!r}")

    def _take(self, recorded: str, answered: str, where: str) -> None:
        if recorded == "${any}":
            return
        if recorded == "${time}":
            if not TIME.fullmatch(answered):
                raise Different(f"{where} is {answered!r}, which is no time")
            return
        pattern, seen = "", set()
        for index, part in enumerate(NAME.split(recorded)):
            if index % 2 == 0:
                pattern += re.escape(part)
            elif part in self.values:
                pattern += re.escape(self.values[part])
            else:
                pattern += f"(?P={part})" if part in seen else f"(?P<{part}>.+)"
                seen.add(part)
        match = re.fullmatch(pattern, answered)
        if match is None:
            raise Different(f"{where} is {answered!r}, not {recorded!r} with {self.values}")
        self.values |= match.groupdict()

    def named(self, value: Json, key: str = "") -> Json:
        """Return an answer with placeholders, to be recorded."""
        if isinstance(value, dict):
            if value.keys() == {"code", "message"}:  # words for developers
                return {**value, "message": "${any}"}
            return {self.named(name): self.named(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self.named(each, key) for each in value]
        if not isinstance(value, str):
            return value
        if key == "created_at":
            return "${time}"
        return re.sub(r"\b([a-z]+)_[0-9a-f]{32}\b", self._name_of, value)

    def _name_of(self, found: re.Match[str]) -> str:
        for name, value in self.values.items():
            if value == found[0]:
                return f"${{{name}}}"
        number = sum(name.startswith(f"{found[1]}_") for name in self.values) + 1
        self.values[f"{found[1]}_{number}"] = found[0]
        return f"${{{found[1]}_{number}}}"


def exchange(url: str, request: dict[str, Json]) -> dict[str, Json]:
    """Send a request; return status and what was said. `read_events` hangs up after so many."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    body = json.dumps(request["body"]) if "body" in request else None
    headers = {"Content-Type": "application/json", **request.get("headers", {})}
    try:
        path = parts.path + request.get("below", "")
        connection.request(request.get("method", "POST"), path, body, headers)
        response = connection.getresponse()
        if "text/event-stream" not in response.headers.get("Content-Type", ""):
            said = response.read().decode("utf-8", "replace")
            try:
                return {"status": response.status, "json": json.loads(said) if said else None}
            except ValueError:
                return {"status": response.status, "text": said}
        events = []
        for event in events_of(response):
            events.append(event)
            if len(events) == request.get("read_events"):
                break
        return {"status": response.status, "events": events}
    finally:
        connection.close()


def events_of(lines: Iterator[bytes]) -> Iterator[dict[str, Json]]:
    """Yield the events of a stream: their data, and id and name where they have one."""
    fields: dict[str, Json] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if not name and not value:
            if "data" in fields:
                yield fields
            fields = {}
        elif name == "data":
            fields["data"] = json.loads(value)
        elif name in ("id", "event"):
            fields[name] = value


def replay(url: str, fixture: dict[str, Json]) -> None:
    """Send a fixture's requests in order; raises `Different` at the first other answer."""
    names = Names()
    for number, step in enumerate(fixture["exchanges"], 1):
        answer = exchange(url, names.filled(step["request"]))
        names.compare(step["response"], answer, f"answer {number}")


def record(url: str, fixture: dict[str, Json]) -> None:
    """Put the server's answers into a fixture."""
    names = Names()
    for step in fixture["exchanges"]:
        step["response"] = names.named(exchange(url, names.filled(step["request"])))


def fixtures() -> Iterator[tuple[Path, dict[str, Json]]]:
    for path in sorted(FIXTURES.glob("*.json")):
        yield path, json.loads(path.read_text("utf-8"))


def main() -> int:
    url, *options = sys.argv[1:]
    failed = 0
    for path, fixture in fixtures():
        if options == ["--record"]:
            record(url, fixture)
            text = json.dumps(fixture, indent=1, ensure_ascii=False)
            path.write_text(f"{text}\n", "utf-8")
            continue
        if options == ["--only", "original"] and fixture["extension"]:
            continue
        try:
            replay(url, fixture)
            print(f"{path.stem}: the same")
        except Different as difference:
            failed += 1
            print(f"{path.stem}: {difference}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
