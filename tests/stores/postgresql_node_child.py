"""A process with a live turn; started by `test_postgresql_nodes.py`.

Its arguments are the URL and the lease in seconds. For each line that it reads it writes an item of
that id in the name of its turn, and says what came of it; or it forks or hangs.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import trio

from chatkit_trio.errors import ChatKitError, StoreError
from chatkit_trio.store import Fence, JournalEntry, Opening, fence
from chatkit_trio.stores import _postgresql_database as database
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing._store_samples import note, thread


def hang(*_: object) -> None:
    print("hangs", flush=True)
    trio.from_thread.run(trio.sleep_forever)


def fork() -> int:
    """Fork as user code may, and return the id of the child, which lives until it is killed."""
    if pid := os.fork():
        return pid
    while True:
        signal.pause()


async def main(url: str, lease: float) -> None:
    async with PostgreSQLStore(url, lease_timeout=lease) as store, trio.open_nursery() as nursery:
        assert store.coordination is not None
        nursery.start_soon(renew, store, lease)
        opening = Opening(
            "thr_1",
            "turn_1",
            new_thread=thread("thr_1"),
            new_items=(note("of_turn_1", "thr_1"),),
        )
        assert await store.coordination.begin(opening, None) is None
        partial = JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "partial"),))
        await store.journal.checkpoint([partial])
        print("begun", flush=True)
        fence.set(Fence("turn_1"))
        while line := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            if line == "fork":
                print(fork(), flush=True)
                continue
            if line == "hang":
                database.Transaction.finish = hang  # type: ignore[assignment, method-assign]
                await store.coordination.begin(Opening("thr_1", "turn_2"), None)
            try:
                await store.add_thread_item("thr_1", note(line, "thr_1"), None)
            except ChatKitError as error:
                print(type(error).__name__, flush=True)
            else:
                print("written", flush=True)
        nursery.cancel_scope.cancel()


async def renew(store: PostgreSQLStore[None], lease: float) -> None:
    assert store.coordination is not None
    while True:
        with suppress(StoreError):  # as a server goes on; it may have been stopped in the middle
            await store.coordination.news()
        await trio.sleep(lease / 5)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]))
