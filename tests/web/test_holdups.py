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
    found: list[bool] = []
    has_looked = threading.Event()

    async def go_round() -> None:
        while not has_looked.is_set():
            sum(range(10_000))
            await trio.lowlevel.checkpoint()

    def look(root: trio.lowlevel.Task) -> None:
        found.extend(any("(go_round)" in line for line in _holdups.tasks(root)) for _ in range(20))
        has_looked.set()

    root = trio.lowlevel.current_root_task()
    assert root is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_round)
        await trio.to_thread.run_sync(look, root)

    assert all(found)
