"""One of several serving processes: what its parent has given it, and what the two say.

A socket joins the two. The parent sends the number of a signal as one byte, and the worker does
what it would do at that signal. The parent doesn't send the signal itself, because a supervisor
may signal all processes at once: a worker can tell the two apart, and doesn't take the one for a
repetition of the other. When the parent dies, the socket tells that too, and the worker ends in
order.

The worker sends lines: `loaded TERM INT`, when its app is loaded, with the seconds that its end may
take after SIGTERM and after SIGINT; and `ready`, when it takes requests.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import Store

NEEDED = b"n"
"""What the parent sends to a spare worker that is to begin; no ending signal has this number."""

_is_one_of_many: ContextVar[bool] = ContextVar("_is_one_of_many", default=False)


class Worker:
    """This process's place among the workers: the sockets that it shares, and its parent."""

    def __init__(self, channel: int, listeners: Sequence[int]) -> None:
        self.listeners = tuple(listeners)
        """File descriptors of the sockets to listen on."""
        self._channel = socket.socket(fileno=channel)
        self._is_alone = False
        for fd in (channel, *listeners):
            os.set_inheritable(fd, False)

    @classmethod
    def parse(cls, text: str) -> Worker:
        """Return what `places` has written; raises `ValueError` if it isn't that."""
        channel, *listeners = map(int, text.split(","))
        return cls(channel, listeners)

    def wait_until_needed(self) -> bool:
        """Wait as a spare, in this thread; return False if it has to end instead.

        There is one worker at a time then, so any store will do.
        """
        self._is_alone = True
        with suppress(OSError):
            return self._channel.recv(1) == NEEDED
        return False

    def announce(self, after_sigterm: float, after_sigint: float) -> None:
        """Tell the parent how many seconds the end takes at most.

        From now on servers are refused whose stores can't be shared, in this task and below it,
        unless this worker was a spare.
        """
        _is_one_of_many.set(not self._is_alone)
        self._say(f"loaded {after_sigterm} {after_sigint}")

    def is_ready(self) -> None:
        """Tell the parent that requests are taken."""
        self._say("ready")

    def listen(self, deliver: Callable[[int], None]) -> None:
        """Have `deliver` called, in another thread, for each signal that the parent passes on."""
        name = "chatkit_trio parent"
        threading.Thread(target=self._listen, args=(deliver,), name=name, daemon=True).start()

    def _listen(self, deliver: Callable[[int], None]) -> None:
        while number := self._next_number():
            deliver(number)
        deliver(signal.SIGTERM)

    def _next_number(self) -> int:
        with suppress(OSError):
            return int.from_bytes(self._channel.recv(1))
        return 0

    def _say(self, line: str) -> None:
        with suppress(OSError):  # the parent has died, which `_listen` sees
            self._channel.sendall(f"{line}\n".encode())


def places(channel: int, listeners: Sequence[int]) -> str:
    """Return what `Worker.parse` reads."""
    return ",".join(map(str, [channel, *listeners]))


class NotSharedError(Exception):
    """There are several workers, and something that they have to share and can't."""


def is_one_of_many() -> bool:
    """Say whether this process is one of several that answer on one port."""
    return _is_one_of_many.get()


def check_is_shared(server: ChatKitServer[Any]) -> None:
    """Raise `NotSharedError` if this process is one of several and can't share the store."""
    if _is_one_of_many.get() and not _spans_processes(server.store):
        raise NotSharedError(
            f"{type(server.store).__name__} has no coordination between processes, so there can be"
            " one worker only: with more, a thread could get two answers at once, and a stop or a"
            " reload would not find the answer of another worker. Use SQLiteStore or"
            " PostgreSQLStore, or --workers 1"
        )


def _spans_processes(store: Store[Any]) -> bool:
    return store.coordination is not None and store.coordination.spans_processes
