"""What nodes write of the slots of owners, when two of a node's writes overlap, and of their rates
when the clock is set back."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatkit_trio.limits import Rate
from chatkit_trio.stores._usage import WantedSlot
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.stores.sqlite import SQLiteStore

SLOTS = ("Ann", "live_turns")
MOST = 2
TEN_A_MINUTE = Rate(10, 60.0)


async def test_a_slot_that_is_freed_while_its_keeping_waits_in_line_is_free(
    tmp_path: Path,
) -> None:
    path = tmp_path / "chat.db"
    async with SQLiteStore[Any](path, busy_timeout=60) as store:
        node, usage = store.coordination, store.coordination.usage
        assert await usage.take_slot(*SLOTS, "slot_1", MOST, None)
        usage.keep_slot(*SLOTS, "slot_1")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                for _ in range(2):  # the one runs, and behind the other one the news wait
                    nursery.start_soon(node.withdraw, "turn_none")
                    await wait_all_tasks_blocked()
                nursery.start_soon(node.news)
                await wait_all_tasks_blocked()
                usage.free_slot(*SLOTS, "slot_1")
                nursery.start_soon(usage.take_slot, *SLOTS, "slot_2", MOST, None)
                await wait_all_tasks_blocked()
                other.execute("ROLLBACK")
        await node.news()
        assert await usage.take_slot(*SLOTS, "slot_3", MOST, None)
        assert not await usage.take_slot(*SLOTS, "slot_4", MOST, None)


async def test_a_slot_stays_free_whichever_of_two_writes_its_caller_hears_of_first(
    tmp_path: Path,
) -> None:
    async with SQLiteStore[Any](tmp_path / "chat.db") as store:
        usage = store.coordination.usage
        assert await usage.take_slot(*SLOTS, "slot_1", MOST, None)
        usage.keep_slot(*SLOTS, "slot_1")
        keeping, freeing = ExitStack(), ExitStack()
        kept = keeping.enter_context(usage.writing())
        usage.free_slot(*SLOTS, "slot_1")
        freed = freeing.enter_context(usage.writing())
        await usage.take(WantedSlot(*SLOTS, "slot_2", MOST, None), freed)
        await usage.take(WantedSlot(*SLOTS, "slot_none", 0, None), kept)  # after what freed it
        keeping.close()
        freeing.close()
        assert await usage.take_slot(*SLOTS, "slot_3", MOST, None)
        assert not await usage.take_slot(*SLOTS, "slot_4", MOST, None)


async def test_a_slot_that_is_freed_while_its_keeping_is_held_up_is_free(
    postgresql_url: str,
) -> None:
    async with PostgreSQLStore[Any](postgresql_url) as store:
        node, usage = store.coordination, store.coordination.usage
        assert await usage.take_slot(*SLOTS, "slot_1", MOST, None)
        usage.keep_slot(*SLOTS, "slot_1")
        with psycopg.connect(postgresql_url) as other:
            other.execute("SELECT FROM chatkit_trio.nodes FOR UPDATE")  # no lease can be renewed
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.news)
                await until_somebody_waits(postgresql_url)
                usage.free_slot(*SLOTS, "slot_1")
                await usage.take_slot(*SLOTS, "slot_2", MOST, None)
                other.rollback()
        await node.news()
        assert await usage.take_slot(*SLOTS, "slot_3", MOST, None)
        assert not await usage.take_slot(*SLOTS, "slot_4", MOST, None)


async def until_somebody_waits(url: str) -> None:
    """Return when a session of the database waits for a lock of another one."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with psycopg.connect(url, autocommit=True) as connection, trio.fail_after(30):
        while connection.execute(query).fetchone() == (0,):  # noqa: ASYNC110  (it doesn't tell)
            await trio.sleep(0.01)


@pytest.mark.parametrize("only_look", [True, False], ids=["looks", "pays"])
async def test_a_rate_comes_back_at_its_pace_though_the_clock_was_set_back(
    tmp_path: Path, only_look: bool
) -> None:
    now = 1e6
    async with SQLiteStore[Any](tmp_path / "chat.db", clock=lambda: now) as store:
        spend = partial(store.coordination.usage.spend, "Ann", "requests_per_minute")

        async def missing(amount: float) -> float:
            return await spend(amount, TEN_A_MINUTE, only_look=only_look)

        assert await spend(10, TEN_A_MINUTE) == 0
        now -= 7200
        waits = [round(await missing(1))]
        for _ in range(3):
            now += 2
            waits.append(round(await missing(1)))
        now += 30

        assert waits == [6, 4, 2, 0]
        assert await missing(7) > 0
        assert await missing(5) == 0
