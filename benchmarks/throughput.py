"""Events a second from respond to the client's socket: chatkit_trio beside the original.

    python -m benchmarks.throughput

Each server is a process of its own, the client a third one (`counting_client`). Stores in memory,
the same scripted respond. The systems take turns, so that a busy machine harms them alike; the
figure is the median, the ratio is of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import trio

from benchmarks.measuring import ROOT, SYSTEMS, Server, print_conditions, print_table, running

HEAD = ("respond", "streams", "original, events/s", "chatkit_trio, events/s", "ratio", "lost")
PAUSES = {"never awaits": None, "a checkpoint an event": 0}


async def count(
    server: Server, streams: int, deltas: int, pause: float | None
) -> tuple[float, int]:
    """Read so many streams of so many deltas; return events a second and how many were lost."""
    command = {"deltas": deltas, "pause": pause}
    result = await trio.run_process(
        [
            sys.executable, "-m", "benchmarks.counting_client", "--port", str(server.port),
            "--streams", str(streams), "--command", json.dumps(command),
        ],
        cwd=ROOT,
        capture_stdout=True,
    )  # fmt: skip
    counted = json.loads(result.stdout)
    # Beside the deltas: thread.created, the user's message, stream_options, added, done.
    expected = streams * (deltas + 5)
    return expected / counted["seconds"], expected - counted["frames"]


async def compare(
    servers: Sequence[Server], streams: int, deltas: int, pause: float | None, runs: int
) -> tuple[list[float], int]:
    """Return each system's median, and all frames that were lost or too many."""
    speeds: list[list[float]] = [[] for _ in servers]
    lost = 0
    for _ in range(runs + 1):
        for server, found in zip(servers, speeds, strict=True):
            speed, missing = await count(server, streams, deltas, pause)
            found.append(speed)
            lost += abs(missing)
    return [statistics.median(found[1:]) for found in speeds], lost  # the first warms up


async def measure(events: int, runs: int, many: int, options: Sequence[str]) -> list[list[Any]]:
    rows = []
    async with running(SYSTEMS[0], *options) as original, running(SYSTEMS[1]) as ours:
        for name, pause in PAUSES.items():
            for streams in (1, many):
                (theirs, own), lost = await compare(
                    [original, ours], streams, events // streams, pause, runs
                )
                cells = (f"{theirs:,.0f}", f"{own:,.0f}", f"{own / theirs:.2f}", lost)
                rows.append([name, streams, *cells])
    return rows


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
