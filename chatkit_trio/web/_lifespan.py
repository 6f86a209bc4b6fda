"""Running a ChatKit server for as long as its app serves.

One task of the app's nursery enters the server and leaves it, because the server's nursery must
be opened and closed by the same task. That task also survives the cancellation by which
Quart-Trio ends the app's background tasks: leaving the server is shielded, with its own limits.
"""

from __future__ import annotations

from typing import Any

import trio

from chatkit_trio.server import ChatKitServer

_LEAVING_TIMEOUT = 60.0  # seconds; settling has far shorter limits of its own


class ServerLifespan:
    """Enters a server when the app starts, unless it is running, and leaves it at shutdown."""

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self._server = server
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Enter the server; raises what its store raises if that can't be opened."""
        self._stopping, self._stopped = trio.Event(), trio.Event()
        if self._server.is_running:
            self._stopped.set()
        else:
            await nursery.start(self._keep_running)

    async def stop(self) -> None:
        """Leave the server; returns when its turns are settled and its stores closed."""
        self._stopping.set()
        # Shielded: Quart-Trio may have cancelled the app's tasks, this one among them.
        with trio.move_on_after(_LEAVING_TIMEOUT, shield=True):
            await self._stopped.wait()

    async def _keep_running(  # noqa: ASYNC114
        self, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            async with self._server:
                task_status.started()
                await self._stopping.wait()
        finally:
            self._stopped.set()
