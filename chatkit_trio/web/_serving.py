"""Serving an app until a signal arrives, and then a bounded end that loses nothing.

After SIGTERM, SIGINT or SIGHUP the end has these phases, each with its limit (`Limits`):

1. *draining*: no new connections and streams; live turns have time to finish. None after Ctrl-C.
2. *settling*: the others are cut, and what they have produced is stored.
3. *closing*: connections have time for their last bytes; then they are hung up on. Hypercorn
   shields its sends, so a client that reads nothing would hold its connection for ever.
4. *leaving*: the app shuts down, which leaves the servers and closes the stores; also beside a
   request that doesn't end.
5. *exiting*: the last tasks and threads end.

The sum is told in the log at the signal, and `_watchdog` ends the process by then, whatever
happens. A second signal ends the first phase, and shortens the third.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import chain
from math import inf
from typing import Any, Literal, TypeAlias

import trio
from hypercorn.trio import serve as hypercorn_serve
from quart import Quart

from chatkit_trio._engine.runner import check_runs_on_trio
from chatkit_trio._settings import check_count, check_seconds
from chatkit_trio.server import ChatKitServer

from . import _holdups
from ._asgi_app import chat_servers_in, quart_apps_in
from ._blueprint import allowed_by
from ._connections import ServerConfig, contain_connections
from ._delivery import ASGIApp, Receive
from ._direct_sends import Send
from ._garbage import fewer_collections, keep_out_what_is_loaded
from ._hosts import AllowedHosts, HostNames, is_wildcard, tell_hosts
from ._request_log import logged
from ._signals import ending_signals, handling
from ._watchdog import Watchdog
from ._worker import Worker, check_is_shared

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 10.0
"""Seconds that live turns get after SIGTERM or SIGHUP, unless `drain_timeout` says otherwise."""

GRACE = 5.0
"""Seconds that connections get for their last bytes after all turns are settled."""

FAILED = 1
"""The exit code when every answer is stored, but the app's shutdown failed."""

UNSTORED = 3
"""The exit code when an answer isn't stored; the journal, if there is one, has it."""

_LARGEST_PORT = 65535
_GRACE_IN_HASTE = 0.2  # seconds, after Ctrl-C or a second signal
_HANGING_UP = 1.0  # seconds until a request that has been hung up on should have ended
_AFTER_SERVING = 10.0  # seconds for the shutdown of the app itself, beside its ChatKit servers
EXITING = 2.0  # seconds

ServerList: TypeAlias = Sequence[ChatKitServer[Any]]
_Way: TypeAlias = Literal["signal", "parent"]


async def serve(
    app: ASGIApp | Quart,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain_timeout: float | None = None,
    allowed_hosts: HostNames = None,
    on_ready: Callable[[Sequence[str]], None] | None = None,
) -> None:
    """Serve an app with Hypercorn until SIGTERM, SIGINT or SIGHUP, and then shut down.

    The app's ChatKit servers answer requests for `host`, unless it is a wildcard (0.0.0.0), and for
    `allowed_hosts`, besides what the app itself allows (see `chatkit_blueprint`).

    Live turns of the app's ChatKit servers get `drain_timeout` seconds to finish. None stands for
    10 s, and for no time at all after SIGINT (Ctrl-C): then they are cut and stored at once. A
    second signal ends that time. Port 0 stands for a free port; `on_ready` is called with the URLs
    when the app has started.

    Returns when the app has shut down, or ends the *process* if that takes too long: with code 0,
    or with 3 if an answer isn't stored. The log says at the signal how long it takes at most.
    SIGHUP is left alone where it is ignored (nohup). Must run in the main thread, where signals
    arrive. Meanwhile Python collects garbage less often, and what was loaded when the app had
    started is passed over (`gc.freeze`). Raises `RuntimeError` if the app's shutdown failed.
    """
    check_runs_on_trio("chatkit_trio.web.serve()")
    hosts = _checked_hosts(app, host, port, allowed_hosts)
    ending = _Ending(app, drain_timeout)
    await ending.serve(host, port, hosts, on_ready)
    ending.watchdog.stop()
    if ending.failure is not None:
        raise RuntimeError(f"the app's shutdown failed: {ending.failure}")


async def serve_to_the_end(
    app: ASGIApp | Quart,
    *,
    host: str,
    port: int,
    drain_timeout: float | None,
    allowed_hosts: HostNames,
    on_ready: Callable[[Sequence[str]], None] | None,
    worker: Worker | None = None,
) -> int:
    """Serve as `serve` does, for a process that ends then; return its exit code.

    Further signals are ignored, and threads that don't end are not waited for. As a `worker` it
    listens on the sockets that it shares with others, and not on `host` and `port`.
    """
    hosts = _checked_hosts(app, host, port, allowed_hosts)
    ending = _Ending(app, drain_timeout, ends_process=True, worker=worker)
    await ending.serve(host, port, hosts, on_ready)
    ending.watchdog.end_within(EXITING, "threads haven't ended")
    return ending.exit_code


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest that each phase of the end may take, in seconds."""

    draining: float
    settling: float
    closing: float
    leaving: float
    exiting: float

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))

    @classmethod
    def of(cls, servers: ServerList, live: int, number: int, drain_timeout: float | None) -> Limits:
        """Return the limits of an end that begins now, with this signal and so many live turns."""
        limits = cls.at_most(servers, number, drain_timeout)
        return replace(
            limits,
            draining=limits.draining if live else 0.0,
            settling=max((server.settling_timeout for server in servers), default=0.0),
        )

    @classmethod
    def at_most(cls, servers: ServerList, number: int, drain_timeout: float | None) -> Limits:
        """Return the limits of an end with this signal, whatever is live then."""
        is_hasty = number == signal.SIGINT
        if drain_timeout is None:
            drain_timeout = 0.0 if is_hasty else DRAIN_TIMEOUT
        return cls(
            draining=drain_timeout,
            settling=max((4 * each.policy.settle_timeout + 1 for each in servers), default=0.0),
            closing=(_GRACE_IN_HASTE if is_hasty else GRACE) + _HANGING_UP,
            leaving=_leaving_timeout(servers),
            exiting=EXITING,
        )


def _live(servers: ServerList) -> int:
    return sum(len(server.live_turns) for server in servers)


def _leaving_timeout(servers: ServerList) -> float:
    # They are left one after the other.
    return sum(server.leaving_timeout for server in servers) + _AFTER_SERVING


def _unstored(servers: ServerList) -> int:
    return sum(max(server.given_up, len(server.live_turns)) for server in servers)


class _Ending:
    """The end of a serving process, from the first signal on."""

    def __init__(
        self,
        app: ASGIApp | Quart,
        drain_timeout: float | None,
        *,
        ends_process: bool = False,
        worker: Worker | None = None,
    ) -> None:
        if drain_timeout is not None:
            check_seconds("drain_timeout", drain_timeout, or_zero=True)
        self.begun = trio.Event()
        self.startup_failed = False
        self.failure: str | None = None
        """Why the app's shutdown failed."""
        self.watchdog = Watchdog(self._announce, self._tell_why, lambda: self.exit_code)
        self._app = app
        self._servers = chat_servers_in(app)
        self._drain_timeout = drain_timeout
        self._ends_process = ends_process
        self._worker = worker
        self._heard_by: set[_Way] = set()
        self._plan: tuple[int, Limits] | None = None
        self._ports: list[int] = []
        self._serving = trio.CancelScope()
        self._draining = trio.CancelScope()
        self._grace = trio.CancelScope()
        self._connections_ended = trio.Event()
        self._leaving = trio.Event()
        self._has_left = trio.Event()
        self._root: trio.lowlevel.Task | None = None

    @property
    def exit_code(self) -> int:
        """0 if every answer is stored, and the app has shut down."""
        if _unstored(self._servers):
            return UNSTORED
        return 0 if self.failure is None else FAILED

    async def serve(
        self,
        host: str,
        port: int,
        hosts: AllowedHosts,
        on_ready: Callable[[Sequence[str]], None] | None,
    ) -> None:
        """Serve until a signal, and then end."""
        self._root = trio.lowlevel.current_root_task()
        numbers = ending_signals()
        with (
            handling(numbers, self._on_signal, are_ignored_then=lambda: self._ends_process),
            self.watchdog.watching(numbers),
            fewer_collections(),
            self._serving,
        ):
            if self._worker is not None:
                self._join(self._worker)
            contain_connections()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end)
                await hypercorn_serve(
                    self._with_lifespan(_told(self._app, hosts)),
                    self._config(host, port),
                    shutdown_trigger=self.begun.wait,
                    task_status=_Listening(self, on_ready),
                    mode="asgi",
                )
                nursery.cancel_scope.cancel()

    def listens(self, urls: Sequence[str]) -> None:
        """Take note that Hypercorn listens."""
        self._ports = [int(url.rpartition(":")[2]) for url in urls]
        if self.startup_failed:
            return
        if self._worker is not None:
            self._worker.is_ready()
        keep_out_what_is_loaded()

    def _config(self, host: str, port: int) -> ServerConfig:
        config = hypercorn_config(host, port)
        if self._worker is not None:
            config.bind = [f"fd://{fd}" for fd in self._worker.listeners]
            config.is_shared = True
        return config

    def _join(self, worker: Worker) -> None:
        """Tell the parent how long the end takes, and do from now on what it says."""
        longest = [
            Limits.at_most(self._servers, number, self._drain_timeout).total
            for number in (signal.SIGTERM, signal.SIGINT)
        ]
        worker.announce(*longest)
        for server in self._servers:
            check_is_shared(server)
        token = trio.lowlevel.current_trio_token()

        def deliver(number: int) -> None:
            self.watchdog.hear(number)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._on_signal, number, "parent")

        worker.listen(deliver)

    # --- The phases, in the trio thread --------------------------------------------------------

    def _on_signal(self, number: int, way: _Way = "signal") -> None:
        is_repeated = way in self._heard_by
        self._heard_by.add(way)
        if self._plan is not None:
            # What comes directly and from the parent is one signal.
            if is_repeated:
                self._hasten()
            return
        self._plan = self._planned(number)
        self.begun.set()
        if not self._ports:
            # It is starting; Hypercorn would see that through.
            self._serving.cancel()

    def _planned(self, number: int) -> tuple[int, Limits]:
        """Return how many turns are live, and the limits of an end that begins now."""
        live = _live(self._servers)
        return live, Limits.of(self._servers, live, number, self._drain_timeout)

    def _hasten(self) -> None:
        self._draining.cancel()
        self._grace.deadline = min(self._grace.deadline, trio.current_time() + _GRACE_IN_HASTE)

    async def _end(self) -> None:
        await self.begun.wait()
        assert self._plan is not None
        limits = self._plan[1]
        with self._draining:
            await self._drain(limits.draining)
        # A second signal ends the waiting above; the turns are settled all the same.
        await self._drain(0)
        await self._close_connections(limits.closing - _HANGING_UP)
        self._leaving.set()
        reason = "the app's shutdown hasn't ended"
        with trio.move_on_after(_leaving_timeout(self._servers)):
            await self._has_left.wait()
            await trio.sleep(EXITING)
            reason = "tasks haven't ended"
        self.watchdog.end_within(0, reason)

    async def _drain(self, seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.drain, seconds)

    async def _close_connections(self, grace: float) -> None:
        if self._draining.cancel_called:
            grace = _GRACE_IN_HASTE
        self._grace.deadline = trio.current_time() + grace
        with self._grace:
            await self._connections_ended.wait()
            return
        _hang_up(self._ports)
        with trio.move_on_after(_HANGING_UP):
            await self._connections_ended.wait()
            return
        logger.warning("some requests haven't ended; the app shuts down while they still run")

    # --- Around the app ------------------------------------------------------------------------

    def _with_lifespan(self, app: ASGIApp) -> ASGIApp:
        """Return the app with a shutdown that begins when it is time for it."""

        async def ending_app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                await app(scope, receive, send)
                return
            try:
                await app(
                    scope,
                    partial(self._lifespan_event, receive),
                    partial(self._lifespan_answer, send),
                )
            except Exception as error:
                if self.failure is None and self._ports:
                    self._failed(f"{type(error).__name__}: {error}", error)
                if not self._leaving.is_set():
                    raise
            finally:
                self._has_left.set()

        return ending_app

    async def _lifespan_event(self, receive: Receive) -> Any:
        event: Any = {"type": "lifespan.shutdown"}

        async def from_hypercorn() -> None:
            nonlocal event
            event = await receive()
            if event["type"] == "lifespan.shutdown" and self.begun.is_set():
                self._connections_ended.set()
            else:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(from_hypercorn)
            await self._leaving.wait()
            nursery.cancel_scope.cancel()
        return event

    async def _lifespan_answer(self, send: Send, event: Any) -> None:
        self.startup_failed = event["type"] == "lifespan.startup.failed"
        if event["type"] == "lifespan.shutdown.failed":
            self._failed(event.get("message") or "the app doesn't say why")
            # Hypercorn would raise it, and lose it while it ends.
            event = {"type": "lifespan.shutdown.complete"}
        if event["type"].startswith("lifespan.shutdown."):
            self._has_left.set()
        await send(event)

    def _failed(self, reason: str, error: Exception | None = None) -> None:
        self.failure = reason
        logger.error("the app's shutdown failed: %s", reason, exc_info=error)

    # --- For the watchdog, in other threads ----------------------------------------------------

    def _announce(self, number: int) -> tuple[float, str]:
        # The trio thread may have begun the end already, and cut the turns.
        live, limits = self._plan or self._planned(number)
        text = (
            f"shutting down; {live} live answers have {limits.draining:g} s;"
            f" out in {limits.total:.1f} s at the latest"
        )
        return limits.total, text

    def _tell_why(self, reason: str) -> None:
        logger.warning("%s; ending the process without them", reason)
        for turn in chain.from_iterable(server.live_turns for server in self._servers):
            logger.warning("%s of thread %s is %s", turn.id, turn.thread_id, turn.state)
        for line in chain(_holdups.tasks(self._root), _holdups.threads()):
            logger.warning("%s", line)
        if unstored := _unstored(self._servers):
            logger.error(
                "%d answers aren't stored; a store with a journal settles them when it is opened"
                " next",
                unstored,
            )


class _Listening(trio.TaskStatus[Sequence[str]]):
    """Hypercorn calls this when it listens, even if the app's start-up has failed."""

    def __init__(self, ending: _Ending, on_ready: Callable[[Sequence[str]], None] | None) -> None:
        self._ending = ending
        self._on_ready = on_ready

    def started(self, value: Sequence[str] | None = None) -> None:
        self._ending.listens(value or ())
        if self._on_ready is not None and not self._ending.startup_failed:
            self._on_ready(value or ())


def _checked_hosts(
    app: ASGIApp | Quart, host: str, port: int, allowed_hosts: HostNames
) -> AllowedHosts:
    check_count("port", port, least=0)
    if port > _LARGEST_PORT:
        raise ValueError(f"port must be {_LARGEST_PORT} or less, and is {port}")
    hosts = AllowedHosts.served(host, allowed_hosts)
    allowed = chain([hosts], *map(allowed_by, quart_apps_in(app)))
    if is_wildcard(host) and all(each.is_loopback_only for each in allowed):
        logger.warning(
            "listening on all addresses, but answering requests for localhost only; say under which"
            " names browsers come: --allowed-host NAME, or allowed_hosts=[NAME]"
        )
    return hosts


def _told(app: ASGIApp | Quart, hosts: AllowedHosts) -> ASGIApp:
    """Return the app, told for which hosts it is served, with a log of its requests."""

    async def told_app(scope: Any, receive: Receive, send: Send) -> None:
        told: Any = tell_hosts(scope, hosts) if scope["type"] == "http" else scope
        await logged(app, told, receive, send)

    return told_app


def hypercorn_config(host: str, port: int) -> ServerConfig:
    """Return Hypercorn's settings for one server on this address."""
    config = ServerConfig()
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    # Longer than proxies keep connections, so that no proxy sends a request while we close one.
    config.keep_alive_timeout = 75.0
    # The limits are kept here; Hypercorn would only cut across them.
    config.startup_timeout = inf
    config.graceful_timeout = inf
    config.shutdown_timeout = inf
    return config


def _hang_up(ports: Collection[int]) -> None:
    """Shut down every connection to these ports, from outside of Hypercorn, which has no way to."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            # A listening socket is shared with other workers: shut down, it is for all of them.
            is_listening = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if is_tcp and not is_listening and connection.getsockname()[1] in ports:
                connection.shutdown(socket.SHUT_RDWR)
