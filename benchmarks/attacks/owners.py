"""One user who takes all there is: readers that don't read, bodies that don't end, floods."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

from benchmarks.attacks import Attack, Outcome, Victim
from benchmarks.measuring import connect, message

_MB = 1_000_000
_READERS = 200
_STALL_TIMEOUT = 4.0  # seconds; the default is 60, which only takes longer
_BODIES = 60
_BODY_BYTES = 9_900_000
_TURNS = 45
_FAST = 1.0  # seconds


# --- Readers that don't read ---------------------------------------------------------------------


def _sockets(victim: Victim) -> int:
    """Return how many sockets the server has open."""
    directory = f"/proc/{victim.process.pid}/fd"
    count = 0
    for name in os.listdir(directory):
        try:
            count += os.readlink(f"{directory}/{name}").startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return count


async def _read_slowly(stream: trio.SocketStream) -> None:
    """Read a byte a second, until the server has had enough."""
    try:
        while await stream.receive_some(1):  # noqa: ASYNC110 (it is slow on purpose)
            await trio.sleep(1)
    except trio.BrokenResourceError:
        return


async def _stalled_readers(victim: Victim, *, read: bool) -> Outcome:
    before, peak = _sockets(victim), 0
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(_READERS):
            connection = await stack.enter_async_context(connect(victim.port, 4096))
            request = message(None, deltas=2_000, size=1_000)
            await connection.request("POST", "/chatkit", request)
            if read:
                nursery.start_soon(_read_slowly, connection.stream)
            peak = max(peak, victim.rss)
        until = trio.current_time() + 12 * _STALL_TIMEOUT
        while (left := _sockets(victim) - before) > 0 and trio.current_time() < until:
            peak = max(peak, victim.rss)
            await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    status, _ = await victim.ask("GET", "/healthz")
    left = max(0, left) + (status != 200)
    return Outcome(_READERS, _READERS - left, f"at most {peak / _MB:.0f} MB")


async def _readers_of_nothing(victim: Victim) -> Outcome:
    return await _stalled_readers(victim, read=False)


async def _readers_of_a_byte(victim: Victim) -> Outcome:
    return await _stalled_readers(victim, read=True)


# --- Bodies that don't end -----------------------------------------------------------------------


async def _held_bodies(victim: Victim) -> Outcome:
    """Send all but the end of 60 long bodies, and use the chat beside them."""
    before, peak, answered = victim.rss, 0, 0
    head = f"POST /chatkit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10 * _MB}\r\n\r\n"

    async def hold() -> None:
        nonlocal answered
        async with connect(victim.port) as connection:
            try:
                await connection.stream.send_all(head.encode() + b" " * _BODY_BYTES)
                while await connection.stream.receive_some(65536):
                    answered += 1
                    return
            except trio.BrokenResourceError:
                answered += 1

    async with trio.open_nursery() as nursery:
        for _ in range(_BODIES):
            nursery.start_soon(hold)
        statuses = []
        while answered < _BODIES and len(statuses) < 60:
            peak = max(peak, victim.rss)
            status, _ = await victim.ask("POST", "/chatkit", _LIST)
            statuses.append(status)
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    grown = peak - before
    is_small = grown < 150 * _MB
    note = f"+{grown / _MB:.0f} MB at most; {answered} of {_BODIES} told off"
    return Outcome(len(statuses), statuses.count(200) if is_small else 0, note)


_LIST = {"type": "threads.list", "params": {}}


# --- Turns that block threads --------------------------------------------------------------------


async def _blocking_turns(victim: Victim) -> Outcome:
    async with AsyncExitStack() as stack:
        for _ in range(_TURNS):
            request = message(None, do="block", seconds=20)
            await stack.enter_async_context(victim.stream(request))
        async with connect(victim.port) as connection:
            await connection.request("POST", "/chatkit", message(None, deltas=10_000, pause=0.01))
            thread_id = await _thread_id(connection)
            asked: list[tuple[str, str, Any]] = [
                ("GET", "/", None),
                ("GET", "/chatkit-trio.js", None),
                ("GET", "/healthz", None),
                ("POST", "/chatkit", _LIST),
                ("POST", "/chatkit", _CREATE_ATTACHMENT),
                ("POST", f"/chatkit/threads/{thread_id}/stop", None),
            ]
            seconds: dict[str, float] = {}
            for method, path, body in asked:
                started = time.perf_counter()
                with trio.move_on_after(30):
                    status, _ = await victim.ask(method, path, body)
                    assert status == 200, (path, status)
                kind = "" if body is None else f" {body['type']}"
                seconds[path + kind] = time.perf_counter() - started
        slowest = max(seconds, key=seconds.__getitem__)
        held = sum(each < _FAST for each in seconds.values())
        return Outcome(len(seconds), held, f"slowest: {slowest}, {seconds[slowest]:.2f} s")


_CREATE_ATTACHMENT = {
    "type": "attachments.create",
    "params": {"name": "a.txt", "size": 5, "mime_type": "text/plain"},
}


async def _thread_id(connection: Any) -> str:
    async for frame in connection.frames():
        if frame.event["type"] == "thread.created":
            thread_id: str = frame.event["thread"]["id"]
            return thread_id
    raise AssertionError("no thread was created")


# --- Floods --------------------------------------------------------------------------------------


async def _flood(
    victim: Victim,
    count: int,
    allowed: int,
    send: Callable[[Any], Awaitable[int]],
    *,
    a_second: float = 0.0,
) -> Outcome:
    """Send requests as Mallory, as many as can be, and one as Ann; see who is refused.

    So many are allowed, and a few more for each second that it takes.
    """
    statuses: list[int] = []
    started = time.perf_counter()
    async with AsyncExitStack() as stack:

        async def one() -> None:
            connection = await stack.enter_async_context(connect(victim.port))
            statuses.append(await send(connection))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        ann, _ = await victim.ask("POST", "/chatkit", _LIST, [("User", "ann")])
    passed, refused = statuses.count(200), statuses.count(429)
    most = allowed + a_second * (time.perf_counter() - started) + 1
    is_held = allowed <= passed <= most and passed + refused == count and ann == 200
    held = count if is_held else 0
    return Outcome(count, held, f"{passed} passed, {refused} refused, Ann got {ann}")


_MALLORY = [("User", "mallory")]


async def _turn_flood(victim: Victim) -> Outcome:
    async def send(connection: Any) -> int:
        body = message(None, deltas=1_000_000, pause=0.05)
        status: int = await connection.request("POST", "/chatkit", body, _MALLORY)
        return status

    return await _flood(victim, 100, 5, send)


async def _request_flood(victim: Victim) -> Outcome:
    async def send(connection: Any) -> int:
        status: int = await connection.request("POST", "/chatkit", _LIST, _MALLORY)
        return status

    return await _flood(victim, 300, 100, send, a_second=100 / 60)


async def _text_flood(victim: Victim) -> Outcome:
    body = message(None, deltas=1)
    body["params"]["input"]["content"].append({"type": "input_text", "text": "x" * 300_000})

    async def send(connection: Any) -> int:
        status: int = await connection.request("POST", "/chatkit", body, _MALLORY)
        return status

    return await _flood(victim, 30, 3, send, a_second=3 / 60)


async def _file_flood(victim: Victim) -> Outcome:
    async def send(connection: Any) -> int:
        status: int = await connection.request("POST", "/chatkit", _CREATE_ATTACHMENT, _MALLORY)
        return status

    return await _flood(victim, 100, 20, send)


def _limits(**limits: int) -> dict[str, str]:
    return {"SIEGE_OWNER_LIMITS": json.dumps(limits), "SIEGE_OWNERS": "1"}


_QUICK = {"SIEGE_POLICY": json.dumps({"stall_timeout": _STALL_TIMEOUT})}

ATTACKS = (
    Attack(
        what=f"{_READERS} readers that read nothing",
        fault="F17",
        run=_readers_of_nothing,
        settings=_QUICK,
    ),
    Attack(
        what=f"{_READERS} readers of a byte a second",
        fault="F17",
        run=_readers_of_a_byte,
        settings=_QUICK,
    ),
    Attack(what=f"{_BODIES} bodies of 10 MB that don't end", fault="F17", run=_held_bodies),
    Attack(what=f"{_TURNS} turns that block a thread", fault="F16", run=_blocking_turns),
    Attack(
        what="100 answers at once of one user who may have 5",
        fault="F17",
        run=_turn_flood,
        settings=_limits(live_turns=5),
        has_bystander=False,
    ),
    Attack(
        what="300 requests at once of one user who may send 100 a minute",
        fault="F17",
        run=_request_flood,
        settings=_limits(requests_per_minute=100),
        has_bystander=False,
    ),
    Attack(
        what="9 MB of text of one user who may send 1 MB a minute",
        fault="F17",
        run=_text_flood,
        settings=_limits(text_bytes_per_minute=1_000_000),
        has_bystander=False,
    ),
    Attack(
        what="100 new files of one user who may make 20 an hour",
        fault="F17",
        run=_file_flood,
        settings=_limits(uploads_per_hour=20),
        has_bystander=False,
    ),
)
