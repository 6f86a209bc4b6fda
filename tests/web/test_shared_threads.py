"""Every request may reach every worker: one turn a thread, stop, watch and read from any of them.

Real workers of `hypercorn --workers 4` and of `chatkit-trio serve --workers 4`, on one SQLite file
and on one PostgreSQL database. They are started once for all tests; a test has threads of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.postgresql_server import Server

from .http import IDS
from .sockets import ROOT, Caller, connected, is_alive, items_in, workers_of

WITHIN = 60  # seconds
COUNT = 4
TARGET = "tests.web.talker:app"


@dataclass(frozen=True)
class Serving:
    """What the tests ask: the workers by their process ids, and what they store in."""

    port: int
    workers: list[int]
    database: Path | str


def hypercorn() -> list[str]:
    command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio"]
    return [*command, "--bind", "127.0.0.1:0", "--workers", str(COUNT), TARGET]


def serve() -> list[str]:
    command = [sys.executable, "-m", "chatkit_trio", "serve", TARGET, "--port", "0"]
    return [*command, "--workers", str(COUNT), "--drain-timeout", "0.1"]


@pytest.fixture(
    scope="module",
    params=[(hypercorn, "sqlite"), (hypercorn, "postgresql"), (serve, "sqlite")],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    command, kind = request.param
    directory = tmp_path_factory.mktemp("workers")
    if kind == "sqlite":
        yield from serving_on(command(), directory, directory / "chat.sqlite3")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        with server.database() as url:
            yield from serving_on(command(), directory, url)


def serving_on(command: list[str], directory: Path, database: Path | str) -> Iterator[Serving]:
    log = directory / "log"
    times = COUNT if "hypercorn" in command else 1
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TALKER_DATABASE": str(database)},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + WITHIN
        while len(urls := re.findall(r"(?:Running|Serving) on \S+:(\d+)", log.read_text())) < times:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        workers = workers_of(process.pid)
        assert len(workers) == COUNT
        yield Serving(int(urls[0]), workers, database)
    finally:
        process.terminate()
        process.wait(WITHIN)
    assert not any(map(is_alive, workers))


@asynccontextmanager
async def answering(serving: Serving, worker: int):
    """Have a worker answer in a new thread; yield its caller, who has read some of it."""
    async with connected(serving.port, worker) as caller:
        await caller.ask(headers=IDS)
        await caller.read_until(b"word9 ")
        try:
            yield caller
        finally:
            async with connected(serving.port, worker) as other:
                await other.answer("POST", f"/chatkit/threads/{caller.thread_id}/stop")


def message(thread_id: str) -> bytes:
    said = {"content": [], "attachments": [], "inference_options": {}}
    said["content"] = [{"type": "input_text", "text": "Another question"}]
    params = {"thread_id": thread_id, "input": said}
    return json.dumps({"type": "threads.add_user_message", "params": params}).encode()


async def kinds(serving: Serving, thread_id: str) -> list[str]:
    """Return the letters of the items that are stored: a question, an answer, a note."""
    letters = {"user_message": "q", "assistant_message": "a", "sdk_hidden_context": "n"}
    return [letters[item.type] for item in await items_in(serving.database, thread_id)]


async def test_an_answer_is_stopped_by_every_other_worker(serving):
    holder, *others = serving.workers
    for other in others:
        async with answering(serving, holder) as caller:
            async with connected(serving.port, other) as stopping:
                path = f"/chatkit/threads/{caller.thread_id}/stop"
                answer = await stopping.answer("POST", path)
            stored = await kinds(serving, caller.thread_id)
            await caller.read_to_end()

        assert answer == (200, b'{"stopped": true}')
        assert stored == ["q", "a", "n"]


async def test_an_answer_is_watched_through_every_other_worker(serving):
    holder, *others = serving.workers
    async with answering(serving, holder) as caller, AsyncExitStack() as stack:
        path = f"/chatkit/threads/{caller.thread_id}/turn"
        watchers = [await stack.enter_async_context(connected(serving.port, n)) for n in others]
        last = caller.events[-1]
        for watcher in watchers:
            await watcher.ask(method="GET", path=path, body=b"", headers={"Last-Event-ID": last.id})
        for watcher in watchers:
            await watcher.read_until(b"word50 ")
        await caller.read_until(b"word50 ")

        missed = [event for event in caller.events if number_of(event.id) > number_of(last.id)]
        for watcher in watchers:
            seen = [event for event in watcher.events if event.id is not None]
            length = min(len(seen), len(missed))
            assert length > 20
            assert seen[:length] == missed[:length]


def number_of(event_id: str) -> int:
    return int(event_id.rpartition(".")[2])


async def test_an_answer_is_read_through_every_other_worker(serving):
    holder, *others = serving.workers
    async with answering(serving, holder) as caller:
        request = {"type": "threads.get_by_id", "params": {"thread_id": caller.thread_id}}
        shown = caller.text
        for other in others:
            async with connected(serving.port, other) as reader:
                _, body = await reader.answer("POST", "/chatkit", json.dumps(request).encode())
            (item,) = [
                item
                for item in json.loads(body)["items"]["data"]
                if item["type"] == "assistant_message"
            ]
            assert item["content"][0]["text"].startswith(shown)


async def test_a_message_through_another_worker_supersedes_the_answer(serving):
    holder, other, *_ = serving.workers
    async with answering(serving, holder) as first, connected(serving.port, other) as second:
        await second.ask(body=message(first.thread_id))
        await second.read_until(b"word4 ")
        await first.read_to_end()
        stored = await kinds(serving, first.thread_id)

    assert stored == ["q", "a", "n", "q"]
    assert await kinds(serving, first.thread_id) == ["q", "a", "n", "q", "a", "n"]


async def test_of_messages_through_all_workers_at_once_each_is_answered_alone(serving):
    """Each takes over from the one before it; what is stored shows if two ever answered at once."""
    async with answering(serving, serving.workers[0]) as first, AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(connected(serving.port, worker))
            for worker in serving.workers * 2
        ]
        for caller in callers:
            await caller.ask(body=message(first.thread_id))
        await first.read_to_end()
        live = callers
        with trio.fail_after(WITHIN):
            while len(live) > 1:
                live = [caller for caller in live if not await is_over(caller)]
        await live[0].read_until(b"word4 ")

    stored = "".join(await kinds(serving, first.thread_id))
    assert re.fullmatch("qan(qa?n?)*qan", stored), stored
    assert stored.count("q") == 1 + len(callers)


async def is_over(caller: Caller) -> bool:
    with trio.move_on_after(0.3):
        await caller.read_to_end()
        return True
    return False
