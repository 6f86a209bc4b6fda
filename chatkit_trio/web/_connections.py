"""Taking connections as fast as they come, keeping each one's errors to it, letting go in time.

Hypercorn lets an error that it didn't expect out of a connection, into the nursery of all of them:
a stranger's one malformed handshake would end the server with every answer in it. And it goes on
with a connection whose client has gone where it waits for something else: between two requests for
`keep_alive_timeout`, and for ever if something stands behind a request, which it reads when that
one has been answered. With another version of Hypercorn, which has no such class, everything stays
as it does it.

A listener of Trio takes one connection in each round of all tasks. With a thousand live answers a
round takes some 0.05 s, so the last of a thousand clients would wait for the better part of a
minute before its request is read. So each connection that Hypercorn has taken takes others along.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed
from hypercorn.trio.tcp_server import TCPServer

logger = logging.getLogger(__name__)

_TAKEN_ALONG = 15
"""Connections in a round of all tasks, beside the one of the listener."""

_BACKLOG = 2048
"""Connections that may wait to be taken; for more the system has the clients ask again, seconds later."""


class ServerConfig(Config):
    """Hypercorn's settings, which know the sockets that connections come from."""

    backlog = _BACKLOG

    listeners: Sequence[socket.socket] = ()
    """Those whose connections are for this process alone: with several, each has what it can do."""

    is_shared = False
    """Whether other processes listen on the same sockets."""

    def create_sockets(self) -> Sockets:
        """Create the sockets, as Hypercorn does."""
        sockets = super().create_sockets()
        if not self.is_shared:
            self.listeners = sockets.insecure_sockets
        return sockets


class ContainedConnection(TCPServer):
    """A connection whose errors end nothing else, and that ends when it is closed."""

    takes_others = True

    async def run(self) -> None:
        """Serve the connection to its end, and log the error that ends it."""
        if self.takes_others:
            self._take_others()
        self._reading = trio.CancelScope()
        try:
            await super().run()
        except* Exception as failed:
            logger.warning("a connection has failed, and is closed", exc_info=failed)
            await trio.aclose_forcefully(self.stream)

    def _take_others(self) -> None:
        """Begin to serve other connections that wait to be taken."""
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        for listener in getattr(self.config, "listeners", ()):
            for _ in range(_TAKEN_ALONG):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    break  # none waits; of anything else the listener itself will tell
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                nursery.start_soon(self._run_other, stream)

    async def _run_other(self, stream: trio.SocketStream) -> None:
        # Hypercorn's type says that it is always TLS.
        other = type(self)(self.app, self.config, self.context, self.state, stream)  # type: ignore[arg-type]
        other.takes_others = False
        try:
            await other.run()
        finally:
            await trio.aclose_forcefully(stream)

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
