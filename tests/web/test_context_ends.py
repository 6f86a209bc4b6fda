"""A context that has an end: entered for a request, and left when nothing uses it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

import pytest
import trio
import trio.testing
from quart import Request
from werkzeug.exceptions import Unauthorized

from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import LockedStatus, ThreadMetadata
from chatkit_trio.web import create_app
from tests.transcript import lines

from .http import CREATE, client_of, events_of, read_until

LIST = {"type": "threads.list", "params": {}}
KEY = {"Idempotency-Key": "one"}


class Session:
    """A database session, as it were: it must be open whenever it is used."""

    def __init__(self) -> None:
        self.is_open = False
        self.error: BaseException | None = None
        self.task: trio.lowlevel.Task | None = None

    def owner(self) -> str:
        assert self.is_open, "the session was used when it wasn't open"
        return "ann"

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self.is_open = True
        self.task = trio.lowlevel.current_task()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        assert self.is_open
        assert self.task is trio.lowlevel.current_task()
        self.is_open, self.error = False, exc_value


class Sessions:
    """Makes a session for each request."""

    def __init__(self) -> None:
        self.all: list[Session] = []

    def __call__(self, request: Request) -> Session:
        self.all.append(Session())
        return self.all[-1]

    @property
    def open(self) -> int:
        return sum(session.is_open for session in self.all)


class Answers(ChatKitServer[Session]):
    """Answers slowly, and uses the session before, while and after it does."""

    cleaned_up = False
    seconds = 1.0

    async def respond(
        self, thread: ThreadMetadata, input_user_message: Any, context: Session
    ) -> AsyncIterator[Any]:
        async def words() -> AsyncIterator[str]:
            for word in ("Hel", "lo"):
                context.owner()
                yield word
                await trio.sleep(self.seconds)

        try:
            async for event in stream_text(thread, words()):
                yield event
        finally:
            context.owner()
            self.cleaned_up = True


def store() -> MemoryStore[Session]:
    return MemoryStore(owner=Session.owner)


async def stored(store: MemoryStore[Session], thread_id: str) -> list[str]:
    async with Session() as mine:
        return lines((await store.load_thread_items(thread_id, None, 100, "asc", mine)).data)


def thread_of(body: bytes) -> str:
    """Return the id of the thread that a stream is about."""
    sent = [event.data for event in events_of(body)]
    thread_id: str = next(event["item"]["thread_id"] for event in sent if "item" in event)
    return thread_id


WHOLE = ["user: A question", "assistant: Hello"]


async def test_a_session_is_left_when_the_answer_is_made() -> None:
    sessions = Sessions()
    async with client_of(create_app(Answers(store()), context=sessions)) as client:
        for _ in range(3):
            assert (await client.post(LIST)).status == 200
            assert sessions.open == 0

    assert len(sessions.all) == 3
    assert [session.error for session in sessions.all] == [None] * 3


async def test_a_session_lasts_as_long_as_the_turn_of_its_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sessions, data = Sessions(), store()
    server = Answers(data)
    async with client_of(create_app(server, context=sessions)) as client:
        answer = await client.post(CREATE)
        await trio.testing.wait_all_tasks_blocked()

        assert sessions.open == 0
        assert server.cleaned_up
        assert await stored(data, thread_of(answer.body)) == WHOLE


@pytest.mark.parametrize(
    ("on_disconnect", "expected"),
    [("finish", WHOLE), ("cancel", ["user: A question", "assistant: Hel", "note: disconnected"])],
)
async def test_a_session_outlives_a_client_that_has_gone(
    on_disconnect: Any, expected: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    sessions, data = Sessions(), store()
    server = Answers(data, policy=TurnPolicy(on_disconnect=on_disconnect))
    async with client_of(create_app(server, context=sessions)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            body = await read_until(response, b'"Hel"')
        assert sessions.open == (on_disconnect == "finish")
        await trio.sleep(10)

        assert sessions.open == 0
        assert server.cleaned_up
        assert await stored(data, thread_of(body)) == expected


async def test_a_session_is_left_after_the_turns_that_a_shutdown_cuts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sessions, data = Sessions(), store()
    server = Answers(data, policy=TurnPolicy(on_disconnect="finish"))
    async with client_of(create_app(server, context=sessions)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            body = await read_until(response, b'"Hel"')
        assert sessions.open == 1

    assert sessions.open == 0
    assert server.cleaned_up
    assert await stored(data, thread_of(body)) == [
        "user: A question",
        "assistant: Hel",
        "note: shutdown",
    ]


async def test_a_refused_request_leaves_its_session_with_the_error() -> None:
    sessions = Sessions()
    request = {"type": "threads.get_by_id", "params": {"thread_id": "thr_none"}}
    async with client_of(create_app(Answers(store()), context=sessions)) as client:
        answers = [
            await client.post(request),
            await client.ask("POST", "/chatkit/threads/thr_none/stop"),
            await client.ask("GET", "/chatkit/threads/thr_none/turn"),
        ]

    assert [answer.status for answer in answers] == [404] * 3
    assert [type(session.error).__name__ for session in sessions.all] == ["NotFoundError"] * 3
    assert sessions.open == 0


async def test_a_repeat_uses_its_own_session_when_the_first_one_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sessions, data = Sessions(), store()
    async with client_of(create_app(Answers(data), context=sessions)) as client:
        first = await client.post(CREATE, KEY)
        again = await client.post(CREATE, KEY)

        thread_id = thread_of(first.body)
        assert thread_of(again.body) == thread_id
        assert await stored(data, thread_id) == WHOLE
    assert len(sessions.all) == 2
    assert sessions.open == 0


async def test_a_repeat_that_starts_the_turn_uses_its_own_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The first request was refused when its key was recorded already."""
    sessions, data = Sessions(), store()
    server = Answers(data)
    async with client_of(create_app(server, context=sessions)) as client:
        thread_id = thread_of((await client.post(CREATE)).body)
        async with Session() as mine:
            metadata = await data.load_thread(thread_id, mine)
            locked = metadata.model_copy(update={"status": LockedStatus()})
            await data.save_thread(locked, mine)
            request = {
                "type": "threads.add_user_message",
                "params": {**CREATE["params"], "thread_id": thread_id},  # type: ignore[dict-item]
            }
            refused = await client.post(request, KEY)
            await data.save_thread(metadata, mine)
        taken = await client.post(request, KEY)

        assert (refused.status, taken.status) == (409, 200)
        assert await stored(data, thread_id) == [*WHOLE, *WHOLE]
    assert sessions.open == 0


@asynccontextmanager
async def with_nursery(request: Request) -> AsyncIterator[Session]:
    """Keep a nursery open, which only the task that opened it may close."""
    async with trio.open_nursery() as nursery, Session() as session:
        nursery.start_soon(trio.sleep, 0)
        yield session


async def awaited(request: Request) -> Session:
    await trio.lowlevel.checkpoint()
    return Session()


@pytest.mark.parametrize("context", [with_nursery, awaited])
async def test_any_way_to_make_a_context_manager_will_do(
    context: Callable[..., Any], autojump_clock: trio.testing.MockClock
) -> None:
    data = store()
    async with client_of(create_app(Answers(data), context=context)) as client:
        answer = await client.post(CREATE)

        assert await stored(data, thread_of(answer.body)) == WHOLE


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError("secret"), 403),
        (Unauthorized("Log in."), 401),
        (KeyError("secret"), 500),
        (ExceptionGroup("of a nursery", [PermissionError("secret")]), 403),
        (ExceptionGroup("of a nursery", [Unauthorized("Log in.")]), 401),
        (ExceptionGroup("of a nursery", [PermissionError("secret"), KeyError("secret")]), 500),
        (asyncio.CancelledError("secret"), 500),
    ],
    ids=["permission", "http", "bug", "permission in a group", "http in a group", "two", "asyncio"],
)
async def test_a_context_may_refuse_when_it_is_made_or_entered(
    error: BaseException, status: int
) -> None:
    @asynccontextmanager
    async def when_entered(request: Request) -> AsyncIterator[Session]:
        await trio.lowlevel.checkpoint()
        raise error
        yield

    async def when_made(request: Request) -> Session:
        await trio.lowlevel.checkpoint()
        raise error

    for refuse in (when_entered, when_made):
        async with client_of(create_app(Answers(store()), context=refuse)) as client:
            answers = [await client.post(LIST), await client.post(CREATE)]

        assert [answer.status for answer in answers] == [status] * 2
        assert all(b"secret" not in answer.body for answer in answers)
        assert all(answer.json["error"]["message"] for answer in answers)


async def test_an_answer_is_none_if_its_session_cannot_be_left(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def fails(request: Request) -> AsyncIterator[Session]:
        async with Session() as session:
            yield session
        raise RuntimeError("the commit failed")

    data = store()
    async with client_of(create_app(Answers(data), context=fails)) as client:
        listed = await client.post(LIST)
        assert listed.status == 500
        assert "the commit failed" in caplog.text
        caplog.clear()
        streamed = await client.post(CREATE)
        await trio.testing.wait_all_tasks_blocked()

        # What was streamed is stored and told already: the log is told, and others go on.
        assert streamed.status == 200
        assert "the commit failed" in caplog.text
        assert await stored(data, thread_of(streamed.body)) == WHOLE
        assert (await client.post(CREATE)).status == 200


async def test_leaving_that_hangs_is_cut(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def hangs(request: Request) -> AsyncIterator[Session]:
        async with Session() as session:
            yield session
            await trio.sleep_forever()

    server = Answers(store(), policy=TurnPolicy(settle_timeout=3))
    async with client_of(create_app(server, context=hangs)) as client:
        before = trio.current_time()
        answer = await client.post(LIST)

        assert answer.status == 200
        assert trio.current_time() - before == pytest.approx(3)
    assert "leaving a context took longer than 3 s" in caplog.text


async def async_generator(request: Request) -> AsyncIterator[Session]:
    yield Session()


def plain_generator(request: Request) -> Iterator[Session]:
    yield Session()


@pytest.mark.parametrize(
    "context", [async_generator, plain_generator, contextmanager(plain_generator)]
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_is_no_async_context_manager_is_told_so(
    context: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def awaited_context(request: Request) -> Any:
        return context(request)

    given = awaited_context if is_async else context
    async with client_of(create_app(Answers(store()), context=given)) as client:
        answer = await client.post(LIST)

    assert answer.status == 500
    assert "asynccontextmanager" in caplog.text
