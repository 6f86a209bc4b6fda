"""What an open stream costs while its model is silent: memory and tasks.

    python -m benchmarks.idle_streams                      1,000 streams of each system
    python -m benchmarks.idle_streams --streams 10000 --systems chatkit_trio

Each server is a process of its own with a store in memory. Every stream is asked for, has sent its
first frames, and waits for a model that says nothing. The floor is a bare ASGI app on the same
server as chatkit_trio, which has sent as many frames and waits too.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from typing import Any

import trio

from benchmarks.counting_client import request
from benchmarks.measuring import Server, System, allow_files, report, running
from benchmarks.scripted import BARE_FRAME

HEAD = ("system", "streams", "KB a stream", "of the original's", "tasks a stream")
SILENCE = 3600.0  # seconds that respond waits before it goes on
WAYS: dict[str, tuple[System, str]] = {
    "original": ("original", "/chatkit"),
    "chatkit_trio": ("chatkit_trio", "/chatkit"),
    "floor": ("chatkit_trio", "/bare"),
}
"""The systems, and the path of each."""
_AT_ONCE = 100  # streams that begin together
_WARM = 50  # streams before the ones that are measured: the first pay for code that is loaded


class Idle:
    """Streams that have begun and are silent."""

    def __init__(self, server: Server, path: str) -> None:
        self._server = server
        self._command: dict[str, object] = {"deltas": 1, "pause": SILENCE}
        self._path = path
        self._sockets: list[trio.SocketStream] = []

    async def open(self, count: int) -> None:
        """Open so many more, and return when each has its first frames."""
        for begun in range(0, count, _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for _ in range(min(_AT_ONCE, count - begun)):
                    nursery.start_soon(self._open)

    async def _open(self) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", self._server.port)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sockets.append(stream)
        await stream.send_all(request(self._path, self._command))
        answer = b""
        while b"thread.item.added" not in answer and BARE_FRAME not in answer:
            answer += await stream.receive_some()

    async def close(self) -> None:
        for stream in self._sockets:
            await stream.aclose()


async def measure(system: System, path: str, streams: int) -> tuple[float, float]:
    """Return the bytes and the tasks that one more idle stream takes."""
    async with running(system) as server:
        idle = Idle(server, path)
        await idle.open(_WARM)
        before, tasks = server.rss, (await server.state()).get("tasks", 0)
        await idle.open(streams)
        after, tasks_now = server.rss, (await server.state()).get("tasks", 0)
        server.process.kill()
        await idle.close()
    return (after - before) / streams, (tasks_now - tasks) / streams


async def compare(systems: Sequence[str], streams: int) -> list[list[Any]]:
    rows, original = [], 0.0
    for name in systems:
        size, tasks = await measure(*WAYS[name], streams)
        original = size if name == "original" else original
        ratio = f"{size / original:.2f}" if original else "-"
        rows.append([name, streams, f"{size / 1000:.1f}", ratio, f"{tasks:.1f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--systems", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    allow_files(4 * arguments.streams)
    rows = trio.run(compare, arguments.systems, arguments.streams)
    report(HEAD, rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
