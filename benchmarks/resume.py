"""A thousand answers read in pieces: is any event lost or doubled over disconnects?

    python -m benchmarks.resume

The client closes its socket after a random number of events, stays away for a random time, and
goes on with `GET /chatkit/threads/<id>/turn` and `Last-Event-ID`, until the answer ends. The
server's policy is `on_disconnect="finish"`. What was read, put together, has to be each delta
once and in order. An answer that ended while the client was away has to be whole in the store.
The original has no such request, so it isn't in this table.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio

from benchmarks.database import items_in, make_database
from benchmarks.measuring import (
    Connection,
    Frame,
    Server,
    connect,
    message,
    print_conditions,
    print_table,
    running,
)
from benchmarks.scripted import piece, text_of

HEAD = (
    "answers", "disconnects", "resumed", "read to the end", "ended while away", "events read",
    "lost", "doubled", "out of order", "whole in the store",
)  # fmt: skip
AT_ONCE = 25
DELTAS = 60
SIZE = 8
PIECES = [piece(number, SIZE) for number in range(DELTAS)]


class Reader:
    """One answer, read in pieces."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.thread_id = ""
        self.last_id = ""
        self.deltas: list[str] = []
        self.disconnects = 0
        self.resumed = 0
        self.is_done = False
        self.ended_away = False

    async def run(self) -> None:
        async with connect(self.server.port) as connection:
            body = message(None, deltas=DELTAS, size=SIZE, pause=0.005)
            await connection.request("POST", "/chatkit", body, [("chatkit-event-ids", "1")])
            await self._read_some(connection)
        while not self.is_done and not self.ended_away:
            self.disconnects += 1
            await trio.sleep(self.rng.choice([0, 0, 0.001, 0.02, 0.1]))
            await self._resume()

    async def _resume(self) -> None:
        path = f"/chatkit/threads/{self.thread_id}/turn"
        async with connect(self.server.port) as connection:
            await connection.request("GET", path, headers=[("last-event-id", self.last_id)])
            if connection.status == 204:
                self.ended_away = True
                return
            self.resumed += 1
            await self._read_some(connection)

    async def _read_some(self, connection: Connection) -> None:
        left = self.rng.randint(1, DELTAS // 2)
        async with aclosing(connection.frames()) as frames:
            async for frame in self._until_end(frames):
                self._note(frame)
                left -= 1
                if left <= 0 and self.thread_id:
                    return

    async def _until_end(self, frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
        async for frame in frames:
            if frame.name == "reload":
                self.ended_away = True
            elif frame.name == "turn.end":
                self.is_done = True
            else:
                yield frame

    def _note(self, frame: Frame) -> None:
        assert frame.id is not None
        self.last_id = frame.id
        if frame.event["type"] == "thread.created":
            self.thread_id = frame.event["thread"]["id"]
        if frame.delta is not None:
            self.deltas.append(frame.delta)

    @property
    def lost(self) -> int:
        """How many deltas are missing before the last one read, or at all if it read the end."""
        upto = DELTAS if self.is_done else 1 + max(map(PIECES.index, self.deltas), default=-1)
        return len(set(PIECES[:upto]) - set(self.deltas))

    @property
    def doubled(self) -> int:
        return sum(Counter(self.deltas).values()) - len(set(self.deltas))


async def run_answers(server: Server, answers: int) -> list[Reader]:
    readers = [Reader(server, random.Random(number)) for number in range(answers)]
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def run(reader: Reader) -> None:
        async with limiter:
            await reader.run()

    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(run, reader)
    return readers


def whole_in_store(path: Path, reader: Reader) -> bool:
    items = items_in(path, reader.thread_id)
    texts = [item["content"][0]["text"] for item in items if item["type"] == "assistant_message"]
    return texts == [text_of(DELTAS, SIZE)]


async def measure(answers: int) -> list[Any]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat.db"
        make_database(path)
        options = ["--database", str(path), "--on-disconnect", "finish"]
        async with running("chatkit_trio", *options) as server:
            readers = await run_answers(server, answers)
            await trio.sleep(1)  # answers that nobody reads any more come to their end
        whole = sum(whole_in_store(path, reader) for reader in readers)
    return [
        answers,
        sum(reader.disconnects for reader in readers),
        sum(reader.resumed for reader in readers),
        sum(reader.is_done for reader in readers),
        sum(reader.ended_away for reader in readers),
        sum(len(reader.deltas) for reader in readers),
        sum(reader.lost for reader in readers),
        sum(reader.doubled for reader in readers),
        sum(reader.deltas != sorted(reader.deltas) for reader in readers),
        f"{whole} / {answers}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print the row for a program")
    arguments = parser.parse_args()
    row = trio.run(measure, arguments.answers)
    if arguments.json:
        print(json.dumps(row))
        return
    print_conditions()
    print_table(HEAD, [row])


if __name__ == "__main__":
    main()
