"""A turn that is cut, anywhere, leaves a history that a model takes as input in the next turn.

The endpoint validates its input as the real API does. Each point is tried at which the model's
stream, a tool or a session waits: there the turn is stopped, and then the user goes on.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from typing import Any

import pytest
import trio
from agents import SQLiteSession

from chatkit_trio.server import Turn, current_turn
from chatkit_trio.testing import explore_cancellations
from tests.transcript import transcript

from . import script
from .model_endpoint import ModelEndpoint, refusals
from .test_misbehaving_models import at
from .ways import AgentsSDK, Native, PydanticAI, Server, asked


class Points:
    """Counts the points that a turn passes; at one of them it stops the turn, and waits there."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.cut_at = cut_at
        self.passed = 0
        self.turn: Turn[Any] | None = None
        self.token: trio.lowlevel.TrioToken | None = None

    def watch(self) -> None:
        """Stop the calling task's turn, if any."""
        self.turn, self.token = current_turn(), trio.lowlevel.current_trio_token()

    @property
    def has_cut(self) -> bool:
        return self.cut_at is not None and self.passed >= self.cut_at

    async def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.cut_at:
            assert self.turn is not None
            assert self.token is not None
            self.token.run_sync_soon(self.turn.cancel)
            if trio.lowlevel.in_trio_task():
                await trio.sleep_forever()
            await asyncio.Event().wait()
        elif trio.lowlevel.in_trio_task():
            await trio.lowlevel.checkpoint()
        else:
            await asyncio.sleep(0)


def reasoning_then_calls(count: int, number: int) -> list[Any]:
    calls = [
        event
        for index in range(count)
        for event in at(
            index + 1, script.call("work", f'{{"what": "{index}"}}', f"call_{number}_{index}")
        )
    ]
    return script.answer(*at(0, script.reasoning(f"rs_{number}", ("Hm",))), *calls)


def asking_for_tools(points: Points, tools_at_once: int, **options: Any) -> ModelEndpoint:
    """Return a model that calls tools, all of them at once, and then answers."""

    def answer(body: script.Json) -> list[Any]:
        items = body["input"] if isinstance(body["input"], list) else []
        outputs = 0
        for item in reversed(items):
            if item.get("type") == "function_call_output":
                outputs += 1
            elif item.get("role") == "user":
                break
        number = len(endpoint.requests)
        if outputs < tools_at_once:
            return reasoning_then_calls(tools_at_once, number)
        thought = at(0, script.reasoning(f"rs_{number}", ("So",)))
        return script.answer(*thought, *at(1, script.message(f"msg_{number}", "Do", "ne")))

    endpoint = ModelEndpoint(answer=answer, point=points, **options)
    return endpoint


class Watched(Server):
    """Mixed into a way: tells the points which turn to stop."""

    points: Points

    async def respond(self, thread: Any, input_user_message: Any, context: Any) -> Any:
        self.points.watch()
        try:
            async with aclosing(super().respond(thread, input_user_message, context)) as events:
                async for event in events:
                    yield event
        finally:
            self.keep(thread)

    def keep(self, thread: Any) -> None:
        """Keep what the next turn needs, as applications do, however this one ends."""


class WatchedNative(Watched, Native):
    """`run_model`, with the thread as input."""


class GoesOnFromResponse(Watched, Native):
    """`run_model`, with only the new words as input and the id of the last response."""

    previous: str | None = None

    def start(self, context: Any, agent_input: list[Any]) -> Any:
        from chatkit_trio.agents import run_model

        from .ways import native_tool

        options = {} if self.previous is None else {"previous_response_id": self.previous}
        tools = [native_tool(name, work) for name, work in self.tools.items()]
        return run_model(
            context, self.endpoint.client(), model="x", input="go on", tools=tools, **options
        )

    def keep(self, thread: Any) -> None:
        if self.run is not None:
            self.previous = self.run.previous_response_id


class WatchedSDK(Watched, AgentsSDK):
    """The SDK, with the thread as input."""


class SDKInputList(Watched, AgentsSDK):
    """The SDK, with `to_input_list()` of the last run as input."""

    kept: list[Any] = []  # noqa: RUF012

    def start(self, context: Any, agent_input: list[Any]) -> Any:
        words = {"role": "user", "content": "go on"}
        return super().start(context, [*self.kept, words])

    def keep(self, thread: Any) -> None:
        if hasattr(self.result, "to_input_list"):
            self.kept = self.result.to_input_list()


class SDKGoesOnFromResponse(Watched, AgentsSDK):
    """The SDK, with only the new words as input and the id of the last response."""

    def start(self, context: Any, agent_input: list[Any]) -> Any:
        return super().start(context, [{"role": "user", "content": "go on"}])

    def keep(self, thread: Any) -> None:
        if hasattr(self.result, "last_response_id"):
            self.options = {"previous_response_id": self.result.last_response_id}


class SlowSession(SQLiteSession):
    """The SDK's session, with points before and behind each operation."""

    def __init__(self, points: Points) -> None:
        super().__init__("s")
        self._points = points

    async def get_items(self, *args: Any, **kwargs: Any) -> Any:
        await self._points()
        items = await super().get_items(*args, **kwargs)
        await self._points()
        return items

    async def add_items(self, items: list[Any], *args: Any, **kwargs: Any) -> None:
        await self._points()
        await super().add_items(items, *args, **kwargs)
        await self._points()


class SDKSession(Watched, AgentsSDK):
    """The SDK with a session of its own."""

    def __init__(self, endpoint: Any, tools: Any) -> None:
        super().__init__(endpoint, tools)
        self.options = {"session": SlowSession(endpoint.point)}

    def start(self, context: Any, agent_input: list[Any]) -> Any:
        return super().start(context, "go on")  # type: ignore[arg-type]


class PydanticAIHistory(Watched, PydanticAI):
    """pydantic-ai, with the messages of the earlier runs."""

    def keep(self, thread: Any) -> None:
        if self.run is not None:
            self.kept = [*self.kept, *self.run.new_messages()]


HISTORIES: list[type[Watched]] = [
    WatchedNative,
    GoesOnFromResponse,
    WatchedSDK,
    SDKInputList,
    SDKGoesOnFromResponse,
    SDKSession,
    PydanticAIHistory,
]


def server_of(kind: type[Watched], points: Points, tools_at_once: int) -> Watched:
    async def work(what: str) -> str:
        await points()
        await points()
        return "done"

    server = kind(asking_for_tools(points, tools_at_once), {"work": work})
    server.points = points
    return server


@pytest.mark.parametrize("tools_at_once", [1, 3])
@pytest.mark.parametrize("kind", HISTORIES, ids=lambda kind: kind.__name__)
async def test_the_turn_after_a_cut_is_answered_wherever_the_cut_was(
    kind: type[Watched], tools_at_once: int
) -> None:
    for cut_at in itertools.count(1):
        points = Points(cut_at)
        server = server_of(kind, points, tools_at_once)
        async with server:
            first = await asked(server)
            said = await transcript(server.store, first.thread_id)
            was_cut = points.has_cut
            points.cut_at = None
            again = await asked(server, "go on", first.thread_id)

        assert server.endpoint.refused == [], f"cut at point {cut_at}"
        assert again.error is None, f"cut at point {cut_at}"
        assert again.text == "Done"
        if not was_cut:
            assert cut_at > 15
            return
        assert said[-1] == "note: stopped"
        assert first.server_turn.end_reason == "stopped"


@pytest.mark.parametrize("tools_at_once", [1, 3])
def test_the_next_input_is_taken_after_a_cut_at_each_checkpoint_on_trio(tools_at_once: int) -> None:
    """All the ways in which a turn ends early, at each point where any of its tasks waits."""
    endpoints: list[ModelEndpoint] = []

    async def work(what: str) -> str:
        await trio.sleep(0.01)
        return "done"

    def make_server(store: Any) -> Native:
        endpoints.append(asking_for_tools(Points(), tools_at_once))
        server = Native(endpoints[-1], {"work": work})
        server.store = store
        return server

    exploration = explore_cancellations(
        make_server,
        "hi",
        reasons=("stopped", "superseded", "failed"),
        troubles=(),
        step=7,
    )

    assert exploration.ends["stopped"] > 2
    assert [refused for endpoint in endpoints for refused in endpoint.refused] == []


# --- What is left out of input -----------------------------------------------------------------

USER = {"role": "user", "content": "hi"}
REASONING = script.reasoning_item("rs", "Hm")
FURTHER = script.reasoning_item("rs_2", "So")
CALL = script.call_item("work", "{}", "call_1")
OTHER = script.call_item("work", "{}", "call_2")
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "done"}
MESSAGE = script.message_item("msg", script.text_part("Hi"))

POISONED: dict[str, tuple[list[Any], list[Any]]] = {
    "nothing is open": ([USER, REASONING, CALL, OUTPUT, MESSAGE], []),
    "a call": ([USER, CALL], [CALL]),
    "a call behind reasoning": ([USER, REASONING, CALL], [REASONING, CALL]),
    "the second of two calls": ([USER, REASONING, CALL, OTHER, OUTPUT], [OTHER]),
    "the first of two calls": ([USER, REASONING, OTHER, CALL, OUTPUT], [OTHER]),
    "two calls": ([USER, REASONING, CALL, OTHER], [REASONING, CALL, OTHER]),
    "a call before more reasoning": (
        [USER, REASONING, OTHER, FURTHER, CALL, OUTPUT],
        [REASONING, OTHER],
    ),
    "calls of an earlier turn": ([USER, CALL, USER, MESSAGE], [CALL]),
    "a call of another kind": (
        [USER, {"type": "custom_tool_call", "call_id": "call_1", "name": "f", "input": ""}],
        [{"type": "custom_tool_call", "call_id": "call_1", "name": "f", "input": ""}],
    ),
}


@pytest.mark.parametrize("kind", POISONED)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_an_app_that_has_kept_open_calls_of_its_own_is_answered(
    way: type[Server], kind: str
) -> None:
    kept, left_out = POISONED[kind]
    assert bool(refusals([*kept, USER])) == bool(left_out)

    class Keeps(way):  # type: ignore[misc, valid-type]
        def start(self, context: Any, agent_input: list[Any]) -> Any:
            return super().start(context, [*kept, USER])

    endpoint = ModelEndpoint(script.answer(*script.message("m", "Hi")))
    async with Keeps(endpoint) as server:
        turn = await asked(server)

    assert turn.error is None
    assert endpoint.refused == []
    sent = [item.get("call_id", item.get("id")) for item in endpoint.requests[0]["input"]]
    expected = [item for item in [*kept, USER] if item not in left_out]
    assert sent == [item.get("call_id", item.get("id")) for item in expected]
