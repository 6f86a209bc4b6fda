"""Who comes so late to a live turn that its beginning isn't kept: the state so far, then the rest.

It is watched over HTTP, from the turn's own node and from another one, and by a repeat of its
request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    Scene,
    SlowStore,
    emit,
    pause,
    scripted_server,
)
from chatkit_trio.types import (
    CustomTask,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    ProgressUpdateEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
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

from .parts import MakeEvent, begin, fields, finish, more, within

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


# --- Items that have little in them ---------------------------------------------------------------


def task(status: Literal["loading", "complete"]) -> CustomTask:
    return CustomTask(title="look", status_indicator=status)


def workflow(scene: Scene, *tasks: CustomTask) -> WorkflowItem:
    made = Workflow(type="custom", tasks=list(tasks))
    return WorkflowItem(workflow=made, **fields(scene, "item"))


def added(make: Callable[[Scene], ThreadItem]) -> MakeEvent:
    return lambda scene: ThreadItemAddedEvent(item=make(scene))


def done(make: Callable[[Scene], ThreadItem]) -> MakeEvent:
    return lambda scene: ThreadItemDoneEvent(item=make(scene))


def update(change: Any) -> ThreadItemUpdatedEvent:
    return ThreadItemUpdatedEvent(item_id="item", update=change)


LOADING, COMPLETE = task("loading"), task("complete")
BEGIN_TASK = update(WorkflowTaskAdded(task_index=0, task=LOADING))
REPEAT_TASK = update(WorkflowTaskUpdated(task_index=0, task=LOADING))
END_TASK = update(WorkflowTaskUpdated(task_index=0, task=COMPLETE))
PICTURE = GeneratedImage(id="img", url="https://example.org/1")
LITTLE = {
    "an empty message": ([begin("item")], [more("item", "Hello")]),
    "whitespace": ([begin("item"), more("item", " ")], [more("item", "Hello")]),
    "no tasks": ([added(workflow)], [BEGIN_TASK, END_TASK]),
    "a task that goes on": ([added(lambda scene: workflow(scene, LOADING))], [END_TASK]),
    "a stored task that goes on again": (
        [done(lambda scene: workflow(scene, COMPLETE)), REPEAT_TASK],
        [END_TASK],
    ),
    "no picture": (
        [added(lambda scene: GeneratedImageItem(**fields(scene, "item")))],
        [update(GeneratedImageUpdated(image=PICTURE))],
    ),
}


@asynccontextmanager
async def beginning(kind: str) -> AsyncIterator[tuple[ChatClient, ChatClient, ClientTurn]]:
    """Begin such an item, which goes on after a minute; yield clients of two nodes and the turn."""
    before, after = LITTLE[kind]
    script = [emit(*before), NOISE, pause(60), emit(*after), pause(60)]
    cluster, policy = MemoryCluster(), TurnPolicy(max_replay_bytes=KEPT, on_disconnect="finish")
    here = scripted_server(MemoryStore[Any](cluster=cluster), script, policy=policy)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [], policy=policy)
    async with (
        ChatClient.of_app(create_app(here)) as client,
        ChatClient.of_app(create_app(there)) as other,
        client.send("Hi", idempotency_key="once") as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(30)
        yield client, other, turn


@pytest.mark.parametrize("comes", ["by a watch", "by a watch elsewhere", "by a repeat"])
@pytest.mark.parametrize("kind", LITTLE)
@within(HOUR)
async def test_who_comes_late_sees_an_item_as_the_others_do(
    kind: str, comes: str, autojump_clock: MockClock
) -> None:
    async with beginning(kind) as (client, other, turn):
        shown: list[list[ThreadItem]] = []
        if comes == "by a repeat":
            again = client.send("Hi", idempotency_key="once")
        else:
            again = (client if comes == "by a watch" else other).watch(turn.thread_id or "")
        async with again as late:
            for seconds in (15, 30):
                with trio.move_on_after(seconds):
                    await late.read()
                shown += [late.items, turn.items]

    assert shown[0] == shown[1]
    assert shown[2] == shown[3]
    assert shown[0][-1].id == shown[2][-1].id == "item"
    assert shown[0] != shown[2]


EMPTY = ["an empty message", "whitespace", "no tasks", "no picture"]


@pytest.mark.parametrize("asked", ["its node", "another node"])
@pytest.mark.parametrize("kind", LITTLE)
@within(HOUR)
async def test_who_loads_the_thread_gets_of_an_item_what_would_be_stored_of_it_now(
    kind: str, asked: str, autojump_clock: MockClock
) -> None:
    """It may be all that a client ever asks for: then nothing in it may seem to go on."""
    async with beginning(kind) as (client, other, turn):
        asking = client if asked == "its node" else other
        loaded = (await asking.thread(turn.thread_id or "")).items.data

    assert [item.id for item in loaded[1:]] == [] if kind in EMPTY else ["item"]
    assert "loading" not in "".join(item.model_dump_json() for item in loaded)
