"""What `benchmarks.cluster` runs beside its clients: the database, the nodes, nginx."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import trio

from benchmarks.measuring import ROOT, listen, stat_of
from tests.nginx import nginx_command, running_nginx
from tests.postgresql_proxy import Proxy
from tests.postgresql_server import Server

Variant = Literal["workers", "hosts"]
DRAIN = 3  # seconds that live answers get at SIGTERM
START_TIMEOUT = 30.0
END_TIMEOUT = 60.0

NGINX_HTTP = """
    upstream nodes {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_connect_timeout 1s;
            proxy_read_timeout 60s;
        }}
    }}
"""


def free_port() -> int:
    """Return a port that was free just now."""
    with listen() as listener:
        port: int = listener.getsockname()[1]
    return port


@dataclass(eq=False)
class Service:
    """One process of the system, which its supervisor starts again when it ends."""

    command: Sequence[str]
    environment: dict[str, str]
    workers: int
    """The number of nodes in it, this process itself being one if it is 1."""
    starts: int = 0
    process: trio.Process | None = None
    wanted: bool = True
    nodes: dict[int, str] = field(default_factory=dict)
    """The ids of its nodes by their processes' ids; those of earlier processes too."""

    async def supervise(self, log: Path) -> None:
        """Keep the process running until cancelled."""
        with log.open("ab") as output:
            while self.wanted:
                self.starts += 1
                self.process = await trio.lowlevel.open_process(
                    self.command,
                    cwd=ROOT,
                    env=os.environ | self.environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                await self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def live(self) -> dict[int, str]:
        """Return the nodes whose processes run, by process id."""
        folder = Path(self.environment["CLUSTER_NODES"])
        for path in folder.glob("[0-9]*"):
            self.nodes[int(path.name)] = path.read_text()
        return {pid: node for pid, node in self.nodes.items() if _runs(pid)}

    async def end(self) -> None:
        self.wanted = False
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with trio.move_on_after(END_TIMEOUT):
                await self.process.wait()
            if self.process.poll() is None:
                for pid in [*self.live(), self.process.pid]:
                    os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return stat_of(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(eq=False)
class System:
    """Everything under test."""

    directory: Path
    database: Server
    url: str
    proxies: list[Proxy]
    """One for each host: what is between it and the database."""
    services: list[Service]
    port: int
    """nginx's."""

    def nodes(self) -> dict[int, str]:
        """Return the ids of the nodes that run, by process id."""
        return {pid: node for service in self.services for pid, node in service.live().items()}

    def hosted(self, host: int) -> list[Service]:
        """Return the services of one host."""
        share = len(self.services) // len(self.proxies)
        return self.services[host * share : (host + 1) * share]

    async def wait_ready(self) -> None:
        """Wait until every node has started."""
        with trio.fail_after(START_TIMEOUT):
            wanted = sum(service.workers for service in self.services)
            while len(self.nodes()) < wanted:  # noqa: ASYNC110  (other processes)
                await trio.sleep(0.1)

    def log(self) -> str:
        """Return what the nodes have said."""
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))


def hypercorn(port: int, workers: int) -> list[str]:
    """Return the command of a Hypercorn with so many workers."""
    return [
        sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--workers", str(workers),
        "--bind", f"127.0.0.1:{port}", "--graceful-timeout", str(DRAIN), "--backlog", "2048",
        "benchmarks.cluster_app:app",
    ]  # fmt: skip


def serve(port: int) -> list[str]:
    """Return the command of a server process with a port of its own."""
    return [
        sys.executable, "-m", "chatkit_trio", "serve", "benchmarks.cluster_app:app",
        "--port", str(port), "--drain-timeout", str(DRAIN),
    ]  # fmt: skip


@asynccontextmanager
async def running_system(
    variant: Variant,
    database: Server,
    url: str,
    directory: Path,
    lease: float,
    workers: int = 4,
    *,
    has_nginx: bool = True,
) -> AsyncIterator[System]:
    """Run a database's nodes behind nginx, or a single service without; all is ended at the end."""
    async with AsyncExitStack() as stack:
        hosts = 1 if variant == "workers" else 2
        proxies = [stack.enter_context(Proxy(database.socket)) for _ in range(hosts)]
        count = 1 if variant == "workers" else workers
        ports = [free_port() for _ in range(count + 1)]
        services = []
        for number, port in enumerate(ports[:-1]):
            folder = directory / f"nodes-{number}"
            folder.mkdir()
            environment = {
                "CLUSTER_DATABASE": proxies[number * hosts // count].url(url),
                "CLUSTER_LEASE": str(lease),
                "CLUSTER_NODES": str(folder),
            }
            command = hypercorn(port, workers) if variant == "workers" else serve(port)
            services.append(Service(command, environment, workers // count))
        port = ports[-1] if has_nginx else ports[0]
        system = System(directory, database, url, proxies, services, port)
        nursery = await stack.enter_async_context(trio.open_nursery())
        for number, service in enumerate(services):
            nursery.start_soon(service.supervise, directory / f"node-{number}.log")
        try:
            await system.wait_ready()
            if has_nginx:
                upstream = ports[:-1]
                await stack.enter_async_context(nginx(directory / "nginx", upstream, port))
            await _listens(port)
            yield system
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as ending:
                    for service in services:
                        ending.start_soon(service.end)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def nginx(directory: Path, upstream: Sequence[int], port: int) -> AsyncIterator[None]:
    """Run nginx before servers on these ports, round robin."""
    directory.mkdir()  # noqa: ASYNC240
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=1s;" for each in upstream)
    http = NGINX_HTTP.format(servers=servers, port=port)
    async with running_nginx(nginx_command(directory, http, "worker_connections 8192;")):
        await _listens(port)
        yield


async def _listens(port: int) -> None:
    with trio.fail_after(START_TIMEOUT):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return
