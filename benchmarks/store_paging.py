"""What a page costs at item 100 and at item 1,000,000 of a thread.

Run: python benchmarks/store_paging.py [items]
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import trio

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadMetadata,
)

NOW = datetime.now(UTC)
LIMIT = 20
ROUNDS = 500


def item(n: int) -> AssistantMessageItem:
    content = [AssistantMessageContent(text="A sentence of an answer, not very long. " * 10)]
    return AssistantMessageItem(id=f"msg_{n}", thread_id="thr_1", created_at=NOW, content=content)


async def fill(path: Path, items: int) -> None:
    async with SQLiteStore(path) as store:
        await store.save_thread(ThreadMetadata(id="thr_1", created_at=NOW), None)
    text = item(0).model_dump_json()
    with sqlite3.connect(path) as connection:  # past the store, which would take minutes
        connection.executemany(
            "INSERT INTO items (thread, id, data) VALUES (1, ?, ?)",
            ((f"msg_{n}", text) for n in range(items)),
        )
    connection.close()


async def page_cost(store: SQLiteStore[object], after: str, order: str) -> float:
    """Return the median of many loads, in microseconds."""
    costs = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        page = await store.load_thread_items("thr_1", after, LIMIT, order, None)
        costs.append(time.perf_counter() - start)
        assert len(page.data) == LIMIT
    return statistics.median(costs) * 1e6


async def main(items: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat.db"
        await fill(path, items)
        size = (await trio.Path(path).stat()).st_size / 1e6
        print(f"{items:,} items in one thread, file of {size:.0f} MB, pages of {LIMIT}")
        print(f"{'page behind item':>18} {'asc µs':>8} {'desc µs':>8}")
        async with SQLiteStore(path) as store:
            for n in (100, items // 2, items - 100):
                asc = await page_cost(store, f"msg_{n}", "asc")
                desc = await page_cost(store, f"msg_{n}", "desc")
                print(f"{n:>18,} {asc:>8.0f} {desc:>8.0f}")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
