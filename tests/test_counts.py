"""What an answer costs, counted: a change that makes each event dearer fails here, on any machine.

The same conversation is held with a short and a long answer. The difference is what events cost,
the rest is what an answer costs whatever its length. Numbers that shrink are good news: put the new
ones here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from chatkit_trio._engine import handover
from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import Scene, Step, StoreWrapper, say, scripted_server
from chatkit_trio.types import ProgressUpdateEvent, ThreadStreamEvent
from chatkit_trio.web import create_app

from .web.http import CREATE, chunks_of, client_of

SHORT, LONG = 100, 400
PACE = 0.01  # seconds an event, as models send them
WINDOW = 0.033


class CountingStore(StoreWrapper[Any]):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(MemoryStore())
        self.counts = counts

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.counts[f"store: {name}"] += 1
        return await call()


class Steps(trio.abc.Instrument):
    """Counts how often each task runs on, by the name of its function; but for the tests' own."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        name = task.name.rpartition(".")[2]
        if "test" in name:
            return
        self.counts[f"steps of {'turn' if name.startswith('chatkit_trio turn') else name}"] += 1


def counting(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return function(*args, **kwargs)

    return call


def words(events: int, every: float = 0.0) -> Step:
    return say(*(f"word{number:04} " for number in range(events)), every=every)


async def costs(step: Step, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    server = scripted_server(
        CountingStore(counts), [step], policy=TurnPolicy(flush_interval=WINDOW)
    )
    steps = Steps(counts)
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        trio.lowlevel.add_instrument(steps)
        with monkeypatch.context() as patch:
            patch.setattr(
                BaseModel, "model_copy", counting(BaseModel.model_copy, "model copies", counts)
            )
            counts["sends"] = len(await chunks_of(response))
        trio.lowlevel.remove_instrument(steps)
    return counts


def grown(short: Counter[str], long: Counter[str]) -> dict[str, int]:
    """Return what more events have made more; by one more or less, tasks meet by chance."""
    return {name: long[name] - short[name] for name in long if long[name] - short[name] > 1}


def about(numbers: dict[str, int]) -> Any:
    """Return what equals these numbers, and those that differ from them by one."""
    return pytest.approx(numbers, abs=1)


async def test_what_events_cost_that_come_as_models_send_them(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but `respond` itself runs for each event; sends come once a window."""
    # Long sleeps don't count as computing: each look at this clock finds it a second later.
    monkeypatch.setattr(handover, "perf_counter", count().__next__)
    short, long = [await costs(words(events, PACE), monkeypatch) for events in (SHORT, LONG)]

    windows = round((LONG - SHORT) * PACE / WINDOW)
    assert grown(short, long) == about(
        {
            "steps of _drive": LONG - SHORT,  # each event wakes respond up
            "steps of run": windows,  # the ticker's, for all streams of the server
            "steps of handle_request": 2 * windows,
            "sends": windows,
        }
    )


async def test_what_events_cost_that_rush(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A send takes as many as there are."""
    short, long = [await costs(words(events), monkeypatch) for events in (SHORT, LONG)]

    assert grown(short, long) == about(
        {
            "steps of _drive": LONG - SHORT,
            "steps of handle_request": 2,
        }
    )


async def test_a_respond_that_computes_for_long_gives_way_after_each_event(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after each second one: to have given way isn't to have waited."""

    def computing(events: int) -> Step:
        async def compute(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
            for number in range(events):
                yield ProgressUpdateEvent(text=str(number))

        return compute

    # Each look at this clock finds it a second later.
    monkeypatch.setattr(handover, "perf_counter", count().__next__)
    short, long = [await costs(computing(events), monkeypatch) for events in (SHORT, LONG)]

    assert grown(short, long)["steps of _drive"] == LONG - SHORT


async def test_what_an_answer_costs_whatever_its_length(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = await costs(words(0), monkeypatch)

    assert {name: count for name, count in counts.items() if name.startswith("store")} == {
        "store: save_thread": 1,
        "store: add_thread_item": 2,  # the message and the answer
        "store: load_item": 1,  # is the answer's id free?
    }
    assert counts["sends"] == 2
    assert counts["model copies"] <= 3
    assert counts["steps of turn"] <= 13
    assert counts["steps of handle_request"] <= 6
