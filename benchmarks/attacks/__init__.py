"""The attacks of `benchmarks.siege`: one module a part of the server, each with its `ATTACKS`.

An attack gets a `Victim`, a server process of its own, and says how many blows it struck and how
many the server held. It speaks to the server over real sockets, as a stranger would.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from benchmarks.database import items_in
from benchmarks.measuring import ROOT, Connection, connect, resident

__all__ = ["Attack", "Outcome", "Victim", "running_victim"]

_START_TIMEOUT = 20.0  # seconds
APP = "benchmarks.attacks.victim:app"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attack."""

    tried: int
    held: int
    note: str = ""
    """What went wrong, or a figure worth telling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One row of the table."""

    what: str
    fault: str
    """The fault it stands for, such as "F1"."""
    run: Callable[[Victim], Awaitable[Outcome]]
    arguments: Sequence[str] = ()
    """Further options of `chatkit-trio serve`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the server: those of `victim`, or what the app reads itself."""
    has_bystander: bool = True
    """Whether another client's stream runs beside it, whose longest gap is measured. False for
    attacks that end the server."""


class Victim:
    """A server process under attack: `chatkit-trio serve` with the app of `victim`."""

    def __init__(self, process: trio.Process, port: int, directory: Path, log: Path) -> None:
        self.process = process
        self.port = port
        self.directory = directory
        self.database = directory / "chat.db"
        self.attachments = directory / "attachments"
        self.log = log

    @property
    def rss(self) -> int:
        """The server's resident memory in bytes; 0 when it has ended."""
        return resident(self.process.pid)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        self.process.send_signal(number)

    async def ended(self, seconds: float) -> int | None:
        """Wait for the server to end; return its exit code, or None if it still runs."""
        with trio.move_on_after(seconds):
            return await self.process.wait()
        return None

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; return status and body."""
        async with connect(self.port) as connection:
            status = await connection.request(method, path, body, headers)
            return status, await connection.body()

    @asynccontextmanager
    async def stream(
        self, body: Any, headers: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[Connection]:
        """Send a request of the protocol, and have its answer's frames to read."""
        async with connect(self.port) as connection:
            await connection.request("POST", "/chatkit", body, headers)
            yield connection

    def items(self, thread_id: str) -> list[dict[str, Any]]:
        """Return what the database has of a thread, in order."""
        return items_in(self.database, thread_id)


@asynccontextmanager
async def running_victim(
    directory: Path,
    arguments: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    app: str = APP,
) -> AsyncIterator[Victim]:
    """Run a server on a free port, with its files in a directory; it is killed at the end."""
    log = directory / "server.log"
    command = [sys.executable, "-m", "chatkit_trio", "serve", app, "--port", "0", *arguments]
    environment = {**os.environ, "SIEGE_DIRECTORY": str(directory), **(settings or {})}
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        yield Victim(process, await _port(process, log), directory, log)
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
            await process.wait()


async def _port(process: trio.Process, log: Path) -> int:
    with trio.fail_after(_START_TIMEOUT):
        while (port := _port_in(log)) is None:
            if process.poll() is not None:
                raise RuntimeError(f"the server didn't start; see {log}")
            await trio.sleep(0.05)
        return port


def _port_in(log: Path) -> int | None:
    found = re.search(r"Serving on http://\S*?:(\d+)", log.read_text())
    return None if found is None else int(found[1])
