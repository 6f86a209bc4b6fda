"""What a page of 20 items costs in threads of 100 to 1,000,000 items, over HTTP.

    python -m benchmarks.pages

Both systems read the same SQLite file. The original's store is the one of `original_server`, for it
comes without one; it has the newest items only. Ours also gives the page behind the middle item.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from benchmarks.database import make_database
from benchmarks.measuring import SYSTEMS, Server, connect, print_conditions, print_table, running
from chatkit_trio.types import AssistantMessageContent, AssistantMessageItem, ThreadMetadata

HEAD = ("items in the thread", "original, ms", "ours", "ratio", "ours, behind the middle")
SIZES = (100, 10_000, 1_000_000)
LIMIT = 20
ROUNDS = 100
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fill(path: Path, sizes: Sequence[int]) -> None:
    """Make a database with a thread of each size, past the stores, which would take minutes."""
    make_database(path)
    content = [AssistantMessageContent(text="A sentence of an answer, not very long. " * 10)]
    db = sqlite3.connect(path)
    for size in sizes:
        thread_id = f"thr_{size}"
        thread = ThreadMetadata(id=thread_id, created_at=_NOW).model_dump_json()
        query = "INSERT INTO threads (owner, id, data) VALUES ('', ?, ?)"
        seq = db.execute(query, (thread_id, thread)).lastrowid
        item = AssistantMessageItem(
            id="ITEM", thread_id=thread_id, created_at=_NOW, content=content
        ).model_dump_json()
        db.executemany(
            "INSERT INTO items (thread, id, data) VALUES (?, ?, ?)",
            ((seq, f"msg_{n}", item.replace("ITEM", f"msg_{n}")) for n in range(size)),
        )
    db.commit()
    db.close()


async def cost(server: Server, thread_id: str, after: str | None) -> float:
    """Return the seconds that a page takes, the median of many."""
    params = {"thread_id": thread_id, "limit": LIMIT, "order": "desc", "after": after}
    costs = []
    for _ in range(ROUNDS):
        async with connect(server.port) as connection:
            began = time.perf_counter()
            await connection.request("POST", "/chatkit", {"type": "items.list", "params": params})
            page = json.loads(await connection.body())
            costs.append(time.perf_counter() - began)
        if len(page["data"]) != LIMIT:
            raise RuntimeError(f"a page has {len(page['data'])} items, not {LIMIT}")
    return statistics.median(costs)


async def measure(sizes: Sequence[int]) -> list[tuple[int, float, float, float]]:
    """Return for each size what a page costs: of the original, of ours, and behind the middle."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat.db"
        fill(path, sizes)
        options = ("--database", str(path))
        async with running(SYSTEMS[0], *options) as original, running(SYSTEMS[1], *options) as ours:
            return [
                (
                    size,
                    await cost(original, f"thr_{size}", None),
                    await cost(ours, f"thr_{size}", None),
                    await cost(ours, f"thr_{size}", f"msg_{size // 2}"),
                )
                for size in sizes
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    found = trio.run(measure, arguments.sizes)
    if arguments.json:
        print(json.dumps(found))
        return
    rows: list[list[Any]] = [
        [
            f"{size:,}",
            *(f"{seconds * 1000:.2f}" for seconds in (original, ours)),
            f"{ours / original:.2f}",
            f"{middle * 1000:.2f}",
        ]
        for size, original, ours, middle in found
    ]
    print_conditions()
    print_table(HEAD, rows)


if __name__ == "__main__":
    main()
