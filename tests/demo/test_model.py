"""The assistant with a model, against a server on this machine that speaks OpenAI's protocol."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from chatkit_trio.demo._assistant import DEMO_POLICY
from chatkit_trio.demo._model import ModelAssistant
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import AssistantMessageItem, ThreadItemUpdatedEvent

# The openai client leaves the inner generators of a stream to the garbage collector; the
# connection itself it closes at once, which is what the tests look at.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


class FakeModel:
    """An ASGI app that streams chat completions, and notices when the client hangs up."""

    def __init__(self, *pieces: str, every: float = 0.0) -> None:
        self.requests: list[dict] = []
        self.hung_up = trio.Event()
        self.finished = 0
        self._pieces = pieces
        self._every = every

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        assert scope["path"] == "/v1/chat/completions"
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append(json.loads(body))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await self._answer(send)
            nursery.cancel_scope.cancel()

    async def _watch(self, receive, scope) -> None:
        if (await receive())["type"] == "http.disconnect" and not self.finished:
            self.hung_up.set()
            scope.cancel()

    async def _answer(self, send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self._pieces:
            await trio.sleep(self._every)
            await self._send(send, {"choices": [_choice({"content": piece})]})
        await self._send(send, {"choices": [_choice({}, "stop")]})
        await self._send(send, {"choices": []})
        await send(_data(b"data: [DONE]\n\n", more=False))
        self.finished += 1

    async def _send(self, send, chunk) -> None:
        chunk |= {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
        await send(_data(b"data: " + json.dumps(chunk).encode() + b"\n\n"))


async def _live(receive, send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


def _choice(delta, finish_reason=None):
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _data(body: bytes, *, more: bool = True):
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("OPENAI_MODEL", "fake-model")
    return monkeypatch


@asynccontextmanager
async def assistant_with(model, environment):
    """Serve the model on a socket; yield a client of an assistant that uses it, and its store."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.1
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(
            partial(serve, model, config, shutdown_trigger=stop.wait, mode="asgi")
        )
        environment.setenv("OPENAI_BASE_URL", f"{url}/v1")
        server = ModelAssistant(MemoryStore(), policy=DEMO_POLICY)
        async with server, ChatClient.of_server(server) as client:
            yield client
        stop.set()


async def test_the_models_words_are_streamed_and_stored(environment):
    model = FakeModel("Hello", ", ", "Ada", "!")
    async with assistant_with(model, environment) as client:
        async with client.send("Hi, I'm Ada.") as turn:
            await turn.read()
        thread = await client.thread(turn.thread_id)

    _, answer = thread.items.data
    assert turn.text == "Hello, Ada!"
    assert answer.content[0].text == "Hello, Ada!"
    assert thread.title == "Hi, I'm Ada."
    assert model.requests[0]["model"] == "fake-model"
    assert [message["role"] for message in model.requests[0]["messages"]] == ["system", "user"]


async def test_a_stop_hangs_up_on_the_model_and_tells_it_next_time(environment):
    model = FakeModel(*["word "] * 1000, every=0.01)
    async with assistant_with(model, environment) as client:
        async with client.send("Talk.") as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            await turn.stop()
            await turn.read()
        with trio.fail_after(5):
            await model.hung_up.wait()
        async with client.send("Why did you stop?", thread_id=turn.thread_id) as second:
            await second.wait_for(ThreadItemUpdatedEvent)
        items = await client.items(turn.thread_id)

    partial_answer = next(item for item in items if isinstance(item, AssistantMessageItem))
    _, said, answered, note, asked = model.requests[1]["messages"]
    assert said == {"role": "user", "content": "Talk."}
    assert answered == {"role": "assistant", "content": partial_answer.content[0].text}
    assert note["role"] == "user"
    assert note["content"].startswith(
        "<note-from-the-application>The user stopped the previous answer"
    )
    assert asked == {"role": "user", "content": "Why did you stop?"}


async def test_a_model_that_cannot_be_reached_is_an_error_to_retry(environment, caplog):
    async with assistant_with(FakeModel("Hello"), environment) as client:
        environment.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        async with client.send("Hi") as turn:
            await turn.read()

    assert turn.error is not None
    assert turn.error.allow_retry
