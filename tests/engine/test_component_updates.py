"""Updates of single components of a widget go to clients that have asked for them, and to no other.

Whatever a client gets, applying it leads to the widget that the store has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
import trio
from pydantic import TypeAdapter

from chatkit_trio._engine.widget_diff import apply_widget_update
from chatkit_trio.server import ChatKitServer, TurnPolicy, diff_widget, stream_widget
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import Scene, ScriptedServer, scripted_server
from chatkit_trio.types import (
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetComponentUpdated,
    WidgetItem,
)
from chatkit_trio.web import create_app
from chatkit_trio.widgets import DynamicWidgetComponent, DynamicWidgetRoot
from tests.web.http import IDS, client_of
from tests.web.http import events_of as sse_events_of

from .parts import events_of, message_request, read_all, stream, thread_id_of, within

HOUR = 3600.0
ASKED = {"ChatKit-Component-Updates": "1"}
ROOT, COMPONENT = "widget.root.updated", "widget.component.updated"
DELTA = "widget.streaming_text.value_delta"
UPDATE: TypeAdapter[ThreadItemUpdate] = TypeAdapter(ThreadItemUpdate)


def widget(light: str, rows: int, text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {
            "type": "Card",
            "children": [
                {"type": "Badge", "id": "light", "label": light},
                {"type": "Table", "id": "rows", "rows": rows},
                {"type": "Text", "id": "text", "value": text},
            ],
        }
    )


STATES = [
    widget("red", 1, "a"),
    widget("green", 2, "a"),  # two components at once
    widget("green", 2, "ab"),  # text only
    widget("blue", 2, "ab"),
]

Respond = Callable[[ThreadMetadata, Any, Any], AsyncIterator[Any]]


def light(label: str) -> WidgetComponentUpdated:
    component = DynamicWidgetComponent.model_validate(
        {"type": "Badge", "id": "light", "label": label}
    )
    return WidgetComponentUpdated(component_id="light", component=component)


async def streamed(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
    async def states() -> AsyncIterator[DynamicWidgetRoot]:
        for state in STATES:
            yield state
            await trio.sleep(1)

    async for event in stream_widget(thread, states()):
        yield event


def by_hand(*, is_stored: bool) -> Respond:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        item = WidgetItem(widget=STATES[0], **Scene(thread, message, context).item_fields())
        yield (ThreadItemDoneEvent if is_stored else ThreadItemAddedEvent)(item=item)
        await trio.sleep(1)
        for update in diff_widget(STATES[0], STATES[1], component_updates=True):
            yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
        for update in diff_widget(STATES[1], STATES[2]):
            yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
        await trio.sleep(1)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=light("blue"))
        await trio.sleep(1)
        if not is_stored:
            yield ThreadItemDoneEvent(item=item.model_copy(update={"widget": STATES[3]}))

    return respond


CASES: dict[str, tuple[Respond, list[str], list[str]]] = {
    "stream_widget": (
        streamed,
        [ROOT, DELTA, ROOT],
        [COMPONENT, COMPONENT, DELTA, COMPONENT],
    ),
    "updates of a widget that was begun": (
        by_hand(is_stored=False),
        [ROOT, ROOT, DELTA, ROOT],
        [COMPONENT, COMPONENT, DELTA, COMPONENT],
    ),
    "updates of a widget that is stored": (
        by_hand(is_stored=True),
        [ROOT, ROOT, DELTA, ROOT],
        [COMPONENT, COMPONENT, DELTA, COMPONENT],
    ),
}
"""By name: what is answered, and the updates for a client that hasn't asked, and one that has."""

EVERY_CASE = pytest.mark.parametrize("case", CASES)


def updates_of(events: Iterable[dict[str, Any]]) -> list[str]:
    return [e["update"]["type"] for e in events if e["type"] == "thread.item.updated"]


def shown_by(events: Iterable[dict[str, Any]]) -> Any:
    """Return the widget that a client shows which has got these events."""
    shown: Any = None
    for event in events:
        item = event.get("item", {})
        if item.get("type") == "widget":
            shown = DynamicWidgetRoot.model_validate(item["widget"])
        elif event["type"] == "thread.item.updated":
            shown = apply_widget_update(shown, UPDATE.validate_python(event["update"]))  # type: ignore[arg-type]
    return shown.model_dump(exclude_none=True)


def told(body: bytes) -> list[dict[str, Any]]:
    """Return the events of the protocol in a whole answer."""
    return [event.data for event in sse_events_of(body) if event.type == "message"]


async def stored_widget(store: Store[Any], thread_id: str) -> Any:
    page = await store.load_thread_items(thread_id, None, 10, "asc", None)
    [item] = [item for item in page.data if isinstance(item, WidgetItem)]
    return item.widget.model_dump(exclude_none=True)


LAST = STATES[-1].model_dump(exclude_none=True)


@pytest.mark.parametrize("has_asked", [False, True])
@EVERY_CASE
@within(HOUR)
async def test_a_client_gets_updates_of_components_only_if_it_asks(
    case: str, has_asked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    respond, plain, asked = CASES[case]
    async with ScriptedServer(MemoryStore(), respond) as server:
        frames = await read_all(
            await stream(server, message_request(), component_updates=has_asked)
        )
        events = events_of(frames)

        assert updates_of(events) == (asked if has_asked else plain)
        assert shown_by(events) == LAST
        assert await stored_widget(server.store, thread_id_of(frames)) == LAST


@EVERY_CASE
@within(HOUR)
async def test_each_watcher_of_a_turn_gets_what_it_has_asked_for(
    case: str, autojump_clock: trio.testing.MockClock
) -> None:
    respond, _, asked = CASES[case]
    async with ScriptedServer(MemoryStore(), respond) as server:
        result = await stream(server, message_request(), component_updates=True)
        async with result:
            first = [await anext(result)]
            thread_id = thread_id_of(first)
            plain = server.watch(thread_id)
            asking = server.watch(thread_id, component_updates=True)
            assert plain is not None
            assert asking is not None
            async with plain, asking:
                own = [frame async for frame in result]
                seen = events_of([frame async for frame in plain])
                seen_asking = events_of([frame async for frame in asking])

        assert updates_of(events_of(own)) == asked
        assert updates_of(seen_asking) == asked
        assert COMPONENT not in updates_of(seen)
        assert shown_by(seen) == shown_by(seen_asking) == LAST


@pytest.mark.parametrize("has_asked", [False, True])
@within(HOUR)
async def test_a_watcher_on_another_node_gets_what_it_has_asked_for(
    has_asked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    here = ScriptedServer(MemoryStore[Any](cluster=cluster), streamed)
    there: ChatKitServer[Any] = scripted_server(MemoryStore[Any](cluster=cluster), [])
    async with here, there:
        result = await stream(here, message_request(), component_updates=True)
        async with result, trio.open_nursery() as nursery:
            thread_id = thread_id_of([await anext(result)])
            nursery.start_soon(read_all, result)
            await trio.sleep(0.5)
            follow = await there.follow(thread_id, component_updates=has_asked)
            assert follow is not None
            events = events_of(await read_all(follow))

    kinds = [COMPONENT, COMPONENT, DELTA, COMPONENT] if has_asked else [ROOT, ROOT, DELTA, ROOT]
    assert updates_of(events) == kinds
    assert shown_by(events) == LAST


@pytest.mark.parametrize("has_asked", [False, True])
@within(HOUR)
async def test_a_repeat_of_the_request_gets_what_it_has_asked_for(
    has_asked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with ScriptedServer(MemoryStore(), streamed) as server:
        first = await stream(server, message_request(), component_updates=True, idempotency_key="k")
        async with first:
            await anext(first)
            again = await stream(
                server, message_request(), component_updates=has_asked, idempotency_key="k"
            )
            async with again:
                await anext(again)
                async for _ in first:
                    pass
                events = events_of([frame async for frame in again])

    assert (COMPONENT in updates_of(events)) == has_asked
    assert shown_by(events) == LAST


@pytest.mark.parametrize("has_asked", [False, True])
@within(HOUR)
async def test_over_http_a_header_asks_for_them(
    has_asked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    respond, plain, asked = CASES["stream_widget"]
    headers = ASKED if has_asked else {}
    server = ScriptedServer(MemoryStore[Any](), respond, policy=TurnPolicy(return_timeout=60))
    async with client_of(create_app(server)) as client:
        body = message_request()
        answer = await client.ask("POST", "/chatkit", body, headers)
        expected = asked if has_asked else plain
        assert updates_of(told(answer.body)) == expected

        async with client.open("POST", "/chatkit", body, {**IDS, **ASKED}) as response:
            [created] = events_of([await response.connection.receive()])[:1]
        path = f"/chatkit/threads/{created['thread']['id']}/turn"
        watched = await client.ask("GET", path, headers=headers)
        assert updates_of(told(watched.body)) == (asked if has_asked else [ROOT, ROOT, DELTA, ROOT])


@within(HOUR)
async def test_a_client_that_reads_nothing_is_waited_for_whatever_it_has_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The backpressure counts what the client will get: with the whole widget that is more."""
    big = DynamicWidgetRoot.model_validate(
        {
            "type": "Card",
            "children": [
                {"type": "Badge", "id": "light", "label": "red"},
                {"type": "Text", "value": "x" * 1000},
            ],
        }
    )
    yielded = 0

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal yielded
        item = WidgetItem(widget=big, **Scene(thread, message, context).item_fields())
        yield ThreadItemAddedEvent(item=item)
        for number in range(1000):
            yield ThreadItemUpdatedEvent(item_id=item.id, update=light(str(number)))
            yielded += 1

    counts: list[int] = []
    for has_asked in (False, True):
        yielded = 0
        policy = TurnPolicy(max_unread_bytes=20_000, stall_timeout=None)
        async with ScriptedServer(MemoryStore(), respond, policy=policy) as server:
            result = await stream(server, message_request(), component_updates=has_asked)
            async with result:
                await anext(result)
                await trio.sleep(5)
                counts.append(yielded)
                rest = [frame async for frame in result]
            assert len(rest) > 1000
            thread_id = result.turn.thread_id
            assert [item.type for item in await items(server.store, thread_id)] == ["user_message"]
    assert counts[0] < 25
    assert 50 < counts[1] < 200


async def items(store: Store[Any], thread_id: str) -> list[Any]:
    page = await store.load_thread_items(thread_id, None, 10, "asc", None)
    return [item for item in page.data if item.type != "widget"]
