"""chatkit_trio beside the original, in every row that a server is judged by: one table, one chart.

    python -m benchmarks.compare                  against uvicorn as it comes, some 15 minutes
    python -m benchmarks.compare --fast           against uvicorn on uvloop and httptools
    python -m benchmarks.compare --rows paged idle

Both systems are measured in the same run and take turns; every figure is a median. A ratio above 1
means that chatkit_trio is ahead: it does so many times as much, or takes so many times less. Where
events come as models send them, the pace sets the speed, and CPU time is what differs. The floor is
a bare ASGI app on the same Hypercorn as chatkit_trio, which sends as many frames in as many sends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from math import isnan, nan
from pathlib import Path

import trio

from benchmarks import disconnect_latency, idle_streams, pages
from benchmarks.measuring import (
    SYSTEMS,
    Server,
    System,
    percentile,
    print_conditions,
    print_table,
    running,
)
from benchmarks.throughput import LOADS, Load, Speed, check_output, compare

HEAD = ("what", "unit", "original", "ours", "ahead by", "floor", "ours / floor")
IMPORTS = {"original": "chatkit.server", "chatkit_trio": "chatkit_trio.server"}
WIDTH = 20  # characters of a bar for each time as good


@dataclass(frozen=True)
class Figure:
    """What was measured of both systems."""

    what: str
    unit: str
    original: float
    ours: float
    floor: float | None = None
    more_is_better: bool = False

    @property
    def ahead(self) -> float:
        """By how much chatkit_trio is ahead of the original; below 1, behind."""
        better, worse = self.ours, self.original
        if not self.more_is_better:
            better, worse = worse, better
        return better / worse if worse else nan

    def cells(self) -> list[str]:
        floor = ["-", "-"]
        if self.floor:
            floor = [_told(self.floor), f"{self.ours / self.floor:.2f}"]
        figures = [_told(self.original), _told(self.ours)]
        return [self.what, self.unit, *figures, _told(self.ahead, "{:.2f}"), *floor]


def _told(figure: float, form: str = "{:.3g}") -> str:
    if isnan(figure):
        return "-"
    return f"{figure:,.0f}" if figure >= 100 else form.format(figure)


@dataclass(frozen=True)
class Setting:
    """How much is measured; each field is an option of the command."""

    options: Sequence[str] = ()
    """For the original's server."""
    runs: int = 3
    streams: Sequence[int] = (1, 4, 100, 1000)
    events: int = 40_000
    deltas: Sequence[int] = (100, 1_000, 10_000, 100_000)
    sizes: Sequence[int] = pages.SIZES
    idle: int = 1000
    disconnects: int = 100
    starts: int = 5


# --- The rows ----------------------------------------------------------------------------------


async def rushed(setting: Setting) -> AsyncIterator[Figure]:
    """Events a second, where respond makes them as fast as it can."""
    async for load, streams, (original, ours, _) in _streamed(setting, ("never", "checkpoint")):
        what = f"{load.name}, {_count(streams, 'stream')}"
        rate, own = original.events_per_second, ours.events_per_second
        yield Figure(what, "events/s", rate, own, more_is_better=True)
        yield _first_event(what, original, ours)


async def paced(setting: Setting) -> AsyncIterator[Figure]:
    """CPU time and delay of an event, where they come as models send them."""
    async for load, streams, (original, ours, floor) in _streamed(setting, ("50", "paced")):
        what = f"{load.name}, {_count(streams, 'stream')}"
        yield _cpu(what, original, ours, floor)
        yield _first_event(what, original, ours)
        delay, own, least = (1000 * speed.delay_p99 for speed in (original, ours, floor))
        yield Figure(what, "delay of an event, p99, ms", delay, own, least)


def _cpu(what: str, *speeds: Speed) -> Figure:
    original, ours, floor = [1e6 * speed.cpu_per_event for speed in speeds]
    return Figure(what, "CPU µs/event", original, ours, floor)


def _first_event(what: str, original: Speed, ours: Speed) -> Figure:
    first, own = (1000 * speed.first_frame_p99 for speed in (original, ours))
    return Figure(what, "first event, p99, ms", first, own)


async def _streamed(
    setting: Setting, names: Sequence[str]
) -> AsyncIterator[tuple[Load, int, list[Speed]]]:
    async with _servers(setting) as servers:
        for load in (LOADS[name] for name in names):
            for streams in setting.streams:
                deltas = load.deltas(setting.events, streams)
                yield load, streams, await compare(servers, load, streams, deltas, setting.runs)


@asynccontextmanager
async def _servers(setting: Setting) -> AsyncIterator[list[Server]]:
    async with running("original", *setting.options) as original, running("chatkit_trio") as ours:
        servers = [original, ours]
        await check_output(servers)
        yield servers


async def lengths(setting: Setting) -> AsyncIterator[Figure]:
    """CPU time of a delta in messages of more and more of them."""
    async with _servers(setting) as servers:
        for deltas in setting.deltas:
            speeds = await compare(servers, LOADS["never"], 1, deltas, setting.runs)
            yield _cpu(f"a message of {deltas:,} deltas", *speeds)


async def idle(setting: Setting) -> AsyncIterator[Figure]:
    """Memory of a stream whose model is silent."""
    original, ours, floor = [
        (await idle_streams.measure(system, path, setting.idle))[0] / 1000
        for system, path in idle_streams.WAYS.values()
    ]
    yield Figure(f"{setting.idle:,} idle streams", "KB a stream", original, ours, floor)


async def paged(setting: Setting) -> AsyncIterator[Figure]:
    """A page of items."""
    for size, original, ours, _ in await pages.measure(setting.sizes):
        what = f"20 items of a thread of {size:,}"
        yield Figure(what, "ms a request", original * 1000, ours * 1000)


async def disconnected(setting: Setting) -> AsyncIterator[Figure]:
    """From a disconnect to the store."""
    with tempfile.TemporaryDirectory() as directory:
        found = {
            system: await disconnect_latency.latencies(system, setting.disconnects, Path(directory))
            for system in SYSTEMS
        }
    # The original stores nothing when a client leaves, so there is no time to compare with.
    kept, own = (100 * len(found[system]) / setting.disconnects for system in SYSTEMS)
    yield Figure("answers kept at a disconnect", "%", kept, own, more_is_better=True)
    ours = found["chatkit_trio"]
    what = "from a disconnect to the store, p99"
    yield Figure(what, "ms", nan, 1000 * percentile(ours, 0.99))


async def started(setting: Setting) -> AsyncIterator[Figure]:
    """From the start of a process to its import, and to its first answer."""
    for what, measure_one in (
        ("import of the server module", _import),
        ("from start to the first answer", _start),
    ):
        original, ours = [
            1000 * await _median(setting.starts, partial(measure_one, system)) for system in SYSTEMS
        ]
        yield Figure(what, "ms", original, ours)


async def _median(times: int, measure: Callable[[], Awaitable[None]]) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        await measure()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def _import(system: System) -> None:
    await trio.run_process([sys.executable, "-c", f"import {IMPORTS[system]}"])


async def _start(system: System) -> None:
    async with running(system) as server:
        server.process.kill()


ROWS: dict[str, Callable[[Setting], AsyncIterator[Figure]]] = {
    "rushed": rushed,
    "paced": paced,
    "lengths": lengths,
    "idle": idle,
    "paged": paged,
    "disconnected": disconnected,
    "started": started,
}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


# --- What is printed ---------------------------------------------------------------------------


async def measure(names: Sequence[str], setting: Setting) -> list[Figure]:
    figures = []
    for name in names:
        async for figure in ROWS[name](setting):
            figures.append(figure)
            print(f"{figure.what}: {figure.unit}", file=sys.stderr, flush=True)
    return figures


def chart(figures: Sequence[Figure]) -> list[str]:
    """Return a bar for each figure: as long as ours is ahead; both are even where `|` stands."""
    names = [f"{figure.what}, {figure.unit}" for figure in figures]
    lines = []
    for name, figure in zip(names, figures, strict=True):
        if not isnan(figure.ahead):
            bar = ("#" * min(round(figure.ahead * WIDTH), 5 * WIDTH)).ljust(WIDTH)
            bar = f"{bar[:WIDTH]}|{bar[WIDTH:]}"
            lines.append(f"{name.ljust(max(map(len, names)))}  {bar} {figure.ahead:.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--fast", action="store_true", help="the original on uvloop and httptools")
    for field in fields(Setting):
        if field.name != "options":
            nargs = "+" if isinstance(field.default, tuple) else None
            parser.add_argument(f"--{field.name}", type=int, nargs=nargs, default=field.default)
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    arguments.options = ["--fast"] if arguments.fast else []
    setting = Setting(**{field.name: getattr(arguments, field.name) for field in fields(Setting)})
    figures = trio.run(measure, arguments.rows, setting)
    if arguments.json:
        print(json.dumps([figure.cells() for figure in figures]))
        return
    print_conditions()
    print_table(HEAD, [figure.cells() for figure in figures])
    print("", "Ahead of the original by:", "", *chart(figures), sep="\n")


if __name__ == "__main__":
    main()
