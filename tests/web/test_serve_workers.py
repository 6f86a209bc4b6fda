"""`chatkit-trio serve --workers N`: several processes on one port that start, are replaced and end.

Real processes, signals and files. That the workers share threads is in `test_workers.py`.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from chatkit_trio.web._serving import _hang_up
from chatkit_trio.web._workers import Child

from .sockets import (
    ROOT,
    Caller,
    ServerProcess,
    calling,
    children_of,
    connected,
    is_alive,
    items_in,
    running,
    served_by_cli,
    until,
)
from .test_ends import hung

TALKER = "tests.web.talker:app"
CUT = ["user_message", "assistant_message", "sdk_hidden_context"]
WHOLE = CUT[:2]
WITHIN = 60  # seconds


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chat.sqlite3"


@asynccontextmanager
async def served(
    database: Path, count: int, *options: str, target: str = TALKER, **environment: str
) -> AsyncIterator[tuple[ServerProcess, list[int]]]:
    """Serve with so many workers; yield the parent and the workers' process ids."""
    options = ("--workers", str(count), *options)
    async with served_by_cli(database, *options, target=target, **environment) as server:
        workers = children_of(server.pid)
        try:
            yield server, workers
        finally:
            # A parent that is killed leaves it to them to end.
            for pid in workers:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


async def all_ended(pids: list[int]) -> None:
    with trio.fail_after(WITHIN):
        await until(lambda: not any(map(is_alive, pids)))


async def replaced(server: ServerProcess, worker: int) -> int:
    """Wait until another worker stands in for this one; return its process id."""
    before = {worker, *children_of(server.pid)}
    with trio.fail_after(WITHIN):
        await until(lambda: not {*children_of(server.pid)} <= before)
        (new,) = {*children_of(server.pid)} - before
    return new


@asynccontextmanager
async def answering(port: int, workers: list[int]) -> AsyncIterator[list[Caller]]:
    """Have each of these workers answer a message."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(connected(port, each)) for each in workers]
        for caller in callers:
            await caller.ask()
        for caller in callers:
            await caller.read_until(b"word4 ")
        yield callers


async def kept(database: Path, callers: list[Caller]) -> list[list[str]]:
    return [[item.type for item in await items_in(database, each.thread_id)] for each in callers]


# --- The start -----------------------------------------------------------------------------------


async def test_every_worker_answers_on_the_one_port_that_is_told_once(database):
    async with served(database, 3) as (server, workers):
        for pid in workers:
            async with connected(server.port, pid) as caller:
                assert (await caller.answer("GET", "/healthz"))[0] == 200

    assert len(workers) == 3
    assert server.log.count("Serving on") == 1


async def test_workers_are_not_told_the_port_by_the_environment(database):
    environment = {"PORT": "tcp://10.0.0.1:80"}
    async with (
        served(database, 1, "--reload", **environment) as (server, _),
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word1 ")


MODULE = """
from chatkit_trio.stores import MemoryStore
from chatkit_trio.stores.memory import MemoryCluster
from chatkit_trio.testing import StoreWrapper, say, scripted_server
from chatkit_trio.web import create_app

app = create_app(scripted_server({store}, [say("Hello")]))

class Middleware:
    async def __call__(self, *arguments):
        await app(*arguments)

wrapped = Middleware()
"""


async def failing(directory: Path, target: str, *options: str) -> tuple[int | None, str]:
    """Serve a module of this directory with two workers; return the exit code and the log."""
    command = [sys.executable, "-m", "chatkit_trio", "serve", target, "--port", "0"]
    result = await trio.run_process(
        [*command, "--workers", "2", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    return result.returncode, (result.stdout + result.stderr).decode()


@pytest.mark.parametrize(
    ("store", "name"),
    [
        ("MemoryStore()", "app"),
        ("MemoryStore(cluster=MemoryCluster())", "wrapped"),
        ("StoreWrapper(MemoryStore(cluster=MemoryCluster()))", "app"),
    ],
)
async def test_a_store_that_processes_cannot_share_is_refused(tmp_path, store, name):
    (tmp_path / "served_here.py").write_text(MODULE.format(store=store))

    code, log = await failing(tmp_path, f"served_here:{name}")

    assert code == 1
    assert f"{store.partition('(')[0]} has no coordination between processes" in log
    assert "Serving on" not in log


async def test_a_worker_that_cannot_start_ends_all_with_its_error_told_once(tmp_path):
    code, log = await failing(tmp_path, "nowhere:app")

    assert code == 1
    assert log.count("nowhere:app can't be loaded: No module named 'nowhere'") == 1
    assert "Traceback" not in log


async def test_a_wrong_target_has_the_exit_code_that_it_has_with_one_process(tmp_path):
    code, _ = await failing(tmp_path, "nowhere")

    assert code == 2


async def test_options_reach_the_workers(database):
    options = ("--allowed-host", "chat.example.org", "--drain-timeout", "7.5")
    async with served(database, 2, *options) as (server, workers):
        async with answering(server.port, workers[:1]) as (caller,):
            with trio.fail_after(WITHIN):
                stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: chat.example.org\r\n\r\n")
                status = (await stream.receive_some()).split()[1]
                await stream.aclose()
            server.send_signal(signal.SIGTERM)
            await server.logs("1 live answers have 7.5 s")
            server.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert status == b"200"


# --- The end -------------------------------------------------------------------------------------


async def refused(port: int) -> None:
    """Wait until nobody listens on the port."""
    with trio.fail_after(WITHIN), suppress(OSError):
        while True:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            await trio.sleep(0.02)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_a_signal_to_the_parent_ends_all_workers_in_order(database, number):
    async with served(database, 2, "--drain-timeout", "0.1") as (server, workers):
        async with answering(server.port, workers) as callers:
            server.send_signal(getattr(signal, number))
            for caller in callers:
                await caller.read_to_end()
        await server.ended(within=WITHIN)
        left = [pid for pid in workers if is_alive(pid)]

    assert server.returncode == 0
    assert left == []
    assert await kept(database, callers) == [CUT] * 2
    assert not [*database.parent.glob("*-instance-*")]


async def test_a_supervisor_that_signals_all_processes_has_signalled_once(database):
    """The second signal would end the draining."""
    async with served(database, 2, "--drain-timeout", "60", TALKER_COUNT="150") as (
        server,
        workers,
    ):
        async with answering(server.port, workers) as callers:
            for pid in (*workers, server.pid):
                os.kill(pid, signal.SIGTERM)
            for caller in callers:
                await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert await kept(database, callers) == [WHOLE] * 2


async def test_workers_that_drain_refuse_connections_and_a_second_signal_hastens_them(database):
    async with served(database, 2, "--drain-timeout", "60") as (server, workers):
        async with answering(server.port, workers) as callers:
            server.send_signal(signal.SIGTERM)
            await refused(server.port)
            server.send_signal(signal.SIGTERM)
            for caller in callers:
                await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert await kept(database, callers) == [CUT] * 2


async def test_ctrl_c_at_a_terminal_reaches_each_worker_once(database):
    own, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.web.in_terminal", TALKER, "--workers", "2"]
    environment = {**os.environ, "TALKER_DATABASE": str(database), "TALKER_COUNT": "150"}
    process = await trio.lowlevel.open_process(
        [*command, "--drain-timeout", "60"],
        cwd=ROOT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""

    def read_until(pattern: bytes) -> re.Match[bytes]:
        nonlocal output
        while not (found := re.search(pattern, output)):
            output += os.read(own, 1000)
        return found

    try:
        port = int((await trio.to_thread.run_sync(read_until, rb"Serving on \S+:(\d+)\s"))[1])
        async with answering(port, children_of(process.pid)) as callers:
            os.write(own, b"\x03")
            for caller in callers:
                await caller.read_to_end()
        with trio.fail_after(WITHIN):
            await process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        os.close(own)

    assert process.returncode == 0
    assert await kept(database, callers) == [WHOLE] * 2


async def test_workers_whose_parent_was_killed_end_in_order(database):
    async with served(database, 2, "--drain-timeout", "0.1") as (server, workers):
        async with answering(server.port, workers) as callers:
            server.kill()
            for caller in callers:
                await caller.read_to_end()
        await all_ended(workers)

    assert await kept(database, callers) == [CUT] * 2


async def test_the_exit_code_is_the_worst_of_the_workers(database):
    """One has an answer that can't be stored, the other has none at all."""
    target = "tests.web.hanging:app"
    options = ("--drain-timeout", "0.1")
    async with (
        served(database, 2, *options, target=target, HANGS="disk") as (server, workers),
        calling(server.port) as caller,
    ):
        await hung(database, server, caller)
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 3
    assert not any(map(is_alive, workers))


# --- Replacement ---------------------------------------------------------------------------------


async def test_a_killed_worker_is_replaced_and_the_others_go_on(database):
    async with (
        served(database, 2, TALKER_COUNT="300") as (server, workers),
        answering(server.port, workers) as (of_killed, other),
    ):
        await of_killed.read_until(b"word90 ")  # a checkpoint has been made
        os.kill(workers[0], signal.SIGKILL)
        new = await replaced(server, workers[0])
        async with connected(server.port, new) as caller:
            await caller.answer("GET", "/healthz")
        await other.read_to_end()
        thread_ids = [of_killed.thread_id, other.thread_id]
        await server.logs(f"worker {workers[0]} ended (SIGKILL); another starts in 0.5 s")
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert caller.status == 200
    assert server.returncode == 0
    types = [[item.type for item in await items_in(database, each)] for each in thread_ids]
    assert types == [CUT, WHOLE]


async def test_a_worker_that_is_told_to_end_drains_and_is_replaced(database):
    """So workers can be renewed one by one."""
    async with (
        served(database, 2, "--drain-timeout", "60", TALKER_COUNT="150") as (server, workers),
        answering(server.port, workers) as callers,
    ):
        os.kill(workers[0], signal.SIGTERM)
        new = await replaced(server, workers[0])
        async with connected(server.port, new):
            pass
        for caller in callers:
            await caller.read_to_end()

    assert await kept(database, callers) == [WHOLE] * 2


async def test_hanging_up_leaves_the_socket_that_workers_share():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener:
        first = await trio.open_tcp_stream("127.0.0.1", port)
        accepted = await listener.accept()
        _hang_up([port])
        second = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(WITHIN):
            await (await listener.accept()).aclose()
            assert await first.receive_some() == b""
        for stream in (first, second, accepted):
            await stream.aclose()


# --- The parent, with workers that are scripts ----------------------------------------------------


@asynccontextmanager
async def fakes(tmp_path: Path, script: str, count: int = 2) -> AsyncIterator[ServerProcess]:
    (tmp_path / "worker.py").write_text(script)
    command = [sys.executable, "-m", "tests.web.fake_workers", str(count), str(tmp_path)]
    async with running(command, tmp_path, "Serving on") as server:
        yield server


async def test_a_worker_that_hangs_is_killed_within_the_time_that_was_told(tmp_path):
    script = "start()\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)"
    async with fakes(tmp_path, script) as server:
        workers = children_of(server.pid)
        server.send_signal(signal.SIGTERM)
        seconds = await server.ended(within=WITHIN)

    told = re.search(r"shutting down 2 workers; out in (\S+) s at the latest", server.log)
    assert told is not None
    assert float(told[1]) == pytest.approx(0.2 + 0.3 + 0.2)
    assert seconds < WITHIN / 2
    assert server.returncode == 1
    with trio.fail_after(WITHIN):
        while any(map(is_alive, workers)):  # noqa: ASYNC110  (the system takes its time)
            await trio.sleep(0.01)
    for pid in workers:
        assert f"worker {pid} hasn't ended and is killed" in server.log


async def test_what_a_worker_has_said_before_it_ended_is_heard():
    """Else one that starts and dies at once is taken for one that couldn't start."""
    channel, of_the_worker = socket.socketpair()
    channel.setblocking(False)
    with of_the_worker:
        of_the_worker.sendall(b"loaded 1 2\nready\n")
    process = await trio.lowlevel.open_process([sys.executable, "-c", ""])
    await process.wait()
    child = Child(process, channel)

    assert await child.run(lambda: None) == 0
    assert child.is_ready


async def test_workers_that_die_soon_are_replaced_later_each_time(tmp_path):
    script = """
start()
while number == 1 and not os.path.exists(f"{sys.argv[2]}/started-2"):
    time.sleep(0.01)
if number != 2:
    sys.exit(7)
channel.recv(1)
"""
    async with fakes(tmp_path, script) as server:
        await server.logs("another starts in 0.4 s")
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    delays = re.findall(r"worker \d+ ended \(exit code 7\); another starts in (\S+) s", server.log)
    assert delays[:3] == ["0.1", "0.2", "0.4"]
    assert server.returncode == 0


async def test_a_replacement_that_cannot_start_leaves_the_others_alone(tmp_path):
    script = """
if 3 <= number <= 4:
    sys.exit(1)
if number == 1:
    with open(f"{sys.argv[2]}/pid-1", "w") as file:
        file.write(str(os.getpid()))
start()
if number == 2:
    time.sleep(0.3)
    sys.exit(0)
channel.recv(1)
"""
    async with fakes(tmp_path, script) as server:
        first = int((tmp_path / "pid-1").read_text())
        with trio.fail_after(WITHIN):
            await until((tmp_path / "started-5").exists)
        assert is_alive(first)
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.log.count("could not start (exit code 1); another starts in") == 2
    assert server.returncode == 0


async def test_ending_a_worker_that_is_not_loaded_yet_is_no_failure(tmp_path):
    """It has nothing to lose; a supervisor must not take the end of the others for a failure."""
    script = """
if number == 3:
    time.sleep(1000)
start()
if number == 2:
    sys.exit(0)
channel.recv(1)
"""
    async with fakes(tmp_path, script) as server:
        with trio.fail_after(WITHIN):
            await until((tmp_path / "started-3").exists)
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 0


async def test_all_end_when_no_worker_serves_and_none_can_start(tmp_path):
    script = """
if number > 2:
    sys.exit(1)
start()
while not os.path.exists(f"{sys.argv[2]}/end"):
    time.sleep(0.01)
sys.exit(1)
"""
    async with fakes(tmp_path, script) as server:
        (tmp_path / "end").touch()
        await server.ended(within=WITHIN)

    assert "could not start (exit code 1); all end" in server.log
    assert server.returncode == 1


async def test_a_log_that_nobody_reads_does_not_hold_up_the_end(tmp_path):
    """The parent has something to say for each of many workers that end."""
    (tmp_path / "worker.py").write_text(
        "start()\nif number != 1: sys.exit(7)\nchannel.recv(1)\nsys.exit(0)"
    )
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, b"." * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writing, True)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.web.fake_workers", "2", str(tmp_path)],
        cwd=ROOT,
        stderr=writing,
    )
    try:
        with trio.fail_after(WITHIN):
            await until((tmp_path / "started-4").exists)
            process.terminate()
            await process.wait()
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)

    assert process.returncode is not None
