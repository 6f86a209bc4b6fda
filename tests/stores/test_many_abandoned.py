"""A process dies with very many turns: who looks for them gets some at a time, and settles all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkit_trio._engine.journal import recover
from chatkit_trio.store import JournalEntry, Opening, Store
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.stores.sqlite import SQLiteStore
from chatkit_trio.testing._store_samples import answered, thread

TURNS = 150


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> list[Store[Any]]:
    if request.param == "sqlite":
        return [SQLiteStore[Any](tmp_path / "chat.db") for _ in range(2)]
    url = request.getfixturevalue("postgresql_url")
    return [PostgreSQLStore[Any](url) for _ in range(2)]


async def test_of_very_many_abandoned_turns_some_are_returned_and_all_are_settled(
    stores: list[Store[Any]],
) -> None:
    dead, living = stores
    async with dead:
        assert dead.coordination is not None
        assert dead.journal is not None
        for n in range(TURNS):
            opening = Opening(f"thr_{n}", f"turn_{n}", new_thread=thread(f"thr_{n}"))
            assert await dead.coordination.begin(opening, None) is None
        await dead.journal.checkpoint(
            [
                JournalEntry(f"turn_{n}", f"thr_{n}", (answered("msg_1", f"thr_{n}", "so far"),))
                for n in range(TURNS)
            ]
        )
    told: list[Any] = []
    async with living:
        assert living.journal is not None
        for _ in range(2):  # the first look marks them
            assert 0 < len(await living.journal.abandoned()) < TURNS
        for n in (0, TURNS - 1):
            (found,) = await living.journal.abandoned(f"thr_{n}")
            assert found.turn_id == f"turn_{n}"
        await recover(living, tell=told.append)
        assert await living.journal.abandoned() == []
        for n in range(TURNS):
            assert await living.has_item(f"thr_{n}", "msg_1", None)
    assert sorted(event.turn_id for event in told) == sorted(f"turn_{n}" for n in range(TURNS))
