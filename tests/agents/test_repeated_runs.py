"""Runs that are left before their end, and other runs behind them in the same answer."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import trio

from chatkit_trio.agents import AgentContext, stream_agent_response
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, JumpClock
from chatkit_trio.types import (
    CustomTask,
    ThreadItemAddedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    Workflow,
)
from tests.transcript import transcript

from .test_made_up_runs import MadeUp, raw_events


class Cut:
    """A run that says "Hel" and then fails, or says nothing more."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    async def stream_events(self) -> AsyncIterator[Any]:
        for event in raw_events("Hel", "lo")[:4]:
            await trio.lowlevel.checkpoint()
            yield event
        if self.fails:
            raise ConnectionError("the model is gone")
        await trio.sleep_forever()


class Repeating(ChatKitServer[Any]):
    """Leaves one run, and answers with another."""

    def __init__(self, how: str, *, has_new_context: bool) -> None:
        super().__init__(MemoryStore())
        self.how = how
        self.has_new_context = has_new_context

    async def begin(self, context: AgentContext[Any]) -> None:
        pass

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        first = AgentContext[Any](thread=thread, store=self.store, request_context=context)
        await self.begin(first)
        async with aclosing(self._leave(first)) as events:
            async for event in events:
                yield event
        again = first
        if self.has_new_context:
            again = AgentContext[Any](thread=thread, store=self.store, request_context=context)
        async for event in stream_agent_response(again, MadeUp("Good", "bye")):
            yield event

    async def _leave(self, context: AgentContext[Any]) -> AsyncIterator[ThreadStreamEvent]:
        events = stream_agent_response(context, Cut(fails=self.how == "fails"))
        try:
            while True:
                with trio.fail_after(5):
                    event = await anext(events)
                yield event
                if self.how not in ("fails", "late") and "Hel" in event.model_dump_json():
                    break
        except (ConnectionError, trio.TooSlowError):
            return
        if self.how == "closed":
            await events.aclose()
        del events
        gc.collect()


WAYS = ["fails", "late", "closed", "dropped"]


@pytest.mark.parametrize("has_new_context", [False, True])
@pytest.mark.parametrize("how", WAYS)
async def test_what_was_shown_of_a_run_stays_before_what_the_next_one_says(
    how: str, has_new_context: bool, jump_clock: JumpClock
) -> None:
    server = Repeating(how, has_new_context=has_new_context)
    async with server, ChatClient.of_server(server).send("hi") as turn:
        await turn.read()
    assert await transcript(server.store, turn.thread_id) == [
        "user: hi",
        "assistant: Hel",
        "assistant: Goodbye",
    ]
    shown = [event.item.id for event in turn.events if isinstance(event, ThreadItemAddedEvent)]
    page = await server.store.load_thread_items(turn.thread_id or "", None, 10, "asc", None)
    assert shown == [item.id for item in page.data if item.id in shown]
    assert len(shown) == 2


class WithWorkflow(Repeating):
    async def begin(self, context: AgentContext[Any]) -> None:
        await context.start_workflow(Workflow(type="custom", tasks=[CustomTask(title="Look")]))


@pytest.mark.parametrize("how", WAYS)
async def test_a_workflow_of_the_context_goes_on_in_the_next_run_of_that_context(
    how: str, jump_clock: JumpClock
) -> None:
    server = WithWorkflow(how, has_new_context=False)
    async with server, ChatClient.of_server(server).send("hi") as turn:
        await turn.read()
    assert (await transcript(server.store, turn.thread_id))[1:] == [
        "workflow: Look none",
        "assistant: Hel",
        "assistant: Goodbye",
    ]
