"""How long after a disconnect the answer is stored, and what the journal costs an event.

    python -m benchmarks.disconnect_latency

The client closes its socket in the middle of an answer and notes the time; the store notes when
the write that holds the hidden note has returned. Both read the machine's monotonic clock. Every
write takes 2 ms longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from benchmarks.database import make_database
from benchmarks.loss import Cut, read
from benchmarks.measuring import (
    SYSTEMS,
    System,
    connect,
    percentile,
    print_conditions,
    print_table,
    running,
)
from benchmarks.throughput import Load, count

LATENCY_HEAD = ("system", "disconnects", "stored", "p50", "p99", "longest")
JOURNAL_HEAD = ("journal", "CPU µs/event", "events/s", "ratio of CPU time")
DELAY = 0.002
LOAD = Load("a checkpoint an event", 0)
PATIENCE = 2.0  # seconds given to the last ones


async def latencies(system: System, disconnects: int, directory: Path) -> list[float]:
    """Return the seconds from each disconnect to its being stored, for those that were."""
    path = directory / f"{system}.db"
    make_database(path)
    closed_at: dict[str, float] = {}
    async with running(system, "--database", str(path), "--delay", str(DELAY)) as server:
        for _ in range(disconnects):
            cut = Cut()
            async with connect(server.port) as connection:
                await read(connection, cut, 5, deltas=1000, pause=0.005)
            closed_at[cut.thread_id] = time.monotonic()
        await trio.sleep(PATIENCE)
        noted_at = (await server.state())["noted_at"]
    return [noted_at[key] - then for key, then in closed_at.items() if key in noted_at]


def latency_row(system: System, disconnects: int, found: Sequence[float]) -> list[Any]:
    if not found:
        return [system, disconnects, 0, "never", "never", "never"]
    figures = (percentile(found, 0.5), percentile(found, 0.99), max(found))
    return [system, disconnects, len(found), *(f"{figure * 1000:.1f} ms" for figure in figures)]


async def journal_costs(events: int, runs: int, directory: Path) -> list[list[Any]]:
    """Compare the same stream with the SQLite store's journal and without, in turns."""
    on, off = directory / "on.db", directory / "off.db"
    make_database(on)
    make_database(off)
    found: dict[str, list[Any]] = {"on": [], "off": []}
    async with (
        running("chatkit_trio", "--database", str(on)) as with_journal,
        running("chatkit_trio", "--database", str(off), "--no-journal") as without,
    ):
        for _ in range(runs + 1):
            found["on"].append(await count(with_journal, "/chatkit", LOAD, 100, events // 100))
            found["off"].append(await count(without, "/chatkit", LOAD, 100, events // 100))
    cpu = {key: statistics.median(s.cpu_per_event for s in found[key][1:]) for key in found}
    speed = {key: statistics.median(s.events_per_second for s in found[key][1:]) for key in found}
    return [
        [key, f"{cpu[key] * 1e6:.1f}", f"{speed[key]:,.0f}", f"{cpu[key] / cpu['off']:.2f}"]
        for key in ("off", "on")
    ]


async def measure(disconnects: int, events: int, runs: int) -> dict[str, list[list[Any]]]:
    with tempfile.TemporaryDirectory() as directory:
        latency = [
            latency_row(system, disconnects, await latencies(system, disconnects, Path(directory)))
            for system in SYSTEMS
        ]
        journal = await journal_costs(events, runs, Path(directory))
    return {"latency": latency, "journal": journal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disconnects", type=int, default=500)
    parser.add_argument("--events", type=int, default=40_000, help="a run of the journal's cost")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    found = trio.run(measure, arguments.disconnects, arguments.events, arguments.runs)
    if arguments.json:
        print(json.dumps(found))
        return
    print_conditions()
    print_table(LATENCY_HEAD, found["latency"])
    print()
    print_table(JOURNAL_HEAD, found["journal"])


if __name__ == "__main__":
    main()
