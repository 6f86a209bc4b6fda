"""Several serving processes on one port, and the parent that starts them, replaces them, ends them.

The parent binds the socket, hands it down and serves nothing itself. Workers are new Python
processes and not forks, for Trio can't be forked. Each serves as a single process does
(`_serving`); what it and the parent say to each other is in `_worker`.

The first worker starts alone: if it can't, its error is printed once, and of a new database one
process makes the tables. A worker that ends by itself is replaced, later each time if it doesn't
live long. At a signal every worker is told; what they take at most, they have said when they were
loaded, and `_watchdog` ends the parent by then, and with it what is left.

Workers are process groups of their own, so that a terminal signals the parent only. What the parent
logs is logged by other threads: a log that nobody reads may not hold it up.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import trio
from hypercorn.utils import repr_socket_addr

from ._serving import EXITING, hypercorn_config
from ._signals import ending_signals, handling
from ._watchdog import C_CODE_TIMEOUT, Watchdog
from ._worker import NEEDED, places

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.5  # seconds until a worker is replaced
LONGEST_DELAY = 30.0  # seconds, after several have ended soon
_SETTLED_IN = 60.0  # seconds after which a worker counts as one that lives
_FAILED = 1
_LAST_WORDS = 1.0  # seconds for the log at the end, and for what an ended worker has said
_UNLOADED = 5.0  # seconds for the end of a worker whose app isn't loaded


class Workers:
    """The parent of `count` workers that listen on one address.

    `command` is called with what `Worker.parse` reads, and returns the command of a worker.
    """

    def __init__(
        self, count: int, host: str, port: int, command: Callable[[str], Sequence[str]]
    ) -> None:
        self._count = count
        self._host, self._port = host, port
        self._command = command
        self._listeners: list[socket.socket] = []
        self._living: set[Child] = set()
        self._killed: tuple[Child, ...] = ()
        self._codes: list[int] = []
        self._number: int | None = None
        self._ending = trio.Event()
        self._has_started = False
        self._change = trio.Event()
        self._spawning = trio.Lock()
        self._talking: trio.Nursery
        self._watchdog = Watchdog(self._announce, self._tell_why, self._kill_all)

    async def run(self, on_ready: Callable[[Sequence[str]], None]) -> int:
        """Serve until SIGTERM, SIGINT or SIGHUP; return the exit code of the process.

        It is the largest of those of the workers at the end. `on_ready` is called with the URLs, in
        another thread, when all workers have started. Raises `OSError` if the address can't be
        listened on. For a process that ends then: further signals are ignored.
        """
        numbers = ending_signals()
        with (
            handling(numbers, self._on_signal, are_ignored_then=lambda: True),
            self._watchdog.watching(numbers),
            ExitStack() as stack,
        ):
            self._listeners = self._bind(stack)
            async with trio.open_nursery() as self._talking:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._start, nursery, on_ready)
                    await self._ending.wait()
                    async with self._spawning:
                        # When the workers have closed it too, callers are refused.
                        stack.close()
                self._talking.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
        if self._killed:
            # The watchdog says why, and ends the process.
            await trio.sleep_forever()
        self._watchdog.end_within(EXITING, "threads haven't ended")
        return max(self._codes, default=0)

    def _bind(self, stack: ExitStack) -> list[socket.socket]:
        config = hypercorn_config(self._host, self._port)
        listeners = config.create_sockets().insecure_sockets
        for listener in listeners:
            stack.enter_context(listener)
            listener.set_inheritable(False)
        for listener in listeners:
            listener.listen(config.backlog)
        return listeners

    async def _start(
        self, nursery: trio.Nursery, on_ready: Callable[[Sequence[str]], None]
    ) -> None:
        for number in range(1, self._count + 1):
            nursery.start_soon(self._keep_one)
            if number == 1:
                await self._until_ready(1)
        await self._until_ready(self._count)
        if not self._ending.is_set():
            self._has_started = True
            urls = [
                f"http://{repr_socket_addr(each.family, each.getsockname())}"
                for each in self._listeners
            ]
            self._talk(on_ready, urls)

    async def _until_ready(self, count: int) -> None:
        while not self._ending.is_set() and sum(child.is_ready for child in self._living) < count:
            await self._change.wait()

    def _changes(self) -> None:
        self._change.set()
        self._change = trio.Event()

    # --- One place -----------------------------------------------------------------------------

    async def _keep_one(self) -> None:
        """Have one worker run until the end: another one when it has ended."""
        delay = FIRST_DELAY
        while (child := await self._spawn()) is not None:
            began = trio.current_time()
            self._living.add(child)
            code = await child.run(self._changes)
            self._living.remove(child)
            if self._ending.is_set():
                self._codes.append(exit_code(code))
                return
            what = f"{'ended' if child.is_ready else 'could not start'} ({how_it_ended(code)})"
            if not child.is_ready and not self._can_wait:
                self._talk(logger.error, "worker %s %s; all end", child.pid, what)
                self._codes.append(exit_code(code) or _FAILED)
                self._end(signal.SIGTERM)
                self._watchdog.end_within(self._longest(signal.SIGTERM), "workers haven't ended")
                return
            if child.is_ready and trio.current_time() - began >= _SETTLED_IN:
                delay = FIRST_DELAY
            text = "worker %s %s; another starts in %g s"
            self._talk(logger.warning, text, child.pid, what, delay)
            with trio.move_on_after(delay):
                await self._ending.wait()
            delay = min(2 * delay, LONGEST_DELAY)

    @property
    def _can_wait(self) -> bool:
        """Whether a worker that can't start is tried again: others serve meanwhile."""
        return self._has_started and any(child.is_ready for child in self._living)

    async def _spawn(self) -> Child | None:
        """Start a worker; None at the end, also if it has begun meanwhile."""
        async with self._spawning:
            if self._ending.is_set():
                return None
            own, its = socket.socketpair()
            own.setblocking(False)
            with its:
                fds = [listener.fileno() for listener in self._listeners]
                process = await trio.lowlevel.open_process(
                    [*self._command(places(its.fileno(), fds))],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[its.fileno(), *fds],
                    process_group=0,
                )
            child = Child(process, own)
        if self._number is not None:
            child.tell(self._number)
        return child

    def _talk(self, say: Callable[..., object], *args: object) -> None:
        """Have something printed or logged, without waiting for it."""
        run = partial(trio.to_thread.run_sync, say, *args, abandon_on_cancel=True)
        self._talking.start_soon(run)

    # --- The end -------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if self._number is None:
            self._end(number)
        else:
            self._tell_all(number)

    def _end(self, number: int) -> None:
        self._number = number
        self._ending.set()
        self._changes()
        self._tell_all(number)

    def _tell_all(self, number: int) -> None:
        for child in self._living:
            child.tell(number)

    def _longest(self, number: int) -> float:
        longest = max((child.longest(number) for child in tuple(self._living)), default=0.0)
        # A worker that C code holds is ended so much later.
        return longest + C_CODE_TIMEOUT + EXITING

    # --- For the watchdog, in other threads ----------------------------------------------------

    def _announce(self, number: int) -> tuple[float, str]:
        longest = self._longest(number)
        count = len(self._living)
        return longest, f"shutting down {count} workers; out in {longest:.1f} s at the latest"

    def _kill_all(self) -> int:
        self._killed = tuple(self._living)
        for child in self._killed:
            child.kill()
        return max([_FAILED, *self._codes])

    def _tell_why(self, reason: str) -> None:
        for child in self._killed:
            logger.warning("worker %s hasn't ended and is killed", child.pid)
        logger.warning("%s; ending the process without them", reason)


class Child:
    """A worker, seen from its parent."""

    def __init__(self, process: trio.Process, channel: socket.socket) -> None:
        self.pid = process.pid
        self.is_ready = False
        self._process = process
        self._channel = channel
        self._longest: tuple[float, float] | None = None
        self._was_terminated = False
        """Whether it was ended before it was loaded."""

    def longest(self, number: int) -> float:
        """Return how many seconds its end takes at most, at this signal."""
        if self._longest is None:
            return _UNLOADED
        return self._longest[1 if number == signal.SIGINT else 0]

    async def run(self, on_change: Callable[[], None]) -> int:
        """Take note of what it says until it has ended; return how it ended, as `wait` does.

        One that was ended before it was loaded has failed in nothing: 0.
        """
        with self._channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, on_change)
                code = await self._process.wait()
                # What it has said at last is read to its end, unless others hold its socket.
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
        return 0 if self._was_terminated and code == -signal.SIGTERM else code

    async def _read(self, on_change: Callable[[], None]) -> None:
        text = b""
        with suppress(OSError):
            while received := await self._receive():
                *lines, text = (text + received).split(b"\n")
                for line in lines:
                    self._hear(line.decode().split())
                on_change()

    async def _receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._channel)
            with suppress(BlockingIOError):
                return self._channel.recv(4096)

    def _hear(self, words: Sequence[str]) -> None:
        if words[0] == "loaded":
            self._longest = float(words[1]), float(words[2])
        else:
            self.is_ready = True

    def tell(self, number: int) -> None:
        """Pass a signal on."""
        with suppress(OSError):  # it has ended, or hangs and has been told often enough
            self._channel.send(bytes([number]))
        if self._longest is None:
            # It may not listen yet, and has nothing to lose.
            self._was_terminated = True
            self._process.terminate()

    def need(self) -> None:
        """Have a spare worker begin; see `Worker.wait_until_needed`."""
        with suppress(OSError):  # it has ended
            self._channel.send(NEEDED)

    def kill(self) -> None:
        """Have the system end it."""
        self._process.kill()


def exit_code(code: int) -> int:
    """Return how a worker ended as an exit code: one that was killed has failed."""
    return code if code >= 0 else _FAILED


def how_it_ended(code: int) -> str:
    """Return how a worker ended in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
