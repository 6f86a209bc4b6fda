"""Letting go of connections whose client has gone.

Between two requests Hypercorn waits for `keep_alive_timeout`, and goes on waiting when the client
has closed the connection meanwhile: its socket and tasks stay for that long. An app sees nothing of
connections, so the one behind a request is found as `_sending` finds it. With another server, or
another version of this one, everything stays as the server does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hypercorn.events import Closed, RawData

from ._direct_sends import Send
from ._sending import connection_owner

_MARK = "_chatkit_trio_lets_go"


def let_go_of_gone_client(send: Send) -> None:
    """Have the connection behind this request end when its client has closed it."""
    connection: Any = connection_owner(send)
    needed = ("protocol", "idle_task", "_idle_timeout")
    if connection is None or hasattr(connection, _MARK):
        return
    if not all(hasattr(connection, name) for name in needed):
        return
    is_gone = False
    handle: Callable[[Any], Awaitable[None]] = connection.protocol.handle
    wait_for_next_request: Callable[[], Awaitable[None]] = connection._idle_timeout

    async def handle_and_notice(event: Any) -> None:
        nonlocal is_gone
        await handle(event)
        if isinstance(event, Closed) or (isinstance(event, RawData) and not event.data):
            is_gone = True
            await connection.idle_task.stop()

    async def wait_unless_gone() -> None:
        if not is_gone:
            await wait_for_next_request()

    connection.protocol.handle = handle_and_notice
    connection._idle_timeout = wait_unless_gone
    setattr(connection, _MARK, True)
