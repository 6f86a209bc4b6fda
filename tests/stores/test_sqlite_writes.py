"""Writes that wait for one SQLite file at the same time: committed together, each by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import Settlement
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores._sqlite_database import Database
from chatkit_trio.types import AssistantMessageContent, AssistantMessageItem, ThreadMetadata

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Counted:
    """A database with a table of words, that counts its commits."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, synchronous="NORMAL", readers=1, busy_timeout=5.0)
        self.commits = 0

    async def open(self) -> None:
        await self.database.open()
        await self.database.write(lambda db: db.execute("CREATE TABLE words (word TEXT UNIQUE)"))
        assert self.database._writer is not None
        self.database._writer.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        self.commits += statement == "COMMIT"

    async def words(self) -> list[str]:
        rows: list[Any] = await self.database.read(
            lambda db: db.execute("SELECT word FROM words ORDER BY rowid").fetchall()
        )
        return [word for (word,) in rows]

    async def write(self, word: str, owner: str = "") -> None:
        await self.database.write(partial(insert, word), owner=owner)

    def held(self) -> HeldUp:
        return HeldUp(self)


class HeldUp:
    """Holds the connection until the block is left, so that what is written meanwhile waits."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._may_end = threading.Event()
        self._nursery = trio.open_nursery()

    async def __aenter__(self) -> trio.Nursery:
        nursery = await self._nursery.__aenter__()
        nursery.start_soon(self._counted.database.write, self._hold)
        await wait_all_tasks_blocked()
        self._counted.commits = 0
        return nursery

    async def __aexit__(self, *exc_info: object) -> None:
        await wait_all_tasks_blocked()
        self._may_end.set()
        await self._nursery.__aexit__(*exc_info)

    def _hold(self, db: sqlite3.Connection) -> None:
        assert self._may_end.wait(30)


def insert(word: str, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO words VALUES (?)", (word,))


@pytest.fixture
async def counted(tmp_path: Path) -> AsyncIterator[Counted]:
    counted = Counted(tmp_path / "chat.sqlite3")
    await counted.open()
    yield counted
    await counted.database.close()


@pytest.fixture(autouse=True)
def _has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy must not take more transactions than one that isn't."""
    monkeypatch.setattr("chatkit_trio.stores._sqlite_writes._SECONDS", 60.0)


async def test_writes_that_wait_are_committed_together(counted: Counted) -> None:
    async with counted.held() as nursery:
        for number in range(60):
            nursery.start_soon(counted.write, f"word{number}", f"owner{number % 7}")

    assert counted.commits == 2  # of who holds it, and of all others
    assert set(await counted.words()) == {f"word{number}" for number in range(60)}


async def test_a_transaction_has_a_limit(counted: Counted) -> None:
    async with counted.held() as nursery:
        for number in range(1000):
            nursery.start_soon(counted.write, f"word{number}")

    assert counted.commits == 1 + 16
    assert len(await counted.words()) == 1000


async def test_the_writes_of_an_owner_keep_their_order(counted: Counted) -> None:
    async with counted.held() as nursery:
        for number in range(200):
            nursery.start_soon(counted.write, f"{number % 3}:{number:03}", f"owner{number % 3}")
            await wait_all_tasks_blocked()

    words = await counted.words()
    for owner in "012":
        mine = [word for word in words if word.startswith(owner)]
        assert mine == sorted(mine)


async def outcome_of(write: Callable[[], Any], outcomes: dict[str, Any], name: str) -> None:
    try:
        outcomes[name] = await write()
    except Exception as error:
        outcomes[name] = error


async def test_one_that_fails_fails_alone(counted: Counted) -> None:
    def missing(db: sqlite3.Connection) -> None:
        insert("undone", db)
        raise NotFoundError("there is no such thread")

    def wrong(db: sqlite3.Connection) -> None:
        insert("undone too", db)
        db.execute("INSERT INTO nothing VALUES (1)")

    def returning(db: sqlite3.Connection) -> str:
        insert("third", db)
        return "its result"

    outcomes: dict[str, Any] = {}
    writes = {
        "first": partial(insert, "first"),
        "missing": missing,
        "second": partial(insert, "second"),
        "wrong": wrong,
        "third": returning,
    }
    async with counted.held() as nursery:
        for name, write in writes.items():
            nursery.start_soon(outcome_of, partial(counted.database.write, write), outcomes, name)
            await wait_all_tasks_blocked()

    assert counted.commits == 2
    assert await counted.words() == ["first", "second", "third"]
    assert isinstance(outcomes["missing"], NotFoundError)
    assert isinstance(outcomes["wrong"], StoreError)
    assert str(outcomes["wrong"]).count("can't use") == 1
    assert (outcomes["first"], outcomes["third"]) == (None, "its result")


async def test_one_that_fills_the_disk_fails_alone(counted: Counted) -> None:
    """SQLite gives up the whole transaction then."""
    outcomes: dict[str, Any] = {}
    words = {"small": "small", "huge": "x" * 1_000_000, "small too": "small too"}
    async with counted.held() as nursery:
        for name, word in words.items():
            nursery.start_soon(outcome_of, partial(counted.write, word), outcomes, name)
            await wait_all_tasks_blocked()
        assert counted.database._writer is not None
        (pages,) = counted.database._writer.execute("PRAGMA page_count").fetchone()
        counted.database._writer.execute(f"PRAGMA max_page_count = {pages + 20}")

    assert await counted.words() == ["small", "small too"]
    assert isinstance(outcomes.pop("huge"), StoreError)
    assert outcomes == {"small": None, "small too": None}


async def test_a_commit_that_fails_fails_for_its_own_write_only(counted: Counted) -> None:
    outcomes: dict[str, Any] = {}

    def orphan(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO children VALUES ('nobody')")

    await counted.database.write(
        lambda db: db.execute(
            "CREATE TABLE children (parent TEXT REFERENCES words (word) DEFERRABLE INITIALLY"
            " DEFERRED)"
        )
    )
    async with counted.held() as nursery:
        for name, write in (
            ("one", partial(insert, "one")),
            ("orphan", orphan),
            ("two", partial(insert, "two")),
        ):
            nursery.start_soon(outcome_of, partial(counted.database.write, write), outcomes, name)
            await wait_all_tasks_blocked()

    assert await counted.words() == ["one", "two"]
    assert isinstance(outcomes.pop("orphan"), StoreError)
    assert outcomes == {"one": None, "two": None}


async def test_when_none_can_begin_each_caller_has_an_error_of_its_own(
    counted: Counted, tmp_path: Path
) -> None:
    database = counted.database
    assert database._writer is not None
    database._writer.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(tmp_path / "chat.sqlite3", isolation_level=None)
    outcomes: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:
        await database._limiter.acquire_on_behalf_of("a probe")
        for name in ("one", "two", "three"):
            nursery.start_soon(outcome_of, partial(counted.write, name), outcomes, name)
        await wait_all_tasks_blocked()
        other.execute("BEGIN IMMEDIATE")
        database._limiter.release_on_behalf_of("a probe")
    other.close()
    await counted.write("afterwards")

    assert await counted.words() == ["afterwards"]
    assert all(isinstance(error, StoreError) for error in outcomes.values())
    assert len({id(error) for error in outcomes.values()}) == 3


async def test_when_no_thread_can_be_started_each_caller_is_told(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    limiter = counted.database._limiter
    outcomes: dict[str, Any] = {}
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await limiter.acquire_on_behalf_of("a probe")
            for name in ("one", "two", "three"):
                nursery.start_soon(outcome_of, partial(counted.write, name), outcomes, name)
            await wait_all_tasks_blocked()
            monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
            limiter.release_on_behalf_of("a probe")
    await counted.write("afterwards")

    assert await counted.words() == ["afterwards"]
    assert all(isinstance(error, StoreError) for error in outcomes.values())
    assert len({id(error) for error in outcomes.values()}) == 3
    assert "can't start new thread" in str(outcomes["one"])


# --- Whose turn it is --------------------------------------------------------------------------


async def test_who_was_taken_and_not_run_is_still_in_front_of_those_who_came_since(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatkit_trio.stores._sqlite_writes._SECONDS", -1.0)  # one at a time
    reached, may_go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        insert("slow", db)
        reached.set()
        assert may_go_on.wait(30)

    async def take_them_together() -> None:
        async with counted.held() as nursery:
            nursery.start_soon(partial(counted.database.write, slow, owner="slow"))
            for word, owner in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")]:
                await wait_all_tasks_blocked()
                nursery.start_soon(counted.write, word, owner)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_them_together)
        await trio.to_thread.run_sync(reached.wait)
        for word, owner in [("d1", "d"), ("b2", "b"), ("a3", "a")]:
            nursery.start_soon(counted.write, word, owner)
            await wait_all_tasks_blocked()
        may_go_on.set()

    assert await counted.words() == ["slow", "a1", "b1", "c1", "d1", "a2", "b2", "a3"]


# --- Cancellation ------------------------------------------------------------------------------


async def test_a_write_that_waits_can_be_given_up(counted: Counted) -> None:
    scopes = {}

    async def write(word: str) -> None:
        with trio.CancelScope() as scopes[word]:
            await counted.write(word)

    async with counted.held() as nursery:
        for number in range(6):
            nursery.start_soon(write, f"word{number}")
            await wait_all_tasks_blocked()
        for number in (0, 2, 5):
            scopes[f"word{number}"].cancel()
        await wait_all_tasks_blocked()

    assert await counted.words() == ["word1", "word3", "word4"]
    assert [scopes[f"word{number}"].cancelled_caught for number in range(6)] == [
        True, False, True, False, False, True
    ]  # fmt: skip


async def test_a_write_that_has_begun_is_told_its_outcome_whoever_leads(counted: Counted) -> None:
    """All of a group are cancelled while it runs, the caller that leads it too."""
    reached, may_go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def slow(db: sqlite3.Connection) -> str:
        insert("slow", db)
        reached.set()
        assert may_go_on.wait(30)
        return "slow"

    def quick(db: sqlite3.Connection) -> str:
        insert("quick", db)
        return "quick"

    async def write(transaction: Callable[[sqlite3.Connection], str]) -> None:
        told.append(await counted.database.write(transaction))

    async with trio.open_nursery() as outer:
        scope = trio.CancelScope()

        async def group() -> None:
            with scope:
                async with counted.held() as nursery:
                    nursery.start_soon(write, slow)
                    await wait_all_tasks_blocked()
                    nursery.start_soon(write, quick)

        outer.start_soon(group)
        await trio.to_thread.run_sync(reached.wait)
        scope.cancel()
        await wait_all_tasks_blocked()
        may_go_on.set()

    words = await counted.words()
    assert words[0] == "slow"
    assert sorted(told) == sorted(words)


async def test_who_was_to_lead_and_gives_up_has_another_one_lead(counted: Counted) -> None:
    """Cancelled in the very moment in which it is told to lead, before it runs."""
    may_end = threading.Event()
    database = counted.database
    scope = trio.CancelScope()

    async def first() -> None:
        await database.write(lambda db: may_end.wait(30))
        scope.cancel()  # after the baton was passed on, in the same step

    async def second() -> None:
        with scope:
            await counted.write("second")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(second)
        await wait_all_tasks_blocked()
        nursery.start_soon(counted.write, "third")
        await wait_all_tasks_blocked()
        may_end.set()

    assert await counted.words() == ["third"]


async def test_who_leads_and_waits_for_the_connection_can_give_up(counted: Counted) -> None:
    """A probe has the connection."""
    scope = trio.CancelScope()
    limiter = counted.database._limiter

    async def second() -> None:
        with scope:
            await counted.write("second")

    await limiter.acquire_on_behalf_of("a probe")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        await wait_all_tasks_blocked()
        nursery.start_soon(counted.write, "third")
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        limiter.release_on_behalf_of("a probe")

    assert await counted.words() == ["third"]


async def test_each_write_has_the_context_of_its_caller(counted: Counted) -> None:
    """The fence around the writes of a turn is a context variable."""
    turn: ContextVar[str] = ContextVar("turn")

    async def write(name: str) -> None:
        turn.set(name)
        await counted.database.write(lambda db: insert(turn.get(), db))

    async with counted.held() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(write, name)

    assert sorted(await counted.words()) == ["one", "three", "two"]


# --- What it is for ----------------------------------------------------------------------------


async def test_a_thousand_turns_that_are_cut_at_once_are_settled_in_few_commits(
    tmp_path: Path,
) -> None:
    commits = []
    async with SQLiteStore[None](tmp_path / "chat.sqlite3") as store:
        for number in range(10):
            await store.save_thread(ThreadMetadata(id=f"thr_{number}", created_at=NOW), None)
        writer = store._database._writer
        assert writer is not None
        writer.set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                settlement = Settlement(f"thr_{number % 10}", None, new_items=(item(number),))
                nursery.start_soon(store.settle, settlement, None)
        writer.set_trace_callback(None)
        stored = 0
        for number in range(10):
            page = await store.load_thread_items(f"thr_{number}", None, 200, "asc", None)
            stored += len(page.data)

    assert stored == 1000
    assert len(commits) <= 30  # some of them of the index for searches


def item(number: int) -> AssistantMessageItem:
    return AssistantMessageItem(
        id=f"msg_{number}",
        thread_id=f"thr_{number % 10}",
        created_at=NOW,
        content=[AssistantMessageContent(text="so far")],
    )
