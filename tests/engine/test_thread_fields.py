"""What `respond` sets the thread's own fields to: saved once, as what it means, or refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from chatkit_trio.errors import NotFoundError
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import Scene, emit, scripted_server
from chatkit_trio.types import LockedStatus, ThreadMetadata

from .parts import answered, finish, within

HOUR = 3600.0
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


class CountingStore(MemoryStore[Any]):
    """Counts the writes of a thread, and ends what writes it for ever."""

    writes = 0

    async def update_thread(self, thread: ThreadMetadata, context: Any) -> None:
        self._count()
        await super().update_thread(thread, context)

    async def settle(self, settlement: Any, context: Any) -> None:
        self._count()
        await super().settle(settlement, context)

    def _count(self) -> None:
        self.writes += 1
        if self.writes > 20:
            raise NotFoundError("the thread is written again and again")


class Plain:
    """An object of no fields, of which no two are equal."""

    def __deepcopy__(self, memo: Any) -> Plain:
        return Plain()


def theirs(name: str, **fields: Any) -> Any:
    types = pytest.importorskip("chatkit.types", reason="the original isn't installed")
    return getattr(types, name)(**fields)


SET: dict[str, tuple[str, Any, Any]] = {
    "a status as a dict": (
        "status",
        lambda: {"type": "locked", "reason": "why"},
        LockedStatus(reason="why"),
    ),
    "a status of openai-chatkit": (
        "status",
        lambda: theirs("LockedStatus", reason="why"),
        LockedStatus(reason="why"),
    ),
    "a time without a zone": (
        "created_at",
        lambda: MOMENT.astimezone().replace(tzinfo=None),
        MOMENT,
    ),
    "a time as text": ("created_at", lambda: "2026-01-02T00:00:00Z", MOMENT),
    "a tuple": ("allowed_image_domains", lambda: ("example.org",), ["example.org"]),
    "metadata of openai-chatkit": (
        "metadata",
        lambda: {"status": theirs("LockedStatus", reason="why")},
        {"status": {"type": "locked", "reason": "why"}},
    ),
}


@pytest.mark.parametrize("kind", SET)
@within(HOUR)
async def test_a_field_may_be_set_to_what_can_be_read_as_one(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    field, make, stored = SET[kind]
    store = CountingStore()

    def set_it(scene: Scene) -> Any:
        setattr(scene.thread, field, make())
        return finish("a", "Hello")(scene)

    async with scripted_server(store, [emit(set_it, finish("b", "Bye"))]) as server:
        turn = await answered(server)
        await turn.server_turn.ended.wait()
        thread = await store.load_thread(turn.thread_id or "", None)

    assert turn.error is None
    assert getattr(thread, field) == stored
    assert store.writes == 1


@within(HOUR)
async def test_metadata_that_is_never_equal_to_itself_ends_the_turn_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = CountingStore()

    def set_it(scene: Scene) -> Any:
        scene.thread.metadata = {"plain": Plain()}
        return finish("a", "Hello")(scene)

    async with scripted_server(store, [emit(set_it)]) as server:
        turn = await answered(server)
        await turn.server_turn.ended.wait()

    assert turn.error is not None
    assert store.writes <= 5
