"""Events a second from respond to the client's socket: chatkit_trio beside the original.

    python -m benchmarks.throughput                    some 10 minutes
    python -m benchmarks.throughput --fast             the original on uvloop and httptools
    python -m benchmarks.throughput --streams 100 --loads paced

Each server is a process of its own, the client a third one (`counting_client`). Stores in memory,
the same scripted respond, the same events: that is checked first. The systems take turns, so that a
busy machine harms them alike; the figures are medians. On a machine that has other work, the CPU
time of the server says more than events a second. Where events come as models send them, the pace
sets the speed, and CPU time is all that differs.

The floor is a bare ASGI app on the same server as chatkit_trio, which sends as many frames in as
many sends, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import trio

from benchmarks.measuring import (
    ROOT,
    SYSTEMS,
    Server,
    connect,
    message,
    report,
    running,
)

HEAD = (
    "respond", "streams", "events/s: original", "ours", "ratio", "CPU µs/event: original", "ours",
    "ratio", "floor", "ours / floor", "first event, ms p50/p99: original", "ours",
    "delay, ms p50/p99: original", "ours",
)  # fmt: skip
STREAMS = (1, 4, 100, 1000)
PACED_SECONDS = 6.0
MOST_PACED = 200_000  # events a run
RAMP = 1.0  # seconds in which paced streams begin: people don't all ask in the same moment
_IDS = re.compile(r"\b(thr|msg|turn)_[0-9a-f]+")
_TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?")


@dataclass(frozen=True)
class Load:
    """How a respond streams."""

    name: str
    pause: float | None

    def deltas(self, events: int, streams: int) -> int:
        """Return how many each stream has: so many events in all, or some seconds' worth."""
        if self.pause:
            return min(round(PACED_SECONDS / self.pause), MOST_PACED // streams, events)
        return max(events // streams, 1)


LOADS = {
    "never": Load("never awaits", None),
    "checkpoint": Load("a checkpoint an event", 0),
    "50": Load("50 events/s a stream", 0.02),
    "paced": Load("100 events/s a stream", 0.01),
}


@dataclass
class Speed:
    """What one run, or the median of several, took; in seconds."""

    events_per_second: float
    cpu_per_event: float  # of the server process
    first_frame_p50: float
    first_frame_p99: float
    delay_p50: float
    delay_p99: float

    def in_ms(self, name: str) -> str:
        return " / ".join(f"{getattr(self, f'{name}_{p}') * 1000:.1f}" for p in ("p50", "p99"))


async def count(server: Server, path: str, load: Load, streams: int, deltas: int) -> Speed:
    """Read so many streams of so many deltas; raises if an event is lost or comes twice."""
    cpu_before = server.cpu_time
    command = {"deltas": deltas, "pause": load.pause, "timed": bool(load.pause)}
    result = await trio.run_process(
        [
            sys.executable, "-m", "benchmarks.counting_client", "--port", str(server.port),
            "--path", path, "--streams", str(streams), "--command", json.dumps(command),
            "--ramp", str(RAMP if load.pause else 0),
        ],
        cwd=ROOT,
        capture_stdout=True,
    )  # fmt: skip
    counted = json.loads(result.stdout)
    # Beside the deltas: thread.created, the user's message, stream_options, added, done.
    events = streams * (deltas + 5)
    if (frames := counted.pop("frames")) != events:
        raise RuntimeError(f"{server.system} sent {frames} frames, not {events}")
    cpu = server.cpu_time - cpu_before
    return Speed(events / counted.pop("seconds"), cpu / events, **counted)


async def compare(
    servers: Sequence[Server], load: Load, streams: int, deltas: int, runs: int
) -> list[Speed]:
    """Return the medians of the original, of ours, and of the floor."""
    original, ours = servers
    ways = [(original, "/chatkit"), (ours, "/chatkit"), (ours, "/bare")]
    found: list[list[Speed]] = [[] for _ in ways]
    for _ in range(runs + 1):
        for (server, path), speeds in zip(ways, found, strict=True):
            speeds.append(await count(server, path, load, streams, deltas))
    return [median(speeds[1:]) for speeds in found]  # the first run warms up


def median(speeds: Sequence[Speed]) -> Speed:
    return Speed(
        *(statistics.median(getattr(speed, f.name) for speed in speeds) for f in fields(Speed))
    )


async def check_output(servers: Sequence[Server]) -> None:
    """Raise unless both servers send the same events, but for ids and times."""
    texts = []
    for server in servers:
        async with connect(server.port) as connection:
            body = message(None, deltas=50)
            await connection.request("POST", "/chatkit", body, [("host", "localhost")])
            text = (await connection.body()).decode()
        texts.append(_TIMES.sub("TIME", _IDS.sub("ID", text)))
    if texts[0] != texts[1]:
        raise RuntimeError("the two servers send different events")


async def measure(
    loads: Sequence[Load], events: int, runs: int, many: Sequence[int], options: Sequence[str]
) -> list[list[Any]]:
    rows = []
    async with running(SYSTEMS[0], *options) as original, running(SYSTEMS[1]) as ours:
        servers = [original, ours]
        await check_output(servers)
        for load in loads:
            for streams in many:
                deltas = load.deltas(events, streams)
                found = await compare(servers, load, streams, deltas, runs)
                rows.append([load.name, streams, *cells(*found, is_timed=bool(load.pause))])
    return rows


def cells(theirs: Speed, own: Speed, floor: Speed, *, is_timed: bool) -> list[str]:
    return [
        f"{theirs.events_per_second:,.0f}",
        f"{own.events_per_second:,.0f}",
        f"{own.events_per_second / theirs.events_per_second:.2f}",
        f"{theirs.cpu_per_event * 1e6:.0f}",
        f"{own.cpu_per_event * 1e6:.0f}",
        ratio(own, theirs),
        f"{floor.cpu_per_event * 1e6:.0f}",
        ratio(own, floor),
        theirs.in_ms("first_frame"),
        own.in_ms("first_frame"),
        theirs.in_ms("delay") if is_timed else "-",
        own.in_ms("delay") if is_timed else "-",
    ]


def ratio(speed: Speed, other: Speed) -> str:
    """Compare CPU times; the system counts in steps of 10 ms, so a short run may have had none."""
    return f"{speed.cpu_per_event / other.cpu_per_event:.2f}" if other.cpu_per_event else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=40_000, help="a run, over all its streams")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fast", action="store_true", help="the original on uvloop and httptools")
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    options = ["--fast"] if arguments.fast else []
    loads = [LOADS[name] for name in arguments.loads]
    rows = trio.run(measure, loads, arguments.events, arguments.runs, arguments.streams, options)
    report(HEAD, rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
