"""What a write costs with synchronous NORMAL and FULL, and what a journal checkpoint costs.

Run: python benchmarks/store_synchronous.py [directory on the disk to measure]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import trio

from chatkit_trio.store import JournalEntry
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import AssistantMessageContent, AssistantMessageItem, ThreadMetadata

NOW = datetime.now(UTC)
WRITES = 1000
CHECKPOINTS = 30


def item(item_id: str, length: int) -> AssistantMessageItem:
    content = [AssistantMessageContent(text="x" * length)]
    return AssistantMessageItem(id=item_id, thread_id="thr_1", created_at=NOW, content=content)


async def timed(count: int, call: Callable[[int], Awaitable[None]]) -> list[float]:
    """Return what each call took, in milliseconds, cheapest first."""
    costs = []
    for n in range(count):
        start = time.perf_counter()
        await call(n)
        costs.append((time.perf_counter() - start) * 1e3)
    return sorted(costs)


def row(name: str, costs: list[float]) -> str:
    p99 = costs[int(len(costs) * 0.99)]
    return f"{name:>34} {statistics.median(costs):>8.2f} {p99:>8.2f}"


def live_turns(count: int, n: int) -> list[JournalEntry]:
    # Text that grows: SQLite doesn't write a row again that hasn't changed.
    return [JournalEntry(f"turn_{t}", "thr_1", (item("msg", 2000 + n),)) for t in range(count)]


async def measure(directory: str, synchronous: Literal["NORMAL", "FULL"]) -> None:
    path = Path(directory) / f"{synchronous}.db"
    async with SQLiteStore(path, synchronous=synchronous) as store:
        await store.save_thread(ThreadMetadata(id="thr_1", created_at=NOW), None)
        costs = await timed(
            WRITES, lambda n: store.add_thread_item("thr_1", item(f"msg_{n}", 500), None)
        )
        print(row(f"{synchronous}: add_thread_item, 500 B", costs))
        begun = 0
        for turns in (1, 100, 1000):
            for n in range(begun, turns):
                await store.journal.begin(f"turn_{n}", "thr_1", None)
            begun = turns
            entries = [live_turns(turns, n) for n in range(CHECKPOINTS)]
            costs = await timed(CHECKPOINTS, lambda n, e=entries: store.journal.checkpoint(e[n]))
            print(row(f"{synchronous}: checkpoint of {turns} turns, 2 kB", costs))


async def main(directory: str | None) -> None:
    print(f"{'':>34} {'p50 ms':>8} {'p99 ms':>8}")
    with tempfile.TemporaryDirectory(dir=directory) as inside:
        await measure(inside, "NORMAL")
        await measure(inside, "FULL")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
