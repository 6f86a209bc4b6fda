"""The explorer has to find what is wrong: each test plants a defect and reads the report."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
import trio

from chatkit_trio.server import CancelReason
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    EVERY_REASON,
    EVERY_TROUBLE,
    Aftermath,
    CancellationBroken,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    SlowStore,
    explore_cancellations,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import ThreadItem, ThreadMetadata


def server_of(store: Store[Any]) -> ScriptedServer:
    script = [say("Hel", "lo", every=0.1), set_title("A story"), pause(0.1), say("More")]
    return scripted_server(store, script)


class Forgetful(ScriptedServer):
    """Keeps nothing of a turn that is cut short."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        return


def broken(**options: Any) -> str:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(
            options.pop("make_server", server_of),
            "hi",
            troubles=options.pop("troubles", []),
            **options,
        )
    return str(caught.value)


def test_an_exploration_says_how_much_it_has_tried() -> None:
    exploration = explore_cancellations(
        lambda store: scripted_server(store, [say("Hello", every=0.1), pause(0.1)]), "hi"
    )

    assert exploration.checkpoints > 20
    assert set(exploration.runs) == {*EVERY_REASON, *EVERY_TROUBLE}
    assert exploration.runs["stopped"] == exploration.checkpoints + 1
    assert exploration.total_runs == sum(exploration.ends.values())
    assert set(exploration.ends) == {"finished", *CancelReason} - {"crashed"}


def test_a_lost_answer_is_reported_with_its_place_and_how_to_see_it_again() -> None:
    def make_server(store: Store[Any]) -> ScriptedServer:
        return Forgetful(store, server_of(store).script)

    report = broken(make_server=make_server, reasons=["disconnected"], expects_note=False)

    assert "respond() had yielded assistant_message" in report
    assert "'Hel', and the store hasn't got it" in report
    assert "_script.py" in report
    replay = re.search(r"reasons=\['disconnected'\], troubles=\[\], at=(\d+), seed=0", report)
    assert replay is not None
    again = broken(
        make_server=make_server, reasons=["disconnected"], at=int(replay[1]), expects_note=False
    )
    assert re.sub(r"_[0-9a-f]+", "", again) == re.sub(r"_[0-9a-f]+", "", report)


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
        server_of, "one", "two", reasons=["stopped"], troubles=[], step=4, check=seen.append
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
            troubles=[],
        )


class Busy(ScriptedServer):
    """Computes for so many seconds before each event."""

    seconds = 0.0

    async def respond(self, *args: Any) -> AsyncIterator[Any]:
        async with aclosing(super().respond(*args)) as events:
            async for event in events:
                time.sleep(self.seconds)  # noqa: ASYNC251
                yield event


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_a_seed_decides_the_schedule_however_fast_the_machine_is(seconds: float) -> None:
    def trace(seconds: float) -> list[Any]:
        seen: list[Aftermath] = []

        def make_server(store: Store[Any]) -> Busy:
            server = Busy(store, ScriptedRespond([say("a", "b", "c"), pause(0.1), say("d")]))
            server.seconds = seconds
            return server

        explore_cancellations(
            make_server,
            "hi",
            reasons=["stopped"],
            troubles=[],
            step=3,
            seed=1,
            check=seen.append,
        )
        return [
            (
                len(aftermath.states),
                [re.sub(r"_[0-9a-f]{32}", "", place) for place in aftermath.place],
            )
            for aftermath in seen
        ]

    assert trace(0.0) == trace(seconds)


def test_a_slow_store_of_ones_own_is_as_good_as_a_fast_one() -> None:
    explore_cancellations(
        server_of,
        "hi",
        make_store=lambda: SlowStore(MemoryStore(), 0.5, answer_seconds=0.5),
        reasons=["deadline"],
        troubles=[],
        step=3,
    )


def test_it_needs_a_message_and_a_reason_that_can_be_caused() -> None:
    with pytest.raises(ValueError, match="needs a message"):
        explore_cancellations(server_of)
    with pytest.raises(ValueError, match="kill another one"):
        explore_cancellations(server_of, "hi", reasons=["crashed"])


async def waits(aftermath: Aftermath) -> None:
    raise AssertionError("never seen")


async def yields(aftermath: Aftermath) -> AsyncIterator[None]:
    raise AssertionError("never seen")
    yield


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"reasons": "stopped"}, TypeError, r"reasons must be a list .*\['stopped'\]"),
        ({"reasons": ["stop"]}, ValueError, "reasons .*'stop'.*stopped, "),
        ({"reasons": []}, ValueError, "reasons is empty"),
        ({"reasons": 3}, TypeError, "reasons must be a list .*not 3"),
        ({"troubles": ["fire"]}, ValueError, "troubles .*'fire'.*hanging_write, "),
        ({"troubles": "failing_hook"}, TypeError, "troubles must be a list"),
        ({"step": 0}, ValueError, "step must be 1 or more, and is 0"),
        ({"step": 2.5}, TypeError, "step must be a whole number"),
        ({"at": -1}, ValueError, "at must be 0 or more, and is -1"),
        ({"at": 9999}, ValueError, r"at=9999.*stopped: 0 to \d+"),
        ({"store_seconds": -1}, ValueError, "store_seconds must be 0 or more"),
        ({"time_limit": 0}, ValueError, "time_limit must be more than 0"),
        ({"make_store": MemoryStore()}, TypeError, "make_store must be a function"),
        ({"check": waits}, TypeError, "check is a plain function of an Aftermath, not"),
        ({"check": partial(waits)}, TypeError, "check is a plain function"),
        ({"check": yields}, TypeError, "check is a plain function"),
        ({"check": lambda aftermath: waits(aftermath)}, TypeError, "check has returned <coroutine"),
        ({"check": lambda aftermath: False}, TypeError, "check has returned False"),
    ],
)
def test_what_would_try_nothing_or_cannot_be_meant_is_refused(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    options = {"reasons": ["stopped"], "troubles": [], **given}

    with pytest.raises(error, match=words):
        explore_cancellations(server_of, "hi", **options)


def test_a_server_that_is_made_already_is_refused() -> None:
    with pytest.raises(TypeError, match="make_server must be a function that returns a server"):
        explore_cancellations(server_of(MemoryStore()), "hi")  # type: ignore[arg-type]


def test_one_point_is_tried_with_the_reasons_that_can_strike_there() -> None:
    exploration = explore_cancellations(
        server_of, "hi", reasons=["stopped", "failed"], troubles=[], at=16
    )

    assert exploration.runs == {"stopped": 1, "failed": 0}


def test_a_report_says_what_else_went_wrong() -> None:
    class Shielding(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            with trio.move_on_after(60, shield=True):
                await trio.sleep_forever()

    report = broken(
        make_server=lambda store: Shielding(store, server_of(store).script),
        reasons=["grace_period"],
        troubles=["hanging_write"],
        at=10,
    )

    assert re.search(r"cut short \(grace_period\) 0\.\d+ s after its client left at", report)
    assert "the turn was settled 60 s after the cut, and may take 20 s" in report


def test_a_client_that_comes_back_in_time_gets_the_whole_answer_without_a_gap() -> None:
    came_back = 0

    def check(aftermath: Aftermath) -> None:
        nonlocal came_back
        came_back += aftermath.came_back
        if aftermath.came_back:
            assert aftermath.reason is None
            assert aftermath.page is not None
            assert aftermath.received_events[-1].type == "thread.item.done"

    explore_cancellations(server_of, "hi", reasons=["return"], troubles=[], check=check)

    assert came_back > 10


def test_the_cut_of_a_time_limit_falls_at_many_moments() -> None:
    exploration = explore_cancellations(server_of, "hi", reasons=["turn_timeout"], troubles=[])

    assert exploration.ends["deadline"] > 8
    assert exploration.ends["finished"] <= 1
