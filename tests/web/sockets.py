"""Real sockets and processes: a client that can misbehave, a server process, what it has stored."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.types import ThreadItem
from chatkit_trio.web import create_app

from .http import CREATE, Event, events_of

ROOT = Path(__file__).parents[2]
MESSAGE = json.dumps(CREATE).encode()
TALKER = "tests.web.talker:server"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so of which no event tells, such as what a process has logged."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


class Caller:
    """A connection that has sent a message and reads the answer as it likes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._http = h11.Connection(h11.CLIENT)

    async def send(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        path: str = "/chatkit",
        body: bytes = MESSAGE,
    ) -> None:
        named = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **(headers or {})}
        request = h11.Request(method=method, target=path, headers=list(named.items()))
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            await self.stream.send_all(self._http.send(event) or b"")

    async def read_until(self, text: bytes) -> None:
        with trio.fail_after(20):
            while text not in self.body:
                assert await self._read(), f"the answer ended before {text!r}"

    async def read_to_end(self) -> None:
        with trio.fail_after(20):
            while await self._read():
                pass

    async def _read(self) -> bool:
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.stream.receive_some()))
        elif isinstance(event, h11.Response):
            self.status = event.status_code
            self.headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return False
        elif isinstance(event, h11.Data):
            self.body += bytes(event.data)
        return True

    async def answer(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send another request on the same connection, and return its answer."""
        await self.ask(method=method, path=path, body=body, headers=headers)
        await self.read_to_end()
        return self.status, self.body

    async def ask(self, **request: Any) -> None:
        """Send another request on the same connection: a message, unless told what."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self.body = b""
        await self.send(**request)

    @property
    def events(self) -> list[Event]:
        """The events that have arrived whole."""
        return events_of(self.body.rpartition(b"\n\n")[0])

    @property
    def thread_id(self) -> str:
        return self.events[0].data["thread"]["id"]

    @property
    def text(self) -> str:
        """The assistant's text that has arrived."""
        updates = [event.data.get("update", {}) for event in self.events]
        return "".join(update.get("delta", "") for update in updates)


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        caller = Caller(stream)
        await caller.send()
        yield caller
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def connected(port: int, worker: int) -> AsyncIterator[Caller]:
    """Open new connections until one leads to the worker with this process id; yield that one."""
    async with AsyncExitStack() as stack:
        with trio.fail_after(60):
            while True:
                caller = Caller(await trio.open_tcp_stream("127.0.0.1", port))
                async with AsyncExitStack() as opened:
                    opened.push_async_callback(trio.aclose_forcefully, caller.stream)
                    await caller.answer("GET", "/livez")
                    if caller.headers["worker"] == str(worker):
                        stack.push_async_exit(opened.pop_all())
                        break
                # It may have yet to start, for which the machine is left to it.
                await trio.sleep(0.02)
        yield caller


@asynccontextmanager
async def connected_to(path: str) -> AsyncIterator[Caller]:
    """Open a connection to a Unix socket."""
    stream = await trio.open_unix_socket(path)
    try:
        yield Caller(stream)
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def served(server) -> AsyncIterator[int]:
    """Serve with plain Hypercorn in this process; yield the port."""
    async with served_app(create_app(server)) as port:
        yield port


@asynccontextmanager
async def served_app(app, config: Config | None = None) -> AsyncIterator[int]:
    """Serve an app with plain Hypercorn in this process, or with other settings; yield the port."""
    config = config or Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    run = partial(serve, app, config, shutdown_trigger=stop.wait, mode="asgi")
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(run)
        yield int(url.rpartition(":")[2])
        stop.set()


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's child processes, whichever thread has started them."""
    # Linux lists the children of a thread too, but leaves some out while others end.
    return sorted(child for child, parent in _parents() if parent == pid)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield the ids of each process and of its parent."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            # In the parentheses stands the name, which may have any letters.
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def workers_of(pid: int) -> list[int]:
    """Return the ids of a parent's workers: Hypercorn has another child besides."""
    return [
        child for child in children_of(pid) if re.search("spawn_main|--worker=", _line_of(child))
    ]


def _line_of(pid: int) -> str:
    """Return a process's command, nothing if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class ServerProcess:
    """A server in a process of its own, its port, and what it has logged."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.port = 0

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> None:
        await self._process.wait()

    async def ended(self, within: float) -> float:
        """Wait for the process's end, and return how long that took."""
        began = trio.current_time()
        with trio.move_on_after(within):
            await self._process.wait()
            return trio.current_time() - began
        raise AssertionError(f"it runs on after {within} s; its log:\n{self.log}")

    async def logs(self, text: str, within: float = 20) -> None:
        """Wait until a text is in the log."""
        with trio.move_on_after(within):
            await until(lambda: text in self.log or self._process.poll() is not None)
            assert text in self.log, self.log
            return
        raise AssertionError(f"{text!r} isn't in the log:\n{self.log}")


@asynccontextmanager
async def running(
    command: Sequence[str], directory: Path, ready: str, **environment: str
) -> AsyncIterator[ServerProcess]:
    """Run a command until the block is left; the block begins when `ready` is in its log.

    The port is what stands behind `ready` and a host in the log.
    """
    log = directory / "server.log"
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = ServerProcess(process, log)
    try:
        await server.logs(ready, within=60)
        server.port = int(server.log.partition(ready)[2].split()[0].rpartition(":")[2])
        yield server
    finally:
        with trio.CancelScope(shield=True):
            # Hypercorn's workers outlive their parent.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def served_by_cli(
    database: Path, *options: str, target: str = TALKER, **environment: str
) -> AsyncIterator[ServerProcess]:
    """Run `chatkit-trio serve` on the talker, or on another target."""
    command = [sys.executable, "-m", "chatkit_trio", "serve", target, "--port", "0", *options]
    environment["TALKER_DATABASE"] = str(database)
    async with running(command, database.parent, "Serving on", **environment) as server:
        yield server


async def items_in(database: Path | str, thread_id: str) -> list[ThreadItem]:
    """Return what a file, or a PostgreSQL database, has of a thread."""
    is_url = isinstance(database, str)
    async with PostgreSQLStore(database) if is_url else SQLiteStore(database) as store:
        page = await store.load_thread_items(thread_id, None, 100, "asc", None)
    return page.data
