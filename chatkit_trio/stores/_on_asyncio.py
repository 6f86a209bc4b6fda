"""`AsyncioStore`: a store that waits on asyncio, used from trio.

Every call goes to the asyncio thread and back. A store of openai-chatkit's is given that package's
models; what comes back is made of this package's, whichever the store uses.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import trio
from pydantic import BaseModel, TypeAdapter, ValidationError

from chatkit_trio._engine.loading import found
from chatkit_trio._model import Model
from chatkit_trio.agents._asyncio_thread import (
    AsyncioTask,
    asyncio_thread,
    run_on_asyncio,
    run_on_trio,
)
from chatkit_trio.store import (
    ActiveThread,
    Opening,
    RequestRecord,
    SearchHit,
    Settlement,
    Store,
    StoreItemType,
    TContext,
    UnstorableItem,
)
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

T = TypeVar("T")

_THREAD: TypeAdapter[ThreadMetadata] = TypeAdapter(ThreadMetadata)
_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_ATTACHMENT: TypeAdapter[Attachment] = TypeAdapter(Attachment)

_ORIGINAL = "chatkit.store"

_KINDS = {"thread": "ThreadMetadata", "item": "ThreadItem", "attachment": "Attachment"}
"""By the name of an argument, the original's name for what it is."""


class AsyncioStore(Store[TContext]):
    """Use a store whose twelve methods wait on asyncio, as those of `openai-chatkit` do.

        store = AsyncioStore(MyAsyncpgStore(pool_settings))
        store = AsyncioStore(MyAsyncpgStore)  # made on the event loop, when the server opens it

    `store` is the store, or a function that returns it, an awaitable of it, or an async context
    manager that gives it; a function is called on the asyncio thread when this is opened. A store
    that is an async context manager is entered and left there, by one asyncio task. Until it is
    opened, a store that a function makes can't be used: `RuntimeError`.

    Arguments are passed by name, and to a store that inherits from the original's `Store` as the
    original's models. What the store raises is raised unchanged, but for the original's
    `NotFoundError`, which becomes ours; ids are made by its `generate_thread_id` and
    `generate_item_id` if it has its own. A store of this package that waits on asyncio may override
    `settle` and the other optional operations, which run on asyncio too; one with a `journal` or
    `coordination` is refused with `TypeError`, for these wait on trio.

    Each call is a checkpoint. A cancelled call cancels the coroutine and waits for its end, two
    seconds at most; a write may have happened nevertheless (`exact_cancellation = False` in
    `StoreConformance`), so its caller has to be able to do it twice, as the engine is.
    """

    def __init__(self, store: Any) -> None:
        self._given = store
        self.wrapped: Any = _refuse_unless_asyncio(store) if _is_store(store) else None
        """The store; None while there is none."""
        self._entered = 0
        self._lock = trio.Lock()
        """Held by the one that opens."""
        self._holder: AsyncioTask[None] | None = None
        self._is_open = trio.Event()
        self._closing = trio.Event()

    async def __aenter__(self) -> Self:
        async with self._lock:
            if self._entered == 0:
                await self._open()
            self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered == 0 and self._holder is not None:
            self._closing.set()
            # If this is cancelled, so is the closing, and its end is waited for.
            await self._holder.result()  # noqa: ASYNC102

    def get_owner(self, context: TContext) -> str:
        get_owner = self._own("get_owner")
        return super().get_owner(context) if get_owner is None else cast("str", get_owner(context))

    def generate_thread_id(self, context: TContext) -> str:
        generate = self._own("generate_thread_id")
        return super().generate_thread_id(context) if generate is None else str(generate(context))

    def generate_item_id(
        self, item_type: StoreItemType, thread: ThreadMetadata, context: TContext
    ) -> str:
        generate = self._own("generate_item_id")
        if generate is None:
            return super().generate_item_id(item_type, thread, context)
        thread = self._as_known({"thread": thread})["thread"]
        return str(generate(item_type, thread, context))

    # --- The twelve ----------------------------------------------------------------------------

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        thread = await self._call("load_thread", thread_id=thread_id, context=context)
        return _as_ours(_THREAD, thread)

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        await self._call("save_thread", thread=thread, context=context)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        page = await self._call(
            "load_thread_items",
            thread_id=thread_id,
            after=after,
            limit=limit,
            order=order,
            context=context,
        )
        return _page_as_ours(_ITEM, page)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        await self._call("save_attachment", attachment=attachment, context=context)

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        attachment = await self._call(
            "load_attachment", attachment_id=attachment_id, context=context
        )
        return _as_ours(_ATTACHMENT, attachment)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        await self._call("delete_attachment", attachment_id=attachment_id, context=context)

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        page = await self._call(
            "load_threads", limit=limit, after=after, order=order, context=context
        )
        return _page_as_ours(_THREAD, page)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        await self._call("add_thread_item", thread_id=thread_id, item=item, context=context)

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        await self._call("save_item", thread_id=thread_id, item=item, context=context)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        item = await self._call("load_item", thread_id=thread_id, item_id=item_id, context=context)
        return _as_ours(_ITEM, item)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        await self._call("delete_thread", thread_id=thread_id, context=context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        await self._call(
            "delete_thread_item", thread_id=thread_id, item_id=item_id, context=context
        )

    # --- What a store may have besides ---------------------------------------------------------

    async def update_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        if self._extra("update_item") is None:
            await super().update_item(thread_id, item, context)
        else:
            await self._call("update_item", thread_id=thread_id, item=item, context=context)

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        if self._extra("update_thread") is None:
            await super().update_thread(thread, context)
        else:
            await self._call("update_thread", thread=thread, context=context)

    async def begin_turn(self, opening: Opening, context: TContext) -> None:
        if self._extra("begin_turn") is None:
            await super().begin_turn(opening, context)
        else:
            await self._call("begin_turn", opening=opening, context=context)

    async def settle(self, settlement: Settlement, context: TContext) -> None:
        if self._extra("settle") is None:
            await super().settle(settlement, context)
        else:
            await self._call("settle", settlement=settlement, context=context)

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        if self._extra("set_aside") is None:
            await super().set_aside(item, context)
        else:
            await self._call("set_aside", item=item, context=context)

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        if self._extra("begin_request") is None:
            return await super().begin_request(record, window, context)
        known = await self._call("begin_request", record=record, window=window, context=context)
        return cast("RequestRecord | None", known)

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        if self._extra("find_request") is None:
            return await super().find_request(key, window, context)
        known = await self._call("find_request", key=key, window=window, context=context)
        return cast("RequestRecord | None", known)

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        if self._extra("update_request") is None:
            await super().update_request(record, context)
        else:
            await self._call("update_request", record=record, context=context)

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        if self._extra("delete_items_after") is None:
            await super().delete_items_after(thread_id, item_id, context)
        else:
            await self._call(
                "delete_items_after", thread_id=thread_id, item_id=item_id, context=context
            )

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: TContext
    ) -> Page[ActiveThread]:
        if not isinstance(self.wrapped, Store):  # another method may have that name
            return await super().load_threads_by_activity(limit, after, context)
        page = await self._call(
            "load_threads_by_activity", limit=limit, after=after, context=context
        )
        return cast("Page[ActiveThread]", page)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        if not isinstance(self.wrapped, Store):
            return await super().search_threads(query, limit, after, context)
        page = await self._call(
            "search_threads", query=query, limit=limit, after=after, context=context
        )
        return cast("Page[SearchHit]", page)

    async def ping(self) -> None:
        if self._extra("ping") is None:
            await super().ping()
        else:
            await self._call("ping")

    # --- Opening and closing -------------------------------------------------------------------

    async def _open(self) -> None:
        if self._holder is not None:
            await self._holder.ended.wait()
        self._is_open, self._closing = trio.Event(), trio.Event()
        holder = AsyncioTask(await asyncio_thread(), self._hold_open)
        try:
            async with trio.open_nursery() as nursery:
                for event in (self._is_open, holder.ended):
                    nursery.start_soon(_cancel_when, event, nursery.cancel_scope)
        except BaseException:
            await holder.aclose()
            raise
        if holder.ended.is_set():
            await holder.result()
        self._holder = holder

    async def _hold_open(self) -> None:
        """Open the store, wait, and close it, in one asyncio task, as context managers need it."""
        try:
            async with _opened(self._given) as self.wrapped:
                await run_on_trio(_set, self._is_open)
                await run_on_trio(self._closing.wait)
        finally:
            self.wrapped = self._given if _is_store(self._given) else None

    # --- Calls ---------------------------------------------------------------------------------

    def _own(self, name: str) -> Callable[..., Any] | None:
        """Return a method of the store, None if it has none but the original's default."""
        method = getattr(self.wrapped, name, None)
        return None if getattr(method, "__module__", None) == _ORIGINAL else method

    def _extra(self, name: str) -> Callable[..., Any] | None:
        """Return a method that a store needn't have, if it takes what `Store`'s takes.

        A store that was written for something else may have one of that name and another meaning.
        """
        method = self._own(name)
        if method is None or isinstance(self.wrapped, Store):
            return method
        _, *names = inspect.signature(getattr(Store, name)).parameters
        try:
            inspect.signature(method).bind(**dict.fromkeys(names))
        except TypeError:
            return None
        return method

    def _as_known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a call's arguments as the store knows them: one of the original's, its models."""
        if not _is_of_original(type(self.wrapped)):
            return arguments
        return {name: _as_originals(name, value) for name, value in arguments.items()}

    async def _call(self, name: str, **arguments: Any) -> Any:
        if self.wrapped is None:
            raise RuntimeError(
                f"this AsyncioStore isn't open: use `async with`, as a server does, before {name}()"
            )
        method = getattr(self.wrapped, name)
        return await found(run_on_asyncio(partial(method, **self._as_known(arguments))))


def _is_store(store: Any) -> bool:
    return hasattr(store, "load_thread") and not isinstance(store, type)


def _refuse_unless_asyncio(store: Any) -> Any:
    for name in ("journal", "coordination"):
        if getattr(store, name, None) is not None:
            raise TypeError(
                f"{type(store).__name__} has a {name}, which waits on trio: give the store to the"
                " server as it is, without AsyncioStore"
            )
    return store


@asynccontextmanager
async def _opened(given: Any) -> AsyncIterator[Any]:
    made: Any = given if _is_store(given) or not callable(given) else given()
    if inspect.isawaitable(made):
        made = await made
    if not hasattr(made, "__aenter__"):
        yield _refuse_unless_store(made)
        return
    async with made as entered:
        yield _refuse_unless_store(entered if _is_store(entered) else made)


def _refuse_unless_store(made: Any) -> Any:
    if not _is_store(made):
        raise TypeError(
            f"AsyncioStore needs a store, or a function that gives one, and was given a"
            f" {type(made).__name__}, which has no load_thread()"
        )
    return _refuse_unless_asyncio(made)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _set(event: trio.Event) -> None:
    event.set()
    await trio.lowlevel.checkpoint()


def _as_ours(adapter: TypeAdapter[T], value: Any) -> T:
    """Return a model of this package; those of the original are made into ours."""
    if isinstance(value, BaseModel) and _is_of_original(type(value)):
        return adapter.validate_python(value.model_dump())
    return cast("T", value)


def _as_originals(name: str, value: Any) -> Any:
    """Return an argument as a model of the original, if that has one that takes it.

    A store may ask what kind of item it gets, or put it into a model of its own.
    """
    kind = _KINDS.get(name)
    if kind is None or not isinstance(value, Model):
        return value
    try:
        return _originals(kind).validate_python(value.model_dump())
    except ValidationError:
        return value


@cache
def _originals(kind: str) -> TypeAdapter[Any]:
    # The store's module has imported it; this package never does.
    return TypeAdapter(getattr(sys.modules["chatkit.types"], kind))


def _page_as_ours(adapter: TypeAdapter[T], page: Page[T]) -> Page[T]:
    data = [_as_ours(adapter, value) for value in page.data]
    return Page(data=data, has_more=page.has_more, after=page.after)


def _is_of_original(cls: type) -> bool:
    """Say whether a class, or what it inherits from, is the original's and not ours."""
    modules = {parent.__module__.partition(".")[0] for parent in cls.__mro__}
    return "chatkit" in modules and "chatkit_trio" not in modules
