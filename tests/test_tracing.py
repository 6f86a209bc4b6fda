"""Spans of turns, as a collector gets them: their parents, their reasons, and no text."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, user_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from chatkit_trio.agents import run_on_asyncio
from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.observe import owner_hash
from chatkit_trio.server import TurnPolicy, current_turn
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import ChatClient, do, fail, pause, say, scripted_server
from chatkit_trio.tracing import Tracing
from chatkit_trio.web import create_app

from .agents import script
from .agents.model_endpoint import ModelEndpoint
from .agents.ways import Native
from .all_ends import ENDS, SECRET, let_end
from .engine.doubles import TroubledStore, fails, once
from .engine.scenes import ask, sending, thread_of
from .test_journal import leave_two_turns_behind
from .web.http import CREATE, client_of

CONVENTIONS = {
    value
    for module in (gen_ai_attributes, user_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"


class Collector:
    """What a collector has got, and the tracer of the code that is watched."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def watch(self, server: Any) -> None:
        server.observe(Tracing(self.provider))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def tree(self) -> dict[str, str | None]:
        """Return the name of each span's parent, by the span's name."""
        names = {span.context.span_id: span.name for span in self.spans}
        return {s.name: None if s.parent is None else names[s.parent.span_id] for s in self.spans}

    def span_around(self, name: str, seconds: float = 0.0) -> Any:
        """Return a step of a script, or of a task, that has a span of its own."""

        async def work(scene: Any = None) -> None:
            with self.tracer.start_as_current_span(name):
                await trio.sleep(seconds)

        return work


@pytest.fixture
def collector():
    return Collector()


@pytest.mark.parametrize("reason", ENDS)
async def test_a_turn_is_one_span_with_the_reason_of_its_end(reason, collector, autojump_clock):
    turn = await let_end(reason, collector.watch)

    (span,) = [
        each
        for each in collector.spans
        if each.name == "turn threads.create" and each.attributes["chatkit.turn.id"] == turn.id
    ]
    is_failure = reason in ("failed", "crashed")
    errors = {"failed": {"error.type": "RuntimeError"}, "crashed": {"error.type": "crashed"}}
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": turn.thread_id,
        "chatkit.request": "threads.create",
        "chatkit.turn.id": turn.id,
        "chatkit.turn.reason": reason,
        "chatkit.turn.is_cut": reason not in ("finished", "failed", "crashed"),
        "chatkit.turn.events": turn.log.next_number,
        **errors.get(reason, {}),
    }
    assert span.status.status_code is (StatusCode.ERROR if is_failure else StatusCode.UNSET)
    assert [each.name for each in span.events] == ["chatkit.turn.began", "chatkit.turn.first_event"]
    (settle,) = [
        each
        for each in collector.spans
        if each.name == "settle" and each.parent.span_id == span.context.span_id
    ]
    assert settle.attributes["chatkit.settle.is_stored"] is True
    assert settle.status.status_code is StatusCode.UNSET
    recovered = [each for each in collector.spans if each.name == "turn recovered"]
    assert [each.attributes["chatkit.turn.id"] for each in recovered] == (
        [turn.id] if reason == "crashed" else []
    )
    assert SECRET not in "".join(each.to_json() for each in collector.spans)


async def test_each_attribute_is_of_the_conventions_or_ours(collector, jump_clock):
    await answer_with_a_tool(collector)
    await let_end("failed", collector.watch)

    names = {name for span in collector.spans for name in span.attributes}
    assert {name for name in names if not name.startswith("chatkit.")} <= CONVENTIONS


async def test_the_turn_of_a_dead_process_is_told_when_it_is_recovered(collector, tmp_path):
    await leave_two_turns_behind(tmp_path / "chat.sqlite3")
    server = scripted_server(SQLiteStore(tmp_path / "chat.sqlite3"), [])
    collector.watch(server)
    async with server:
        pass

    told = {
        s.attributes["chatkit.turn.id"]: s.attributes["chatkit.turn.reason"]
        for s in collector.spans
    }
    assert told == {"turn_a": "crashed", "turn_b": "crashed"}
    assert {span.status.status_code for span in collector.spans} == {StatusCode.ERROR}


async def test_a_turn_that_can_t_begin_is_an_error_only_if_it_isn_t_the_clients(
    collector, autojump_clock
):
    store = TroubledStore(MemoryStore())
    policy = TurnPolicy(on_busy="queue")
    server = scripted_server(store, [say("Hi")], [pause(9)], [say("Hi")], policy=policy)
    collector.watch(server)
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "one", thread_id), sending(server, "two", thread_id) as second:
            await trio.sleep(1)
            await server.store.delete_thread(thread_id, None)
            await second.read()
        store.give(once(fails()), "add_thread_item")
        await ask(server)

    refused = [s for s in collector.spans if s.attributes.get("chatkit.turn.reason") == "refused"]
    assert [(s.attributes["error.type"], s.status.status_code) for s in refused] == [
        (f"{NotFoundError.__module__}.NotFoundError", StatusCode.UNSET),
        (f"{StoreError.__module__}.StoreError", StatusCode.ERROR),
    ]


# --- Parents and children ----------------------------------------------------------------------


async def test_spans_of_user_code_are_below_the_turn(collector, jump_clock):
    class Server(type(scripted_server(MemoryStore(), []))):
        async def handle_stream_cancelled(self, thread, pending_items, context):
            await collector.span_around("in the hook")()
            await super().handle_stream_cancelled(thread, pending_items, context)

    def start_task(scene):
        current_turn().nursery.start_soon(collector.span_around("in a task"))

    async def on_asyncio(scene):
        async def work():
            with collector.tracer.start_as_current_span("on asyncio"):
                pass

        await run_on_asyncio(work)

    steps = [do(start_task), do(collector.span_around("in respond")), do(on_asyncio), pause(99)]
    script_of = scripted_server(MemoryStore(), [say("Hello"), *steps]).script
    server = Server(MemoryStore(), script_of)
    collector.watch(server)
    async with server, sending(server) as turn:
        await trio.sleep(50)
        await server.stop(turn.server_turn.thread_id)

    assert collector.tree() == {
        "turn threads.create": None,
        "in respond": "turn threads.create",
        "in a task": "turn threads.create",
        "on asyncio": "turn threads.create",
        "settle": "turn threads.create",
        "in the hook": "settle",
    }


async def test_turns_at_the_same_time_are_traces_of_their_own(collector, autojump_clock):
    server = scripted_server(
        MemoryStore(), [say("Hello"), do(collector.span_around("work", 3)), say("there")]
    )
    collector.watch(server)
    async with server, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, server)
            await trio.sleep(1)

    turns = {s.context.span_id: s for s in collector.spans if s.name == "turn threads.create"}
    works = [span for span in collector.spans if span.name == "work"]
    assert len({span.context.trace_id for span in turns.values()}) == 3
    assert {span.parent.span_id for span in works} == turns.keys()
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_the_parent_is_what_the_request_says(collector, autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello")])
    collector.watch(server)
    async with client_of(create_app(server)) as client:
        await client.post(CREATE, {"traceparent": TRACEPARENT, "tracestate": "a=1"})
        await client.post(CREATE)
        await client.post(CREATE, {"traceparent": "nonsense"})

    named, alone, nonsense = [s for s in collector.spans if s.name == "turn threads.create"]
    assert (named.context.trace_id, named.parent.span_id) == (TRACE, PARENT)
    assert named.context.trace_state == {"a": "1"}
    assert (alone.parent, nonsense.parent) == (None, None)


async def test_a_repeat_has_no_span_of_its_own(collector, autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello")])
    collector.watch(server)
    async with client_of(create_app(server)) as client:
        for _ in range(2):
            await client.post(CREATE, {"Idempotency-Key": "k", "traceparent": TRACEPARENT})

    assert collector.named("turn threads.create").parent.span_id == PARENT


async def test_the_span_of_an_instrumented_app_comes_before_the_header(collector, autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello")])
    collector.watch(server)
    app = create_app(server)

    async def instrumented(scope, receive, send):
        with collector.tracer.start_as_current_span("POST /chatkit"):
            await app(scope, receive, send)

    async with client_of(instrumented) as client:
        await client.post(CREATE, {"traceparent": TRACEPARENT})

    turn = collector.named("turn threads.create")
    spans = {span.context.span_id: span.name for span in collector.spans}
    assert spans[turn.parent.span_id] == "POST /chatkit"


async def test_an_owner_is_told_by_a_hash(collector, autojump_clock):
    server = scripted_server(MemoryStore(owner=lambda context: context), [say("Hello")])
    collector.watch(server)
    async with server, ChatClient.of_server(server, "ann").send("hi") as turn:
        await turn.read()

    assert collector.named("turn threads.create").attributes["user.hash"] == owner_hash("ann")


# --- Models and tools --------------------------------------------------------------------------


async def answer_with_a_tool(collector: Collector, *, stop_after: float = 99) -> None:
    async def look_up(arguments: str) -> str:
        await collector.span_around("in the tool", 2)()
        return SECRET

    used = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    first = script.answer(*script.call("look_up", json.dumps({"what": SECRET}), "call_7"))
    last = script.answer(*script.message("msg_1", SECRET))
    last[-1]["response"]["usage"] = used
    server = Native(ModelEndpoint(first, last), {"look_up": look_up})
    collector.watch(server)
    async with server, ChatClient.of_server(server) as client, client.send(SECRET) as turn:
        with trio.move_on_after(stop_after):
            await turn.read()
        await server.stop(turn.thread_id or "")


async def test_models_and_tools_are_below_the_turn_with_what_is_known_of_them(
    collector, jump_clock
):
    await answer_with_a_tool(collector)

    assert collector.tree() == {
        "turn threads.create": None,
        "chat x": "turn threads.create",
        "execute_tool look_up": "turn threads.create",
        "in the tool": "execute_tool look_up",
        "settle": "turn threads.create",
    }
    tool = collector.named("execute_tool look_up")
    last = [span for span in collector.spans if span.name == "chat x"][-1]
    turn = collector.named("turn threads.create").attributes
    common = {name: turn[name] for name in ("chatkit.turn.id", "gen_ai.conversation.id")}
    assert dict(tool.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_7",
        **common,
    }
    assert (tool.kind, last.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert dict(last.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "x",
        "gen_ai.response.id": "resp_2",
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("completed",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "model.invalid",
        "server.port": 443,
        **common,
    }
    assert SECRET not in "".join(span.to_json() for span in collector.spans)


async def test_a_call_that_a_stop_cuts_is_no_error(collector, jump_clock):
    await answer_with_a_tool(collector, stop_after=1)

    tool = collector.named("execute_tool look_up")
    assert tool.attributes["chatkit.call.is_cut"] is True
    assert tool.status.status_code is StatusCode.UNSET
    assert collector.named("turn threads.create").attributes["chatkit.turn.reason"] == "stopped"


async def test_a_model_that_fails_is_an_error_by_its_name(collector, jump_clock):
    server = Native(ModelEndpoint(script.answer(*script.message("msg_1", "Hel"))[:-1]))
    collector.watch(server)
    async with server, ChatClient.of_server(server).send("hi") as turn:
        await turn.read()

    model, whole = collector.named("chat x"), collector.named("turn threads.create")
    assert model.attributes["error.type"] == "chatkit_trio.errors.ModelError"
    assert whole.attributes["error.type"] == "chatkit_trio.errors.ModelError"
    assert (model.status.status_code, whole.status.status_code) == (StatusCode.ERROR,) * 2


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "chatkit_trio.tracing")

    with pytest.raises(ImportError, match=r"pip install 'chatkit-trio\[otel\]'"):
        import chatkit_trio.tracing  # noqa: F401


async def test_an_answer_that_is_never_stored_is_an_error_of_the_settling(
    collector, autojump_clock
):
    store = TroubledStore(MemoryStore())
    server = scripted_server(store, [say("Hello", finish=False), fail(ValueError("no"))])
    collector.watch(server)
    async with server:
        store.give(fails(), "settle")
        await ask(server)

    settle = collector.named("settle")
    assert settle.attributes["chatkit.settle.is_stored"] is False
    assert settle.attributes["chatkit.settle.tries"] > 1
    assert settle.status.status_code is StatusCode.ERROR
