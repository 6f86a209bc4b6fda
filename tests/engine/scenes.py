"""What the tests of the engine share: a client, parts of answers, a time limit for each test."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, ParamSpec

import trio

from chatkit_trio.server import ChatKitServer, StreamingResult, current_turn
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import Scene, ScriptedServer, Step, do, say, scripted_server
from chatkit_trio.testing._client_turn import ClientTurn
from chatkit_trio.testing._transport import ServerConnection
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ThreadAddUserMessageParams,
    ThreadCreateParams,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadRetryAfterItemParams,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    ThreadsRetryAfterItemReq,
    UserMessageInput,
    UserMessageTextContent,
)

_P = ParamSpec("_P")

HELLO = say("Hello", finish=False)
"""A message with text that doesn't get done."""

_LIMIT = 20_000.0


def bounded(test: Callable[_P, Awaitable[None]]) -> Callable[_P, Awaitable[None]]:
    """Fail a test that has no end, long before what hangs in it ends by itself."""

    @functools.wraps(test)
    async def limited(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with trio.fail_after(_LIMIT):
            await test(*args, **kwargs)

    return limited


@asynccontextmanager
async def sending(
    server: ChatKitServer[Any], text: str = "hi", thread_id: str | None = None
) -> AsyncIterator[ClientTurn]:
    """Send a message as a client that can't come back, so that to leave early is to cancel."""
    message = UserMessageInput(
        content=[UserMessageTextContent(text=text)],
        attachments=[],
        inference_options={},  # type: ignore[arg-type]
    )
    request = (
        ThreadsCreateReq(params=ThreadCreateParams(input=message))
        if thread_id is None
        else ThreadsAddUserMessageReq(
            params=ThreadAddUserMessageParams(thread_id=thread_id, input=message)
        )
    )
    async with streaming(server, request) as turn:
        yield turn


@asynccontextmanager
async def retrying(
    server: ChatKitServer[Any], thread_id: str, item_id: str
) -> AsyncIterator[ClientTurn]:
    """Have a message answered again, as a client that can't come back."""
    params = ThreadRetryAfterItemParams(thread_id=thread_id, item_id=item_id)
    async with streaming(server, ThreadsRetryAfterItemReq(params=params)) as turn:
        yield turn


@asynccontextmanager
async def streaming(server: ChatKitServer[Any], request: Any) -> AsyncIterator[ClientTurn]:
    result = await server.process(request.model_dump_json(exclude_none=True), None)
    assert isinstance(result, StreamingResult)
    async with result:
        connection = ServerConnection(result)
        _ = connection.turn  # it is started by being asked for
        turn = ClientTurn(connection, server.stop)
        turn.belongs_to(getattr(request.params, "thread_id", None))
        yield turn


async def ask(
    server: ChatKitServer[Any], text: str = "hi", thread_id: str | None = None
) -> ClientTurn:
    """Send a message and read the whole answer."""
    async with sending(server, text, thread_id) as turn:
        await turn.read()
    return turn


async def thread_of(server: ChatKitServer[Any], text: str = "first") -> str:
    """Return the id of a new thread that has this message and the answer to it."""
    thread_id = (await ask(server, text)).thread_id
    assert thread_id is not None
    return thread_id


async def receive_for(turn: ClientTurn, seconds: float) -> None:
    """Receive for so long without looking at what comes: it may be invalid, or too much to keep."""
    with trio.move_on_after(seconds), suppress(trio.EndOfChannel):
        while True:
            await turn.connection.receive()


def message(scene: Scene, text: str, item_id: str | None = None) -> AssistantMessageItem:
    fields = scene.item_fields() | ({} if item_id is None else {"id": item_id})
    return AssistantMessageItem(content=[AssistantMessageContent(text=text)], **fields)


def done(text: str, item_id: str | None = None) -> Callable[[Scene], ThreadItemDoneEvent]:
    """Return what makes the event of a finished message, for `emit`."""
    return lambda scene: ThreadItemDoneEvent(item=message(scene, text, item_id))


def more(item: ThreadItem, text: str) -> ThreadItemUpdatedEvent:
    delta = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
    return ThreadItemUpdatedEvent(item_id=item.id, update=delta)


async def sleep_shielded(seconds: float) -> None:
    """Sleep as a cleanup does that can't be cut short, such as a refund."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def cling(seconds: float) -> None:
    """Wait to be cancelled, and take so many seconds to clean up then."""
    try:
        await trio.sleep_forever()
    finally:
        await sleep_shielded(seconds)


def beside(task: Callable[..., Awaitable[object]], *args: Any) -> Step:
    """Start a task in the turn's nursery."""

    def start(scene: Scene) -> None:
        current_turn().nursery.start_soon(task, *args)

    return do(start)


def crash(path: Path, into: Path) -> ScriptedServer:
    """Return a server on the database as it is now: what a `kill -9` would leave."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(into)) as target:
        source.backup(target)
    return scripted_server(SQLiteStore(into), [say("Hi")])
