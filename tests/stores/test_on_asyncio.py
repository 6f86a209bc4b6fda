"""A store of the original's shape, which waits on asyncio, used from trio."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Self

import pytest
import trio
from pydantic import TypeAdapter

from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import Store
from chatkit_trio.stores import AsyncioStore, MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    StoreConformance,
    explore_cancellations,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.testing._store_samples import ITEM_KINDS, attachment, item_of_kind, thread
from chatkit_trio.types import ThreadMetadata
from tests.transcript import transcript

pytest.importorskip("chatkit", reason="the extra `parity` isn't installed", exc_type=ImportError)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import chatkit.store
    import chatkit.types

import chatkit_trio.types


@dataclass
class Rows:
    """What a database would hold: text only."""

    threads: dict[tuple[str, str], str] = field(default_factory=dict)
    items: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    attachments: dict[tuple[str, str], str] = field(default_factory=dict)


class Ported:
    """A store whose imports have been changed; every call waits on asyncio and takes names only."""

    models: ModuleType = chatkit_trio.types

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = rows or Rows()
        self.lock = asyncio.Lock()

    async def _wait(self) -> Rows:
        async with self.lock:
            await asyncio.sleep(0)
        return self.rows

    async def load_thread(self, *, context: Any, thread_id: str) -> Any:
        found = (await self._wait()).threads.get((str(context), thread_id))
        if found is None:
            raise chatkit.store.NotFoundError(f"no thread {thread_id}")
        return self.decoded("ThreadMetadata", found)

    async def save_thread(self, *, context: Any, thread: Any) -> None:
        rows = await self._wait()
        if any(key[1] == thread.id and key[0] != str(context) for key in rows.threads):
            raise chatkit.store.NotFoundError("another owner's")
        rows.threads[str(context), thread.id] = self.encoded("ThreadMetadata", thread)
        rows.items.setdefault((str(context), thread.id), {})

    async def load_thread_items(
        self, *, context: Any, order: str, limit: int, after: str | None, thread_id: str
    ) -> Any:
        rows = (await self._wait()).items.get((str(context), thread_id))
        if rows is None:
            raise chatkit.store.NotFoundError(f"no thread {thread_id}")
        return self.page_of(rows, after, limit, order, "ThreadItem")

    async def save_attachment(self, *, context: Any, attachment: Any) -> None:
        rows = await self._wait()
        if any(key[1] == attachment.id and key[0] != str(context) for key in rows.attachments):
            raise chatkit.store.NotFoundError("another owner's")
        rows.attachments[str(context), attachment.id] = self.encoded("Attachment", attachment)

    async def load_attachment(self, *, context: Any, attachment_id: str) -> Any:
        found = (await self._wait()).attachments.get((str(context), attachment_id))
        if found is None:
            raise chatkit.store.NotFoundError(f"no attachment {attachment_id}")
        return self.decoded("Attachment", found)

    async def delete_attachment(self, *, context: Any, attachment_id: str) -> None:
        (await self._wait()).attachments.pop((str(context), attachment_id), None)

    async def load_threads(self, *, context: Any, order: str, limit: int, after: str | None) -> Any:
        rows = await self._wait()
        own = {key[1]: text for key, text in rows.threads.items() if key[0] == str(context)}
        return self.page_of(own, after, limit, order, "ThreadMetadata")

    async def add_thread_item(self, *, context: Any, item: Any, thread_id: str) -> None:
        rows = await self._items(context, thread_id)
        if item.id in rows:
            raise ConflictError(f"item {item.id} is there")
        rows[item.id] = self.encoded("ThreadItem", item)

    async def save_item(self, *, context: Any, item: Any, thread_id: str) -> None:
        (await self._items(context, thread_id))[item.id] = self.encoded("ThreadItem", item)

    async def load_item(self, *, context: Any, item_id: str, thread_id: str) -> Any:
        rows = await self._items(context, thread_id)
        if item_id not in rows:
            raise chatkit.store.NotFoundError(f"no item {item_id}")
        return self.decoded("ThreadItem", rows[item_id])

    async def delete_thread(self, *, context: Any, thread_id: str) -> None:
        rows = await self._wait()
        rows.threads.pop((str(context), thread_id), None)
        rows.items.pop((str(context), thread_id), None)

    async def delete_thread_item(self, *, context: Any, item_id: str, thread_id: str) -> None:
        rows = (await self._wait()).items.get((str(context), thread_id), {})
        rows.pop(item_id, None)

    async def _items(self, context: Any, thread_id: str) -> dict[str, str]:
        rows = (await self._wait()).items.get((str(context), thread_id))
        if rows is None:
            raise chatkit.store.NotFoundError(f"no thread {thread_id}")
        return rows

    def encoded(self, kind: str, model: Any) -> str:
        text: str = model.model_dump_json()
        self.decoded(kind, text)  # store nothing that can't be loaded
        return text

    def decoded(self, kind: str, text: str) -> Any:
        return TypeAdapter(getattr(self.models, kind)).validate_json(text)

    def page_of(
        self, rows: dict[str, str], after: str | None, limit: int, order: str, kind: str
    ) -> Any:
        ids = list(rows) if order == "asc" else list(rows)[::-1]
        if after is not None:
            if after not in ids:
                raise chatkit.store.NotFoundError(f"no {after}")
            ids = ids[ids.index(after) + 1 :]
        data = [self.decoded(kind, rows[one]) for one in ids[:limit]]
        has_more = len(ids) > limit
        last = ids[limit - 1] if has_more else None
        return self.models.Page(data=data, has_more=has_more, after=last)


class OfTheOriginal(Ported, chatkit.store.Store[Any]):  # type: ignore[misc]
    """The same with its own imports."""

    models = chatkit.types


class TestAsyncioStore(StoreConformance):
    """A ported store passes what a store has to pass, but for what it doesn't promise."""

    atomic = False
    exact_cancellation = False
    remembers_deleted = False

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[AsyncioStore[str]]:
        async with AsyncioStore[str](Ported()) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


# --- Opening and closing -----------------------------------------------------------------------


class WithAPool(OfTheOriginal):
    """Opens something in one asyncio task, and has to close it there."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    async def __aenter__(self) -> Self:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        await asyncio.sleep(0)
        self.events.append("opened")
        return self

    async def __aexit__(self, *args: object) -> None:
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self._loop
        assert asyncio.current_task() is self._task
        self.events.append("closed")


async def test_a_store_that_is_a_context_manager_is_opened_and_closed_on_asyncio_once() -> None:
    inner = WithAPool()
    store = AsyncioStore[str](inner)

    async with store, store:
        await store.save_thread(thread("thr_1"), context="ann")
    before = [*inner.events]
    async with store:
        assert (await store.load_thread("thr_1", context="ann")).id == "thr_1"

    assert before == ["opened", "closed"]
    assert inner.events == ["opened", "closed", "opened", "closed"]


async def test_a_function_makes_the_store_on_the_event_loop() -> None:
    made: list[Any] = []

    class NeedsALoop(OfTheOriginal):
        def __init__(self) -> None:
            super().__init__()
            self.future = asyncio.get_running_loop().create_future()
            made.append(self)

    async def make() -> NeedsALoop:
        await asyncio.sleep(0)
        return NeedsALoop()

    @asynccontextmanager
    async def make_and_close() -> AsyncIterator[NeedsALoop]:
        store = NeedsALoop()
        yield store
        await asyncio.sleep(0)
        made.append("closed")

    for function in (NeedsALoop, make, make_and_close):
        store = AsyncioStore[str](function)
        with pytest.raises(RuntimeError, match=r"isn't open.*load_thread"):
            await store.load_thread("thr_1", context="ann")
        async with store:
            await store.save_thread(thread("thr_1"), context="ann")
        with pytest.raises(RuntimeError, match="isn't open"):
            await store.load_thread("thr_1", context="ann")

    assert [one if one == "closed" else type(one) for one in made] == [*[NeedsALoop] * 3, "closed"]


async def test_a_store_without_anything_to_open_can_be_used_at_once() -> None:
    store = AsyncioStore[str](OfTheOriginal())

    with pytest.raises(NotFoundError, match="no thread thr_1"):
        await store.load_thread("thr_1", context="ann")


async def test_an_error_at_opening_is_raised_and_another_opening_may_succeed() -> None:
    class DownAtFirst(WithAPool):
        async def __aenter__(self) -> Self:
            if not self.events:
                self.events.append("down")
                raise OSError("no database")
            return await super().__aenter__()

    inner = DownAtFirst()
    store = AsyncioStore[str](inner)

    with pytest.raises(OSError, match="no database"):
        async with store:
            pass
    async with store:
        pass

    assert inner.events == ["down", "opened", "closed"]


async def test_an_error_at_closing_is_raised() -> None:
    class Breaks(WithAPool):
        async def __aexit__(self, *args: object) -> None:
            raise OSError("the connection is gone")

    with pytest.raises(OSError, match="the connection is gone"):
        async with AsyncioStore[str](Breaks()):
            pass


async def test_a_cancelled_opening_leaves_nothing_open(jump_clock: JumpClock) -> None:
    has_begun = threading.Event()

    class Hangs(WithAPool):
        async def __aenter__(self) -> Self:
            try:
                has_begun.set()
                await asyncio.sleep(3600)
            finally:
                self.events.append("given up")
            return self

    inner = Hangs()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(AsyncioStore[str](inner).__aenter__)
        assert await trio.to_thread.run_sync(has_begun.wait, 30)
        nursery.cancel_scope.cancel()

    assert inner.events == ["given up"]


@pytest.mark.parametrize("given", [object(), dict, lambda: None])
async def test_what_is_no_store_is_refused_by_name(given: Any) -> None:
    with pytest.raises(TypeError, match="has no load_thread"):
        async with AsyncioStore[str](given):
            pass


async def test_a_store_whose_journal_waits_on_trio_is_refused() -> None:
    with pytest.raises(TypeError, match="without AsyncioStore"):
        AsyncioStore[str](MemoryStore[str](cluster=MemoryCluster()))


# --- What passes through -----------------------------------------------------------------------


async def test_ids_of_the_stores_own_are_kept_and_guessable_ones_of_the_original_are_not() -> None:
    class Numbers(OfTheOriginal):
        def generate_thread_id(self, context: Any) -> str:
            return f"thread of {context}"

        def generate_item_id(self, item_type: Any, thread: Any, context: Any) -> str:
            return f"{item_type} of {thread.id}"

    own, without = AsyncioStore[str](Numbers()), AsyncioStore[str](OfTheOriginal())

    assert own.generate_thread_id("ann") == "thread of ann"
    assert own.generate_item_id("message", thread("thr_1"), "ann") == "message of thr_1"
    assert len(without.generate_thread_id("ann")) >= 32
    assert len(without.generate_item_id("message", thread("thr_1"), "ann")) >= 32


async def test_optional_operations_of_a_store_of_ours_run_on_asyncio() -> None:
    class Ours(OfTheOriginal, Store[Any]):  # type: ignore[misc]
        settled: Any = None

        async def settle(self, settlement: Any, context: Any) -> None:
            await asyncio.sleep(0)
            self.settled = settlement

        def get_owner(self, context: Any) -> str:
            return str(context)

    inner = Ours()
    async with AsyncioStore[str](inner) as store:
        await store.settle("a settlement", "ann")  # type: ignore[arg-type]

        assert inner.settled == "a settlement"
        assert store.get_owner("ann") == "ann"


class WithHelpers(OfTheOriginal):
    """Has methods of its own under names that our optional operations have."""

    async def update_thread(self, thread_id: str, **fields: Any) -> None:
        raise AssertionError("not that one")

    async def update_item(self, item_id: str, text: str) -> None:
        raise AssertionError("not that one")

    async def settle(self, invoice: str) -> None:
        raise AssertionError("not that one")

    async def ping(self, host: str) -> None:
        raise AssertionError("not that one")

    async def begin_request(self, url: str) -> None:
        raise AssertionError("not that one")


async def test_methods_of_these_names_with_another_meaning_are_left_alone(
    jump_clock: JumpClock,
) -> None:
    store = AsyncioStore[str](WithHelpers())
    async with scripted_server(store, [say("Hello", finish=False), pause(60)]) as server:
        client = ChatClient.of_server(server, "ann")
        async with client.send("hi", idempotency_key="once") as turn:
            await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
            await turn.stop()
        await client.rename(turn.thread_id or "", "A title")
        await store.ping()
        lines = await transcript(store, turn.thread_id, "ann")
        assert lines == ["user: hi", "assistant: Hello", "note: stopped"]
        assert (await store.load_thread(turn.thread_id or "", "ann")).title == "A title"


async def test_a_server_keeps_its_cut_answer_in_it(jump_clock: JumpClock) -> None:
    store = AsyncioStore[None](OfTheOriginal())
    async with scripted_server(store, [say("Hel"), pause(60), say("lo")]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.wait_for(lambda _: turn.text == "Hel")
            await turn.stop()
        assert turn.thread_id is not None
        items = await client.items(turn.thread_id)
        [listed] = await client.threads()

    assert [item.type for item in items] == ["user_message", "assistant_message"]
    assert listed.id == turn.thread_id


def test_no_answer_is_lost_in_it_wherever_it_is_cut() -> None:
    explore_cancellations(
        lambda store: scripted_server(store, [say("Hel", "lo", every=0.1), pause(0.1)]),
        "hi",
        make_store=lambda: AsyncioStore(OfTheOriginal()),
        step=9,
    )


class _Kept(chatkit.types.BaseModel):
    item: chatkit.types.ThreadItem


class OfItsOwnKinds(OfTheOriginal):
    """Asks what it gets, and keeps it in a model of its own, as public stores do."""

    def encoded(self, kind: str, model: Any) -> str:
        assert type(model).__module__ == "chatkit.types"
        if kind == "ThreadItem":
            model = _Kept(item=model).item
        return super().encoded(kind, model)

    def generate_item_id(self, item_type: Any, thread: Any, context: Any) -> str:
        assert isinstance(thread, chatkit.types.ThreadMetadata)
        return f"{item_type}_of_{thread.id}_{len(self.rows.items)}"


@pytest.mark.filterwarnings("ignore:Direct usage of named widget:DeprecationWarning")
@pytest.mark.parametrize("kind", ITEM_KINDS)
async def test_a_store_of_the_original_gets_the_originals_models(kind: str) -> None:
    async with AsyncioStore[str](OfItsOwnKinds()) as store:
        await store.save_thread(thread("thr_1"), "ann")
        item = item_of_kind(kind, "thr_1")
        await store.add_thread_item("thr_1", item, "ann")
        await store.save_item("thr_1", item, "ann")
        found = await store.load_item("thr_1", item.id, "ann")
        await store.save_attachment(attachment("atc_1"), "ann")

    assert type(found) is type(item)
    known = set(getattr(chatkit.types, type(item).__name__).model_fields)
    assert found.model_dump(include=known) == item.model_dump(include=known)


async def test_a_store_of_the_original_makes_ids_from_the_originals_thread(
    jump_clock: JumpClock,
) -> None:
    store = AsyncioStore[None](OfItsOwnKinds())
    async with scripted_server(store, [say("Hel", "lo")]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()
        assert turn.thread_id is not None
        items = await client.items(turn.thread_id)

    assert [item.type for item in items] == ["user_message", "assistant_message"]
    assert items[0].id == f"message_of_{turn.thread_id}_0"


async def test_times_and_widgets_of_the_original_become_ours() -> None:
    inner = OfTheOriginal()
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    async with AsyncioStore[str](inner) as store:
        await store.save_thread(ThreadMetadata(id="thr_1", created_at=moment), context="ann")
        card = {"type": "Card", "children": [{"type": "Text", "value": "hi"}]}
        item = {"id": "wdg_1", "thread_id": "thr_1", "created_at": moment, "widget": card}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            widget = chatkit.types.WidgetItem.model_validate(item)
            await store.save_item("thr_1", widget, context="ann")  # type: ignore[arg-type]
            found = await store.load_item("thr_1", "wdg_1", context="ann")

    assert type(found).__module__ == "chatkit_trio.types"
    assert found.created_at == moment
    assert found.widget.model_dump(exclude_none=True)["children"][0]["value"] == "hi"  # type: ignore[union-attr]
