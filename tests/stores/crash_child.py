"""Runs store writes in processes that die on the way; started by `test_sqlite.py`.

Reads lines of JSON [path, operation, thread_id, statement] and answers each with the exit status.
Each is done in a fork, so that the imports are paid for once.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys

import trio

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import StoreConformance

CRASHED = 9

connections: list[sqlite3.Connection] = []
connect = sqlite3.connect


def remembering_connect(*args: object, **kwargs: object) -> sqlite3.Connection:
    connections.append(connect(*args, **kwargs))  # type: ignore[arg-type]
    return connections[-1]


def die_at(statement: int) -> None:
    count = itertools.count(1)

    def trace(_: str) -> None:
        if next(count) == statement:
            os._exit(CRASHED)

    for connection in connections:
        connection.set_trace_callback(trace)


async def crash(path: str, operation: str, thread_id: str, statement: int) -> None:
    async with SQLiteStore(path, owner=str) as store:
        die_at(statement)
        await StoreConformance.perform(operation, store, thread_id, "ann")
        die_at(0)


def main() -> None:
    sqlite3.connect = remembering_connect  # type: ignore[assignment]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            trio.run(crash, *json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
