"""Serving an app until a signal arrives, and then a bounded shutdown that loses nothing.

After SIGTERM or SIGINT no new connections are accepted, live turns get `drain_timeout` to finish,
and the others are settled. Only then may the app's shutdown begin, which closes the stores. A
client that reads nothing would hold its connection for ever, because Hypercorn shields its sends:
so when all turns are settled and the connections have had `GRACE`, the process exits.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from quart import Quart

from chatkit_trio._settings import check_count, check_seconds
from chatkit_trio.server import ChatKitServer

from ._blueprint import allowed_by, servers_of
from ._hosts import AllowedHosts, HostNames, is_wildcard, tell_hosts

logger = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that connections get for their last bytes after all turns are settled."""

_SETTLING = 30.0  # seconds; more than settling takes with any sensible settle_timeout
_LARGEST_PORT = 65535
_CLOSING = 60.0  # seconds for the app's own shutdown

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]


async def serve(
    app: ASGIApp | Quart,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain_timeout: float = 10.0,
    allowed_hosts: HostNames = None,
    on_ready: Callable[[Sequence[str]], None] | None = None,
) -> None:
    """Serve an app with Hypercorn until SIGTERM or SIGINT, and then shut down.

    The app's ChatKit servers answer requests for `host`, unless it is a wildcard (0.0.0.0), and for
    `allowed_hosts`, besides what the app itself allows (see `chatkit_blueprint`).

    Live turns of the app's ChatKit servers get `drain_timeout` seconds to finish; a second signal
    ends that time at once. Port 0 stands for a free port; `on_ready` is called with the URLs when
    the app has started. Returns when the app has shut down, or ends the *process* if a connection
    doesn't end. Must run in the main thread, where signals arrive.
    """
    check_seconds("drain_timeout", drain_timeout, or_zero=True)
    check_count("port", port, least=0)
    if port > _LARGEST_PORT:
        raise ValueError(f"port must be {_LARGEST_PORT} or less, and is {port}")
    hosts = AllowedHosts.served(host, allowed_hosts)
    if is_wildcard(host) and all(each.is_loopback_only for each in [hosts, *allowed_by(app)]):
        logger.warning(
            "listening on all addresses, but answering requests for localhost only; say under which"
            " names browsers come: --allowed-host NAME, or allowed_hosts=[NAME]"
        )
    ending = _Ending(servers_of(app) if isinstance(app, Quart) else [], drain_timeout)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.run, signals)
            await hypercorn_serve(
                ending.before_shutdown_of(_told(app, hosts)),
                _config(host, port, drain_timeout),
                shutdown_trigger=ending.begun.wait,
                task_status=_Listening(ending, on_ready),
                mode="asgi",
            )
            nursery.cancel_scope.cancel()


def _told(app: ASGIApp | Quart, hosts: AllowedHosts) -> ASGIApp:
    """Return the app, told for which hosts it is served."""

    async def told_app(scope: Any, receive: Receive, send: Send) -> None:
        told: Any = tell_hosts(scope, hosts) if scope["type"] == "http" else scope
        await app(told, receive, send)

    return told_app


def _config(host: str, port: int, drain_timeout: float) -> Config:
    config = Config()
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    # Longer than proxies keep connections, so that no proxy sends a request while we close one.
    config.keep_alive_timeout = 75.0
    config.graceful_timeout = drain_timeout + _SETTLING
    config.shutdown_timeout = drain_timeout + _SETTLING + _CLOSING
    return config


class _Ending:
    """The end of a serving process, from the first signal on."""

    def __init__(self, servers: Sequence[ChatKitServer[Any]], drain_timeout: float) -> None:
        self.begun = trio.Event()
        self.startup_failed = False
        self._servers = servers
        self._drain_timeout = drain_timeout
        self._drained = trio.Event()
        self._connections_ended = trio.Event()

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Wait for a signal, settle every turn, and make sure that the process ends."""
        await anext(signals)
        live = sum(len(server.live_turns) for server in self._servers)
        logger.info("shutting down; %d live answers have %s s", live, self._drain_timeout)
        self.begun.set()
        waiting = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, waiting)
            with waiting:
                await self._drain(self._drain_timeout)
            # A second signal ends the waiting above; the turns are settled all the same.
            await self._drain(0)
            self._drained.set()
            await self._end_connections()

    def before_shutdown_of(self, app: ASGIApp | Quart) -> ASGIApp:
        """Return the app with a shutdown that waits until every turn is settled."""

        async def ending_app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                receive = partial(self._lifespan_event, receive)
                send = partial(self._lifespan_answer, send)
            await app(scope, receive, send)

        return ending_app

    async def _lifespan_event(self, receive: Receive) -> Any:
        event = await receive()
        if event["type"] == "lifespan.shutdown" and self.begun.is_set():
            self._connections_ended.set()
            await self._drained.wait()
        return event

    async def _lifespan_answer(self, send: Send, event: Any) -> None:
        self.startup_failed = event["type"] == "lifespan.startup.failed"
        await send(event)

    async def _drain(self, seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.drain, seconds)

    async def _end_connections(self) -> None:
        with trio.move_on_after(GRACE):
            await self._connections_ended.wait()
            return
        _exit_hard()


class _Listening(trio.TaskStatus[Sequence[str]]):
    """Hypercorn calls this when it listens, even if the app's start-up has failed."""

    def __init__(self, ending: _Ending, on_ready: Callable[[Sequence[str]], None] | None) -> None:
        self._ending = ending
        self._on_ready = on_ready

    def started(self, value: Sequence[str] | None = None) -> None:
        if self._on_ready is not None and not self._ending.startup_failed:
            self._on_ready(value or ())


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel a scope at the next signal; later signals are ignored."""
    async for _ in signals:
        scope.cancel()


def _exit_hard() -> None:
    logger.warning("some connections don't end, though all is stored; exiting without them")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
