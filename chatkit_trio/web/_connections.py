"""Taking connections as fast as they come, keeping each one's errors to it, letting go in time.

Hypercorn lets an error that it didn't expect out of a connection, into the nursery of all of them:
a stranger's one malformed handshake would end the server with every answer in it. And it goes on
with a connection whose client has gone where it waits for something else: between two requests for
`keep_alive_timeout`, and for ever if something stands behind a request, which it reads when that
one has been answered. With another version of Hypercorn, which has no such class, everything stays
as it does it.

A listener of Trio takes one connection in each round of all tasks, and a round gets longer with the
live answers: of a thousand clients that came at once, the last waited for 8.6 s of CPU time until
its request was read (`benchmarks/crowd.py`). So a connection that the listener has taken takes
others along, the more the longer the rounds are. A server with little to do goes on one by one, and
its answers hardly wait.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed
from hypercorn.trio.tcp_server import TCPServer

logger = logging.getLogger(__name__)

_BACKLOG = 2048
"""Connections that may wait to be taken; the system drops more, whose clients try again later."""

_SECONDS_FOR_ONE = 0.002
_MOST_AT_ONCE = 31


class ServerConfig(Config):
    """Hypercorn's settings, and the connections that its server can take."""

    backlog = _BACKLOG
    is_shared = False
    """Whether other processes take connections from the same sockets."""
    waiting: WaitingConnections | None = None

    def create_sockets(self) -> Sockets:
        """Create the sockets, as Hypercorn does."""
        sockets = super().create_sockets()
        if not self.is_shared:  # else each process takes what it has time for
            self.waiting = WaitingConnections(sockets.insecure_sockets)
        return sockets


class WaitingConnections:
    """The connections that wait to be taken from some sockets."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._taken_at = -inf

    def take(self) -> Iterator[trio.SocketStream]:
        """Yield those that are due: one for each 2 ms since the last time, and at most 31."""
        now = trio.current_time()
        due = int(min((now - self._taken_at) / _SECONDS_FOR_ONE, _MOST_AT_ONCE))
        self._taken_at = now
        for each in self._sockets:
            while due > 0:
                try:
                    connection, _ = each.accept()
                except OSError:
                    break  # none waits; of anything else the listener tells
                due -= 1
                yield trio.SocketStream(trio.socket.from_stdlib_socket(connection))


class ContainedConnection(TCPServer):
    """A connection whose errors end nothing else, and that ends when it is closed."""

    async def run(self) -> None:
        """Serve the connection to its end, and log the error that ends it.

        Other connections that wait are served then too, in tasks beside this one.
        """
        waiting = getattr(self.config, "waiting", None)
        if waiting is not None:
            nursery = trio.lowlevel.current_task().parent_nursery
            assert nursery is not None
            for stream in waiting.take():
                nursery.start_soon(self._serve_beside, stream)
        await self._run_alone()

    async def _serve_beside(self, stream: Any) -> None:
        try:
            other = ContainedConnection(self.app, self.config, self.context, self.state, stream)
            await other._run_alone()
        finally:
            await trio.aclose_forcefully(stream)

    async def _run_alone(self) -> None:
        self._reading = trio.CancelScope()
        try:
            await super().run()
        except* Exception as failed:
            logger.warning("a connection has failed, and is closed", exc_info=failed)
            await trio.aclose_forcefully(self.stream)

    async def _read_data(self) -> None:
        protocol: Any = self.protocol  # its `handle` is called by its name, from here on
        handle = protocol.handle

        async def handle_and_notice(event: Any) -> None:
            if not isinstance(event, Closed):
                await handle(event)
                return
            try:
                await handle(event)
                await self.idle_task.stop()
            finally:
                # Also if a cancelled request is the one that finds the connection closed.
                self._reading.cancel()

        protocol.handle = handle_and_notice
        with self._reading:
            await super()._read_data()

    async def _idle_timeout(self) -> None:
        if not self._reading.cancel_called:
            await super()._idle_timeout()


def contain_connections() -> None:
    """Have the servers of this process that begin to listen from now on contain their errors."""
    server: Any = hypercorn.trio.run
    if getattr(server, "TCPServer", None) is TCPServer:
        server.TCPServer = ContainedConnection
