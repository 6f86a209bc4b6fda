"""One node of an SQLite file in a process of its own; started by `test_sqlite_processes.py`.

Opens the file that is named on the command line, says the node's id, and then reads lines of JSON
[command, arguments...] and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import trio

from chatkit_trio.errors import TurnFencedError
from chatkit_trio.store import Fence, JournalEntry, Settlement, fence
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing._store_samples import note, opening

FOR_EVER = 3600.0


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


class Node:
    def __init__(self, store: SQLiteStore[str]) -> None:
        self.store = store
        self.coordination = store.coordination

    async def begin(self, turn_id: str, thread_id: str) -> str | None:
        record = await self.coordination.begin(opening(turn_id, thread_id), "ann")
        return None if record is None else record.turn_id

    async def checkpoint(self, turn_id: str, thread_id: str, text: str) -> None:
        entry = JournalEntry(turn_id, thread_id, (note("i5", thread_id, text),))
        await self.store.journal.checkpoint([entry])

    async def write(self, turn_id: str, thread_id: str, item_id: str) -> str:
        """Write as a task of the turn."""
        token = fence.set(Fence(turn_id))
        try:
            await self.store.add_thread_item(thread_id, note(item_id, thread_id), "ann")
        except TurnFencedError:
            return "fenced"
        finally:
            fence.reset(token)
        return "written"

    async def fork(self) -> int:
        """Fork as user code may, and return the id of the child, which lives until it is killed."""
        if pid := os.fork():
            return pid
        while True:
            signal.pause()

    async def settle(self, turn_id: str, thread_id: str, text: str) -> None:
        settlement = Settlement(thread_id, turn_id, (note("i5", thread_id, text),))
        await self.store.settle(settlement, "ann")

    async def post(self, node: str, text: str) -> None:
        await self.coordination.post(node, text.encode())

    async def news(self) -> tuple[list[str], list[str]]:
        news = await self.coordination.news()
        return [message.decode() for message in news.messages], sorted(news.live)

    async def wait_for_message(self) -> list[str]:
        """Wait for a hint: looking again would take an hour."""
        with self.coordination.hint(self.coordination.node) as hint:
            assert await self.news() == ([], ["turn_1"])
            say("waiting")
            while not (messages := (await self.news())[0]):
                await hint.wait(FOR_EVER)
        return messages

    async def wait_for_thread(self, thread_id: str) -> str:
        with self.coordination.hint(thread_id) as hint:
            say("waiting")
            while await self.coordination.record(thread_id) is not None:
                await hint.wait(FOR_EVER)
        return "free"


async def main(path: str) -> None:
    async with SQLiteStore[str](path, owner=str) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.coordination.listen)
        print(store.coordination.node, flush=True)
        node: Any = Node(store)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command, *args = json.loads(line)
            say(await getattr(node, command)(*args))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
