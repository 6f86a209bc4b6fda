"""Actions and answers don't supersede what is under way: a second click cuts nothing short."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.actions import Action
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import ChatClient, RequestRefused
from chatkit_trio.types import ChatKitReq, ProgressUpdateEvent

from .scenes import bounded

BOOK: Action[str, Any] = Action(type="book", payload=None)


class Bookings(ChatKitServer[None]):
    """Books in two steps, between which a second click may come."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps: list[str] = []
        self.has_begun = trio.Event()
        self.go_on = trio.Event()

    async def respond(self, thread: Any, input_user_message: Any, context: None) -> Any:
        await trio.lowlevel.checkpoint()
        self.steps.append("answered")
        yield ProgressUpdateEvent(text="well")

    async def action(
        self, thread: Any, action: Any, sender: Any, context: None
    ) -> AsyncIterator[ProgressUpdateEvent]:
        self.steps.append("begun")
        yield ProgressUpdateEvent(text="booking")
        self.has_begun.set()
        await self.go_on.wait()
        self.steps.append("booked")


async def new_thread(client: ChatClient) -> str:
    async with client.send("hi") as turn:
        await turn.read()
    return turn.thread_id


async def click(client: ChatClient, thread_id: str) -> None:
    async with client.act(thread_id, BOOK) as turn:
        await turn.read()


@bounded
async def test_a_second_click_waits_for_the_first() -> None:
    async with Bookings(MemoryStore()) as server, ChatClient.of_server(server) as client:
        thread_id = await new_thread(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, client, thread_id)
            await server.has_begun.wait()
            nursery.start_soon(click, client, thread_id)
            await trio.testing.wait_all_tasks_blocked()
            server.go_on.set()

    assert server.steps == ["answered", "begun", "booked", "begun", "booked"]


@bounded
async def test_a_click_on_another_server_waits_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    async with (
        Bookings(MemoryStore(cluster=cluster)) as one,
        Bookings(MemoryStore(cluster=cluster)) as two,
        ChatClient.of_server(one) as client,
        ChatClient.of_server(two) as other,
    ):
        two.steps = one.steps
        two.go_on = one.go_on
        thread_id = await new_thread(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, client, thread_id)
            await one.has_begun.wait()
            nursery.start_soon(click, other, thread_id)
            await trio.sleep(60)
            one.go_on.set()

    assert one.steps == ["answered", "begun", "booked", "begun", "booked"]


@bounded
async def test_a_message_still_supersedes_an_action() -> None:
    async with Bookings(MemoryStore()) as server, ChatClient.of_server(server) as client:
        thread_id = await new_thread(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, client, thread_id)
            await server.has_begun.wait()
            async with client.send("stop that", thread_id) as turn:
                await turn.read()

    assert server.steps == ["answered", "begun", "answered"]


@bounded
async def test_a_server_that_rejects_rejects_clicks_as_well() -> None:
    policy = TurnPolicy(on_busy="reject")
    async with (
        Bookings(MemoryStore(), policy=policy) as server,
        ChatClient.of_server(server) as client,
    ):
        thread_id = await new_thread(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, client, thread_id)
            await server.has_begun.wait()
            with pytest.raises(RequestRefused):
                await click(client, thread_id)
            server.go_on.set()

    assert server.steps == ["answered", "begun", "booked"]


@bounded
async def test_an_application_may_let_actions_supersede() -> None:
    class Eager(Bookings):
        def get_turn_policy(self, request: ChatKitReq, context: None) -> TurnPolicy:
            return replace(super().get_turn_policy(request, context), on_busy="supersede")

    async with Eager(MemoryStore()) as server, ChatClient.of_server(server) as client:
        thread_id = await new_thread(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, client, thread_id)
            await server.has_begun.wait()
            nursery.start_soon(click, client, thread_id)
            await trio.testing.wait_all_tasks_blocked()
            server.go_on.set()

    assert server.steps == ["answered", "begun", "begun", "booked"]
