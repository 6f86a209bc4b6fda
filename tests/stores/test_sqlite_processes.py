"""The coordination of `SQLiteStore` between real processes, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.errors import StoreError
from chatkit_trio.store import JournalEntry, News, Opening, Settlement, TurnRecord
from chatkit_trio.stores import SQLiteStore, _sqlite_schema
from chatkit_trio.testing import JumpClock
from chatkit_trio.testing._store_samples import note, opening, prepare, snapshot, thread

HERE = Path(__file__).parent


class Child:
    """A node in another process."""

    def __init__(self, process: subprocess.Popen[str], node: str) -> None:
        self.process = process
        self.node = node

    async def do(self, *command: object) -> Any:
        """Have the node do something, and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return await self.answer()

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        line = await trio.to_thread.run_sync(self.process.stdout.readline)
        assert line, "the other process has died"
        return json.loads(line)

    async def kill(self) -> None:
        self.process.kill()
        await trio.to_thread.run_sync(self.process.wait)


def start_child(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "node_child.py", path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@asynccontextmanager
async def children(path: Path, count: int = 1) -> AsyncIterator[list[Child]]:
    async with AsyncExitStack() as stack:
        processes = [stack.enter_context(start_child(path)) for _ in range(count)]
        try:
            found = []
            for process in processes:
                assert process.stdout is not None
                line = await trio.to_thread.run_sync(process.stdout.readline)
                found.append(Child(process, line.strip()))
            yield found
        finally:
            for process in processes:
                process.kill()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore[str]]:
    """Return this process's node, with a prepared thread."""
    async with SQLiteStore[str](tmp_path / "chat.db", owner=str) as store:
        await prepare(store, "thr_1", "ann")
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


async def begin(store: SQLiteStore[str], turn_id: str) -> str | None:
    record = await store.coordination.begin(opening(turn_id, "thr_1"), "ann")
    return None if record is None else record.turn_id


async def new_items(store: SQLiteStore[str]) -> list[str]:
    return [item_id for item_id, _ in (await snapshot(store, "thr_1", "ann")).items[4:]]


class TestProcesses:
    async def test_of_many_processes_one_has_a_turn_on_the_thread(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        answers: dict[str, str | None] = {}

        async def ask(child: Child, turn_id: str) -> None:
            answers[turn_id] = await child.do("begin", turn_id, "thr_1")

        async with children(path, 4) as nodes:
            async with trio.open_nursery() as nursery:
                for n, child in enumerate(nodes):
                    nursery.start_soon(ask, child, f"turn_{n}")
            (let_in,) = [turn_id for turn_id, answer in answers.items() if answer is None]
            assert {answer for answer in answers.values() if answer} == {let_in}
            assert await new_items(store) == [f"of_{let_in}"]

    async def test_turns_wait_in_line_over_all_processes(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path, 2) as (one, other):
            await begin(store, "turn_0")
            await one.do("begin", "turn_1", "thr_1")
            await other.do("begin", "turn_2", "thr_1")
            await begin(store, "turn_3")
            await store.settle(Settlement("thr_1", "turn_0"), "ann")
            assert await begin(store, "turn_3") == "turn_1"
            assert await other.do("begin", "turn_2", "thr_1") == "turn_1"
            assert await one.do("begin", "turn_1", "thr_1") is None
            await one.do("settle", "turn_1", "thr_1", "whole")
            assert await begin(store, "turn_3") == "turn_2"
            await other.kill()
            assert await begin(store, "turn_3") is None
            assert await new_items(store) == ["of_turn_0", "of_turn_1", "i5", "of_turn_3"]

    async def test_the_turn_of_a_killed_process_is_settled_and_the_next_begins(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await child.do("begin", "turn_1", "thr_1")
            await child.do("checkpoint", "turn_1", "thr_1", "half")
            assert await begin(store, "turn_2") == "turn_1"
            assert await store.journal.abandoned("thr_1") == []
            await child.kill()
            assert await begin(store, "turn_2") == "turn_1"
            (entry,) = await store.journal.abandoned("thr_1")
            assert entry == JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "half"),))
            await store.journal.settle_abandoned(Settlement("thr_1", "turn_1", entry.items))
            assert await begin(store, "turn_2") is None
            assert await new_items(store) == ["of_turn_1", "i5", "of_turn_2"]

    async def test_a_killed_process_is_dead_though_a_child_lives_that_it_has_forked(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await child.do("begin", "turn_1", "thr_1")
            await child.do("checkpoint", "turn_1", "thr_1", "half")
            forked = await child.do("fork")
            try:
                assert await store.journal.abandoned("thr_1") == []
                await child.kill()
                (entry,) = await store.journal.abandoned("thr_1")
            finally:
                os.kill(forked, signal.SIGKILL)
            assert entry == JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "half"),))

    async def test_a_process_lives_whose_forked_child_has_ended(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await child.do("begin", "turn_1", "thr_1")
            os.kill(await child.do("fork"), signal.SIGKILL)
            assert await store.journal.abandoned("thr_1") == []
            assert await child.do("write", "turn_1", "thr_1", "i6") == "written"

    async def test_a_process_that_was_taken_for_dead_writes_no_more_and_settles_what_it_has(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await child.do("begin", "turn_1", "thr_1")
            assert await child.do("write", "turn_1", "thr_1", "x1") == "written"
            (path.parent / f"chat.db-instance-{child.node}").unlink()
            await store.journal.abandoned("thr_1")
            assert await child.do("write", "turn_1", "thr_1", "x2") == "fenced"
            half = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "half"),))
            await store.journal.settle_abandoned(half)
            assert await child.do("write", "turn_1", "thr_1", "x3") == "fenced"
            assert await child.do("news") == [[], []]
            await child.do("settle", "turn_1", "thr_1", "whole")
            items = (await snapshot(store, "thr_1", "ann")).items[4:]
            assert items == (("of_turn_1", ""), ("x1", ""), ("i5", "whole"))

    async def test_messages_go_both_ways(self, store: SQLiteStore[str], path: Path) -> None:
        async with children(path) as (child,):
            await store.coordination.post(child.node, b"stop")
            await store.coordination.post(child.node, b"please")
            assert await child.do("news") == [["stop", "please"], []]
            await child.do("post", store.coordination.node, "done")
            assert await store.coordination.news() == News((b"done",))
            await child.kill()
            await store.coordination.post(child.node, b"late")
            with closing(sqlite3.connect(path)) as file:
                assert file.execute("SELECT count(*) FROM messages").fetchone() == (0,)

    async def test_a_process_with_a_turn_is_told_of_a_message(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await child.do("begin", "turn_1", "thr_1")
            assert await child.do("wait_for_message") == "waiting"
            await store.coordination.post(child.node, b"stop")
            assert await child.answer() == ["stop"]

    async def test_a_process_that_waits_for_a_thread_is_told_of_the_turns_end(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await begin(store, "turn_1")
            assert await child.do("wait_for_thread", "thr_1") == "waiting"
            await store.settle(Settlement("thr_1", "turn_1"), "ann")
            assert await child.answer() == "free"

    async def test_what_a_killed_process_was_to_hear_and_waited_for_is_cleaned_up(
        self, store: SQLiteStore[str], path: Path
    ) -> None:
        async with children(path) as (child,):
            await begin(store, "turn_1")
            await child.do("begin", "turn_2", "thr_1")
            await store.coordination.post(child.node, b"message")
            await child.kill()
        assert await store.journal.abandoned() == []
        with closing(sqlite3.connect(path)) as file:
            for table in ("line", "messages"):
                assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


VISITOR = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
print(*(thread_id for (thread_id,) in file.execute("SELECT id FROM threads ORDER BY seq")))
file.close()
"""


def visit(path: Path) -> list[str]:
    """Have another process open the file, read the ids of its threads and close it."""
    command = [sys.executable, "-c", VISITOR, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.split()


async def another_store_looks(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str):
        pass


async def the_command_line_looks(path: Path) -> None:
    found = await trio.to_thread.run_sync(CliRunner().invoke, main, ["threads", "list", str(path)])
    assert found.exit_code == 0, found.output


class TestLocksOfThisProcess:
    """POSIX drops a process's locks on a file as soon as the process closes it anywhere."""

    @pytest.mark.parametrize("look", [another_store_looks, the_command_line_looks])
    async def test_what_is_written_after_a_second_look_at_the_file_is_seen_by_others(
        self, store: SQLiteStore[str], path: Path, look: Callable[[Path], Awaitable[None]]
    ) -> None:
        await look(path)
        visit(path)  # who is the last one, as far as it knows, deletes the log
        await store.save_thread(thread("thr_late"), "ann")
        assert visit(path) == ["thr_1", "thr_late"]
        await store.ping()

    async def test_a_file_is_checked_again_when_nobody_here_has_it_open(self, path: Path) -> None:
        await another_store_looks(path)
        await trio.Path(path).write_bytes(b"of another program")
        with pytest.raises(StoreError, match="file is not a database"):
            await another_store_looks(path)


class TestFileOfVersion3:
    async def test_entries_of_dead_processes_stay_valid(self, path: Path) -> None:
        """Also two of one thread, which an old process may have left."""
        with closing(sqlite3.connect(path)) as old:
            for step in _sqlite_schema.MIGRATIONS[:3]:
                step(old)
            old.execute(f"PRAGMA application_id = {_sqlite_schema.APPLICATION_ID}")
            old.execute("PRAGMA user_version = 3")
            query = (
                "INSERT INTO turns (id, thread_id, owner, instance) VALUES (?, 'thr_1', '', 'x')"
            )
            old.executemany(query, [("turn_1",), ("turn_2",)])
            old.commit()
        async with SQLiteStore[None](path) as store:
            await store.save_thread(thread("thr_1"), None)
            mine = Opening("thr_1", "turn_3")
            for turn_id in ("turn_1", "turn_2"):
                blocking = await store.coordination.begin(mine, None)
                assert blocking == TurnRecord(turn_id, "thr_1", "x")
                entries = await store.journal.abandoned("thr_1")
                assert entries[0] == JournalEntry(turn_id, "thr_1")
                await store.journal.settle_abandoned(Settlement("thr_1", turn_id))
            assert await store.coordination.begin(mine, None) is None


class TestCost:
    @pytest.fixture
    def commits(self, store: SQLiteStore[str]) -> list[str]:
        """Return a list that grows by each commit of this process."""
        found: list[str] = []
        connection = store._database._writer
        assert connection is not None
        connection.set_trace_callback(lambda text: found.extend([text] * (text == "COMMIT")))
        return found

    async def test_a_turn_begins_with_one_commit(
        self, store: SQLiteStore[str], commits: list[str]
    ) -> None:
        begun = Opening(
            "thr_2", "turn_1", new_thread=thread("thr_2"), new_items=(note("i1", "thr_2"),)
        )
        await store.coordination.begin(begun, "ann")
        assert len(commits) == 1

    async def test_asking_writes_nothing_if_there_is_nothing_new(
        self, store: SQLiteStore[str], commits: list[str]
    ) -> None:
        await begin(store, "turn_1")
        commits.clear()
        for _ in range(3):
            await store.coordination.news()
            await store.coordination.record("thr_1")
            await store.coordination.checkpointed("turn_1")
            await store.journal.abandoned()
        assert commits == []

    async def test_a_node_at_rest_looks_for_nothing(
        self,
        store: SQLiteStore[str],
        monkeypatch: pytest.MonkeyPatch,
        jump_clock: JumpClock,
    ) -> None:
        looks: list[float] = []

        async def look() -> int:
            looks.append(trio.current_time())
            return 0

        monkeypatch.setattr(store._database, "data_version", look)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.coordination.listen)
            with store.coordination.hint(store.coordination.node):
                await trio.sleep(3600)
                assert looks == []
                with store.coordination.hint("thr_1"):
                    await trio.sleep(1)
                assert 10 <= len(looks) <= 30
                await trio.sleep(1)
                looks.clear()
                await trio.sleep(3600)
                assert looks == []
            nursery.cancel_scope.cancel()
