"""A thread that another node changes between the look of a request at it and the first writes.

Two servers on one cluster. The whole turn of one passes in that moment of the other: what comes of
both is what would come of them one after the other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.store import Opening, Store, TurnRecord
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.types import (
    InferenceOptions,
    LockedStatus,
    StructuredInputItem,
    ThreadMetadata,
    ThreadRetryAfterItemParams,
    ThreadsRetryAfterItemReq,
    ThreadStreamEvent,
    UserMessageInput,
    UserMessageItem,
    UserMessageTextContent,
)
from tests.transcript import transcript

from .parts import body_of, events_of, message_request, read_all, stream, within
from .test_same_request_twice import STREAMING, THREAD, fill

MINUTE = 60.0
MESSAGE = "msg_" + 32 * "1"


class Talker(ChatKitServer[Any]):
    """Notes whose message it has answered, and what it has found of the thread."""

    def __init__(self, store: Store[Any], locks: bool = False, title: str | None = None) -> None:
        super().__init__(store)
        self.answered: list[str] = []
        self._locks, self._title = locks, title

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        said = "" if input_user_message is None else input_user_message.content[0].text
        self.answered.append(f"{thread.title}: {said}")
        if self._title is not None:
            thread.title = self._title
        async for event in stream_text(thread, "Fine"):
            yield event
        if self._locks:
            thread.status = LockedStatus()

    async def action(self, *_: Any) -> AsyncIterator[ThreadStreamEvent]:
        self.answered.append("an action")
        return
        yield


@asynccontextmanager
async def two(**of_other: Any) -> AsyncIterator[tuple[Talker, Talker]]:
    cluster = MemoryCluster()
    here = Talker(MemoryStore[Any](cluster=cluster))
    there = Talker(MemoryStore[Any](cluster=cluster), **of_other)
    async with here, there:
        yield here, there


Meanwhile = Callable[[], Awaitable[object]]


def overtake(server: Talker, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this pass before the first writes of the server's next turn, behind its look."""
    coordination = server.store.coordination
    assert coordination is not None
    begin = coordination.begin

    async def begin_late(opening: Opening, context: Any) -> TurnRecord | None:
        monkeypatch.setattr(coordination, "begin", begin)
        await meanwhile()
        return await begin(opening, context)

    monkeypatch.setattr(coordination, "begin", begin_late)


async def told(server: Talker, body: bytes, **arguments: Any) -> list[dict[str, Any]]:
    """Carry out a request, and return its events."""
    return events_of(await read_all(await stream(server, body, **arguments)))


def refusals(events: list[dict[str, Any]]) -> list[Any]:
    return [event for event in events if event["type"] == "error"]


@pytest.mark.parametrize("kind", ["threads.add_client_tool_output", "threads.add_structured_input"])
@within(MINUTE)
async def test_of_two_answers_to_one_question_one_is_refused(
    kind: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store afterwards: the first answer, and what was made of it, once."""
    async with two() as (here, there):
        await fill(here.store)
        body = STREAMING[kind]()
        overtake(here, lambda: told(there, body.replace(b"because", b"first")), monkeypatch)
        assert refusals(await told(here, body))
        assert (here.answered, there.answered) == ([], ["None: "])
        question = await here.store.load_item(THREAD, "sin", None)
        assert isinstance(question, StructuredInputItem)
        if kind == "threads.add_structured_input":
            answer = question.inputs[0].answer
            assert answer is not None
            assert answer.values == ["first"]
        assert (await transcript(here.store, THREAD)).count("assistant: Fine") == 1


@within(MINUTE)
async def test_the_output_of_a_tool_comes_too_late_when_a_message_was_answered(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two() as (here, there):
        await fill(here.store)
        overtake(here, lambda: told(there, message_request("never mind", THREAD)), monkeypatch)
        assert refusals(await told(here, STREAMING["threads.add_client_tool_output"]()))
        assert (here.answered, there.answered) == ([], ["None: never mind"])


@within(MINUTE)
async def test_a_thread_that_was_locked_takes_no_message(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store afterwards: what was there, and the turn that has locked it."""
    async with two(locks=True) as (here, there):
        await fill(here.store)
        for body in (message_request("late", THREAD), STREAMING["threads.retry_after_item"]()):
            thread = await here.store.load_thread(THREAD, None)
            opened = ThreadMetadata(id=THREAD, created_at=thread.created_at)
            await here.store.save_thread(opened, None)
            overtake(here, lambda: told(there, message_request("more", THREAD)), monkeypatch)
            assert refusals(await told(here, body))
        assert here.answered == []
        kept = (await transcript(here.store, THREAD))[-4:]
        assert kept == ["user: more", "assistant: Fine"] * 2


@within(MINUTE)
async def test_a_retry_answers_the_message_as_it_was_edited(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = UserMessageInput(
        content=[UserMessageTextContent(text="edited")],
        attachments=[],
        inference_options=InferenceOptions(),
    )
    params = ThreadRetryAfterItemParams(thread_id=THREAD, item_id="msg_u", input=edited)
    async with two() as (here, there):
        await fill(here.store)
        edit = body_of(ThreadsRetryAfterItemReq(params=params))
        overtake(here, lambda: told(there, edit), monkeypatch)
        assert not refusals(await told(here, STREAMING["threads.retry_after_item"]()))
        assert (here.answered, there.answered) == (["None: edited"], ["None: edited"])
        assert await transcript(here.store, THREAD) == ["user: edited", "assistant: Fine"]


@within(MINUTE)
async def test_an_action_of_a_widget_that_is_gone_is_refused(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two() as (here, there):
        await fill(here.store)
        overtake(here, lambda: told(there, STREAMING["threads.retry_after_item"]()), monkeypatch)
        assert refusals(await told(here, STREAMING["threads.custom_action"]()))
        assert here.answered == []


@within(MINUTE)
async def test_a_chat_that_was_begun_meanwhile_keeps_its_title(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both messages name the chat that they begin; in the store afterwards: one after the other."""
    names = {"new_thread_id": "thr_" + 32 * "0", "answers_again": True}
    async with two(title="Taxes") as (here, there):
        first = {"new_message_id": "msg_" + 32 * "0", **names}
        overtake(here, lambda: told(there, message_request("first"), **first), monkeypatch)
        second = {"new_message_id": MESSAGE, **names}
        assert not refusals(await told(here, message_request("second"), **second))
        assert (there.answered, here.answered) == (["None: first"], ["Taxes: second"])
        thread = await here.store.load_thread("thr_" + 32 * "0", None)
        assert thread.title == "Taxes"
        said = ["user: first", "assistant: Fine", "user: second", "assistant: Fine"]
        assert await transcript(here.store, thread.id) == said


@within(MINUTE)
async def test_a_request_gives_up_on_a_thread_that_changes_each_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two() as (here, there):
        await fill(here.store)
        looks = 0

        async def change() -> None:
            nonlocal looks
            looks += 1
            item = await there.store.load_item(THREAD, "sin", None)
            assert isinstance(item, StructuredInputItem)
            [question] = item.inputs
            asked = question.model_copy(update={"question": f"Why, {looks}?"})
            changed = item.model_copy(update={"inputs": [asked]})
            await there.store.save_item(THREAD, changed, None)
            overtake(here, change, monkeypatch)

        overtake(here, change, monkeypatch)
        events = await told(here, STREAMING["threads.add_structured_input"]())
        assert "was looked at" in json.dumps(refusals(events))
        assert here.answered == []
        # Nobody waits for it.
        monkeypatch.undo()
        assert not refusals(await told(there, message_request("more", THREAD)))
