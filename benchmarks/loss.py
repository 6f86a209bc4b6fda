"""What is in the store after a stream was cut short: chatkit_trio beside the original, in one run.

    python -m benchmarks.loss                  100 streams a cell, a few minutes
    python -m benchmarks.loss --streams 5      a smoke test

Real sockets, a server process each, one SQLite file each with the same tables. Every write takes
longer by the delay, half of it before the write and half behind it. A cell's streams run 25 at a
time; each is cut after another number of deltas, the same ones for both systems.

Without a delay the original's store doesn't wait at all; ours is the one that is shipped, which
always waits for a worker thread. The original gets time: the store is read when answer and note
are there, or 2 s after the cut. Only the row "next message at once" doesn't wait.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import trio

from benchmarks.database import items_in, make_database
from benchmarks.measuring import (
    SYSTEMS,
    Connection,
    Server,
    System,
    connect,
    message,
    print_conditions,
    print_table,
    recall,
    running,
)
from benchmarks.scripted import fingerprint, text_of

AT_ONCE = 25  # streams of a cell that run together
STALL_TIMEOUT = 1.0  # seconds, ours; the original has none
DEADLINE = 1.0
SILENCE = 3.0  # seconds for which a stalled client reads nothing, before it closes
UNDER_WAY = 1.0  # seconds for which streams run before the server is terminated
PATIENCE = 2.0  # seconds given to a server to store what is left
HEAD = (
    "how the stream ended", "slower by", "system", "answer kept", "note kept", "doubled",
    "prefix ok", "next turn sees it",
)  # fmt: skip


@dataclass
class Cut:
    """A stream that was cut, and what its client had received."""

    thread_id: str = ""
    received: str = ""
    size: int = 8
    history: list[list[Any]] | None = None
    kept_while_open: bool = False


@dataclass
class Outcome:
    """What was found of one stream, each of it once at the best."""

    answer: bool
    note: bool
    doubled: bool
    prefix: bool
    next_turn: bool


# --- Reading a stream and cutting it -----------------------------------------------------------


async def read(connection: Connection, cut: Cut, until: int | None, **command: Any) -> None:
    """Send a message and read so many deltas of the answer, or up to its end."""
    await connection.request("POST", "/chatkit", message(None, size=cut.size, **command))
    seen = 0
    async with aclosing(connection.frames()) as frames:
        async for frame in frames:
            if frame.event["type"] == "thread.created":
                cut.thread_id = frame.event["thread"]["id"]
            if frame.delta is not None:
                seen += 1
                cut.received += frame.delta
            if seen == until:
                return


async def close(server: Server, cut: Cut, deltas: int, path: Path) -> None:
    async with connect(server.port) as connection:
        await read(connection, cut, deltas, deltas=2000, pause=0.01)


async def close_and_go_on(server: Server, cut: Cut, deltas: int, path: Path) -> None:
    await close(server, cut, deltas, path)
    cut.history = await recall(server.port, cut.thread_id)


async def reset(server: Server, cut: Cut, deltas: int, path: Path) -> None:
    async with connect(server.port) as connection:
        await read(connection, cut, deltas, deltas=2000, pause=0.01)
        await connection.reset()


async def stop_reading(server: Server, cut: Cut, deltas: int, path: Path) -> None:
    cut.size = 65536
    async with connect(server.port, receive_buffer=65536) as connection:
        await read(connection, cut, deltas % 3 + 1, deltas=500, pause=0.001)
        await trio.sleep(SILENCE)
        answers, notes = kept(await stored(path, cut))
        cut.kept_while_open = bool(answers and notes)


async def outlast_deadline(server: Server, cut: Cut, deltas: int, path: Path) -> None:
    async with connect(server.port) as connection:
        await read_to_the_end(connection, cut, deadline=DEADLINE)


async def read_to_the_end(connection: Connection, cut: Cut, **command: Any) -> None:
    """Read until the server ends the answer, or breaks off."""
    try:
        await read(connection, cut, None, deltas=2000, pause=0.01, **command)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        return


Way = Callable[[Server, Cut, int, Path], Awaitable[None]]
WAYS: dict[str, Way | None] = {
    "socket closed": close,
    "socket closed, next message at once": close_and_go_on,
    "connection reset (RST)": reset,
    "client stops reading": stop_reading,
    "SIGTERM of the server": None,
    "deadline": outlast_deadline,
}


# --- A cell: one way to end, one delay, one system ---------------------------------------------


class Cell:
    """One system with one delay, and the file it stores in."""

    def __init__(self, system: System, delay: float, directory: Path) -> None:
        self.system = system
        self.delay = delay
        self.path = directory / f"{system}-{delay}.db"
        make_database(self.path)

    def server(self) -> Any:
        options = ["--database", str(self.path), "--delay", str(self.delay)]
        if self.system == "chatkit_trio":
            options += ["--stall-timeout", str(STALL_TIMEOUT)]
        return running(self.system, *options, send_buffer=65536)

    async def run(self, way: Way, server: Server, streams: int) -> tuple[list[Cut], list[Outcome]]:
        """Cut so many streams this way, and look at what is left of each."""
        cuts: list[Cut] = []
        outcomes: list[Outcome] = []
        rng = random.Random(1)
        while len(cuts) < streams:
            batch = [Cut() for _ in range(min(AT_ONCE, streams - len(cuts)))]
            async with trio.open_nursery() as nursery:
                for cut in batch:
                    nursery.start_soon(way, server, cut, rng.randint(1, 50), self.path)
            outcomes += await self.examine(server, batch)
            cuts += batch
        return cuts, outcomes

    async def run_sigterm(self, streams: int) -> tuple[list[Cut], list[Outcome]]:
        """Terminate the server during so many streams, and look at the next one's store."""
        cuts: list[Cut] = []
        outcomes: list[Outcome] = []
        while len(cuts) < streams:
            batch = [Cut() for _ in range(min(AT_ONCE, streams - len(cuts)))]
            async with self.server() as server, trio.open_nursery() as nursery:
                for cut in batch:
                    nursery.start_soon(outlast, server, cut)
                await trio.sleep(UNDER_WAY)
                await server.stop()
            async with self.server() as server:
                outcomes += await self.examine(server, batch)
            cuts += batch
        return cuts, outcomes

    async def examine(self, server: Server, cuts: Sequence[Cut]) -> list[Outcome]:
        """Wait for the store to come to rest; then look, and have the next turn look."""
        with trio.move_on_after(PATIENCE):
            while not await self._all_kept(cuts):  # noqa: ASYNC110 - another process's store
                await trio.sleep(0.05)
        await trio.sleep(0.2 + 2 * self.delay)  # a second copy would come now
        return [await self._outcome(server, cut) for cut in cuts]

    async def _all_kept(self, cuts: Sequence[Cut]) -> bool:
        return all([all(kept(await stored(self.path, cut))) for cut in cuts])

    async def _outcome(self, server: Server, cut: Cut) -> Outcome:
        items = await stored(self.path, cut)
        answers, notes = kept(items)
        history = cut.history or await recall(server.port, cut.thread_id)
        text = answers[0] if answers else ""
        produced = text_of(len(text) // cut.size + 1, cut.size)
        return Outcome(
            answer=len(answers) == 1,
            note=len(notes) == 1,
            doubled=len(answers) > 1 or len(notes) > 1,
            prefix=bool(text) and produced.startswith(text) and text.startswith(cut.received),
            next_turn=["assistant_message", *fingerprint(text)] in history
            and "sdk_hidden_context" in [entry[0] for entry in history],
        )


async def outlast(server: Server, cut: Cut) -> None:
    async with connect(server.port) as connection:
        await read_to_the_end(connection, cut)


async def stored(path: Path, cut: Cut) -> list[dict[str, Any]]:
    return await trio.to_thread.run_sync(items_in, path, cut.thread_id)


def kept(items: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the texts of the partial answers and of the notes; not what recall answered."""
    texts = [
        "".join(part["text"] for part in item["content"])
        for item in items
        if item["type"] == "assistant_message"
    ]
    notes = [item["content"] for item in items if item["type"] == "sdk_hidden_context"]
    return [text for text in texts if text and not text.startswith("[[")], notes


# --- The table ---------------------------------------------------------------------------------


def row(way: str, cell: Cell, outcomes: Sequence[Outcome]) -> list[Any]:
    counts = [
        sum(getattr(outcome, field) for outcome in outcomes)
        for field in ("answer", "note", "doubled", "prefix", "next_turn")
    ]
    of = f" / {len(outcomes)}"
    return [way, f"{cell.delay * 1000:g} ms", cell.system, *(f"{count}{of}" for count in counts)]


async def measure(streams: int, delays: Sequence[float], ways: Sequence[str]) -> list[list[Any]]:
    """Return the table's rows: for each way and delay, the original and then ours."""
    rows: dict[tuple[str, float, System], list[Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for delay in delays:
            for system in SYSTEMS:
                cell = Cell(system, delay, Path(directory))
                for way, outcomes in (await all_ways(cell, streams, ways)).items():
                    rows[way, delay, system] = row(way, cell, outcomes)
    return [rows[way, delay, s] for way in ways for delay in delays for s in SYSTEMS]


async def all_ways(cell: Cell, streams: int, ways: Sequence[str]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    async with cell.server() as server:
        for name in ways:
            way = WAYS[name]
            if way is not None:
                cuts, found[name] = await cell.run(way, server, streams)
                note_stalls(cell, way, cuts)
    if any(WAYS[name] is None for name in ways):
        _, found["SIGTERM of the server"] = await cell.run_sigterm(streams)
    return found


def note_stalls(cell: Cell, way: Way, cuts: Sequence[Cut]) -> None:
    if way is stop_reading:
        count = sum(cut.kept_while_open for cut in cuts)
        print(
            f"{cell.system}, {cell.delay * 1000:g} ms: {count} of {len(cuts)} clients that stopped"
            f" reading had answer and note stored {SILENCE:g} s later, still connected"
        )


NOTES = f"""
How: SIGTERM with a graceful timeout of 1 s (Hypercorn's and uvicorn's), then the server is started
again. Deadline of {DEADLINE:g} s: `turn_timeout` with us; the original has none, so its stream is
iterated under `asyncio.timeout`. A client that stops reading: `stall_timeout` of
{STALL_TIMEOUT:g} s with us; the original has none and is told by the client closing after
{SILENCE:g} s. Prefix ok: the stored text is the beginning of the produced one and holds all that
the client had received. Next turn: respond's history has the same text, and the note.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.002, 0.05])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    rows = trio.run(measure, arguments.streams, arguments.delays, arguments.ways)
    if arguments.json:
        print(json.dumps(rows))
        return
    print_conditions()
    print_table(HEAD, rows)
    print(NOTES)


if __name__ == "__main__":
    main()
