"""What every benchmark needs: a server in a process of its own, a client on raw sockets, a table.

The client runs on trio and speaks HTTP through h11, so both servers are read by the same code.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import h11
import trio

System = Literal["original", "chatkit_trio"]
SYSTEMS: tuple[System, ...] = ("original", "chatkit_trio")
MODULES = {"original": "benchmarks.original_server", "chatkit_trio": "benchmarks.trio_server"}
PACKAGES = (
    "chatkit-trio", "trio", "hypercorn", "quart-trio", "openai-chatkit", "fastapi", "starlette",
    "uvicorn", "pydantic", "h11",
)  # fmt: skip
KEYS = (b"id", b"event")
ROOT = Path(__file__).parent.parent
EXIT_TIMEOUT = 20.0  # seconds a server may take to end after SIGTERM before it is killed
_SCHEDULER_CLOCK = 2  # CPUCLOCK_SCHED of Linux: the one of a process that counts nanoseconds


# --- Servers -----------------------------------------------------------------------------------


@dataclass
class Server:
    """A running server process."""

    system: System
    process: trio.Process
    port: int

    @property
    def rss(self) -> int:
        """Resident memory in bytes."""
        return resident(self.process.pid)

    @property
    def cpu_time(self) -> float:
        """Seconds of CPU that the process has used."""
        return cpu_time(self.process.pid)

    async def state(self) -> dict[str, Any]:
        """Return what the server's /bench route tells of its inside."""
        async with connect(self.port) as connection:
            await connection.request("GET", "/bench")
            return json.loads(await connection.body())

    async def stop(self) -> int | None:
        """Send SIGTERM and wait; return the exit code, or None if it had to be killed."""
        self.process.terminate()
        with trio.move_on_after(EXIT_TIMEOUT):
            return await self.process.wait()
        self.process.kill()
        await self.process.wait()
        return None


def listen(send_buffer: int | None = None) -> socket.socket:
    """Return a listening socket; those it accepts have this much room to send, if given."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    return listener


@asynccontextmanager
async def running(
    system: System, *options: str, send_buffer: int | None = None
) -> AsyncIterator[Server]:
    """Run a server process; ends it with SIGTERM, if it hasn't ended by then."""
    with listen(send_buffer) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, "-m", MODULES[system], "--fd", str(fd), *options]
        process = await trio.lowlevel.open_process(command, cwd=ROOT, pass_fds=[fd])
    server = Server(system, process, port)
    try:
        await server.state()
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.stop()


# --- The client --------------------------------------------------------------------------------


class Connection:
    """One HTTP connection for one request."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}
        """The answer's, by names in lower case."""

    async def request(
        self, method: str, path: str, body: Any = None, headers: Iterable[tuple[str, str]] = ()
    ) -> int:
        """Send a request and return the answer's status; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else b"" if body is None else _to_json(body)
        given = list(headers)
        named = {name.lower() for name, _ in given}
        usual = [
            ("host", "127.0.0.1"),
            ("content-type", "application/json"),
            ("content-length", str(len(data))),
        ]
        all_headers = [each for each in usual if each[0] not in named] + given
        request = h11.Request(method=method, target=path, headers=all_headers)
        await self.stream.send_all(
            (self._http.send(request) or b"")
            + (self._http.send(h11.Data(data=data)) or b"")
            + (self._http.send(h11.EndOfMessage()) or b"")
        )
        response = await self._next_event()
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        return self.status

    async def body(self) -> bytes:
        """Return the rest of the answer's body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises `h11.RemoteProtocolError` if it breaks off."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return
            yield bytes(event.data)

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the SSE frames of the body; comments are left out."""
        buffer = b""
        async for chunk in self.chunks():
            *texts, buffer = (buffer + chunk).split(b"\n\n")
            for text in texts:
                frame = Frame.parse(text)
                if frame is not None:
                    yield frame

    async def reset(self) -> None:
        """Break the connection off with an RST."""
        linger = struct.pack("ii", 1, 0)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.stream.aclose()

    async def _next_event(self) -> Any:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self.stream.receive_some(65536))


@dataclass
class Frame:
    """An SSE frame: its event, and its id and name if it has them."""

    event: dict[str, Any]
    id: str | None
    name: str | None

    @classmethod
    def parse(cls, text: bytes) -> Frame | None:
        fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if line[:1] != b":")
        if b"data" not in fields:
            return None
        identifier, name = (fields[key].decode() if key in fields else None for key in KEYS)
        return cls(json.loads(fields[b"data"]), identifier, name)

    @property
    def delta(self) -> str | None:
        """The text of a delta event, None for other events."""
        update = self.event.get("update", {})
        is_delta = update.get("type") == "assistant_message.content_part.text_delta"
        return update["delta"] if is_delta else None


def _to_json(body: Any) -> bytes:
    return json.dumps(body).encode()


@asynccontextmanager
async def connect(port: int, receive_buffer: int | None = None) -> AsyncIterator[Connection]:
    """Open a connection, with a receive buffer of so many bytes if given."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", port))
    async with trio.SocketStream(sock) as stream:
        yield Connection(stream)


def message(thread_id: str | None, **command: Any) -> dict[str, Any]:
    """Return the request body of a user message with this command: see `scripted`."""
    content = [{"type": "input_text", "text": json.dumps(command)}]
    given = {"content": content, "attachments": [], "inference_options": {}}
    if thread_id is None:
        return {"type": "threads.create", "params": {"input": given}}
    return {
        "type": "threads.add_user_message",
        "params": {"thread_id": thread_id, "input": given},
    }


async def recall(port: int, thread_id: str) -> list[list[Any]]:
    """Return the history that the next turn's respond sees: type, length and hash of each item."""
    async with connect(port) as connection:
        await connection.request("POST", "/chatkit", message(thread_id, recall=True))
        events = [frame.event async for frame in connection.frames()]
    done = [event["item"] for event in events if event["type"] == "thread.item.done"]
    answers = [item for item in done if item["type"] == "assistant_message"]
    return json.loads(answers[-1]["content"][0]["text"])


# --- The process -------------------------------------------------------------------------------


def allow_files(count: int) -> None:
    """Raise the soft limit of open files, which the servers inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, count) if hard == resource.RLIM_INFINITY else min(max(soft, count), hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def cpu_time(pid: int) -> float:
    """Return the seconds of CPU that a process has used; /proc/PID/stat counts hundredths only."""
    clock_of_process = (~pid << 3) | _SCHEDULER_CLOCK
    return time.clock_gettime(clock_of_process)


def stat_of(pid: int) -> list[str]:
    """Return what the system tells of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# --- Reporting ---------------------------------------------------------------------------------


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    print(*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), sep="\n")


def print_conditions() -> None:
    """Print date, machine and versions, which no figure means anything without."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {platform.machine()}, {os.cpu_count()} CPUs,"
        f" load {load}; Linux {platform.release()}, Python {platform.python_version()};"
        f" {versions}\n"
    )


def report(head: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json: bool) -> None:
    """Print the rows for a program, or a table for people with its conditions."""
    if as_json:
        print(json.dumps(rows))
        return
    print_conditions()
    print_table(head, rows)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
