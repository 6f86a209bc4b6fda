from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import StoreConformance

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def crash_child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, HERE / "crash_child.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class TestSQLiteStore(StoreConformance):
    persistent = True

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path, crash_child: subprocess.Popen[str]) -> None:
        self.path = tmp_path / "chat.db"
        self.child = crash_child

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[SQLiteStore[str]]:
        async with SQLiteStore[str](self.path, owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"

    async def crash_during(self, operation: str, thread_id: str, statement: int) -> bool:
        order = json.dumps([str(self.path), operation, thread_id, statement])
        status = await trio.to_thread.run_sync(self._tell_child, order)
        assert status in ("9", "0")
        return status == "9"

    def _tell_child(self, order: str) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()
