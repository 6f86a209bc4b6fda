"""Many clients that connect at once: each is taken soon, and none is sent away."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app
from chatkit_trio.web._connections import ServerConfig

from .sockets import served_app, served_by_cli, workers_of
from .test_connections import UNEXPECTED, living, request

CROWD = 48
REQUEST = request("GET", "/livez", "1.1", "Connection: close")


class Rounds(trio.abc.Instrument):
    """Counts how often the tasks that can run have all run."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


@asynccontextmanager
async def serving(*, is_shared: bool) -> AsyncIterator[tuple[int, list[int]]]:
    """Serve in this process; yield the port, and in which rounds requests have reached the app."""
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]))
    rounds, asked = Rounds(), []
    config = ServerConfig()
    config.is_shared = is_shared

    async def noting(scope, receive, send):
        if scope["type"] == "http":
            asked.append(rounds.number)
        await app(scope, receive, send)

    trio.lowlevel.add_instrument(rounds)
    async with served_app(noting, config) as port:
        yield port, asked
    trio.lowlevel.remove_instrument(rounds)


def connect(crowd: ExitStack, port: int, message: bytes) -> socket.socket:
    """Connect and send without giving the server a turn."""
    client = crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
    client.sendall(message)
    client.setblocking(False)
    return client


async def received(client: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    answer = b""
    with trio.fail_after(20):
        while True:
            await trio.lowlevel.wait_readable(client)
            if not (chunk := client.recv(1 << 16)):
                return answer
            answer += chunk


@pytest.mark.parametrize(
    ("seconds_a_round", "most_rounds"), [(0, CROWD - 31), (0.02, 4)], ids=["idle", "busy"]
)
async def test_clients_that_wait_are_taken_together(seconds_a_round, most_rounds):
    """Taken one in a round, they would be `CROWD - 1` rounds apart."""

    async def compute():
        while True:
            time.sleep(seconds_a_round)  # noqa: ASYNC251 (it stands for the work of other tasks)
            await trio.lowlevel.checkpoint()

    async with serving(is_shared=False) as (port, asked), trio.open_nursery() as nursery:
        nursery.start_soon(compute)
        with ExitStack() as crowd:
            clients = [connect(crowd, port, REQUEST) for _ in range(CROWD)]
            answers = [await received(client) for client in clients]
        nursery.cancel_scope.cancel()

    assert all(b"200" in answer.partition(b"\r\n")[0] for answer in answers)
    assert len(asked) == CROWD
    assert max(asked) - min(asked) <= most_rounds


async def test_a_process_that_shares_its_port_leaves_some_to_the_others():
    async with serving(is_shared=True) as (port, asked):
        with ExitStack() as crowd:
            clients = [connect(crowd, port, REQUEST) for _ in range(CROWD)]
            for client in clients:
                await received(client)

    assert len(asked) == CROWD
    assert max(asked) - min(asked) >= CROWD - 1


async def test_strangers_in_a_crowd_end_only_their_own_connections(caplog):
    messages = [*UNEXPECTED.values()] * 2
    async with serving(is_shared=False) as (port, _):
        with ExitStack() as crowd:
            strangers = [connect(crowd, port, message) for message in messages]
            clients = [connect(crowd, port, REQUEST) for _ in range(4)]
            for stranger in strangers:
                await received(stranger)
            answers = [await received(client) for client in clients]

    assert all(b"200" in answer.partition(b"\r\n")[0] for answer in answers)
    assert caplog.text.count("a connection has failed, and is closed") == len(messages)


async def test_a_crowd_that_goes_leaves_nothing_behind():
    async with serving(is_shared=False) as (port, asked):
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = living()
        with ExitStack() as crowd:
            for _ in range(CROWD):
                connect(crowd, port, REQUEST[:20])
            while living() < before + CROWD:  # noqa: ASYNC110  (there is no event for it)
                await trio.sleep(0.001)

        with trio.fail_after(20):
            while living() > before:  # noqa: ASYNC110  (there is no event for it)
                await trio.sleep(0.001)

    assert not asked


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_busy_server_sends_no_client_away(tmp_path, workers):
    """The system keeps those who wait; past `backlog` it would drop them, to ask a second later."""
    async with served_by_cli(tmp_path / "chat.sqlite3", "--workers", workers) as server:
        processes = [server.pid, *workers_of(server.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            with ExitStack() as crowd:
                waiting = {}
                for _ in range(600):
                    client = crowd.enter_context(socket.socket())
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", server.port))
                    waiting[client.fileno()] = client
                poll = select.poll()
                for number in waiting:
                    poll.register(number, select.POLLOUT)
                while waiting and (connected := poll.poll(5000)):
                    for number, _ in connected:
                        poll.unregister(number)
                        del waiting[number]
                assert not waiting
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
