"""Keeping what happens to one connection to that connection, and letting go of it in time.

Hypercorn lets an error that it didn't expect out of a connection, into the nursery of all of them:
a stranger's one malformed handshake would end the server with every answer in it. And it goes on
with a connection whose client has gone where it waits for something else: between two requests for
`keep_alive_timeout`, and for ever if something stands behind a request, which it reads when that
one has been answered. With another version of Hypercorn, which has no such class, everything stays
as it does it.
"""

from __future__ import annotations

import logging
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.events import Closed
from hypercorn.trio.tcp_server import TCPServer

logger = logging.getLogger(__name__)


class ContainedConnection(TCPServer):
    """A connection whose errors end nothing else, and that ends when it is closed."""

    async def run(self) -> None:
        """Serve the connection to its end, and log the error that ends it."""
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
