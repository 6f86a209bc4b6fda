"""Who comes so late to a live turn that its beginning isn't kept: the state so far, then the rest.

It is watched over HTTP, from the turn's own node and from another one, and by a repeat of its
request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    SlowStore,
    emit,
    pause,
    scripted_server,
)
from chatkit_trio.types import (
    ProgressUpdateEvent,
)
from chatkit_trio.web import create_app
from tests.web.http import (
    CREATE,
    IDS,
    Client,
    Event,
    client_of,
    events_of,
    read_until,
)

from .parts import begin, finish, more, within

HOUR = 3600.0
NOISE = emit(*[ProgressUpdateEvent(text="noise" * 100)] * 20)
KEPT = 3000  # bytes: nothing is kept of what was before the noise
KEYED = {**IDS, "Idempotency-Key": "once"}


@asynccontextmanager
async def answering(
    *scripts: Sequence[Any], reads: float = 0.0, kept: int = KEPT
) -> AsyncIterator[tuple[Client, Client]]:
    """Give clients of two nodes; the first answers, and its store takes so long for each read."""
    cluster = MemoryCluster()
    policy = TurnPolicy(max_replay_bytes=kept, on_disconnect="finish", heartbeat=None)
    store = SlowStore[Any](MemoryStore(cluster=cluster), 0, reads=reads)
    here = scripted_server(store, *scripts, policy=policy)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [], policy=policy)
    async with client_of(create_app(here)) as client, client_of(create_app(there)) as other:
        yield client, other


async def begun(client: Client, until: bytes) -> str:
    """Begin an answer, and leave it when this text has come; return the thread's id."""
    async with client.open("POST", "/chatkit", CREATE, KEYED) as response:
        body = await read_until(response, until)
    [created] = [each.data for each in events_of(body) if each.data["type"] == "thread.created"]
    return str(created["thread"]["id"])


def turn_path(thread_id: str) -> str:
    return f"/chatkit/threads/{thread_id}/turn"


# --- What comes while the state is being loaded -------------------------------------------------

WORDS = [f"word{number} " for number in range(30)]


def talk() -> list[Any]:
    """Return a script that tells of its progress between the words of a message."""
    steps: list[Any] = [NOISE, emit(begin("msg_a"))]
    for number, word in enumerate(WORDS):
        progress = ProgressUpdateEvent(text=f"step{number}")
        steps += [emit(more("msg_a", word)), pause(0.2), emit(progress), pause(0.2)]
    # Time for who comes back late.
    return [*steps, emit(finish("msg_a", "".join(WORDS))), pause(60)]


async def some_of(client: Client, path: str, last: str | None, count: int) -> list[Event]:
    """Watch until so many events have come, or until the end."""
    headers = {} if last is None else {"Last-Event-ID": last}
    body = b""
    async with client.open("GET", path, b"", headers) as response:
        with suppress(trio.EndOfChannel):
            while len(events_of(body)) < count:
                body += await response.connection.receive()
    return events_of(body)


@pytest.mark.parametrize("asked", ["its node", "another node"])
@pytest.mark.parametrize("count", [1, 2, 3, 1000])
@within(HOUR)
async def test_a_late_watcher_that_is_cut_anywhere_gets_each_event_once(
    count: int, asked: str, autojump_clock: MockClock
) -> None:
    async with answering(talk(), reads=1.0) as (client, other):
        path = turn_path(await begun(client, b"word3 "))
        watcher = client if asked == "its node" else other
        events = await some_of(watcher, path, None, count)
        while events[-1].type == "message":
            following = await some_of(watcher, path, events[-1].id, count)
            assert following
            events += following

    assert (events[-1].type, events[-1].data) == ("turn.end", {"reason": "finished"})
    text, steps = text_and_steps(events[:-1])
    assert text == "".join(WORDS)
    assert steps == list(range(steps[0], len(WORDS)))
    assert steps[0] < 10


def text_and_steps(events: Sequence[Event]) -> tuple[str, list[int]]:
    """Return the message's text as a page would build it, and the progress that it was told."""
    text, steps = "", []
    for event in events:
        match event.data:
            case {"type": "thread.item.updated", "update": {"delta": delta}}:
                text += delta
            case {"type": "thread.item.added", "item": {"content": content}}:
                text = "".join(part["text"] for part in content)
            case {"type": "progress_update", "text": step}:
                steps.append(int(step.removeprefix("step")))
    return text, steps


@pytest.mark.parametrize("asked", ["its node", "another node"])
@within(HOUR)
async def test_what_is_kept_no_longer_than_the_state_is_loaded_is_not_missed(
    asked: str, autojump_clock: MockClock
) -> None:
    """A reload wouldn't help: the next load of the state takes as long."""
    async with answering(talk(), reads=1.0, kept=1) as (client, other):
        path = turn_path(await begun(client, b"word3 "))
        events = await some_of(client if asked == "its node" else other, path, None, 1000)

    assert (events[-1].type, events[-1].data) == ("turn.end", {"reason": "finished"})
    assert text_and_steps(events[:-1])[0] == "".join(WORDS)
