"""A server that is told to end ends, whatever hangs, and every answer is stored first.

Real processes, signals, sockets and files. What has to be in the store afterwards is what every
cut answer leaves: the message, the answer so far, and the note, once each.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import pause, say, scripted_server
from chatkit_trio.web import create_app
from chatkit_trio.web._serving import _Ending

from .failing_ends import REASON
from .hanging import NEVER_STORED, told_to_hang
from .sockets import ROOT, calling, items_in, served_by_cli
from .talker import Talker
from .test_connections import CHAT

KEPT = ["user_message", "assistant_message", "sdk_hidden_context"]
WITHIN = 30  # seconds; far less than what hangs takes


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chat.sqlite3"


@asynccontextmanager
async def hanging(database, what, *options):
    """Serve an app in which something hangs."""
    target = "tests.web.hanging:app"
    async with served_by_cli(database, *options, target=target, HANGS=what) as server:
        yield server


async def types_in(database, thread_id) -> list[str]:
    return [item.type for item in await items_in(database, thread_id)]


async def types_after_restart(database, thread_id) -> list[str]:
    async with Talker(SQLiteStore(database)):
        pass
    return await types_in(database, thread_id)


HARD = "ending the process without them"


async def hung(database, server, caller) -> None:
    """Wait until a caller has some of its answer, and then until the answer hangs."""
    await caller.read_until(b"word8 ")
    told_to_hang(database).touch()
    await server.logs("hangs now")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("thread", "(block)"),
        ("cleanup", "(hang_in_cleanup)"),
        ("nursery", "(hang_shielded)"),
        ("swallow", "(_hang)"),
    ],
)
async def test_a_turn_that_hangs_is_settled_and_left(database, what, told, number):
    async with hanging(database, what, "--drain-timeout", "0.1") as server:
        async with calling(server.port) as caller:
            await hung(database, server, caller)
            server.send_signal(getattr(signal, number))
            await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert "after_serving ran" in server.log
    assert told in server.log.partition(HARD)[2]


@pytest.mark.parametrize("what", NEVER_STORED)
async def test_an_answer_that_cannot_be_stored_is_left_to_the_journal(database, what):
    async with (
        hanging(database, what, "--drain-timeout", "0.1") as server,
        calling(server.port) as caller,
    ):
        await hung(database, server, caller)
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 3
    assert await types_in(database, caller.thread_id) == ["user_message"]
    assert await types_after_restart(database, caller.thread_id) == KEPT


async def test_the_log_names_the_task_that_computes_for_ever(database):
    async with (
        hanging(database, "busy", "--drain-timeout", "0.1") as server,
        calling(server.port) as caller,
    ):
        await hung(database, server, caller)
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert "1 answers aren't stored" in server.log
    assert "the thread MainThread is in" in server.log
    assert "(compute_for_ever)" in server.log


async def test_an_app_whose_own_shutdown_hangs_is_left(database):
    async with hanging(database, "after_serving", "--drain-timeout", "0.1") as server:
        async with calling(server.port) as caller:
            await hung(database, server, caller)
            server.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert f"the app's shutdown hasn't ended; {HARD}" in server.log


async def test_a_thread_that_python_would_wait_for_is_left(database):
    async with hanging(database, "executor", "--drain-timeout", "0.1") as server:
        async with calling(server.port) as caller:
            await hung(database, server, caller)
            server.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert "after_serving ran" in server.log
    assert f"threads haven't ended; {HARD}" in server.log


async def test_a_client_that_reads_nothing_is_hung_up_on_and_all_ends_in_order(database):
    async with (
        hanging(database, "reader", "--drain-timeout", "0.1") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word2 ")
        await trio.sleep(1)  # by now the server's sends are stuck
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert "after_serving ran" in server.log
    assert HARD not in server.log


async def test_a_view_that_hangs_does_not_keep_the_app_from_its_shutdown(database):
    async with (
        hanging(database, "view") as server,
        await trio.open_tcp_stream("127.0.0.1", server.port) as stream,
    ):
        await stream.send_all(b"GET /hang HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await server.logs("the view hangs")
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert "after_serving ran" in server.log
    assert "(hang_shielded)" in server.log.partition(HARD)[2]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_a_start_that_hangs_can_be_ended(database, number):
    async with hanging(database, "startup") as server:
        server.send_signal(getattr(signal, number))
        await server.ended(within=WITHIN)

    assert server.returncode == 0
    assert "(block)" in server.log.partition(HARD)[2]


# --- Without anything that hangs -----------------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_a_browser_that_streams_lets_go_and_all_ends_in_order(database, number):
    async with (
        hanging(database, "nothing", "--drain-timeout", "0.1") as server,
        await trio.open_tcp_stream("127.0.0.1", server.port),  # one that was opened to spare
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word8 ")
        server.send_signal(getattr(signal, number))
        await caller.read_to_end()
        closed = await caller.stream.receive_some()
        await server.ended(within=WITHIN)

    assert closed == b""
    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert "after_serving ran" in server.log
    assert HARD not in server.log
    assert not [*database.parent.glob("*lock*")]


async def test_ctrl_c_waits_for_no_answer_unless_told_to(database):
    async with hanging(database, "nothing") as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word8 ")
            server.send_signal(signal.SIGINT)
            await caller.read_to_end()
        await server.ended(within=WITHIN)

    assert "1 live answers have 0 s" in server.log
    assert await types_in(database, caller.thread_id) == KEPT


async def test_the_log_counts_the_answers_that_were_live_at_the_signal():
    """Another thread writes it, when the trio thread may have cut them."""
    async with scripted_server(MemoryStore(), [say("Hello", finish=False), pause(99)]) as server:
        ending = _Ending(create_app(server), drain_timeout=7)
        result = await server.process(CHAT, None)
        with ending.watchdog.watching(()):
            async with result:
                await result.receive()
                ending._on_signal(signal.SIGTERM)
                await server.drain(0)
            seconds, text = ending._announce(signal.SIGTERM)
            ending.watchdog.stop()

    assert not server.live_turns
    assert "1 live answers have 7 s" in text
    assert f"out in {seconds:.1f} s" in text


async def test_the_log_says_how_long_the_end_takes_at_most(database):
    """Settling 4 * 0.5 + 1 s, closing 20 + 0.3, leaving 3 * 0.5 + 20, exiting 20."""
    async with (
        hanging(database, "nothing", "--drain-timeout", "7") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word8 ")
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        await server.logs("at the latest")
        await server.ended(within=WITHIN)

    assert "shutting down; 1 live answers have 7 s; out in 71.8 s at the latest" in server.log


async def test_any_mix_of_signals_ends_it_once(database):
    async with (
        hanging(database, "nothing", "--drain-timeout", "60") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word8 ")
        for number in [signal.SIGHUP, signal.SIGTERM, signal.SIGINT] * 5:
            server.send_signal(number)
        await caller.read_to_end()
        with trio.move_on_after(WITHIN):
            while server.is_running:
                server.send_signal(signal.SIGTERM)
                await trio.sleep(0.01)

    assert server.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT
    assert "after_serving ran" in server.log
    assert HARD not in server.log


async def test_a_server_under_nohup_outlives_its_terminal(database):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with hanging(database, "nothing", "--drain-timeout", "0") as server:
            server.send_signal(signal.SIGHUP)
            async with calling(server.port) as caller:
                await caller.read_until(b"word8 ")
                server.send_signal(signal.SIGTERM)
                await server.ended(within=WITHIN)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert server.returncode == 0


async def test_a_closed_terminal_ends_the_server_in_order(database):
    """What is logged then goes nowhere; nothing may fail because of it."""
    own, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.web.in_terminal", "tests.web.hanging:app"]
    environment = {**os.environ, "TALKER_DATABASE": str(database), "HANGS": "nothing"}
    process = await trio.lowlevel.open_process(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        port = await trio.to_thread.run_sync(_port_in_terminal, own)
        async with calling(port) as caller:
            await caller.read_until(b"word8 ")
            os.close(own)
            await caller.read_to_end()
        with trio.fail_after(WITHIN):
            await process.wait()
    finally:
        if process.poll() is None:
            process.kill()

    assert process.returncode == 0
    assert await types_in(database, caller.thread_id) == KEPT


def _port_in_terminal(terminal: int) -> int:
    output = b""
    while not (found := re.search(rb"Serving on \S+:(\d+)\s", output)):
        output += os.read(terminal, 1000)
    return int(found[1])


@pytest.mark.parametrize("app", ["api", "beside", "store", "quart", "bare", "raising"])
async def test_an_app_whose_shutdown_fails_is_told_and_ends_with_1(database, app):
    async with served_by_cli(database, target=f"tests.web.failing_ends:{app}") as server:
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 1
    assert "the app's shutdown failed: " in server.log
    assert REASON in server.log


async def test_a_worker_whose_shutdown_fails_is_told_and_ends_with_1(database):
    target = "tests.web.failing_ends:api"  # without a store, which workers would have to share
    async with served_by_cli(database, "--workers", "2", target=target) as server:
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)

    assert server.returncode == 1
    assert REASON in server.log
