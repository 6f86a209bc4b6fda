"""Readiness and liveness: what a load balancer or a supervisor asks this process.

Readiness is proved and not assumed: a store's `ping` says whether a write would succeed now. It is
asked by a task of the server's nursery, one at a time, so that neither a ping that hangs nor a
flood of probes can hold anything up: whoever comes meanwhile gets the answer of the one that is
under way, or after `PING_TIMEOUT` none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from quart import Response

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import ServerNotRunningError
from chatkit_trio.server import ChatKitServer

from ._middleware import json_response

logger = logging.getLogger(__name__)

PING_TIMEOUT = 2.0  # seconds


class Probe:
    """Asks one store of a server whether it is well."""

    def __init__(
        self, server: ChatKitServer[Any], name: str, ping: Callable[[], Awaitable[None]]
    ) -> None:
        self._server = server
        self._name = name
        self._ping = ping
        self._asking: _Asking | None = None
        self._was_well = True

    async def is_well(self) -> bool:
        """Return whether the store's ping succeeds in time; False if the server doesn't run.

        The time counts from the beginning of the ping, whoever has begun it. A ping that takes
        longer goes on in the server's nursery; until it ends, the store isn't well. A checkpoint.
        """
        asking = self._asking
        if asking is None:
            asking = self._asking = _Asking()
            try:
                await self._server.start_task(self._ask, asking, name="chatkit_trio ping")
            except ServerNotRunningError:
                self._end(asking)
                return False
        with trio.move_on_at(asking.began_at + PING_TIMEOUT):
            await asking.ended.wait()
        if not asking.ended.is_set():
            self._note(False, f"it hasn't answered for {PING_TIMEOUT} s", None)
        return asking.is_well

    async def _ask(  # noqa: ASYNC114
        self, asking: _Asking, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            task_status.started()
            await self._ping()
            asking.is_well = True
            self._note(True, "", None)
        except Exception as error:
            self._note(False, text_of(error), error)
        finally:
            self._end(asking)

    def _end(self, asking: _Asking) -> None:
        self._asking = None
        asking.ended.set()

    def _note(self, is_well: bool, why: str, error: Exception | None) -> None:
        """Log when the store falls ill and when it recovers, and not at each probe between."""
        if is_well != self._was_well:
            self._was_well = is_well
            if is_well:
                logger.warning("the %s is well again", self._name)
            else:
                logger.error("the %s isn't well: %s", self._name, why, exc_info=error)


class _Asking:
    """A ping that is under way."""

    def __init__(self) -> None:
        self.began_at = trio.current_time()
        self.ended = trio.Event()
        self.is_well = False


class Health:
    """The views that say how one server is. Anyone may ask: no context is made."""

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self._server = server
        self._probes = {"store": Probe(server, "store", lambda: server.store.ping())}
        files = server.attachment_store
        if files is not None:
            self._probes["attachments"] = Probe(server, "attachment store", lambda: files.ping())

    async def health(self) -> Response:
        """Say whether this process takes messages and can store what it answers."""
        states = await self.states()
        is_well = all(states.values()) and self._server.is_running
        answer = {
            "status": _word(is_well),
            **{name: _word(state) for name, state in states.items()},
            "live_turns": len(self._server.live_turns),
        }
        return json_response(json.dumps(answer).encode(), 200 if is_well else 503)

    async def liveness(self) -> Response:  # noqa: ASYNC124
        """Say that this process answers at all."""
        return json_response(b'{"status": "ok"}')

    async def states(self) -> dict[str, bool]:
        """Say of each store whether it can be written to; none can unless the server runs."""
        states: dict[str, bool] = {}

        async def ask(name: str, probe: Probe) -> None:
            states[name] = await probe.is_well()

        async with trio.open_nursery() as nursery:
            for name, probe in self._probes.items():
                nursery.start_soon(ask, name, probe)
        return {name: states[name] for name in self._probes}


def _word(is_well: bool) -> str:
    return "ok" if is_well else "unavailable"
