"""Stores that are slow or fail, around a real one.

Both work by one method, `StoreWrapper.around`, through which every operation passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self

import trio
from typing_extensions import TypeVar

from chatkit_trio._settings import check_choices, check_count, check_seconds
from chatkit_trio.errors import StoreError
from chatkit_trio.limits import OwnerUsage
from chatkit_trio.store import (
    ActiveThread,
    Coordination,
    Hint,
    Journal,
    JournalEntry,
    News,
    Opening,
    RequestRecord,
    SearchHit,
    Settlement,
    Store,
    StoreItemType,
    TContext,
    TurnRecord,
    UnstorableItem,
)
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

__all__ = ["FaultyStore", "SlowStore", "StoreWrapper"]

_T = TypeVar("_T")

READS = frozenset(
    {
        "load_thread",
        "load_threads",
        "load_thread_items",
        "load_item",
        "load_attachment",
        "find_request",
        "load_threads_by_activity",
        "search_threads",
        "journal.abandoned",
        "coordination.record",
        "coordination.checkpointed",
        "coordination.nodes",
    }
)
"""The names of the operations that change nothing. `ping` isn't one: it tells how writes fare."""

WRITES = frozenset(
    {
        "save_thread",
        "save_item",
        "save_attachment",
        "delete_attachment",
        "add_thread_item",
        "delete_thread",
        "delete_thread_item",
        "settle",
        "set_aside",
        "begin_request",
        "update_request",
        "delete_items_after",
        "ping",
        "journal.begin",
        "journal.checkpoint",
        "journal.settle_abandoned",
        "journal.settle_in_part",
        "coordination.begin",
        "coordination.line_up",
        "coordination.withdraw",
        "coordination.abandon",
        "coordination.post",
        "coordination.news",
    }
)
"""The names of all others that pass through `around`."""


class StoreWrapper(Store[TContext]):
    """Pass every operation on to another store, through `around`."""

    def __init__(self, store: Store[TContext]) -> None:
        self.wrapped = store
        if store.journal is not None:
            self.journal = _JournalWrapper(store.journal, self)
        if store.coordination is not None:
            self.coordination = CoordinationWrapper(store.coordination, self)

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Carry out the operation `name`; override it to do something before or after."""
        return await call()

    def get_owner(self, context: TContext) -> str:
        return self.wrapped.get_owner(context)

    def generate_thread_id(self, context: TContext) -> str:
        return self.wrapped.generate_thread_id(context)

    def generate_item_id(
        self, item_type: StoreItemType, thread: ThreadMetadata, context: TContext
    ) -> str:
        return self.wrapped.generate_item_id(item_type, thread, context)

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        call = partial(self.wrapped.load_thread, thread_id, context=context)
        return await self.around("load_thread", call)

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        call = partial(self.wrapped.save_thread, thread, context=context)
        await self.around("save_thread", call)

    async def update_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        # For a test both are saving an item.
        call = partial(self.wrapped.update_item, thread_id, item, context=context)
        await self.around("save_item", call)

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        # For a test both are saving a thread.
        call = partial(self.wrapped.update_thread, thread, context=context)
        await self.around("save_thread", call)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        call = partial(
            self.wrapped.load_thread_items, thread_id, after, limit, order, context=context
        )
        return await self.around("load_thread_items", call)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        call = partial(self.wrapped.save_attachment, attachment, context=context)
        await self.around("save_attachment", call)

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        call = partial(self.wrapped.load_attachment, attachment_id, context=context)
        return await self.around("load_attachment", call)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        call = partial(self.wrapped.delete_attachment, attachment_id, context=context)
        await self.around("delete_attachment", call)

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        call = partial(self.wrapped.load_threads, limit, after, order, context=context)
        return await self.around("load_threads", call)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        call = partial(self.wrapped.add_thread_item, thread_id, item, context=context)
        await self.around("add_thread_item", call)

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        call = partial(self.wrapped.save_item, thread_id, item, context=context)
        await self.around("save_item", call)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        call = partial(self.wrapped.load_item, thread_id, item_id, context=context)
        return await self.around("load_item", call)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        call = partial(self.wrapped.delete_thread, thread_id, context=context)
        await self.around("delete_thread", call)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        call = partial(self.wrapped.delete_thread_item, thread_id, item_id, context=context)
        await self.around("delete_thread_item", call)

    async def settle(self, settlement: Settlement, context: TContext) -> bool | None:
        return await self.around("settle", partial(self.wrapped.settle, settlement, context))

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        await self.around("set_aside", partial(self.wrapped.set_aside, item, context))

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        call = partial(self.wrapped.begin_request, record, window, context)
        return await self.around("begin_request", call)

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        call = partial(self.wrapped.find_request, key, window, context)
        return await self.around("find_request", call)

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        call = partial(self.wrapped.update_request, record, context)
        await self.around("update_request", call)

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        call = partial(self.wrapped.delete_items_after, thread_id, item_id, context)
        await self.around("delete_items_after", call)

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: TContext
    ) -> Page[ActiveThread]:
        call = partial(self.wrapped.load_threads_by_activity, limit, after, context)
        return await self.around("load_threads_by_activity", call)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        call = partial(self.wrapped.search_threads, query, limit, after, context)
        return await self.around("search_threads", call)

    async def ping(self) -> None:
        await self.around("ping", self.wrapped.ping)

    async def __aenter__(self) -> Self:
        await self.wrapped.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.wrapped.__aexit__(  # noqa: ASYNC102  (passed on)
            exc_type, exc_value, traceback
        )


class _JournalWrapper(Journal[TContext], Generic[TContext]):
    def __init__(self, journal: Journal[TContext], store: StoreWrapper[TContext]) -> None:
        self._journal = journal
        self._store = store

    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        call = partial(self._journal.begin, turn_id, thread_id, context)
        await self._store.around("journal.begin", call)

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        call = partial(self._journal.checkpoint, entries)
        await self._store.around("journal.checkpoint", call)

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        call = partial(self._journal.abandoned, thread_id)
        return await self._store.around("journal.abandoned", call)

    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        call = partial(self._journal.settle_abandoned, settlement)
        return await self._store.around("journal.settle_abandoned", call)

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool | None:
        call = partial(self._journal.settle_in_part, settlement, left_out)
        return await self._store.around("journal.settle_in_part", call)


class CoordinationWrapper(Coordination[TContext], Generic[TContext]):
    """Hints pass straight through: they are told and heard without waiting."""

    def __init__(self, coordination: Coordination[TContext], store: StoreWrapper[TContext]) -> None:
        super().__init__()
        self._coordination = coordination
        self._store = store

    @property
    def node(self) -> str:  # type: ignore[override]
        return self._coordination.node

    @property
    def lease_timeout(self) -> float:  # type: ignore[override]
        return self._coordination.lease_timeout

    @property
    def poll_interval(self) -> float:  # type: ignore[override]
        return self._coordination.poll_interval

    @property
    def usage(self) -> OwnerUsage | None:
        return self._coordination.usage

    @property
    def spans_processes(self) -> bool:  # type: ignore[override]
        return self._coordination.spans_processes

    async def begin(self, opening: Opening, context: TContext) -> TurnRecord | None:
        call = partial(self._coordination.begin, opening, context)
        return await self._store.around("coordination.begin", call)

    async def line_up(self, turn_id: str, thread_id: str, context: TContext) -> None:
        call = partial(self._coordination.line_up, turn_id, thread_id, context)
        await self._store.around("coordination.line_up", call)

    async def withdraw(self, turn_id: str) -> None:
        call = partial(self._coordination.withdraw, turn_id)
        await self._store.around("coordination.withdraw", call)

    async def abandon(self, turn_id: str) -> None:
        call = partial(self._coordination.abandon, turn_id)
        await self._store.around("coordination.abandon", call)

    async def record(self, thread_id: str) -> TurnRecord | None:
        call = partial(self._coordination.record, thread_id)
        return await self._store.around("coordination.record", call)

    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        call = partial(self._coordination.checkpointed, turn_id)
        return await self._store.around("coordination.checkpointed", call)

    async def post(self, node: str, message: bytes) -> None:
        call = partial(self._coordination.post, node, message)
        await self._store.around("coordination.post", call)

    async def news(self) -> News:
        return await self._store.around("coordination.news", self._coordination.news)

    async def nodes(self) -> list[str]:
        return await self._store.around("coordination.nodes", self._coordination.nodes)

    async def listen(self) -> None:
        await self._coordination.listen()

    @contextmanager
    def hint(self, about: str) -> Iterator[Hint]:
        with self._coordination.hint(about) as hint:
            yield hint

    def tell(self, about: str) -> None:
        self._coordination.tell(about)


class SlowStore(StoreWrapper[TContext]):
    """Wait on trio's clock before every operation, and after it too if `answer_seconds` is given.

    `SlowStore(MemoryStore(), 0.002)` is a database 2 ms away. A cancellation during the first wait
    leaves nothing done; during the second it leaves a change that the caller doesn't know of, which
    a store of yours must never do (`trio.Cancelled` says that nothing happened), so the second
    wait is shielded.

    With `reads` the operations that change nothing wait so many seconds instead, before and never
    after: `SlowStore(store, 0.05, reads=0)` is slow to write only.
    """

    def __init__(
        self,
        store: Store[TContext],
        seconds: float,
        *,
        answer_seconds: float = 0.0,
        reads: float | None = None,
    ) -> None:
        super().__init__(store)
        check_seconds("seconds", seconds, or_zero=True)
        check_seconds("answer_seconds", answer_seconds, or_zero=True)
        check_seconds("reads", reads, or_zero=True, unless=None)
        self.seconds = seconds
        self.answer_seconds = answer_seconds
        self.reads = reads

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Wait, carry out the operation, and wait again."""
        if self.reads is not None and name in READS:
            await trio.sleep(self.reads)
            return await call()
        await trio.sleep(self.seconds)
        answer = await call()
        if self.answer_seconds:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.answer_seconds)
        return answer


class FaultyStore(StoreWrapper[TContext]):
    """Fail at the n-th operation, counted from 1 after `arm()`, and work at all others.

    Counted are the operations named in `operations`; None counts all that write. With
    `happens=True` the failing operation is carried out before the error is raised, as when a
    connection breaks under the answer. Raises `ValueError` for a name that is none of the store's.
    """

    def __init__(
        self,
        store: Store[TContext],
        at: int = 1,
        *,
        operations: Collection[str] | None = None,
        happens: bool = False,
        error: Exception | None = None,
    ) -> None:
        super().__init__(store)
        check_count("at", at)
        if operations is not None:
            check_choices("operations", operations, _operations_of(store))
        self.calls: list[str] = []
        """The names of the operations counted so far."""
        self._at = at
        self._operations = operations
        self._happens = happens
        self._error = error if error is not None else StoreError("the disk is full")
        self._is_armed = True

    def arm(self, at: int | None = None) -> None:
        """Begin to count afresh, and fail at operation `at` if it is given."""
        if at is not None:
            check_count("at", at)
            self._at = at
        self.calls.clear()
        self._is_armed = True

    def disarm(self) -> None:
        """Fail no more, and count no more."""
        self._is_armed = False

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Carry out the operation or fail."""
        counts = (
            name not in READS and name != "ping"
            if self._operations is None
            else name in self._operations
        )
        if counts and self._is_armed:
            self.calls.append(name)
            if len(self.calls) == self._at:
                if self._happens:
                    await call()
                raise self._error
        return await call()


def _operations_of(store: Store[Any]) -> list[str]:
    """Return the names under which a store's operations pass through `around`."""
    missing = {"journal": store.journal is None, "coordination": store.coordination is None}
    return sorted(name for name in READS | WRITES if not missing.get(name.partition(".")[0]))
