"""What keeps a server from ending, connections that stay open, and tabs closed at once.

The app is `benchmarks.attacks.hanging`, in which a message says what hangs. When the process has
ended, within the time that it told, every live answer has to be in the store, or in the journal if
it can't be stored.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from pathlib import Path

import trio

from benchmarks.attacks import Attack, Outcome, Victim, running_victim
from benchmarks.database import threads_in
from benchmarks.measuring import message
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import scripted_server

_HANGING = "benchmarks.attacks.hanging:app"
_WAYS = ("thread", "cleanup", "nursery", "hook", "swallow", "disk", "busy")
_UNSTORED = {"hook", "disk", "busy"}
"""Here the answer can't be stored before the end; the journal has it."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SLACK = 5.0  # seconds beyond what the server told
_TABS = 100
_KEPT = ["user_message", "assistant_message", "sdk_hidden_context"]

Attacker = Callable[[Victim], Awaitable[tuple[bool, str]]]


async def _in_a_server_of_its_own(attacker: Attacker, app: str = _HANGING) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as directory:
        async with running_victim(Path(directory), ["--drain-timeout", "0.2"], app=app) as victim:
            return await attacker(victim)


async def _hanging_ways(victim: Victim) -> Outcome:
    """Each way of hanging with each signal, in a server of its own."""
    held, notes, longest = 0, [], 0.0
    for way, number in product(_WAYS, _SIGNALS):
        began = trio.current_time()
        has_held, note = await _in_a_server_of_its_own(partial(_hang, way=way, number=number))
        longest = max(longest, trio.current_time() - began)
        held += has_held
        if not has_held:
            notes.append(f"{way}, {number.name}: {note}")
    note = "; ".join(notes) or f"longest run {longest:.1f} s"
    return Outcome(len(_WAYS) * len(_SIGNALS), held, note)


async def _hang(victim: Victim, *, way: str, number: signal.Signals) -> tuple[bool, str]:
    async with victim.stream(message(None, do=way, deltas=10)) as connection:
        frames = connection.frames()
        async for frame in frames:
            if "0000009" in json.dumps(frame.event):
                break
        await trio.sleep(0.7)
        victim.send_signal(number)
        code = await _ended_as_told(victim)
    if code is None:
        return False, "runs on"
    if code != (3 if way in _UNSTORED else 0):
        return False, f"exit code {code}"
    if way in _UNSTORED:
        # The next start settles what the journal has.
        async with scripted_server(SQLiteStore(victim.database), []):
            pass
    (thread_id,) = threads_in(victim.database)
    types = [item["type"] for item in victim.items(thread_id)]
    return types == _KEPT, str(types)


async def _ended_as_told(victim: Victim) -> int | None:
    with trio.move_on_after(5):
        while "at the latest" not in victim.log.read_text():  # noqa: ASYNC110
            await trio.sleep(0.02)
    told = re.findall(r"out in ([0-9.]+) s at the latest", victim.log.read_text())
    return await victim.ended(float(told[-1]) + _SLACK) if told else None


async def _ctrl_c(victim: Victim) -> Outcome:
    """Browsers are open: two streams, and six idle connections each."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            stream = await stack.enter_async_context(
                victim.stream(message(None, deltas=100_000, pause=0.01))
            )
            await anext(stream.frames())
            for _ in range(6):
                idle = await trio.open_tcp_stream("127.0.0.1", victim.port)
                await stack.enter_async_context(idle)
        began = trio.current_time()
        victim.send_signal(signal.SIGINT)
        code = await victim.ended(30)
        took = trio.current_time() - began
    return Outcome(1, int(code == 0 and took < 0.5), f"out in {took:.2f} s, exit code {code}")


async def _closing(victim: Victim) -> Outcome:
    """HTTP/1.0 and `Connection: close`, for a page and for a stream."""
    body = json.dumps(message(None, deltas=20)).encode()
    held, tried = 0, 0
    for version, header in (("1.0", ""), ("1.1", "Connection: close\r\n")):
        for head, data in (("GET /healthz", b""), ("GET /", b""), ("POST /chatkit", body)):
            request = f"{head} HTTP/{version}\r\nHost: 127.0.0.1\r\n{header}"
            request += f"Content-Length: {len(data)}\r\n\r\n"
            tried += 1
            held += await _is_closed(victim.port, request.encode() + data)
    return Outcome(tried, held)


async def _is_closed(port: int, request: bytes) -> bool:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        with trio.move_on_after(10):
            while await stream.receive_some():
                pass
            return True
    return False


async def _closed_tabs(victim: Victim) -> Outcome:
    """Messages whose connection is closed 0, 1 and 5 ms after the POST.

    Closed, not reset: a reset makes the system throw away what the server hasn't read yet.
    """
    body = json.dumps(message(None, deltas=3)).encode()
    head = f"POST /chatkit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    for number in range(_TABS):
        stream = await trio.open_tcp_stream("127.0.0.1", victim.port)
        await stream.send_all(head.encode() + body)
        await trio.sleep((0, 0.001, 0.005)[number % 3])
        await trio.aclose_forcefully(stream)
    await trio.sleep(3)
    answered = sum(
        [item["type"] for item in victim.items(thread_id)] == ["user_message", "assistant_message"]
        for thread_id in threads_in(victim.database)
    )
    return Outcome(_TABS, answered)


async def _tabs_with_finish(victim: Victim) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        async with running_victim(Path(directory), app=_HANGING) as finishing:
            return await _closed_tabs(finishing)


ATTACKS = (
    Attack(
        what=f"{len(_WAYS)} ways to hang, each with SIGTERM, SIGINT, SIGHUP",
        fault="F6",
        run=_hanging_ways,
        has_bystander=False,
    ),
    Attack(what="Ctrl-C with browsers open", fault="F13", run=_ctrl_c, has_bystander=False),
    Attack(what="HTTP/1.0 and Connection: close", fault="F13", run=_closing),
    Attack(
        what="tabs closed at once, with on_disconnect=finish",
        fault="F21",
        run=_tabs_with_finish,
        has_bystander=False,
    ),
)
