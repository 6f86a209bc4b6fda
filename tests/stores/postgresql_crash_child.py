"""Runs store writes in processes that die on the way; started by `test_postgresql.py`.

Reads lines of JSON [url, operation, thread_id, statement] and answers each with the exit status.
Each is done in a fork, so that the imports are paid for once.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

import trio

from chatkit_trio.stores import _postgresql_statements as statements
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import StoreConformance

CRASHED = 9


def die_at(statement: int) -> None:
    """End the process as it begins its n-th statement; those before are under way or done."""
    count, send = itertools.count(1), statements.Statement.send

    def counting_send(
        self: statements.Statement, connection: statements.Connection
    ) -> statements.Cursor:
        if next(count) == statement:
            os._exit(CRASHED)
        return send(self, connection)

    statements.Statement.send = counting_send  # type: ignore[method-assign]


async def crash(url: str, operation: str, thread_id: str, statement: int) -> None:
    async with PostgreSQLStore(url, owner=str) as store:
        die_at(statement)
        await StoreConformance.perform(operation, store, thread_id, "ann")
        os._exit(0)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            trio.run(crash, *json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
