"""Serving while somebody writes the app: the worker is replaced when a file of the project changes.

The parent holds the socket, so that callers wait while the worker is replaced and aren't refused. A
spare worker has imported all but the app and waits to be needed; that is most of the time a start
takes. The worker before it ends as at Ctrl-C: its turns are settled first.

Files are looked at, not listened for: that needs no package, and sees changes on mounts that tell
of none.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import trio

from ._workers import Child, Workers, exit_code, how_it_ended

logger = logging.getLogger("chatkit_trio.reload")

_INTERVAL = 0.2  # seconds between two looks
_STILL = 0.05  # seconds without a further change: an editor may write several files
_PACKAGE = Path(__file__).parent.parent

Files: TypeAlias = dict[str, tuple[int, int]]
"""The Python files of a project, each with its time of change and its size."""


class Reloader(Workers):
    """The parent of one worker, which is replaced when a Python file below `root` changes.

    An app that can't be loaded, or that ends, is waited with until the next change.
    """

    def __init__(
        self, host: str, port: int, command: Callable[[str], Sequence[str]], root: Path
    ) -> None:
        super().__init__(1, host, port, command)
        self._root = root
        self._files: Files = {}

    async def _keep_one(self) -> None:
        async with trio.open_nursery() as nursery:
            self._files = await _look(self._root)
            spare = await self._next(nursery)
            while (worker := spare) is not None:
                worker.begin()
                spare = await self._next(nursery)
                changed = await self._until_change(worker)
                if self._ending.is_set():
                    break
                self._talk(logger.info, "restarting: %s", self._named(changed))
                await self._end_worker(worker)
                if spare is not None and any(_PACKAGE in Path(each).parents for each in changed):
                    # It has imported what has changed.
                    await self._end_worker(spare)
                    spare = await self._next(nursery)
            # At the end all have been told.
            if worker is not None:
                await worker.ended.wait()
                self._codes.append(exit_code(worker.code or 0))

    async def _next(self, nursery: trio.Nursery) -> _Spare | None:
        """Start a worker that waits to be needed; None at the end."""
        child = await self._spawn()
        if child is None:
            return None
        self._living.add(child)
        spare = _Spare(child)
        nursery.start_soon(self._run_child, spare)
        return spare

    async def _run_child(self, spare: _Spare) -> None:
        spare.code = await spare.child.run(self._changes)
        self._living.remove(spare.child)
        spare.ended.set()
        self._changes()

    async def _end_worker(self, worker: _Spare) -> None:
        worker.child.tell(signal.SIGINT)
        await worker.ended.wait()

    async def _until_change(self, worker: _Spare) -> set[str]:
        """Wait for a change and return what has changed; return nothing at the end."""
        changed: set[str] = set()

        async def until_ending() -> None:
            await self._ending.wait()
            nursery.cancel_scope.cancel()

        async def until_ended() -> None:
            await worker.ended.wait()
            text = "the app %s (%s); waiting for a change of a file"
            what = "has ended" if worker.child.is_ready else "could not start"
            self._talk(logger.warning, text, what, how_it_ended(worker.code or 0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_ending)
            nursery.start_soon(until_ended)
            while not changed:
                await trio.sleep(_INTERVAL)
                changed = await self._changes_of_files()
            while more := await self._changes_of_files():
                changed |= more
                await trio.sleep(_STILL)
            nursery.cancel_scope.cancel()
        return changed

    async def _changes_of_files(self) -> set[str]:
        files = await _look(self._root)
        changed = {path for path, _ in files.items() ^ self._files.items()}
        self._files = files
        return changed

    def _named(self, changed: set[str]) -> str:
        first, *others = sorted(os.path.relpath(each, self._root) for each in changed)
        more = f" and {len(others)} more have" if others else " has"
        return f"{first}{more} changed"

    def _announce(self, number: int) -> tuple[float, str]:
        longest = self._longest(number)
        return longest, f"shutting down; out in {longest:.1f} s at the latest"


class _Spare:
    """A worker that waits to be needed, or has been needed."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.code: int | None = None
        self.ended = trio.Event()

    def begin(self) -> None:
        """Have it load the app and serve."""
        self.child.need()


async def _look(root: Path) -> Files:
    def look() -> Files:
        return dict(_python_files(root))

    return await trio.to_thread.run_sync(look, abandon_on_cancel=True)


def _python_files(directory: os.PathLike[str] | str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the Python files in and below a directory, without those of environments."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # it is gone again, or nobody may read it
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in _NOT_OF_PROJECTS:
                    yield from _python_files(entry)
            elif entry.name.endswith(".py"):
                status = entry.stat()
                yield entry.path, (status.st_mtime_ns, status.st_size)
        except OSError:
            continue


_NOT_OF_PROJECTS = {"__pycache__", "node_modules", "site-packages"}
