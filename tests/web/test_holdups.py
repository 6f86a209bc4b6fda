"""What the log says of the tasks and threads that hold an end up."""

from __future__ import annotations

import queue
import threading

import trio
import trio.testing

from chatkit_trio.web import _holdups


async def test_a_thread_is_told_by_the_users_code_and_not_by_the_library_that_it_calls() -> None:
    waiting: queue.Queue[None] = queue.Queue()

    def wait_for_work() -> None:
        waiting.get()

    thread = threading.Thread(target=wait_for_work, name="worker")
    thread.start()
    try:
        lines = [line for line in _holdups.threads() if "the thread worker" in line]
    finally:
        waiting.put(None)
        thread.join()

    assert len(lines) == 1
    assert lines[0].endswith("(wait_for_work)")


async def test_a_task_that_runs_when_it_is_looked_at_is_looked_at_again() -> None:
    """It goes round in circles, as one that swallows its cancellation does."""

    async def go_round() -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_round)
        await trio.testing.wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        told = list(_holdups.tasks(RunsAtFirst(task, looks=3)))
        nursery.cancel_scope.cancel()

    assert len(told) == 1
    assert told[0].endswith("(go_round)")


class RunsAtFirst:
    """A task that runs at the first looks, and is at the next one where a parked task is.

    Which thread runs when a real one is looked at is up to the interpreter.
    """

    def __init__(self, parked: trio.lowlevel.Task, *, looks: int) -> None:
        self.name = parked.name
        self.child_nurseries = parked.child_nurseries
        self.iter_await_frames = parked.iter_await_frames
        self.coro = self
        self._looks_left = looks

    @property
    def cr_running(self) -> bool:
        self._looks_left -= 1
        return self._looks_left >= 0
