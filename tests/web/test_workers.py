"""Under `hypercorn --workers N` a signal that ends a worker settles its live turns first."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app

from .http import client_of
from .sockets import calling, is_alive, items_in, running, until, workers_of

KEPT = ["user_message", "assistant_message", "sdk_hidden_context"]
WITHIN = 30  # seconds


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chat.sqlite3"


@asynccontextmanager
async def hypercorn(database, workers):
    command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio"]
    command += ["--bind", "127.0.0.1:0", "--workers", str(workers), "tests.web.talker:app"]
    environment = {"TALKER_DATABASE": str(database)}
    async with running(command, database.parent, "Running on", **environment) as server:
        with trio.fail_after(WITHIN):
            await until(lambda: server.log.count("Running on") == workers)
        pids = workers_of(server.pid)
        try:
            yield server, pids
        finally:
            for pid in pids:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


async def kept_after(database, workers, end) -> list[list[str]]:
    """Have `end` called beside four live turns; return what of each is stored afterwards."""
    async with hypercorn(database, workers) as (server, pids), AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(calling(server.port)) for _ in range(4)]
        for caller in callers:
            await caller.read_until(b"word9 ")
        end(server.pid, pids)
        await server.ended(within=WITHIN)
        with trio.fail_after(WITHIN):
            await until(lambda: not any(map(is_alive, pids)))
        return [
            [item.type for item in await items_in(database, caller.thread_id)] for caller in callers
        ]


def to_all(parent: int, workers: list[int]) -> None:
    """As systemd does."""
    for pid in (parent, *workers):
        os.kill(pid, signal.SIGTERM)


def to_the_parent(parent: int, workers: list[int]) -> None:
    os.kill(parent, signal.SIGTERM)


def to_one_worker(parent: int, workers: list[int]) -> None:
    os.kill(workers[0], signal.SIGTERM)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("end", [to_all, to_the_parent, to_one_worker])
async def test_every_live_answer_is_kept(database, workers, end):
    assert await kept_after(database, workers, end) == [KEPT] * 4


async def test_a_killed_worker_loses_no_answers_of_the_others(database):
    """Hypercorn ends the others then; the answers of the killed one are for the next start."""

    def kill_one(parent, workers):
        os.kill(workers[0], signal.SIGKILL)

    kept = await kept_after(database, 2, kill_one)

    assert {tuple(types) for types in kept} <= {tuple(KEPT), ("user_message",)}


async def test_the_apps_own_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert heard == [signal.SIGTERM]


async def test_the_handlers_are_gone_when_the_app_has_ended():
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))):
        during = signal.getsignal(signal.SIGTERM)

    assert during is not signal.SIG_DFL
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == before
