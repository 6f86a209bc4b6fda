"""Events a second from respond to the client's socket: chatkit_trio beside the original.

    python -m benchmarks.throughput

Each server is a process of its own, the client a third one (`counting_client`). Stores in memory,
the same scripted respond. The systems take turns, so that a busy machine harms them alike; the
figures are medians. On a machine that has other work, the CPU time of the server says more than
events a second. An event every 10 ms is what models do: there the pace sets the speed, and CPU
time is all that differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from benchmarks.measuring import ROOT, SYSTEMS, Server, print_conditions, print_table, running

HEAD = (
    "respond", "streams", "original, events/s", "chatkit_trio, events/s", "ratio",
    "original, CPU µs/event", "chatkit_trio, CPU µs/event",
)  # fmt: skip
PACED_DELTAS = 200


@dataclass(frozen=True)
class Load:
    """How a respond streams; on the path /bare the same frames go out without either SDK."""

    name: str
    pause: float | None
    path: str = "/chatkit"


LOADS = (
    Load("never awaits", None),
    Load("a checkpoint an event", 0),
    Load("10 ms an event", 0.01),
    Load("10 ms an event, no SDK", 0.01, "/bare"),
)


@dataclass
class Speed:
    """What one run, or the median of several, took."""

    events_per_second: float
    cpu_per_event: float  # seconds of the server process


async def count(server: Server, load: Load, streams: int, deltas: int) -> Speed:
    """Read so many streams of so many deltas; raises if an event is lost or comes twice."""
    cpu_before = server.cpu_time
    result = await trio.run_process(
        [
            sys.executable, "-m", "benchmarks.counting_client", "--port", str(server.port),
            "--path", load.path, "--streams", str(streams),
            "--command", json.dumps({"deltas": deltas, "pause": load.pause}),
        ],
        cwd=ROOT,
        capture_stdout=True,
    )  # fmt: skip
    counted = json.loads(result.stdout)
    # Beside the deltas: thread.created, the user's message, stream_options, added, done.
    events = streams * (deltas + 5)
    if counted["frames"] != events:
        raise RuntimeError(f"{server.system} sent {counted['frames']} frames, not {events}")
    cpu = server.cpu_time - cpu_before
    return Speed(events / counted["seconds"], cpu / events)


async def compare(
    servers: Sequence[Server], load: Load, streams: int, deltas: int, runs: int
) -> list[Speed]:
    """Return each system's median."""
    found: list[list[Speed]] = [[] for _ in servers]
    for _ in range(runs + 1):
        for server, speeds in zip(servers, found, strict=True):
            speeds.append(await count(server, load, streams, deltas))
    return [median(speeds[1:]) for speeds in found]  # the first run warms up


def median(speeds: Sequence[Speed]) -> Speed:
    return Speed(
        statistics.median(speed.events_per_second for speed in speeds),
        statistics.median(speed.cpu_per_event for speed in speeds),
    )


async def measure(events: int, runs: int, many: int, options: Sequence[str]) -> list[list[Any]]:
    rows = []
    async with running(SYSTEMS[0], *options) as original, running(SYSTEMS[1]) as ours:
        for load in LOADS:
            for streams in (1, many):
                deltas = min(events // streams, PACED_DELTAS if load.pause else events)
                theirs, own = await compare([original, ours], load, streams, deltas, runs)
                rows.append([load.name, streams, *cells(theirs, own)])
    return rows


def cells(theirs: Speed, own: Speed) -> list[str]:
    ratio = own.events_per_second / theirs.events_per_second
    return [
        f"{theirs.events_per_second:,.0f}",
        f"{own.events_per_second:,.0f}",
        f"{ratio:.2f}",
        f"{theirs.cpu_per_event * 1e6:.0f}",
        f"{own.cpu_per_event * 1e6:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="a run, over all its streams")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fast", action="store_true", help="the original on uvloop and httptools")
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    options = ["--fast"] if arguments.fast else []
    rows = trio.run(measure, arguments.events, arguments.runs, arguments.streams, options)
    if arguments.json:
        print(json.dumps(rows))
        return
    print_conditions()
    print_table(HEAD, rows)


if __name__ == "__main__":
    main()
