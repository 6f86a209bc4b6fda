"""A thousand turns at once in one process: what is left over, and is all stored?

    python -m benchmarks.thousand_turns

Over sockets, with the SQLite store. All streams are open at the same time before one ends; half
of the clients read to the end, the other half close their socket. Then the server should have as
many tasks as before, about as much memory, and every answer in its file. It is done several
times in a row, for the first time also pays for caches and code that isn't loaded before.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import trio

from benchmarks.database import make_database
from benchmarks.measuring import (
    SYSTEMS,
    Server,
    System,
    allow_files,
    connect,
    message,
    report,
    running,
)

HEAD = (
    "system", "round", "open at once", "tasks before", "at the height", "after",
    "MB before", "at the height", "after", "answers whole", "answers cut, kept", "notes",
)  # fmt: skip
SETTLING = 2.0  # seconds between the last stream's end and the look at what is left


class Round:
    """So many streams, open together."""

    def __init__(self, server: Server, turns: int, pause: float, deltas: int) -> None:
        self.server = server
        self.turns = turns
        self.command = {"deltas": deltas, "pause": pause}
        self.whole: list[str] = []
        self.cut: list[str] = []
        self._open = 0
        self._all_open = trio.Event()
        self.height: tuple[int, int] = (0, 0)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self.turns):
                nursery.start_soon(self._stream, number % 2 == 0)
            await self._all_open.wait()
            self.height = (await tasks(self.server), self.server.rss)

    async def _stream(self, to_the_end: bool) -> None:
        async with connect(self.server.port) as connection:
            await connection.request("POST", "/chatkit", message(None, **self.command))
            async for frame in connection.frames():
                if frame.event["type"] == "thread.created":
                    thread_id = frame.event["thread"]["id"]
                    (self.whole if to_the_end else self.cut).append(thread_id)
                elif frame.event["type"] == "thread.item.added":
                    self._note_open()
                elif frame.delta is not None and not to_the_end:
                    await self._all_open.wait()
                    return

    def _note_open(self) -> None:
        self._open += 1
        if self._open == self.turns:
            self._all_open.set()


async def tasks(server: Server) -> int:
    return (await server.state())["tasks"]


async def measure_round(
    number: int, server: Server, path: Path, turns: int, pause: float, deltas: int
) -> list[Any]:
    before = (await tasks(server), server.rss)
    streams = Round(server, turns, pause, deltas)
    await streams.run()
    await trio.sleep(SETTLING)
    after = (await tasks(server), server.rss)
    stages = (before, streams.height, after)
    whole, _ = kept(path, streams.whole)
    cut, notes = kept(path, streams.cut)
    return [
        server.system,
        number,
        turns,
        *(stage[0] for stage in stages),
        *(round(stage[1] / 1e6) for stage in stages),
        f"{whole} / {len(streams.whole)}",
        f"{cut} / {len(streams.cut)}",
        f"{notes} / {len(streams.cut)}",
    ]


def kept(path: Path, thread_ids: list[str]) -> tuple[int, int]:
    """Return how many of the threads have exactly one answer, and exactly one note."""
    db = sqlite3.connect(path)
    rows = db.execute(
        "SELECT threads.id, json_extract(items.data, '$.type'), count(*)"
        " FROM items JOIN threads ON items.thread = threads.seq GROUP BY 1, 2"
    ).fetchall()
    db.close()
    single = {(thread_id, kind) for thread_id, kind, count in rows if count == 1}
    answers = sum((thread_id, "assistant_message") in single for thread_id in thread_ids)
    notes = sum((thread_id, "sdk_hidden_context") in single for thread_id in thread_ids)
    return answers, notes


async def measure_system(
    system: System, turns: int, rounds: int, pause: float, deltas: int
) -> list[list[Any]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat.db"
        make_database(path)
        async with running(system, "--database", str(path), "--delay", "0.002") as server:
            return [
                await measure_round(number, server, path, turns, pause, deltas)
                for number in range(1, rounds + 1)
            ]


async def measure(turns: int, rounds: int, pause: float, deltas: int) -> list[list[Any]]:
    rows = []
    for system in SYSTEMS:
        rows += await measure_system(system, turns, rounds, pause, deltas)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between deltas")
    parser.add_argument("--deltas", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    allow_files(4 * arguments.turns)
    rows = trio.run(measure, arguments.turns, arguments.rounds, arguments.pause, arguments.deltas)
    report(HEAD, rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
