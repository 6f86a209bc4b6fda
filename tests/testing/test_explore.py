"""The explorer has to find what is wrong: each test plants a defect and reads the report."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import trio

from chatkit_trio.server import CancelReason
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    EVERY_REASON,
    Aftermath,
    CancellationBroken,
    Scene,
    ScriptedServer,
    SlowStore,
    explore_cancellations,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import AssistantMessageItem, ThreadItem, ThreadMetadata


def server_of(store: Store[Any]) -> ScriptedServer:
    script = [say("Hel", "lo", every=0.1), set_title("A story"), pause(0.1), say("More")]
    return scripted_server(store, script)


class Forgetful(ScriptedServer):
    """Keeps nothing of a turn that is cut short."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        return


class Altering(MemoryStore[Any]):
    """Changes what a turn leaves behind, on its way to the store."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(self.change(settlement), context)


def without_notes(settlement: Settlement) -> Settlement:
    kept = [item for item in settlement.new_items if item.type != "sdk_hidden_context"]
    return Settlement(settlement.thread_id, settlement.turn_id, tuple(kept))


def with_two_notes(settlement: Settlement) -> Settlement:
    again = [item.model_copy(update={"id": f"{item.id}_"}) for item in settlement.new_items]
    notes = [item for item in again if item.type == "sdk_hidden_context"]
    items = (*settlement.new_items, *notes)
    return Settlement(settlement.thread_id, settlement.turn_id, items, thread=settlement.thread)


def without_thread(settlement: Settlement) -> Settlement:
    return Settlement(settlement.thread_id, settlement.turn_id, settlement.new_items)


def with_other_text(settlement: Settlement) -> Settlement:
    items = [_shout(item) for item in settlement.new_items]
    return Settlement(
        settlement.thread_id, settlement.turn_id, tuple(items), thread=settlement.thread
    )


def _shout(item: ThreadItem) -> ThreadItem:
    if not isinstance(item, AssistantMessageItem):
        return item
    parts = [part.model_copy(update={"text": part.text + "!"}) for part in item.content]
    return item.model_copy(update={"content": parts})


def broken(**options: Any) -> str:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(options.pop("make_server", server_of), "hi", **options)
    return str(caught.value)


def test_an_exploration_says_how_much_it_has_tried() -> None:
    exploration = explore_cancellations(server_of, "hi")

    assert exploration.checkpoints > 20
    assert set(exploration.runs) == set(EVERY_REASON)
    assert exploration.runs[CancelReason.STOPPED] == exploration.checkpoints + 1
    assert exploration.total_runs == sum(exploration.ends.values())
    assert set(exploration.ends) == {"finished", *EVERY_REASON}


def test_a_lost_answer_is_reported_with_its_place_and_how_to_see_it_again() -> None:
    def make_server(store: Store[Any]) -> ScriptedServer:
        return Forgetful(store, server_of(store).script)

    report = broken(make_server=make_server, reasons=["disconnected"])

    assert "respond() had yielded assistant_message" in report
    assert "'Hel', and the store hasn't got it" in report
    assert "_script.py" in report
    replay = re.search(r"reasons=\['disconnected'\], at=(\d+), seed=0", report)
    assert replay is not None
    again = broken(make_server=make_server, reasons=["disconnected"], at=int(replay[1]))
    assert re.sub(r"_[0-9a-f]+", "", again) == re.sub(r"_[0-9a-f]+", "", report)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (without_notes, "0 hidden notes"),
        (with_two_notes, "2 hidden notes"),
        (without_thread, "respond() had left the thread as"),
        (with_other_text, "the store has assistant_message"),
    ],
)
def test_a_store_that_alters_what_is_settled_is_found_out(change: Any, found: str) -> None:
    assert found in broken(make_store=lambda: Altering(change), reasons=["stopped"])


def test_an_item_that_is_added_twice_is_found_out() -> None:
    class Twice(MemoryStore[Any]):
        async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
            await super().add_thread_item(thread_id, item, context)
            copy = item.model_copy(update={"id": f"{item.id}_again"})
            await super().add_thread_item(thread_id, copy, context)

    assert "isn't in the store, once" in broken(make_store=Twice)


def test_a_turn_that_never_ends_is_found_out_at_once() -> None:
    script = [say("Hello"), pause(float("inf"))]

    report = broken(make_server=lambda store: scripted_server(store, script))

    assert "didn't end within 600.0 s of virtual time" in report


def test_a_server_that_is_given_another_store_is_refused() -> None:
    report = broken(make_server=lambda store: server_of(MemoryStore()))

    assert "make_server must give the store" in report


def test_an_assertion_of_ones_own_is_checked_after_every_run() -> None:
    seen: list[Aftermath] = []
    exploration = explore_cancellations(
        server_of, "one", "two", reasons=["stopped"], step=4, check=seen.append
    )

    assert len(seen) == exploration.total_runs + 1
    assert [item.type for item in seen[0].stored].count("user_message") == 2

    def check(aftermath: Aftermath) -> None:
        assert aftermath.reason is not CancelReason.STOPPED, "stopped it was"

    assert "check() failed: stopped it was" in broken(check=check)


def test_every_kind_of_respond_is_recorded_as_it_is() -> None:
    @trio.as_safe_channel
    async def by_channel(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(say("Hel", "lo")(Scene(thread, message, context))) as events:
            async for event in events:
                yield event

    async def awaited(thread: ThreadMetadata, message: Any, context: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return say("Hel", "lo")(Scene(thread, message, context))

    for respond in (by_channel, awaited):
        explore_cancellations(
            lambda store, respond=respond: ScriptedServer(store, respond),  # type: ignore[misc]
            "hi",
            reasons=["stopped"],
        )


def test_a_seed_decides_the_schedule() -> None:
    def trace(seed: int) -> list[str]:
        seen: list[Aftermath] = []
        explore_cancellations(
            server_of, "hi", reasons=["stopped"], step=3, seed=seed, check=seen.append
        )
        return [
            (
                aftermath.checkpoints,
                [re.sub(r"_[0-9a-f]{32}", "", place) for place in aftermath.place],
            )
            for aftermath in seen
        ]

    assert trace(1) == trace(1)


def test_a_slow_store_of_ones_own_is_as_good_as_a_fast_one() -> None:
    explore_cancellations(
        server_of,
        "hi",
        make_store=lambda: SlowStore(MemoryStore(), 0.5, answer_seconds=0.5),
        reasons=["deadline"],
        step=3,
    )


def test_it_needs_a_message_and_a_reason_that_can_be_caused() -> None:
    with pytest.raises(ValueError, match="needs a message"):
        explore_cancellations(server_of)
    with pytest.raises(ValueError, match="kill another one"):
        explore_cancellations(server_of, "hi", reasons=["crashed"])
