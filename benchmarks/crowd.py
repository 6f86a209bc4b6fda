"""How long does the last of a crowd wait for its first event?

    python -m benchmarks.crowd

So many clients come at once, and each of their streams has an event every 20 ms, which is more than
the server can do. Times are seconds of the server's CPU, from the first request that it has read:
the clock of its run counts those, so other work on the machine changes little. The same server
takes one connection in each round of all tasks, as Trio's listener does, and then as `serve` does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import hypercorn.trio
import trio

from benchmarks.measuring import ROOT, allow_files, percentile, report
from benchmarks.trio_server import ScriptedServer, make_app
from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.web._garbage import fewer_collections
from chatkit_trio.web._serving import hypercorn_config

HEAD = ("taken", "clients", "request read, p50", "p99", "first chunk, p50", "p99")
PAUSE = 0.02  # seconds between the events of a stream
WAYS = {"one in a round": True, "as `serve` does": False}


class CPUClock(trio.abc.Clock):
    """Counts the seconds of CPU that this process has used."""

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.process_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return max(0.0, deadline - time.process_time())


class Crowd:
    """When requests were read, and when their first chunks were sent."""

    def __init__(self, clients: int, events: int) -> None:
        self.command = json.dumps({"deltas": events, "pause": PAUSE, "timed": True})
        self.clients = clients
        self.read: list[float] = []
        self.answered: list[float] = []
        self._all_are = trio.Event()

    async def run(self, *, is_shared: bool) -> list[str]:
        """Serve the crowd until each client has its first chunk; return the times."""
        policy = TurnPolicy(stall_timeout=None)
        app = make_app(ScriptedServer(MemoryStore(), policy))
        config = hypercorn_config("127.0.0.1", 0)
        config.errorlog = None
        config.is_shared = is_shared
        config.graceful_timeout = 0
        serve = partial(hypercorn.trio.serve, partial(self._noting, app), config, mode="asgi")
        with fewer_collections():
            async with trio.open_nursery() as nursery:
                (url,) = await nursery.start(serve)
                with self._clients(url.rpartition(":")[2]) as clients:
                    await self._all_are.wait()
                    clients.kill()
                nursery.cancel_scope.cancel()
        start = self.read[0]
        times = [[at - start for at in each] for each in (self.read, self.answered)]
        return [f"{percentile(each, share):.2f}" for each in times for share in (0.5, 0.99)]

    def _clients(self, port: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "benchmarks.counting_client", "--port", port,
            "--streams", str(self.clients), "--command", self.command,
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)

    async def _noting(
        self, app: Any, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        is_answered = False

        async def noting_send(message: Any) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.body" and not is_answered:
                is_answered = True
                self.answered.append(time.process_time())
                if len(self.answered) == self.clients:
                    self._all_are.set()
            await send(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        self.read.append(time.process_time())
        await app(scope, receive, noting_send)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--events", type=int, default=60, help="of each stream")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    allow_files(4 * arguments.clients)
    rows = []
    for way, is_shared in WAYS.items():
        crowd = Crowd(arguments.clients, arguments.events)
        times = trio.run(partial(crowd.run, is_shared=is_shared), clock=CPUClock())
        rows.append([way, arguments.clients, *times])
    report(HEAD, rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
