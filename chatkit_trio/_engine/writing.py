"""The one writer of a turn's thread: what each event asks of the store, done in order.

A step is an event that has been accepted, with its frame and what the store has to do before the
frame may be sent. Settling writes too, but only when no step is being performed any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import trio

from chatkit_trio.errors import ConflictError, NotFoundError, StoreError
from chatkit_trio.store import Store, default_generate_id
from chatkit_trio.types import (
    ThreadItem,
    ThreadItemUpdatedEvent,
    ThreadUpdatedEvent,
    WidgetComponentUpdated,
    WidgetItem,
    WidgetRootUpdated,
)

from .drafts import UnfitUpdate
from .ending import Ending
from .frames import ComponentFrame
from .items import (
    AddItem,
    DeleteItem,
    DropItem,
    RequireNew,
    SaveItem,
    StoreEffect,
    TurnItems,
    UpdateStoredItem,
    id_conflict,
)
from .journal import JournaledTurn, JournalWriter
from .loading import load_item
from .thread_state import ThreadWatch, as_metadata
from .wire import frame, item_to_json, thread_answer

logger = logging.getLogger(__name__)


_T = TypeVar("_T")
_Write: TypeAlias = AddItem | SaveItem | DeleteItem | DropItem


@dataclass(eq=False, slots=True)
class Step:
    """An accepted event that has to wait."""

    frame: bytes | None = None
    """What is sent; None for a hidden item."""
    effect: StoreEffect | None = None
    """What the store does before that."""
    is_done: bool = False
    """Whether the store has done it."""
    error: Exception | None = None
    """What was wrong with it, for the one who asked for it."""
    is_left: bool = False
    """Whether the one who asked for it has stopped waiting: a cancel scope in `respond` ended."""


@dataclass(eq=False, slots=True)
class Rename(Step):
    """A new title from a request beside the turn: the turn's own task saves it."""

    title: str = ""
    """The new title."""


def for_each_client(encoded: bytes, item: ThreadItem | None) -> bytes:
    """Return the frame of a component's update, also for clients that can't take it.

    `item` is the widget after the update.
    """
    if not isinstance(item, WidgetItem):
        return encoded
    whole = WidgetRootUpdated(widget=item.widget)
    return ComponentFrame(encoded, frame(ThreadItemUpdatedEvent(item_id=item.id, update=whole)))


class ThreadWriter:
    """Carries out what events ask of the store, each write to its end."""

    def __init__(
        self,
        store: Store[Any],
        context: Any,
        ending: Ending,
        items: TurnItems,
        watch: ThreadWatch,
        journal: JournalWriter | None,
        journaled: JournaledTurn,
        name: str,
    ) -> None:
        self._name = name
        self.items = items
        self.watch = watch
        self.thread_id = watch.thread.id
        self._store = store
        self._context = context
        self._ending = ending
        self._journal = journal
        self._journaled = journaled

    async def write(self, step: Step) -> bytes | None:
        """Do what the step asks of the store; return the frame to send, if there is one."""
        match step.effect:
            case None:
                return step.frame
            case RequireNew(item_id=item_id):
                has_item = partial(self._store.has_item, self.thread_id, item_id, self._context)
                if await self._ask(has_item, "has_item"):
                    self.items.refuse(item_id)
                    step.error = id_conflict(item_id)
                    return None
                self.items.confirm(RequireNew(item_id))
            case UpdateStoredItem() as effect:
                try:
                    item = await self._update_stored_item(effect)
                except UnfitUpdate as unfit:
                    logger.warning("in thread %s: %s", self.thread_id, unfit)
                    return None
                if step.frame is not None and isinstance(effect.update, WidgetComponentUpdated):
                    return for_each_client(step.frame, item)
            case effect:
                await self._carry_out(effect)
        return step.frame

    async def save_thread(self) -> bytes:
        """Save the thread as `respond` has left it; return the frame that says so."""
        snapshot = as_metadata(self.watch.thread)
        update = partial(self._store.update_thread, snapshot, self._context)
        await self._ask(update, "update_thread")
        self.watch.saved(snapshot)
        return frame(ThreadUpdatedEvent(thread=thread_answer(snapshot)))

    async def rename(self, step: Rename) -> bytes | None:
        """Give the thread a title; a failure is the business of the one who asked for it."""
        thread = self.watch.thread
        before, thread.title = thread.title, step.title
        try:
            return await self.save_thread()
        except Exception as error:
            thread.title = before
            step.error = error
            return None

    async def _carry_out(self, effect: _Write) -> None:
        store, thread_id, context = self._store, self.thread_id, self._context
        match effect:
            case AddItem() if not self.items.is_stored(effect.item.id):
                await self._add(effect)
            case AddItem() | SaveItem():
                await self._take_back_in_journal(effect.item.id)
                save = partial(store.save_item, thread_id, effect.item, context=context)
                await self._ask(save, "save_item")
            case DeleteItem():
                # One that fails isn't made up for: the item stays, for the client as well.
                await self._take_back_in_journal(effect.item_id)
                delete = partial(store.delete_thread_item, thread_id, effect.item_id)
                await self._ask(partial(delete, context=context), "delete_thread_item")
            case DropItem():
                await self._take_back_in_journal(effect.item_id)
        self.items.confirm(effect)

    async def _take_back_in_journal(self, item_id: str) -> None:
        """Have the journal forget an older state of an item, if it may have one.

        If the process died then, the item would be made what it was.
        """
        if self._journal is not None and self._journaled.may_hold(item_id):
            catch_up = partial(self._journal.catch_up, self._journaled)
            await self._ask(catch_up, "journal.checkpoint")

    async def _add(self, effect: AddItem) -> None:
        store, item, tries = self._store, effect.item, 0

        async def add() -> None:
            nonlocal tries
            tries += 1
            await store.add_thread_item(self.thread_id, item, context=self._context)

        try:
            await self._ask(add, "add_thread_item")
            return
        except ConflictError as error:
            conflict = error
        if self.items.was_new(item.id):
            # The outcome of the first try was lost; or another process took this one for dead and
            # has stored an older state, which the fence tells.
            save = partial(store.save_item, self.thread_id, item, context=self._context)
            await self._ask(save, "save_item")
            return
        if tries > 1 and await self._has_stored(item):
            return  # by the try whose outcome was lost
        new_id = default_generate_id("message")
        self.items.give_new_id(item.id, new_id)
        logger.error("item %s of %s is kept as %s: its id is taken", item.id, self._name, new_id)
        raise conflict

    async def _has_stored(self, item: ThreadItem) -> bool:
        """Say whether the store has just this item, and not another of its id."""
        load = partial(load_item, self._store, self.thread_id, item.id, self._context)
        try:
            return item_to_json(await self._ask(load, "load_item")) == item_to_json(item)
        except NotFoundError:
            return False

    async def _update_stored_item(self, effect: UpdateStoredItem) -> ThreadItem | None:
        """Update an item that was stored earlier, and return it."""
        try:
            load = partial(load_item, self._store, self.thread_id, effect.item_id, self._context)
            item = await self._ask(load, "load_item")
        except NotFoundError:
            raise UnfitUpdate(effect.item_id, effect.update, "isn't in the thread") from None
        save = self.items.reopen(item, effect.update)
        if save is None:
            return self.items.begun(effect.item_id)
        await self._carry_out(save)
        return save.item

    async def _ask(self, operation: Callable[[], Awaitable[_T]], name: str) -> _T:
        """Have the store do something; while it is away, again and again.

        Where several processes share a store, a turn outlives an outage for as long as no other
        process may settle it. A cut ends the waiting.
        """
        coordination = self._store.coordination
        if coordination is None:
            return await self._ending.write(operation, name)
        until = trio.current_time() + coordination.lease_timeout
        level = logging.ERROR
        while True:
            try:
                return await self._ending.write(operation, name)
            except StoreError as error:
                if trio.current_time() >= until:
                    raise
                logger.log(level, "%s waits for the store", self._name, exc_info=error)
                level = logging.DEBUG
            await trio.sleep(coordination.poll_interval)
