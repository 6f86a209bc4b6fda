"""The end of the process at a known time, whatever user code, disk or clients do.

A thread waits for it, because nothing on the trio thread can be relied on: a task may compute
without a checkpoint, and the interpreter waits for threads after the last task has ended. It hears
of signals from the C level (`signal.set_wakeup_fd`), because Python's handlers run on the trio
thread too. What it logs is logged by yet another thread: a log that nobody reads blocks its writer.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

logger = logging.getLogger(__name__)

_TELLING_TIMEOUT = 1.0  # seconds that the log gets before the process ends
C_CODE_TIMEOUT = 3.0
"""Seconds after its end at which a process ends whose interpreter is held by C code."""


class Watchdog:
    """Ends the process so many seconds after the first signal, unless it has ended by then.

    `announce` is told the signal, and says how long that is and what to log about it. `tell_why`
    logs what has held the process up, after the reason it is given. `exit_code` says how the
    process ends. All are called outside of the trio thread.
    """

    def __init__(
        self,
        announce: Callable[[int], tuple[float, str]],
        tell_why: Callable[[str], None],
        exit_code: Callable[[], int],
    ) -> None:
        self._announce = announce
        self._tell_why = tell_why
        self._exit_code = exit_code
        self._deadline: float | None = None
        self._reason = ""
        self._is_announced = False
        self._reader, self._writer = socket.socketpair()
        self._numbers: Collection[int] = ()
        self._next_fd = -1

    @contextmanager
    def watching(self, numbers: Collection[int]) -> Iterator[None]:
        """Watch for signals in this block. For the main thread, inside of `trio.run`."""
        self._numbers = numbers
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._next_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, name="chatkit_trio watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(self._next_fd, warn_on_full_buffer=False)
            self._next_fd = -1

    def end_within(self, seconds: float, reason: str) -> None:
        """End the process in so many seconds at the latest, and say why. For any thread."""
        deadline = monotonic() + seconds
        if self._deadline is None or deadline < self._deadline:
            self._deadline, self._reason = deadline, reason
            self._wake()

    def stop(self) -> None:
        """Let the process live."""
        faulthandler.cancel_dump_traceback_later()
        self._writer.close()

    def hear(self, number: int) -> None:
        """Do what a signal of this number does. For any thread."""
        self._wake(bytes([number]))

    def _wake(self, received: bytes = b"\0") -> None:
        with suppress(OSError):  # full: it is awake already
            self._writer.send(received)

    def _watch(self) -> None:
        with self._reader, selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            while True:
                deadline = self._deadline
                left = None if deadline is None else max(0.0, deadline - monotonic())
                if selector.select(left):
                    received = self._reader.recv(4096)
                    if not received:
                        return
                    self._hear(received)
                elif self._deadline == deadline:
                    self._end()

    def _hear(self, received: bytes) -> None:
        if self._next_fd != -1:
            # Trio's own, which it wakes up by.
            with suppress(OSError):
                os.write(self._next_fd, received)
        number = next((each for each in received if each in self._numbers), None)
        if number is None or self._is_announced:
            return
        self._is_announced = True
        longest, text = self._announce(number)
        self.end_within(longest, "the process hasn't ended in time")
        # C code may hold the interpreter, and with it this thread; that one is C too.
        faulthandler.dump_traceback_later(longest + C_CODE_TIMEOUT, exit=True, file=2)
        threading.Thread(target=logger.info, args=(text,), daemon=True).start()

    def _end(self) -> None:
        code = self._exit_code()
        telling = threading.Thread(target=self._tell, daemon=True)
        telling.start()
        telling.join(_TELLING_TIMEOUT)
        os._exit(code)

    def _tell(self) -> None:
        self._tell_why(self._reason)
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or the terminal is gone
                stream.flush()
