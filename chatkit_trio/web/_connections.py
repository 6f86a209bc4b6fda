"""Keeping an error of one connection to that connection.

Hypercorn lets an error that it didn't expect out of a connection, into the nursery of all of them:
a stranger's one malformed handshake would end the server with every answer in it. With another
version of Hypercorn, which has no such class, everything stays as it does it.
"""

from __future__ import annotations

import logging
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.trio.tcp_server import TCPServer

logger = logging.getLogger(__name__)


class ContainedConnection(TCPServer):
    """A connection whose errors end nothing else."""

    async def run(self) -> None:
        """Serve the connection to its end, and log the error that ends it."""
        try:
            await super().run()
        except* Exception as failed:
            logger.warning("a connection has failed, and is closed", exc_info=failed)
            await trio.aclose_forcefully(self.stream)


def contain_connections() -> None:
    """Have the servers of this process that begin to listen from now on contain their errors."""
    server: Any = hypercorn.trio.run
    if getattr(server, "TCPServer", None) is TCPServer:
        server.TCPServer = ContainedConnection
