"""Items of tools and of a model that are open at once: a reload shows them as the page did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import trio

from chatkit_trio.agents import AgentContext, stream_agent_response
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.testing import ChatClient, ClientTurn
from chatkit_trio.types import (
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadStreamEvent,
    WidgetItem,
)
from chatkit_trio.widgets import Card, Text

from . import script
from .threads import MOMENT, collected, new_context
from .ways import asked


def card(text: str) -> Card:
    return Card(children=[Text(value=text, id="t")])


class Player(ChatKitServer[Any]):
    """Its model and tools do what a function says, which is given the context."""

    def __init__(self, play: Callable[[AgentContext[Any]], AsyncIterator[Any]]) -> None:
        super().__init__(MemoryStore())
        self._play = play

    async def respond(
        self, thread: Any, input_user_message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        run = SimpleNamespace(stream_events=lambda: self._play(agent_context))
        async for event in stream_agent_response(agent_context, run):
            yield event


async def shown_and_stored(
    play: Callable[[AgentContext[Any]], AsyncIterator[Any]],
) -> tuple[ClientTurn, list[ThreadItem]]:
    async with Player(play) as server, ChatClient.of_server(server) as client:
        turn = await asked(server)
        assert turn.thread_id is not None
        return turn, await client.items(turn.thread_id)


def raw(events: list[script.Json]) -> list[Any]:
    return [SimpleNamespace(type="raw_response_event", data=e) for e in script.parsed(events)]


def ids(items: list[ThreadItem]) -> list[str]:
    return [item.id for item in items if item.type != "user_message"]


async def test_widgets_of_two_tools_are_stored_in_the_order_of_their_beginnings() -> None:
    async def play(context: AgentContext[Any]) -> AsyncIterator[Any]:
        has_begun, other_is_shown = trio.Event(), trio.Event()

        async def growing() -> AsyncIterator[Card]:
            yield card("a")
            has_begun.set()
            await other_is_shown.wait()
            yield card("abc")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(context.stream_widget, growing())
            await has_begun.wait()
            await context.stream_widget(card("other"))
            other_is_shown.set()
        for event in raw(script.message("m", "Hi")):
            yield event

    turn, stored = await shown_and_stored(play)

    texts = [item.widget.children[0].value for item in stored if isinstance(item, WidgetItem)]
    assert texts == ["abc", "other"]
    assert ids(stored) == ids(turn.items)


async def test_a_widget_that_comes_in_the_middle_of_a_message_is_stored_behind_it() -> None:
    async def play(context: AgentContext[Any]) -> AsyncIterator[Any]:
        *first, last = raw(script.message("m", "Hello"))
        for event in first:
            yield event
        await context.stream_widget(card("beside"))
        yield last

    turn, stored = await shown_and_stored(play)

    assert [item.type for item in stored] == ["user_message", "assistant_message", "widget"]
    assert ids(stored) == ids(turn.items)
    # It is shown at once, and not when the message ends.
    assert [event.type for event in turn.events][-3:] == [
        "thread.item.added",
        "thread.item.done",
        "thread.item.done",
    ]


async def test_what_replaces_an_item_stays_behind_its_end() -> None:
    async def play(context: AgentContext[Any]) -> AsyncIterator[Any]:
        *first, last = raw(script.message("m", "Hello"))
        for event in first:
            yield event
        item = WidgetItem(
            id="w", thread_id=context.thread.id, created_at=MOMENT, widget=card("first")
        )
        await context.stream(ThreadItemDoneEvent(item=item))
        newer = item.model_copy(update={"widget": card("newer")})
        await context.stream(ThreadItemReplacedEvent(item=newer))
        yield last

    turn, stored = await shown_and_stored(play)

    assert turn.error is None
    assert isinstance(stored[-1], WidgetItem)
    assert stored[-1].widget == card("newer")


async def test_what_no_page_shows_waits_for_nothing() -> None:
    context = await new_context()
    hidden = SDKHiddenContextItem(id="h", thread_id="thr_1", created_at=MOMENT, content="x")

    async def play() -> AsyncIterator[Any]:
        *first, last = raw(script.message("m", "Hello"))
        for event in first:
            yield event
        await context.stream(ThreadItemDoneEvent(item=hidden))
        yield last

    told = await collected(stream_agent_response(context, SimpleNamespace(stream_events=play)))

    done = [event.item.type for event in told if event.type == "thread.item.done"]
    assert done == ["sdk_hidden_context", "assistant_message"]
