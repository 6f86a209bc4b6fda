"""What only asyncio can iterate over, iterated over from trio."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import trio

from chatkit_trio.agents import iterate_on_asyncio, run_on_asyncio
from chatkit_trio.server import ChatKitServer, current_turn, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import ThreadMetadata

from .test_agents_sdk import other_tasks
from .threads import collected


class Counter:
    """Counts on asyncio and says how it ended."""

    def __init__(self) -> None:
        self.made = 0
        self.ends: list[str] = []

    async def count(self, limit: int = 10_000, *, every: float = 0.0) -> AsyncIterator[int]:
        helper = asyncio.create_task(asyncio.sleep(3600))
        try:
            for number in range(limit):
                await asyncio.sleep(every)
                self.made += 1
                yield number
            self.ends.append("end")
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        except GeneratorExit:
            self.ends.append("closed")
            raise
        finally:
            helper.cancel()
            await asyncio.sleep(0)
            self.ends.append("cleaned up")


async def test_entries_come_in_order_and_to_an_end() -> None:
    counter = Counter()

    assert await collected(iterate_on_asyncio(counter.count, 1000)) == list(range(1000))
    assert counter.ends == ["end", "cleaned up"]
    assert await other_tasks() == 0


async def test_named_arguments_go_in_by_partial() -> None:
    assert await collected(iterate_on_asyncio(partial(Counter().count, 3, every=0.001))) == [
        0,
        1,
        2,
    ]


class Iterable:
    def __aiter__(self) -> AsyncIterator[int]:
        return Counter().count(3)


async def awaited() -> AsyncIterator[int]:
    await asyncio.sleep(0)
    return Counter().count(3)


@pytest.mark.parametrize("function", [Iterable, awaited, lambda: Counter().count(3)])
async def test_whatever_gives_something_to_iterate_over_will_do(function: Any) -> None:
    assert await collected(iterate_on_asyncio(function)) == [0, 1, 2]


async def nothing() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(("function", "kind"), [(lambda: [1], "list"), (nothing, "NoneType")])
async def test_what_cannot_be_iterated_over_is_refused_by_name(function: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"`async for`, and .* has returned a {kind}"):
        await collected(iterate_on_asyncio(function))


async def test_an_error_comes_as_itself_behind_the_entries_before_it() -> None:
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise KeyError("no more")

    seen: list[int] = []

    async def read() -> None:
        async for entry in iterate_on_asyncio(fails):
            seen.append(entry)  # noqa: PERF401

    with pytest.raises(KeyError, match="no more"):
        await read()

    assert seen == [1]


@pytest.mark.parametrize("how", ["closed", "cancelled", "dropped"])
async def test_what_is_left_early_ends_on_asyncio(how: str) -> None:
    counter = Counter()
    entries = iterate_on_asyncio(partial(counter.count, every=0.001))
    await anext(entries)
    if how == "closed":
        async with aclosing(entries):
            pass
    elif how == "cancelled":
        with trio.move_on_after(0.01):
            await collected(entries)
    else:
        del entries
        gc.collect()
        with trio.fail_after(5):
            while "cleaned up" not in counter.ends:  # noqa: ASYNC110
                await trio.sleep(0.001)

    assert counter.ends[0] in ("cancelled", "closed")
    assert counter.ends[-1] == "cleaned up"
    assert await other_tasks() == 0


async def test_it_waits_for_a_slow_reader() -> None:
    counter = Counter()
    async with aclosing(iterate_on_asyncio(counter.count)) as entries:
        await anext(entries)
        await trio.sleep(0.1)

        assert counter.made < 300


async def test_it_begins_when_it_is_read_with_the_readers_context() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    async def who() -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield tenant.get()

    entries = iterate_on_asyncio(who)
    tenant.set("acme")

    assert await collected(entries) == ["acme"]


async def test_on_asyncio_it_just_iterates() -> None:
    async def read() -> list[int]:
        return [number async for number in iterate_on_asyncio(Counter().count, 3)]

    assert await run_on_asyncio(read) == [0, 1, 2]


async def test_two_are_read_at_once() -> None:
    first = iterate_on_asyncio(Counter().count, 100)
    second = iterate_on_asyncio(Counter().count, 100)

    pairs = [(await anext(first), await anext(second)) for _ in range(100)]

    assert pairs == [(number, number) for number in range(100)]


async def test_a_stopped_turn_keeps_what_came_and_ends_it() -> None:
    counter = Counter()

    class Counting(ChatKitServer[None]):
        async def respond(self, thread: ThreadMetadata, message: Any, context: None) -> Any:
            async def words() -> AsyncIterator[str]:
                async with aclosing(counter.count(every=0.001)) as numbers:
                    async for number in numbers:
                        yield f"{number} "

            async with aclosing(stream_text(thread, iterate_on_asyncio(words))) as events:
                async for event in events:
                    yield event
                    if event.type == "thread.item.updated" and counter.made > 3:
                        current_turn().cancel()

    async with Counting(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()
        assert turn.thread_id is not None
        page = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)

    assert [item.type for item in page.data] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert turn.text.startswith("0 1 2 ")
    assert counter.ends[-1] == "cleaned up"
