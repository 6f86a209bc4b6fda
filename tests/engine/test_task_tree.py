"""What tasks are told to do: their nurseries, what each waits for, and since when."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from chatkit_trio._engine.task_tree import TaskClock, TaskTree, tree_of


@pytest.fixture
def clock() -> TaskClock:
    """A clock that pytest-trio adds to the test's run, as it does with all instruments."""
    return TaskClock()


async def _letters() -> AsyncIterator[str]:
    await trio.sleep(9)
    yield "a"


async def _reads() -> None:
    async for _ in _letters():
        pass


async def _opens_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


def _block(until: threading.Event) -> None:
    until.wait()


async def _tree(
    task: Any, clock: TaskClock, after: float = 1, most: int = 100, until: Any = None
) -> TaskTree:
    """Run a task in a nursery, and return what it does after some time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        await trio.sleep(after)
        (started,) = nursery.child_tasks
        tree = tree_of(started, clock, most)
        if until is not None:
            until.set()
        nursery.cancel_scope.cancel()
    return tree


async def _acquires() -> None:
    lock = trio.Lock()
    async with trio.open_nursery() as nursery, lock:
        nursery.start_soon(lock.acquire)
        await trio.sleep_forever()


async def _sends() -> None:
    send, _receive = trio.open_memory_channel[int](0)
    await send.send(1)


async def _parks() -> None:
    await trio.lowlevel.ParkingLot().park()


@pytest.mark.parametrize(
    ("task", "waits_for"),
    [
        (partial(trio.sleep, 9), "trio.sleep"),
        (trio.sleep_forever, "trio.sleep_forever"),
        (_reads, "trio.sleep"),
        (lambda: trio.Event().wait(), "trio.Event.wait"),
        (_sends, "trio.MemorySendChannel.send"),
        (_parks, "trio.lowlevel.ParkingLot.park"),
        (_opens_a_nursery, "the tasks of its nursery"),
    ],
)
async def test_it_tells_what_a_task_waits_for(
    autojump_clock: trio.testing.MockClock, clock: TaskClock, task: Any, waits_for: str
) -> None:
    assert (await _tree(task, clock)).waits_for == waits_for


async def test_what_waits_for_a_lock_is_told_by_the_locks_name(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    (nursery,) = (await _tree(_acquires, clock)).nurseries
    assert [task.waits_for for task in nursery.tasks] == ["trio.Lock.acquire"]


async def test_it_tells_which_function_a_thread_runs(clock: TaskClock) -> None:
    until = threading.Event()
    call = partial(trio.to_thread.run_sync, partial(_block, until))

    tree = await _tree(call, clock, 0.01, until=until)

    assert tree.waits_for == "a worker thread, in _block"


async def test_it_tells_where_a_task_stands_also_inside_of_a_generator(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    tree = await _tree(_reads, clock)

    places = [(place.function, place.module) for place in tree.places]
    assert places == [("_reads", __name__), ("_letters", __name__)]
    assert tree.places[1].line == _letters.__code__.co_firstlineno + 1


async def test_it_tells_since_when_a_task_waits(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    async def naps() -> None:
        await trio.sleep(2)
        await trio.sleep(9)

    assert (await _tree(naps, clock, after=5)).seconds == pytest.approx(3)


async def test_since_when_isnt_known_of_a_task_that_has_waited_longer_than_the_clock_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = TaskClock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)
        trio.lowlevel.add_instrument(clock)
        await trio.sleep(1)
        (task,) = nursery.child_tasks
        assert tree_of(task, clock, 9).seconds is None
        nursery.cancel_scope.cancel()


async def test_nurseries_tell_their_scope_and_their_tasks(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async def limited() -> None:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + 10
            nursery.cancel_scope.shield = True
            nursery.start_soon(stubborn, name="one")
            nursery.start_soon(trio.sleep_forever, name="other")
            await trio.sleep(2)
            nursery.cancel_scope.cancel()

    (before,) = (await _tree(limited, clock)).nurseries
    assert {task.name for task in before.tasks} == {"one", "other"}
    assert (before.is_cancelled, before.is_shielded) == (False, True)
    assert before.seconds_left == pytest.approx(9)

    (after,) = (await _tree(limited, clock, after=3)).nurseries
    assert [task.name for task in after.tasks] == ["one"]
    assert after.is_cancelled


async def test_no_more_tasks_are_told_than_wanted_and_the_rest_is_counted(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    async def many() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_opens_a_nursery)

    (nursery,) = (await _tree(many, clock, most=5)).nurseries

    assert (len(nursery.tasks), nursery.left_out) == (3, 0)
    below = [each.nurseries[0] for each in nursery.tasks]
    assert [(len(each.tasks), each.left_out) for each in below] == [(1, 0), (0, 1), (0, 1)]


async def test_the_task_that_asks_runs(clock: TaskClock) -> None:
    tree = tree_of(trio.lowlevel.current_task(), clock, 9)

    assert (tree.waits_for, tree.seconds, tree.places) == ("nothing: it runs", None, [])


async def test_tasks_that_have_ended_are_forgotten(
    autojump_clock: trio.testing.MockClock, clock: TaskClock
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(trio.sleep, 1)

    assert len(clock._since) < 10
