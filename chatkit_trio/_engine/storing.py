"""Storing what a turn has left, again and again, until the store has it.

Each try is shielded, with a deadline. An item that the store can never take doesn't hold up the
rest: it is set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Any

import trio

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import NotFoundError, StoreError, TurnFencedError
from chatkit_trio.store import (
    Fence,
    Settlement,
    Store,
    UnstorableItem,
    default_generate_id,
    is_random_id,
)
from chatkit_trio.types import SDKHiddenContextItem, ThreadItem

from .groups import StrayCancellation, ends_process, split_cancelled
from .items import RequireNew, UpdateStoredItem
from .leftovers import Leftovers
from .loading import found, load_item
from .wire import item_to_json
from .wrong_loop import hint_at_loop

logger = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 30.0  # seconds between two tries
_LONGEST_DELAY_BEFORE_LEAVING = 1.0
_TRIES_TOGETHER = {True: 10, False: 3}
"""After so many failures the items are tried one by one. True: the store says that it can't be
used, which is hardly the fault of an item."""

_TRIES_ALONE = 3
"""An item that fails so often alone, while the store takes other things, is set aside."""

_KEPT_AS = "item %s of thread %s is kept as %s: its id is taken"


async def ends_within(
    seconds: float, operation: Callable[..., Awaitable[object]], *args: Any
) -> bool:
    """Run an operation shielded, and say whether it ended in time.

    Whatever it raises comes out as an `Exception`; only Ctrl-C and exits pass. The group of a
    nursery may hold a cancellation by this scope beside a real error: the scope takes the
    cancellation out, and the rest is raised.
    """
    try:
        with trio.move_on_after(seconds, shield=True):
            await operation(*args)
            return True
    except (Exception, GeneratorExit) as error:
        hint_at_loop(error)
        raise
    except BaseException as error:
        if ends_process(error):
            raise
        if split_cancelled(error)[0] is None:
            what = f"{type(error).__name__} came out of user code"
            raise RuntimeError(what) from error  # noqa: ASYNC104
        # A cancellation of some scope of user code, raised again where that scope is no more.
        raise StrayCancellation.of(error) from error  # noqa: ASYNC104
    return False


class Storing:
    """The tries to store the leftovers of one turn."""

    def __init__(
        self, store: Store[Any], context: Any, leftovers: Leftovers, seconds: float
    ) -> None:
        self._store = store
        self._context = context
        self._left = leftovers
        self._seconds = seconds
        self.fence: Fence | None = None
        """Whose record the settlement ends, if several processes share the store."""
        self.tries = 0
        """How often it was tried to store all in one step."""
        self._sent: Settlement | None = None
        """What the store was given in the last try."""
        self._failures = 0
        self._tries_alone: dict[str, int] = {}
        self._free_note_id: str | None = None
        """The note's id, once it is known to be no other item's: each look takes time."""
        self._is_given_up = False
        self._longest_delay = _LONGEST_DELAY
        self._waiting = trio.lowlevel.ParkingLot()

    async def once(self) -> None:
        """Store all that is left in one step; raise what the store raises."""
        await self._make_sure()
        settlement = self._as_sent(self._left.settlement())
        self.tries += 1
        try:
            await self._send(settlement)
        except (NotFoundError, StoreError, TurnFencedError):
            raise
        except Exception:
            if settlement.thread is None:
                raise
            # It may be the thread that can't be stored: the items are stored without it.
            logger.exception("thread %s couldn't be saved with its items", self._left.thread_id)
            settlement = replace(settlement, thread=None)
            await self._send(settlement)
            self._left.drop_thread()
        self._left.confirm(settlement.thread)

    def _as_sent(self, settlement: Settlement) -> Settlement:
        """Return the settlement as it was sent before, if nothing but the thread differs.

        Its outcome may have been lost. Then the store knows it again by what is in it, and takes
        any other one for that of a node whose turn was settled by another. What a task of the turn
        has made of the thread since is stored next.
        """
        sent = self._sent
        if sent is None or sent.turn_id is None:
            return settlement
        return sent if replace(sent, thread=settlement.thread) == settlement else settlement

    async def _send(self, settlement: Settlement) -> None:
        self._sent = settlement
        await self._settle(settlement)

    async def finished_items(self) -> None:
        """Store finished items whose write failed; if that fails they stay among the leftovers."""
        is_empty = self._left.unconfirmed() == Settlement(self._left.thread_id)
        if not is_empty and await self._refusal_of(self._store_unconfirmed) is None:
            self._left.confirm_unconfirmed()

    async def _store_unconfirmed(self) -> None:
        await self._make_sure()
        await self._settle(self._left.unconfirmed())

    async def _settle(self, settlement: Settlement) -> None:
        """Have the store settle; lift the turn's fence if that has ended the turn's record.

        The record may have been ended by another node. Then the fence stays: what the turn's code
        writes now could undo what others have written since.
        """
        if self.fence is None or settlement.turn_id is None:
            await found(self._store.settle(settlement, self._context))
            return
        with self.fence.settling():
            if await found(self._store.settle(settlement, self._context)) is not False:
                self.fence.lift()

    async def _make_sure(self) -> None:
        """Look what the store has where only that can tell; raise what it raises.

        A new item is added unless there is one of its id; that must not be another item. An item
        that was to be deleted may be there all the same. Updates that were accepted and not
        performed need the item as it is stored.
        """
        left = self._left
        while left.late_updates:
            await self._apply_late(left.late_updates[0])
            del left.late_updates[0]
        for item in left.unsure_additions():
            if await self._is_another(item):
                new_id = default_generate_id("message")
                left.give_new_id(item.id, new_id)
                logger.error(_KEPT_AS, item.id, left.thread_id, new_id)
            else:
                left.items.confirm(RequireNew(item.id))
        note = left.note_to_add()
        if note is not None and note.id != self._free_note_id:
            if await self._has_taken_id(note):
                self._free_note_id = default_generate_id("sdk_hidden_context")
                left.give_note_new_id(self._free_note_id)
                logger.error(_KEPT_AS, note.id, left.thread_id, self._free_note_id)
            else:
                self._free_note_id = note.id
        for item_id in left.items.removing:
            if await self._store.has_item(left.thread_id, item_id, self._context):
                left.items.stays(item_id)
            else:
                left.item_is_gone(item_id)

    async def _apply_late(self, late: UpdateStoredItem) -> None:
        thread_id = self._left.thread_id
        try:
            item = await load_item(self._store, thread_id, late.item_id, self._context)
        except NotFoundError:
            logger.warning("in thread %s: an update of %s came too late", thread_id, late.item_id)
            return
        try:
            self._left.apply_late(late, item)
        except Exception as error:
            # Neither the turn nor the rest of its answer fails because of it any more.
            logger.warning("in thread %s: %s", thread_id, text_of(error))

    async def _is_another(self, item: ThreadItem) -> bool:
        """Say whether the thread has an item of this id that isn't this one."""
        try:
            stored = await load_item(self._store, self._left.thread_id, item.id, self._context)
        except NotFoundError:
            return False
        return item_to_json(stored) != item_to_json(item)

    async def _has_taken_id(self, note: SDKHiddenContextItem) -> bool:
        """Say whether another item has the note's id. A random one is nobody else's."""
        if self._left.is_beside_its_id(note):
            return True
        if is_random_id("sdk_hidden_context", note.id):
            return False
        try:
            stored = await load_item(self._store, self._left.thread_id, note.id, self._context)
        except NotFoundError:
            return False
        # A hook may have changed the note that is stored.
        ending = stored.ending if isinstance(stored, SDKHiddenContextItem) else None
        return ending is None or ending.turn_id != self._left.turn_id

    async def until(self, time: float) -> bool:
        """Try until this time, or until `give_up`; say whether all is stored."""
        delay = _FIRST_DELAY
        while not self._left.is_nothing:
            # What came before may have taken longer than it should: a thread can't be cancelled.
            if (seconds_left := time - trio.current_time()) <= 0:
                return False
            if await self._try(min(self._seconds, seconds_left)):
                continue
            with trio.move_on_at(min(trio.current_time() + delay, time), shield=True):
                await self._waiting.park()
            if self._is_given_up:
                return False
            delay = min(delay * 2, self._longest_delay)
        return True

    async def until_stored(self) -> bool:
        """Try until all is stored or the thread is gone; False if `give_up` was called."""
        is_stored = await self.until(inf)
        if not is_stored:
            logger.error(
                "the server leaves before %s of thread %s could be stored; items %s are %s",
                self._left.turn_id,
                self._left.thread_id,
                [item.id for item in self._left.settlement().new_items],
                "in the journal" if self._left.in_journal else "lost",
            )
        return is_stored

    def give_up(self) -> None:
        """End `until_stored`: the server leaves."""
        self._is_given_up = True
        self._waiting.unpark_all()

    def hasten(self) -> None:
        """Have `until_stored` try at once and then every second: the server is about to leave."""
        self._longest_delay = _LONGEST_DELAY_BEFORE_LEAVING
        self._waiting.unpark_all()

    def try_now(self) -> None:
        """Have `until_stored` try at once, because somebody waits for it."""
        self._waiting.unpark_all()

    async def _try(self, seconds: float) -> bool:
        error: Exception | None = None
        try:
            if await ends_within(seconds, self.once):
                return True
        except NotFoundError:
            left = self._left
            logger.info("thread %s was deleted; %s is settled", left.thread_id, left.turn_id)
            left.thread_is_gone()
            if self.fence is not None:
                self.fence.lift()  # its tasks may have work elsewhere
            return True
        except TurnFencedError:
            left = self._left
            logger.error(
                "another process has settled %s of thread %s; items %s aren't stored",
                left.turn_id,
                left.thread_id,
                [item.id for item in left.settlement().new_items],
            )
            left.thread_is_gone()
            return True
        except Exception as raised:
            error = raised
        self._failures += 1
        self._log(f"hadn't ended after {seconds} s" if error is None else "failed", error)
        store_is_away = error is None or isinstance(error, StoreError)
        return self._failures >= _TRIES_TOGETHER[store_is_away] and await self._one_by_one()

    def _log(self, what: str, error: Exception | None) -> None:
        logger.log(
            logging.ERROR if self._failures == 1 else logging.WARNING,
            "settling %s of thread %s %s (try %d); items %s aren't stored%s; it is tried again",
            self._left.turn_id,
            self._left.thread_id,
            what,
            self._failures,
            [item.id for item in self._left.settlement().new_items],
            ", and are in the journal" if self._left.in_journal else "",
            exc_info=error if self._failures == 1 else None,
        )

    async def _one_by_one(self) -> bool:
        """Store each item alone; say whether all is stored or set aside.

        A failure counts only if the store has just taken something else. The note comes last.
        """
        whole, thread_id = self._left.settlement(), self._left.thread_id
        as_it_is = Settlement(thread_id, thread=self._left.watch.as_saved())
        if await self._refusal(as_it_is) is not None:
            return False
        items = {item.id: item for item in (*whole.new_items, *whole.changed_items)}
        parts = {item.id: Settlement(thread_id, None, (item,)) for item in whole.new_items}
        if self._left.note is not None:
            parts.pop(self._left.note.id, None)
        for item in whole.changed_items:
            parts[item.id] = Settlement(thread_id, changed_items=(item,))
        if whole.thread is not None:
            parts[thread_id] = Settlement(thread_id, thread=whole.thread)
        refused = {
            name: error
            for name, part in parts.items()
            if (error := await self._refusal(part)) is not None
        }
        are_for_good = [self._is_refused_for_good(name) for name in refused]
        if not all(are_for_good):
            return False
        note = self._left.note
        notes = tuple(item for item in whole.new_items if item is note)
        if (error := await self._refusal(Settlement(thread_id, whole.turn_id, notes))) is not None:
            if note is None or not self._is_refused_for_good(note.id):
                return False
            if await self._refusal(Settlement(thread_id, whole.turn_id)) is not None:
                return False
            refused[note.id] = error
        for name, item in items.items():
            if name in refused:
                await self._set_aside(item, refused[name])
        late = [update.item_id for update in self._left.late_updates]
        for item_id in (*late, *self._left.items.removing):
            logger.error("item %s of thread %s can't be looked at any more", item_id, thread_id)
        if thread_id in refused:
            self._left.drop_thread(at_once=True)
        self._left.confirm(None if thread_id in refused else whole.thread)
        return True

    def _is_refused_for_good(self, name: str) -> bool:
        """Count that something was refused; say whether that was often enough."""
        self._tries_alone[name] = self._tries_alone.get(name, 0) + 1
        return self._tries_alone[name] >= _TRIES_ALONE

    async def _refusal(self, settlement: Settlement) -> Exception | None:
        """Try to store this; return why it wasn't stored, None if it was."""
        return await self._refusal_of(self._settle, settlement)

    async def _refusal_of(
        self, operation: Callable[..., Awaitable[None]], *args: Any
    ) -> Exception | None:
        try:
            if await ends_within(self._seconds, operation, *args):
                return None
        except Exception as error:
            logger.warning(
                "some of what %s left in thread %s couldn't be stored; it is tried again",
                self._left.turn_id,
                self._left.thread_id,
                exc_info=error,
            )
            return error
        return TimeoutError(f"the store hadn't ended after {self._seconds} s")

    async def _set_aside(self, item: ThreadItem, error: Exception) -> None:
        """Give the item to the operator."""
        left = self._left
        text = as_text(item)
        aside = UnstorableItem(left.thread_id, item.id, left.turn_id, text, text_of(error, repr))
        logger.error(
            "the store has never taken item %s of thread %s; it is set aside",
            item.id,
            left.thread_id,
            exc_info=error,
        )
        left.drop(item.id)
        try:
            if await ends_within(self._seconds, self._store.set_aside, aside, self._context):
                return
        except Exception:
            logger.exception(
                "the store couldn't set the item aside, so this line keeps it: %s", text
            )
        else:
            logger.error(
                "the store couldn't set the item aside in time, so this line keeps it: %s", text
            )


def as_text(item: ThreadItem) -> str:
    """Return an item as JSON, or as near to it as it can be written. Never raises."""
    try:
        return item.model_dump_json()
    except Exception:
        return text_of(item, repr)
