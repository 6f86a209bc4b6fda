"""Stores with one fault each, for `test_store_conformance.py`: the kit must find every one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import outcome
import pytest
import trio

from chatkit_trio._engine.owner_limits import LocalUsage
from chatkit_trio.errors import NotFoundError
from chatkit_trio.limits import OwnerUsage, Rate
from chatkit_trio.store import (
    ActiveThread,
    Fence,
    Journal,
    JournalEntry,
    News,
    Opening,
    RequestRecord,
    SearchHit,
    Settlement,
    Store,
    TurnRecord,
    UnstorableItem,
    fence,
    fencing_turn,
)
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.stores._memory_cluster import TurnRow
from chatkit_trio.stores._memory_coordination import MemoryCoordination, MemoryJournal, NodeUsage
from chatkit_trio.stores._records import encode_item
from chatkit_trio.testing import StoreConformance, StoreWrapper
from chatkit_trio.testing._store_samples import NOON
from chatkit_trio.types import Attachment, Page, SDKHiddenContextItem, ThreadItem, ThreadMetadata

T = TypeVar("T")


class Kit(StoreConformance):
    __test__ = False
    store: type[MemoryStore[str]]

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        async with self.store(owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


class AbandonsWrites(MemoryStore[str]):
    """A cancelled caller leaves, and the write happens behind its back."""

    async def add_thread_item(self, *args: Any, **kwargs: Any) -> None:
        await super().add_thread_item(*args, **kwargs)
        await trio.lowlevel.checkpoint()


class TestAbandonsWrites(Kit):
    __test__ = True
    store = AbandonsWrites


class ReadsThenWrites(MemoryStore[str]):
    """Waits between looking whether the item is there and adding it."""

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        there = await self.has_item(thread_id, item.id, context)
        if there:
            await super().add_thread_item(thread_id, item, context)
        await self.save_item(thread_id, item, context)


class TestReadsThenWrites(Kit):
    __test__ = True
    store = ReadsThenWrites


class SettlesInSteps(MemoryStore[str]):
    """Claims to be atomic, and isn't."""

    settle = Store.settle


class TestSettlesInSteps(Kit):
    __test__ = True
    store = SettlesInSteps


class OrdersByTime(MemoryStore[str]):
    """Sorts by created_at, as the original's samples do."""

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: str
    ) -> Page[ThreadItem]:
        page = await super().load_thread_items(thread_id, None, 1000, "asc", context)
        items = sorted(page.data, key=lambda item: item.created_at, reverse=order == "desc")
        start = [item.id for item in items].index(after) + 1 if after else 0
        has_more = len(items) > start + limit
        data = items[start : start + limit]
        return Page(data=data, has_more=has_more, after=data[-1].id if has_more else None)


class TestOrdersByTime(Kit):
    __test__ = True
    store = OrdersByTime


class ForgetsTheOwner(MemoryStore[str]):
    """Deletes whatever id it is given."""

    async def delete_thread(self, thread_id: str, context: str) -> None:
        await trio.lowlevel.checkpoint()
        self._threads.pop(thread_id, None)


class TestForgetsTheOwner(Kit):
    __test__ = True
    store = ForgetsTheOwner


class KeepsTheCallersObject(MemoryStore[str]):
    """Hands out the object that was saved, and takes a `Thread` for metadata."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._objects: dict[str, ThreadMetadata] = {}

    async def save_thread(self, thread: ThreadMetadata, context: str) -> None:
        await super().save_thread(thread, context)
        self._objects[thread.id] = thread

    async def load_thread(self, thread_id: str, context: str) -> ThreadMetadata:
        await super().load_thread(thread_id, context)
        return self._objects[thread_id]


class TestKeepsTheCallersObject(Kit):
    __test__ = True
    store = KeepsTheCallersObject


class SettlesTwice(MemoryStore[str]):
    """Adds the new items again under other ids when settled again."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(settlement, context)
        for item in settlement.new_items:
            again = item.model_copy(update={"id": self.generate_thread_id(context)})
            await self.add_thread_item(settlement.thread_id, again, context)


class TestSettlesTwice(Kit):
    __test__ = True
    store = SettlesTwice


class MovesSavedItems(MemoryStore[str]):
    """Saving an item takes it to the end of the thread."""

    async def save_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        items.pop(item.id, None)
        items[item.id] = item.model_dump_json()


class TestMovesSavedItems(Kit):
    __test__ = True
    store = MovesSavedItems


# --- Threads and items -------------------------------------------------------------------------


class DeletesTwenty(MemoryStore[str]):
    """Deletes one page of newer items and stops."""

    async def delete_items_after(self, thread_id: str, item_id: str, context: str) -> None:
        page = await self.load_thread_items(thread_id, item_id, 20, "asc", context)
        await self.load_item(thread_id, item_id, context)
        for item in page.data:
            await self.delete_thread_item(thread_id, item.id, context)


class TestDeletesTwenty(Kit):
    __test__ = True
    store = DeletesTwenty


class IgnoresCaseOfItems(MemoryStore[str]):
    """Has a collation that takes `ABC` for `abc`."""

    async def load_item(self, thread_id: str, item_id: str, context: str) -> ThreadItem:
        return await super().load_item(thread_id, item_id.lower(), context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: str) -> None:
        await super().delete_thread_item(thread_id, item_id.lower(), context)


class TestIgnoresCaseOfItems(Kit):
    __test__ = True
    store = IgnoresCaseOfItems


class IgnoresCaseOfThreads(MemoryStore[str]):
    async def load_thread(self, thread_id: str, context: str) -> ThreadMetadata:
        for known in (thread_id, thread_id.lower()):
            with suppress(NotFoundError):
                return await super().load_thread(known, context)
        raise NotFoundError(f"there is no thread {thread_id}")


class TestIgnoresCaseOfThreads(Kit):
    __test__ = True
    store = IgnoresCaseOfThreads


class IgnoresCaseOfAttachments(MemoryStore[str]):
    async def save_attachment(self, attachment: Attachment, context: str) -> None:
        lower = attachment.model_copy(update={"id": attachment.id.lower()})
        await super().save_attachment(lower, context)

    async def load_attachment(self, attachment_id: str, context: str) -> Attachment:
        return await super().load_attachment(attachment_id.lower(), context)

    async def delete_attachment(self, attachment_id: str, context: str) -> None:
        await super().delete_attachment(attachment_id.lower(), context)


class TestIgnoresCaseOfAttachments(Kit):
    __test__ = True
    store = IgnoresCaseOfAttachments


class ForgetsStatus(MemoryStore[str]):
    """Has columns for the title and the metadata, and none for the rest."""

    async def save_thread(self, thread: ThreadMetadata, context: str) -> None:
        known = thread.model_dump(include={"id", "title", "created_at", "metadata"})
        await super().save_thread(ThreadMetadata.model_validate(known), context)


class TestForgetsStatus(Kit):
    __test__ = True
    store = ForgetsStatus


class ForgetsTheEnding(MemoryStore[str]):
    """Stores a note as it was before notes had an ending."""

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        if isinstance(item, SDKHiddenContextItem):
            item = item.model_copy(update={"ending": None})
        await super().add_thread_item(thread_id, item, context)


class TestForgetsTheEnding(Kit):
    __test__ = True
    store = ForgetsTheEnding


class WritesWhatItCantRead(MemoryStore[str]):
    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        await trio.lowlevel.checkpoint()
        self._thread(thread_id, context).items[item.id] = item.model_dump_json()


class TestWritesWhatItCantRead(Kit):
    __test__ = True
    store = WritesWhatItCantRead


class DropsMicroseconds(MemoryStore[str]):
    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        created_at = item.created_at.replace(microsecond=0)
        item = item.model_copy(update={"created_at": created_at})
        await super().add_thread_item(thread_id, item, context)


class TestDropsMicroseconds(Kit):
    __test__ = True
    store = DropsMicroseconds


class NumbersAreFloats(MemoryStore[str]):
    async def save_thread(self, thread: ThreadMetadata, context: str) -> None:
        metadata = json.loads(json.dumps(thread.metadata), parse_int=float)
        await super().save_thread(thread.model_copy(update={"metadata": metadata}), context)


class TestNumbersAreFloats(Kit):
    __test__ = True
    store = NumbersAreFloats


class IgnoresSpacesBehindIds(MemoryStore[str]):
    """As columns of a fixed width compare."""

    async def load_thread(self, thread_id: str, context: str) -> ThreadMetadata:
        return await super().load_thread(thread_id.rstrip(), context)


class TestIgnoresSpacesBehindIds(Kit):
    __test__ = True
    store = IgnoresSpacesBehindIds


class RefusesNul(MemoryStore[str]):
    """An id that the database can't hold is an error of the server, and not of the client."""

    async def load_thread(self, thread_id: str, context: str) -> ThreadMetadata:
        if "\x00" in thread_id:
            raise ValueError("can't be encoded")
        return await super().load_thread(thread_id, context)


class TestRefusesNul(Kit):
    __test__ = True
    store = RefusesNul


class EndsPagesEarly(MemoryStore[str]):
    """Has a limit of its own for pages, and takes what it gives for all that there is."""

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: str
    ) -> Page[ThreadItem]:
        page = await super().load_thread_items(thread_id, after, limit, order, context)
        return page if limit <= 100 or page.has_more else Page(data=page.data[:100])


class TestEndsPagesEarly(Kit):
    __test__ = True
    store = EndsPagesEarly


class KeepsHalfOfARefusal(MemoryStore[str]):
    """Encodes what a turn leaves while it stores it."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        for item in settlement.new_items:
            if item.type == "client_tool_call":
                break
            await super().settle(replace(settlement, new_items=(item,), thread=None), context)
        await super().settle(settlement, context)


class TestKeepsHalfOfARefusal(Kit):
    __test__ = True
    store = KeepsHalfOfARefusal


class SavesTheThreadApart(MemoryStore[str]):
    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(replace(settlement, thread=None), context)
        await super().settle(settlement, context)


class TestSavesTheThreadApart(Kit):
    __test__ = True
    store = SavesTheThreadApart


class UpdateInserts(MemoryStore[str]):
    update_thread = MemoryStore.save_thread


class TestUpdateInserts(Kit):
    __test__ = True
    store = UpdateInserts


class UpdatesInSteps(MemoryStore[str]):
    """Claims to be atomic, and looks first and writes then."""

    update_thread = Store.update_thread


class TestUpdatesInSteps(Kit):
    __test__ = True
    store = UpdatesInSteps


class ItemUpdateInserts(MemoryStore[str]):
    update_item = MemoryStore.save_item


class TestItemUpdateInserts(Kit):
    __test__ = True
    store = ItemUpdateInserts


class UpdatesItemsInSteps(MemoryStore[str]):
    """Claims to be atomic, and looks first and writes then."""

    update_item = Store.update_item


class TestUpdatesItemsInSteps(Kit):
    __test__ = True
    store = UpdatesItemsInSteps


class UpdateForgetsTheOwner(MemoryStore[str]):
    async def update_thread(self, thread: ThreadMetadata, context: str) -> None:
        await trio.lowlevel.checkpoint()
        row = self._threads.get(thread.id)
        await super().update_thread(thread, row.owner if row is not None else context)


class TestUpdateForgetsTheOwner(Kit):
    __test__ = True
    store = UpdateForgetsTheOwner


class SettleForgetsStatusAndMetadata(MemoryStore[str]):
    """Settles the title only."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        thread = await self.load_thread(settlement.thread_id, context)
        if settlement.thread is not None:
            thread.title = settlement.thread.title
            settlement = replace(settlement, thread=thread)
        await super().settle(settlement, context)


class TestSettleForgetsStatusAndMetadata(Kit):
    __test__ = True
    store = SettleForgetsStatusAndMetadata


class Blocks(MemoryStore[str]):
    """Has a driver that blocks, on the trio thread."""

    async def load_thread_items(self, *args: Any, **kwargs: Any) -> Page[ThreadItem]:
        time.sleep(0.02)  # noqa: ASYNC251  (the fault)
        return await super().load_thread_items(*args, **kwargs)


class TestBlocks(Kit):
    __test__ = True
    store = Blocks


class NeverGivesWay(StoreWrapper[str]):
    """Has a driver that is quick, and blocks too."""

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        running: Any = call()
        try:
            running.send(None)
            while True:
                running.send(outcome.Value(None))  # what trio answers to a checkpoint
        except StopIteration as end:
            answer: T = end.value
            return answer


class TestNeverGivesWay(StoreConformance):
    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        yield NeverGivesWay(MemoryStore(owner=str))


# --- What was refused, and requests that are sent twice ----------------------------------------


class SetAsideRaises(MemoryStore[str]):
    async def set_aside(self, item: UnstorableItem, context: str) -> None:
        await trio.lowlevel.checkpoint()
        item.text.encode()


class TestSetAsideRaises(Kit):
    __test__ = True
    store = SetAsideRaises


class SetAsideWantsAThread(MemoryStore[str]):
    async def set_aside(self, item: UnstorableItem, context: str) -> None:
        await self.load_thread(item.thread_id, context)


class TestSetAsideWantsAThread(Kit):
    __test__ = True
    store = SetAsideWantsAThread


class LooksThenRecords(MemoryStore[str]):
    """Lets another caller in between looking for a request and recording it."""

    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        found = self._requests.get((context, record.key))
        await trio.lowlevel.checkpoint()
        if found is not None:
            return await super().begin_request(record, window, context)
        await super().begin_request(record, 0, context)
        return None


class TestLooksThenRecords(Kit):
    __test__ = True
    store = LooksThenRecords


class RecordsForAll(MemoryStore[str]):
    """Takes another owner's key for the same."""

    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        return await super().begin_request(record, window, "all")

    async def update_request(self, record: RequestRecord, context: str) -> None:
        await super().update_request(record, "all")


class TestRecordsForAll(Kit):
    __test__ = True
    store = RecordsForAll


class KeepsRequestsForEver(MemoryStore[str]):
    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        return await super().begin_request(record, 600, context)


class TestKeepsRequestsForEver(Kit):
    __test__ = True
    store = KeepsRequestsForEver


class ForgetsRequests(MemoryStore[str]):
    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        await trio.lowlevel.checkpoint()
        return None


class TestForgetsRequests(Kit):
    __test__ = True
    store = ForgetsRequests


class AnswersAreText(MemoryStore[str]):
    """Has a column for text, and turns no answer into an empty one."""

    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        found = await super().begin_request(record, window, context)
        return found and replace(found, answer=found.answer or b"")


class TestAnswersAreText(Kit):
    __test__ = True
    store = AnswersAreText


class RequestsIgnoreCase(MemoryStore[str]):
    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        lower = replace(record, key=record.key.lower().strip())
        return await super().begin_request(lower, window, context)


class TestRequestsIgnoreCase(Kit):
    __test__ = True
    store = RequestsIgnoreCase


class UpdatesTheAnswerOnly(MemoryStore[str]):
    async def update_request(self, record: RequestRecord, context: str) -> None:
        await trio.lowlevel.checkpoint()
        at, found = self._requests[context, record.key]
        self._requests[context, record.key] = (at, replace(found, answer=record.answer))


class TestUpdatesTheAnswerOnly(Kit):
    __test__ = True
    store = UpdatesTheAnswerOnly


class UpdateRequestInserts(MemoryStore[str]):
    async def update_request(self, record: RequestRecord, context: str) -> None:
        await self.begin_request(record, 600, context)
        await super().update_request(record, context)


class TestUpdateRequestInserts(Kit):
    __test__ = True
    store = UpdateRequestInserts


class RecordsWhenCancelled(MemoryStore[str]):
    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        found = await super().begin_request(record, window, context)
        await trio.lowlevel.checkpoint()
        return found


class TestRecordsWhenCancelled(Kit):
    __test__ = True
    store = RecordsWhenCancelled


class RequestsInMemory(StoreWrapper[str]):
    """Keeps requests where they don't survive."""

    def __init__(self, store: Store[str]) -> None:
        super().__init__(store)
        self._memory = MemoryStore[str](owner=str)

    async def begin_request(
        self, record: RequestRecord, window: float, context: str
    ) -> RequestRecord | None:
        return await self._memory.begin_request(record, window, context)

    async def update_request(self, record: RequestRecord, context: str) -> None:
        await self._memory.update_request(record, context)


# --- Journals ----------------------------------------------------------------------------------


class FaultyJournal(Journal[str]):
    """Passes everything on to the journal of a right store."""

    def __init__(self, journal: Journal[str]) -> None:
        self.right = journal

    async def begin(self, turn_id: str, thread_id: str, context: str) -> None:
        await self.right.begin(turn_id, thread_id, context)

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await self.right.checkpoint(entries)

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        return await self.right.abandoned(thread_id)

    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        return await self.right.settle_abandoned(settlement)


class PersistentKit(StoreConformance):
    __test__ = False
    persistent = True
    wrapper: type[StoreWrapper[str]] = StoreWrapper
    journal: type[FaultyJournal] = FaultyJournal

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "chat.db"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        async with self.wrapper(SQLiteStore[str](self.path, owner=str)) as store:
            assert store.journal is not None
            store.journal = self.journal(store.journal)
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


class TestRequestsInMemory(PersistentKit):
    __test__ = True
    wrapper = RequestsInMemory


class JournalsOneItem(FaultyJournal):
    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await super().checkpoint([replace(entry, items=entry.items[:1]) for entry in entries])


class TestJournalsOneItem(PersistentKit):
    __test__ = True
    journal = JournalsOneItem


class JournalsNoChanges(FaultyJournal):
    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await super().checkpoint([replace(entry, changed_items=()) for entry in entries])


class TestJournalsNoChanges(PersistentKit):
    __test__ = True
    journal = JournalsNoChanges


class JournalsNoReason(FaultyJournal):
    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await super().checkpoint([replace(entry, reason=None) for entry in entries])


class TestJournalsNoReason(PersistentKit):
    __test__ = True
    journal = JournalsNoReason


class JournalsTheFirstCheckpoint(FaultyJournal):
    """Adds what is new to an entry, and replaces nothing."""

    def __init__(self, journal: Journal[str]) -> None:
        super().__init__(journal)
        self._reasons: dict[str, str | None] = {}

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        for entry in entries:
            self._reasons[entry.turn_id] = entry.reason or self._reasons.get(entry.turn_id)
        merged = [replace(entry, reason=self._reasons[entry.turn_id]) for entry in entries]
        await super().checkpoint(merged)


class TestJournalsTheFirstCheckpoint(PersistentKit):
    __test__ = True
    journal = JournalsTheFirstCheckpoint


class JournalsTheLastTurnOnly(FaultyJournal):
    """Writes a checkpoint as if it had all turns in it."""

    def __init__(self, journal: Journal[str]) -> None:
        super().__init__(journal)
        self._begun: dict[str, str] = {}

    async def begin(self, turn_id: str, thread_id: str, context: str) -> None:
        await super().begin(turn_id, thread_id, context)
        self._begun[turn_id] = thread_id

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        empty = [JournalEntry(*turn) for turn in self._begun.items()]
        await super().checkpoint([*empty, *entries])


class TestJournalsTheLastTurnOnly(PersistentKit):
    __test__ = True
    journal = JournalsTheLastTurnOnly


class OneBadItemStopsAll(FaultyJournal):
    """A checkpoint with an item that can't be stored isn't written at all."""

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        for entry in entries:
            for item in entry.items:
                encode_item(item)
        await super().checkpoint(entries)


class TestOneBadItemStopsAll(PersistentKit):
    __test__ = True
    journal = OneBadItemStopsAll


class AllHaveSettledIt(FaultyJournal):
    """Says to everybody who settles a turn that it was the one."""

    async def settle_abandoned(self, settlement: Settlement) -> bool:
        await super().settle_abandoned(settlement)
        return True


class TestAllHaveSettledIt(PersistentKit):
    __test__ = True
    journal = AllHaveSettledIt


class SettlesNoPart(FaultyJournal):
    """Keeps what is left out, and not what is to be settled."""

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool | None:
        return await super().settle_in_part(replace(settlement, new_items=()), left_out)


class TestSettlesNoPart(PersistentKit):
    __test__ = True
    journal = SettlesNoPart


class RecoversTheNoteOnly(FaultyJournal):
    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        notes = settlement.new_items[-1:]
        return await super().settle_abandoned(replace(settlement, new_items=notes))


class TestRecoversTheNoteOnly(PersistentKit):
    __test__ = True
    journal = RecoversTheNoteOnly


class RecoversNoChanges(FaultyJournal):
    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        return await super().settle_abandoned(replace(settlement, changed_items=()))


class TestRecoversNoChanges(PersistentKit):
    __test__ = True
    journal = RecoversNoChanges


class RecoversNoThread(FaultyJournal):
    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        return await super().settle_abandoned(replace(settlement, thread=None))


class TestRecoversNoThread(PersistentKit):
    __test__ = True
    journal = RecoversNoThread


class FindsTurnsOfAllThreads(FaultyJournal):
    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        return await super().abandoned()


class TestFindsTurnsOfAllThreads(PersistentKit):
    __test__ = True
    journal = FindsTurnsOfAllThreads


class KeepsATurnForItself(FaultyJournal):
    """Returns an abandoned turn to the first process that asks, and to no other."""

    claims: ClassVar[dict[str, object]] = {}

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        found = await super().abandoned(thread_id)
        return [entry for entry in found if self.claims.setdefault(entry.turn_id, self) is self]


class TestKeepsATurnForItself(PersistentKit):
    __test__ = True
    journal = KeepsATurnForItself


class ReturnsATurnOnce(FaultyJournal):
    """A recovery that fails can't be tried again."""

    def __init__(self, journal: Journal[str]) -> None:
        super().__init__(journal)
        self._returned: set[str] = set()

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        found = await super().abandoned(thread_id)
        new = [entry for entry in found if entry.turn_id not in self._returned]
        self._returned |= {entry.turn_id for entry in new}
        return new


class TestReturnsATurnOnce(PersistentKit):
    __test__ = True
    journal = ReturnsATurnOnce


class LateTextIsLost(StoreWrapper[str]):
    """Adds new items unless they are there, also when another process has added them."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        new = [
            item
            for item in settlement.new_items
            if not await self.has_item(item.thread_id, item.id, context)
        ]
        await super().settle(replace(settlement, new_items=tuple(new)), context)


class TestLateTextIsLost(PersistentKit):
    __test__ = True
    wrapper = LateTextIsLost


class LateNoteIsDoubled(StoreWrapper[str]):
    """Looks for the note's id only, not for its turn."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(settlement, context)
        for item in settlement.new_items:
            if not await self.has_item(item.thread_id, item.id, context):
                await self.add_thread_item(item.thread_id, item, context)


class TestLateNoteIsDoubled(PersistentKit):
    __test__ = True
    wrapper = LateNoteIsDoubled


class OneNoteAThread(StoreWrapper[str]):
    """Leaves the note out if the thread has one of any turn."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        page = await self.load_thread_items(settlement.thread_id, None, 100, "asc", context)
        if any(isinstance(item, SDKHiddenContextItem) for item in page.data):
            new = [one for one in settlement.new_items if not isinstance(one, SDKHiddenContextItem)]
            settlement = replace(settlement, new_items=tuple(new))
        await super().settle(settlement, context)


class TestOneNoteAThread(PersistentKit):
    __test__ = True
    wrapper = OneNoteAThread


class LeavesTheClaimOpen(StoreWrapper[str]):
    """Settles beside the entry that another process has claimed, and doesn't close it."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(replace(settlement, turn_id=None), context)


class TestLeavesTheClaimOpen(PersistentKit):
    __test__ = True
    wrapper = LeavesTheClaimOpen


# --- Coordination ------------------------------------------------------------------------------


class ClusterKit(StoreConformance):
    """A memory cluster in which one part has the fault."""

    __test__ = False
    persistent = True
    cluster: type[MemoryCluster] = MemoryCluster
    store: type[MemoryStore[str]] = MemoryStore
    coordination: type[MemoryCoordination[str]] = MemoryCoordination
    journal: type[MemoryJournal[str]] = MemoryJournal

    @pytest.fixture(autouse=True)
    def _cluster(self) -> None:
        self.now = 0.0
        self.nodes: list[MemoryCoordination[str]] = []
        self.data = self.cluster(clock=lambda: self.now)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        store = self.store(owner=str, cluster=self.data)
        store.coordination = store._node = self.coordination(self.data, str)
        store.journal = self.journal(self.data, store._node, str)
        async with store:
            self.nodes.append(store._node)
            yield store
            self.nodes.remove(store._node)

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"

    async def make_silent(self, store: Store[Any]) -> None:
        for _ in range(4):
            self.now += self.data.lease_timeout / 3
            for node in self.nodes:
                if node is not store.coordination:
                    await node.news()

    async def make_all_silent(self) -> None:
        self.now += 2 * self.data.lease_timeout


class NoFence(MemoryStore[str]):
    async def _begin_write(self, *, settles: str | None = None) -> None:
        await trio.lowlevel.checkpoint()


class TestNoFence(ClusterKit):
    __test__ = True
    store = NoFence


class NoFenceForAttachments(MemoryStore[str]):
    async def save_attachment(self, attachment: Attachment, context: str) -> None:
        token = fence.set(None)
        try:
            await super().save_attachment(attachment, context)
        finally:
            fence.reset(token)


class TestNoFenceForAttachments(ClusterKit):
    __test__ = True
    store = NoFenceForAttachments


class NoFenceForRequests(MemoryStore[str]):
    async def update_request(self, record: RequestRecord, context: str) -> None:
        token = fence.set(None)
        try:
            await super().update_request(record, context)
        finally:
            fence.reset(token)


class TestNoFenceForRequests(ClusterKit):
    __test__ = True
    store = NoFenceForRequests


class FenceAsksFirst(MemoryStore[str]):
    """Looks for the record, and writes in another transaction."""

    async def _begin_write(self, *, settles: str | None = None) -> None:
        await super()._begin_write(settles=settles)
        if fencing_turn() is not None:
            for _ in range(3):  # what one transaction of a database takes at least
                await trio.lowlevel.checkpoint()


class TestFenceAsksFirst(ClusterKit):
    __test__ = True
    store = FenceAsksFirst


class FenceOfAnyNode(MemoryCluster):
    """Lets a turn write on a node that it isn't live on."""

    def check_live(self, turn_id: str, node: str) -> None:
        turn = self.turns.get(turn_id)
        super().check_live(turn_id, node if turn is None else turn.node)


class TestFenceOfAnyNode(ClusterKit):
    __test__ = True
    cluster = FenceOfAnyNode


class FenceUntilSettled(MemoryCluster):
    """Lets a turn write that is abandoned and not settled yet."""

    def check_live(self, turn_id: str, node: str) -> None:
        if turn_id not in self.turns:
            super().check_live(turn_id, node)


class TestFenceUntilSettled(ClusterKit):
    __test__ = True
    cluster = FenceUntilSettled


class LosesTheMarked(MemoryCluster):
    """Refuses the whole answer of a turn that another node has marked and not settled yet."""

    def settle_live(self, settlement: Settlement, owner: str, node: str) -> bool:
        if settlement.turn_id in self.turns:
            self.check_live(settlement.turn_id, node)
        return super().settle_live(settlement, owner, node)


class TestLosesTheMarked(ClusterKit):
    __test__ = True
    cluster = LosesTheMarked


class FenceIsNeverLifted(MemoryStore[str]):
    async def _begin_write(self, *, settles: str | None = None) -> None:
        mine = fence.get()
        token = fence.set(None if mine is None else Fence(mine.turn_id))
        try:
            await super()._begin_write(settles=settles)
        finally:
            fence.reset(token)


class TestFenceIsNeverLifted(ClusterKit):
    __test__ = True
    store = FenceIsNeverLifted


class FenceAsksOnce(MemoryStore[str]):
    """Refuses a write that was on its way when its own turn was settled."""

    async def _begin_write(self, *, settles: str | None = None) -> None:
        turn_id = fencing_turn()
        await trio.lowlevel.checkpoint()
        if self._node is not None and turn_id not in (None, settles):
            self._cluster.check_live(turn_id, self._node.open_node())


class TestFenceAsksOnce(ClusterKit):
    __test__ = True
    store = FenceAsksOnce


class LooksThenBegins(MemoryCoordination[str]):
    """Lets another turn in between looking at the thread and recording the turn."""

    async def begin(self, opening: Opening, context: str) -> TurnRecord | None:
        found = await self.record(opening.thread_id)
        await trio.lowlevel.checkpoint()
        if found is not None:
            return await super().begin(opening, context)
        self._cluster._carry_out(opening, context)
        turn = TurnRow(opening.turn_id, opening.thread_id, context, self.node)
        self._cluster.turns[turn.turn_id] = turn
        return None


class TestLooksThenBegins(ClusterKit):
    __test__ = True
    coordination = LooksThenBegins


class BeginsBlindly(MemoryCoordination[str]):
    """Begins a turn also on a thread that isn't as its request has found it any more."""

    async def begin(self, opening: Opening, context: str) -> TurnRecord | None:
        blind = replace(opening, needs_active=False, last_item_id=None, unchanged_items=())
        return await super().begin(blind, context)


class TestBeginsBlindly(ClusterKit):
    __test__ = True
    coordination = BeginsBlindly


class WritesThenRecords(MemoryCoordination[str]):
    """Makes the first writes one by one, and then the record."""

    async def begin(self, opening: Opening, context: str) -> TurnRecord | None:
        bare = Opening(opening.thread_id, opening.turn_id)
        if await self.record(opening.thread_id) is not None:
            return await super().begin(bare, context)
        await MemoryStore[str](owner=str, cluster=self._cluster).begin_turn(opening, context)
        return await super().begin(bare, context)


class TestWritesThenRecords(ClusterKit):
    __test__ = True
    coordination = WritesThenRecords


class RecordsThenWrites(MemoryCoordination[str]):
    """Makes the record, and then the first writes: a cancellation falls between the two."""

    async def begin(self, opening: Opening, context: str) -> TurnRecord | None:
        has_begun = opening.turn_id in self._cluster.turns
        bare = Opening(opening.thread_id, opening.turn_id, new_thread=opening.new_thread)
        found = await super().begin(bare, context)
        if found is None and not has_begun:
            await MemoryStore[str](owner=str, cluster=self._cluster).begin_turn(opening, context)
        return found


class TestRecordsThenWrites(ClusterKit):
    __test__ = True
    coordination = RecordsThenWrites


class BeginsWhenCancelled(MemoryCoordination[str]):
    async def begin(self, opening: Opening, context: str) -> TurnRecord | None:
        found = await super().begin(opening, context)
        await trio.lowlevel.checkpoint()
        return found


class TestBeginsWhenCancelled(ClusterKit):
    __test__ = True
    coordination = BeginsWhenCancelled


class BeginsTwice(MemoryCluster):
    """Takes a turn that asks again for another one."""

    def _has_begun(self, turn_id: str, owner: str, node: str) -> bool:
        super()._has_begun(turn_id, owner, node)
        return False


class TestBeginsTwice(ClusterKit):
    __test__ = True
    cluster = BeginsTwice


class ForgetsTheSettled(MemoryCluster):
    def _remember(self, turn_id: str, digest: str) -> None:
        return


class TestForgetsTheSettled(ClusterKit):
    __test__ = True
    cluster = ForgetsTheSettled


class NoLine(MemoryCluster):
    """Whoever comes to a free thread has it."""

    def _waiting_for(self, thread_id: str, asking_node: str) -> Iterator[TurnRow]:
        return iter(())


class TestNoLine(ClusterKit):
    __test__ = True
    cluster = NoLine


class LastComesFirst(MemoryCluster):
    def _waiting_for(self, thread_id: str, asking_node: str) -> Iterator[TurnRow]:
        return reversed(list(super()._waiting_for(thread_id, asking_node)))


class TestLastComesFirst(ClusterKit):
    __test__ = True
    cluster = LastComesFirst


class LosesItsPlace(MemoryCluster):
    """Puts a turn that asks again at the end of the line."""

    def begin(self, opening: Opening, owner: str, node: str) -> TurnRow | None:
        found = super().begin(opening, owner, node)
        if found is not None:
            self._line[opening.turn_id] = self._line.pop(opening.turn_id)
        return found


class TestLosesItsPlace(ClusterKit):
    __test__ = True
    cluster = LosesItsPlace


class OneLineForAllThreads(MemoryCluster):
    def _waiting_for(self, thread_id: str, asking_node: str) -> Iterator[TurnRow]:
        return iter(list(self._line.values()))


class TestOneLineForAllThreads(ClusterKit):
    __test__ = True
    cluster = OneLineForAllThreads


class NeverWithdraws(MemoryCoordination[str]):
    async def withdraw(self, turn_id: str) -> None:
        await trio.lowlevel.checkpoint()


class TestNeverWithdraws(ClusterKit):
    __test__ = True
    coordination = NeverWithdraws


class LinesUpNobody(MemoryCoordination[str]):
    async def line_up(self, turn_id: str, thread_id: str, context: str) -> None:
        await trio.lowlevel.checkpoint()


class TestLinesUpNobody(ClusterKit):
    __test__ = True
    coordination = LinesUpNobody


class LinesUpAgain(MemoryCoordination[str]):
    async def line_up(self, turn_id: str, thread_id: str, context: str) -> None:
        await self.withdraw(turn_id)
        await super().line_up(turn_id, thread_id, context)


class TestLinesUpAgain(ClusterKit):
    __test__ = True
    coordination = LinesUpAgain


class LinesUpTheLive(MemoryCluster):
    def line_up(self, turn_id: str, thread_id: str, owner: str, node: str) -> None:
        super().line_up(turn_id, thread_id, owner, node)
        self._line.setdefault(turn_id, TurnRow(turn_id, thread_id, owner, node))


class TestLinesUpTheLive(ClusterKit):
    __test__ = True
    cluster = LinesUpTheLive


class WithdrawsForOthers(MemoryCluster):
    """Knows a place by its turn only, and one turn may wait on two nodes."""

    def withdraw(self, turn_id: str, node: str) -> None:
        place = self._line.get(turn_id)
        super().withdraw(turn_id, node if place is None else place.node)


class TestWithdrawsForOthers(ClusterKit):
    __test__ = True
    cluster = WithdrawsForOthers


class WithdrawEndsTheTurn(MemoryCoordination[str]):
    async def withdraw(self, turn_id: str) -> None:
        await super().withdraw(turn_id)
        self._cluster.turns.pop(turn_id, None)


class TestWithdrawEndsTheTurn(ClusterKit):
    __test__ = True
    coordination = WithdrawEndsTheTurn


class PlacesOfTheSilentCount(MemoryCluster):
    def _waiting_for(self, thread_id: str, asking_node: str) -> Iterator[TurnRow]:
        waiting = [place for place in self._line.values() if place.thread_id == thread_id]
        return iter(waiting)


class TestPlacesOfTheSilentCount(ClusterKit):
    __test__ = True
    cluster = PlacesOfTheSilentCount


class TurnsOfTheDeadDontCount(MemoryCluster):
    """Lets the next turn begin before the answer that was cut is stored."""

    def live_on(self, thread_id: str) -> TurnRow | None:
        found = super().live_on(thread_id)
        return found if found is not None and found.node in self._nodes else None


class TestTurnsOfTheDeadDontCount(ClusterKit):
    __test__ = True
    cluster = TurnsOfTheDeadDontCount


class RecordHidesTheAbandoned(MemoryCoordination[str]):
    async def record(self, thread_id: str) -> TurnRecord | None:
        found = await super().record(thread_id)
        is_live = found is not None and not self._cluster.turns[found.turn_id].is_abandoned
        return found if is_live else None


class TestRecordHidesTheAbandoned(ClusterKit):
    __test__ = True
    coordination = RecordHidesTheAbandoned


class SilentIsAlive(MemoryCluster):
    """Takes only those for dead that have said that they leave."""

    def is_heard(self, name: str) -> bool:
        return name in self._nodes


class TestSilentIsAlive(ClusterKit):
    __test__ = True
    cluster = SilentIsAlive


class LeaseByWallClock(MemoryCluster):
    """Counts leases by another clock than the store's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()


class TestLeaseByWallClock(ClusterKit):
    __test__ = True
    cluster = LeaseByWallClock


class JudgesInItsSleep(MemoryCluster):
    """A node that hasn't asked for its news itself takes those for dead that haven't either."""

    def is_dead(self, name: str, judge: str) -> bool:
        return name != judge and not self.is_heard(name)


class TestJudgesInItsSleep(ClusterKit):
    __test__ = True
    cluster = JudgesInItsSleep


class JudgesAsItWakes(MemoryCluster):
    """A node that asks for its news again takes those for dead that haven't come to it yet."""

    def is_dead(self, name: str, judge: str) -> bool:
        return name != judge and self.is_heard(judge) and not self.is_heard(name)


class TestJudgesAsItWakes(ClusterKit):
    __test__ = True
    cluster = JudgesAsItWakes


class ForgivesForEver(MemoryCluster):
    """A node that was silent once takes nobody for dead any more."""

    def is_dead(self, name: str, judge: str) -> bool:
        return super().is_dead(name, judge) and self._nodes[judge].unbroken_since == -math.inf


class TestForgivesForEver(ClusterKit):
    __test__ = True
    cluster = ForgivesForEver


class NewsRenewsNothing(MemoryCluster):
    """Counts a lease from the opening of the store on."""

    def is_dead(self, name: str, judge: str) -> bool:
        return name != judge and self._clock() >= self.lease_timeout


class TestNewsRenewsNothing(ClusterKit):
    __test__ = True
    cluster = NewsRenewsNothing


class ForgetsWhoWasTakenForDead(MemoryCluster):
    """A node that asks again has all of its turns back, also those that another settles."""

    def open_box(self, name: str) -> tuple[bytes, ...]:
        for turn in self.turns.values():
            turn.is_abandoned = turn.is_abandoned and turn.node != name
        return super().open_box(name)


class TestForgetsWhoWasTakenForDead(ClusterKit):
    __test__ = True
    cluster = ForgetsWhoWasTakenForDead


class AbandonsNothing(MemoryCoordination[str]):
    """A turn that nobody runs holds its thread as long as its node lives."""

    async def abandon(self, turn_id: str) -> None:
        await trio.lowlevel.checkpoint()


class TestAbandonsNothing(ClusterKit):
    __test__ = True
    coordination = AbandonsNothing


class AbandonsForOthers(MemoryCluster):
    def abandon(self, turn_id: str, node: str) -> None:
        turn = self.turns.get(turn_id)
        super().abandon(turn_id, node if turn is None else turn.node)


class TestAbandonsForOthers(ClusterKit):
    __test__ = True
    cluster = AbandonsForOthers


class TellsTheTurnsOfAll(MemoryCoordination[str]):
    async def news(self) -> News:
        news = await super().news()
        return News(news.messages, frozenset(self._cluster.turns))


class TestTellsTheTurnsOfAll(ClusterKit):
    __test__ = True
    coordination = TellsTheTurnsOfAll


class KnowsThoseWhoLeft(MemoryCluster):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[str] = []

    def living_nodes(self, judge: str) -> list[str]:
        self.seen += [name for name in self._nodes if name not in self.seen]
        return self.seen


class TestKnowsThoseWhoLeft(ClusterKit):
    __test__ = True
    cluster = KnowsThoseWhoLeft


class KnowsTheSilent(MemoryCluster):
    def living_nodes(self, judge: str) -> list[str]:
        return list(self._nodes)


class TestKnowsTheSilent(ClusterKit):
    __test__ = True
    cluster = KnowsTheSilent


class KnowsItselfOnly(MemoryCoordination[str]):
    async def nodes(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return [self.node]


class TestKnowsItselfOnly(ClusterKit):
    __test__ = True
    coordination = KnowsItselfOnly


class HearsTwice(MemoryCluster):
    """Deletes a message when the next one is heard."""

    def open_box(self, name: str) -> tuple[bytes, ...]:
        messages = super().open_box(name)
        if len(messages) > 1:
            self._nodes[name].box.append(messages[-1])
        return messages


class TestHearsTwice(ClusterKit):
    __test__ = True
    cluster = HearsTwice


class LosesWhatIsHeard(MemoryCoordination[str]):
    """Deletes the messages, and may then be cancelled."""

    async def news(self) -> News:
        news = await super().news()
        await trio.lowlevel.checkpoint()
        return news


class TestLosesWhatIsHeard(ClusterKit):
    __test__ = True
    coordination = LosesWhatIsHeard


class LooksThenDeletes(MemoryCoordination[str]):
    """Deletes all that is in the box, after it has read it."""

    async def news(self) -> News:
        read = tuple(self._cluster._nodes[self.open_node()].box)
        return News(read, (await super().news()).live)


class TestLooksThenDeletes(ClusterKit):
    __test__ = True
    coordination = LooksThenDeletes


class MessagesHaveNoOrder(MemoryCluster):
    def open_box(self, name: str) -> tuple[bytes, ...]:
        return tuple(sorted(super().open_box(name)))


class TestMessagesHaveNoOrder(ClusterKit):
    __test__ = True
    cluster = MessagesHaveNoOrder


class PostsToAll(MemoryCluster):
    def post(self, name: str, message: bytes, sender: str) -> None:
        for node in self._nodes:
            super().post(node, message, sender)


class TestPostsToAll(ClusterKit):
    __test__ = True
    cluster = PostsToAll


# --- What owners use


class UsageKit(ClusterKit):
    """A cluster whose nodes count what owners use with one fault."""

    __test__ = False
    usage: type[NodeUsage] = NodeUsage

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        async with super().open_store() as store:
            assert isinstance(store.coordination, MemoryCoordination)
            store.coordination._usage = self.usage(self.data.usage)
            yield store


class CountsByItself(NodeUsage):
    def __init__(self, of_all: OwnerUsage) -> None:
        super().__init__(LocalUsage())


class TestCountsByItself(UsageKit):
    __test__ = True
    usage = CountsByItself


class LookingCosts(NodeUsage):
    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        return await super().spend(owner, kind, amount, rate)


class TestLookingCosts(UsageKit):
    __test__ = True
    usage = LookingCosts


class LooksThenSpends(NodeUsage):
    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        wait = await super().spend(owner, kind, amount, rate, only_look=True)
        await trio.lowlevel.checkpoint()
        if wait == 0 and not only_look:
            await super().spend(owner, kind, amount, Rate(rate.amount * 100, rate.seconds * 100))
        return wait


class TestLooksThenSpends(UsageKit):
    __test__ = True
    usage = LooksThenSpends


class RefusedIsSpent(NodeUsage):
    """What is refused counts too, so who asks again and again never gets anything."""

    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        wait = await super().spend(owner, kind, amount, rate, only_look=only_look)
        if wait > 0:
            much = Rate(rate.amount * 100, rate.seconds * 100)
            await super().spend(owner, kind, amount, much)
        return wait


class TestRefusedIsSpent(UsageKit):
    __test__ = True
    usage = RefusedIsSpent


class OneRateForAll(NodeUsage):
    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        return await super().spend("all", kind, amount, rate, only_look=only_look)


class TestOneRateForAll(UsageKit):
    __test__ = True
    usage = OneRateForAll


class NothingIsEnough(NodeUsage):
    """Never lets pass what is more than the whole rate."""

    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        if amount > rate.amount:
            return rate.seconds
        return await super().spend(owner, kind, amount, rate, only_look=only_look)


class TestNothingIsEnough(UsageKit):
    __test__ = True
    usage = NothingIsEnough


class FreesNothing(NodeUsage):
    def free_slot(self, owner: str, kind: str, slot_id: str) -> None:
        return


class TestFreesNothing(UsageKit):
    __test__ = True
    usage = FreesNothing


class SlotsOutliveTheirNode(NodeUsage):
    def free_all(self) -> None:
        return


class TestSlotsOutliveTheirNode(UsageKit):
    __test__ = True
    usage = SlotsOutliveTheirNode


class CountsWhatIsReplaced(NodeUsage):
    async def take_slot(
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        return await super().take_slot(owner, kind, slot_id, most, None)


class TestCountsWhatIsReplaced(UsageKit):
    __test__ = True
    usage = CountsWhatIsReplaced


class OneMoreSlot(NodeUsage):
    """Looks how many are taken, and takes one later."""

    async def take_slot(
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        if not await super().take_slot(owner, kind, "look", most, replaces):
            return False
        super().free_slot(owner, kind, "look")
        await trio.lowlevel.checkpoint()
        return await super().take_slot(owner, kind, slot_id, most + 1, replaces)


class TestOneMoreSlot(UsageKit):
    __test__ = True
    usage = OneMoreSlot


# --- Owners


class BeginForgetsTheOwner(MemoryCluster):
    """Begins on whatever thread it is given."""

    def begin(self, opening: Opening, owner: str, node: str) -> TurnRow | None:
        row = self.threads.get(opening.thread_id)
        return super().begin(opening, owner if row is None else row.owner, node)


class TestBeginForgetsTheOwner(ClusterKit):
    __test__ = True
    cluster = BeginForgetsTheOwner


class TurnIdsHaveNoOwner(MemoryCluster):
    def _has_begun(self, turn_id: str, owner: str, node: str) -> bool:
        return turn_id in self.turns


class TestTurnIdsHaveNoOwner(ClusterKit):
    __test__ = True
    cluster = TurnIdsHaveNoOwner


class DeletionKeepsTheTurn(MemoryCluster):
    def end_thread(self, thread_id: str) -> None:
        turns, line = dict(self.turns), dict(self._line)
        super().end_thread(thread_id)
        self.turns |= turns
        self._line |= line


class TestDeletionKeepsTheTurn(ClusterKit):
    __test__ = True
    cluster = DeletionKeepsTheTurn


class CheckpointsStayAtHome(MemoryCoordination[str]):
    """Knows what its own turns have checkpointed."""

    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        found = await super().checkpointed(turn_id)
        turn = self._cluster.turns.get(turn_id)
        is_mine = turn is not None and turn.node == self.node
        return found if is_mine or found is None else replace(found, items=())


class TestCheckpointsStayAtHome(ClusterKit):
    __test__ = True
    coordination = CheckpointsStayAtHome


class SettlesBesideTheRecord(MemoryCluster):
    """Stores the answer, and leaves the thread taken."""

    def _end_turn(self, turn_id: str) -> None:
        pass


class TestSettlesBesideTheRecord(ClusterKit):
    __test__ = True
    cluster = SettlesBesideTheRecord


class RefusesToRepeat(MemoryCluster):
    """Doesn't know a settlement again whose outcome the caller hasn't heard of."""

    def _remember(self, turn_id: str, digest: str) -> None:
        pass


class TestRefusesToRepeat(ClusterKit):
    __test__ = True
    cluster = RefusesToRepeat


class SettlesWhatOthersSettled(MemoryCluster):
    """Adds what a settlement has to a turn that another node has settled."""

    def settle_live(self, settlement: Settlement, owner: str, node: str) -> None:
        self.settle(settlement, owner)


class TestSettlesWhatOthersSettled(ClusterKit):
    __test__ = True
    cluster = SettlesWhatOthersSettled


# --- Search and activity -----------------------------------------------------------------------


def _hit(thread: ThreadMetadata, item_id: str | None, text: str, word: str) -> SearchHit:
    at = text.lower().find(word)
    return SearchHit(thread, item_id, text, ((at, at + len(word)),))


class ActivityIsCreation(MemoryStore[str]):
    """The list by activity doesn't move when something is written."""

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: str
    ) -> Page[ActiveThread]:
        page = await super().load_threads_by_activity(999, None, context)
        by_age = sorted(page.data, key=lambda each: each.thread.created_at, reverse=True)
        return Page(data=by_age[:limit])


class TestActivityIsCreation(Kit):
    __test__ = True
    store = ActivityIsCreation


class RenamingIsActivity(MemoryStore[str]):
    """Whatever is saved of a thread moves it to the top."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.saved: dict[str, int] = {}

    async def save_thread(self, thread: ThreadMetadata, context: str) -> None:
        await super().save_thread(thread, context)
        self.saved[thread.id] = len(self.saved)

    async def update_thread(self, thread: ThreadMetadata, context: str) -> None:
        await super().update_thread(thread, context)
        self.saved[thread.id] = 1_000

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: str
    ) -> Page[ActiveThread]:
        page = await super().load_threads_by_activity(limit, after, context)
        page.data.sort(key=lambda each: self.saved[each.thread.id] >= 1_000, reverse=True)
        return page


class TestRenamingIsActivity(Kit):
    __test__ = True
    store = RenamingIsActivity


class HiddenNotesAreActivity(MemoryStore[str]):
    """The time of a thread is that of its last item, of whatever kind."""

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: str
    ) -> Page[ActiveThread]:
        page = await super().load_threads_by_activity(limit, after, context)
        for number, each in enumerate(page.data):
            items = await self.load_thread_items(each.thread.id, None, 1, "desc", context)
            moments = [item.created_at for item in items.data] or [each.last_activity_at]
            page.data[number] = ActiveThread(each.thread, moments[0])
        page.data.sort(key=lambda each: each.last_activity_at, reverse=True)
        return page


class TestHiddenNotesAreActivity(Kit):
    __test__ = True
    store = HiddenNotesAreActivity


class ActivityOfAll(MemoryStore[str]):
    """The list by activity has the threads of all owners."""

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: str
    ) -> Page[ActiveThread]:
        pages = [
            await super().load_threads_by_activity(limit, after, each) for each in ("ann", "bob")
        ]
        return Page(data=[each for page in pages for each in page.data])


class TestActivityOfAll(Kit):
    __test__ = True
    store = ActivityOfAll


class CursorIsAThread(MemoryStore[str]):
    """A page by activity goes on behind a thread, which may be gone."""

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: str
    ) -> Page[ActiveThread]:
        page = await super().load_threads_by_activity(999, None, context)
        ids = [each.thread.id for each in page.data]
        begin = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
        data = page.data[begin : begin + limit]
        has_more = begin + limit < len(ids)
        return Page(data=data, has_more=has_more, after=data[-1].thread.id if has_more else None)


class TestCursorIsAThread(Kit):
    __test__ = True
    store = CursorIsAThread


class FindsOthers(MemoryStore[str]):
    """A search forgets whose the threads are."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        pages = [await super().search_threads(query, limit, after, each) for each in ("ann", "bob")]
        return Page(data=[hit for page in pages for hit in page.data])


class TestFindsOthers(Kit):
    __test__ = True
    store = FindsOthers


class FindsHidden(MemoryStore[str]):
    """A search looks into hidden context too."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        page = await super().search_threads(query, limit, after, context)
        for thread in (await self.load_threads(99, None, "desc", context)).data:
            items = await self.load_thread_items(thread.id, None, 99, "desc", context)
            for item in items.data:
                text = str(getattr(item, "content", ""))
                if "hidden" in item.type and query in text:
                    page.data.append(_hit(thread, item.id, text, query))
        return page


class TestFindsHidden(Kit):
    __test__ = True
    store = FindsHidden


class FindsStoredText(MemoryStore[str]):
    """A search looks at all that is stored of an item, as it is stored."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        page = await super().search_threads(query, limit, after, context)
        for thread in (await self.load_threads(99, None, "desc", context)).data:
            items = await self.load_thread_items(thread.id, None, 99, "desc", context)
            for item in items.data:
                if "hidden" not in item.type and query in (text := item.model_dump_json()):
                    page.data.append(_hit(thread, item.id, text, query))
        return page


class TestFindsStoredText(Kit):
    __test__ = True
    store = FindsStoredText


class IndexesOnce(MemoryStore[str]):
    """The index keeps what it has of an item when the item changes or goes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.index: dict[str, tuple[str, str, str]] = {}

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        await super().add_thread_item(thread_id, item, context)
        text = item.content[0].text if item.type == "user_message" else ""
        self.index.setdefault(f"{thread_id} {item.id}", (thread_id, item.id, text))

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        page = await super().search_threads(query, limit, after, context)
        known = {hit.thread.id for hit in page.data}
        for thread_id, item_id, text in self.index.values():
            if query and query in text and thread_id not in known:
                thread = ThreadMetadata(id=thread_id, created_at=NOON)
                page.data.append(_hit(thread, item_id, text, query))
        return page


class TestIndexesOnce(Kit):
    __test__ = True
    store = IndexesOnce


class DeletedThreadsStayFound(IndexesOnce):
    """The same, looked at where things are deleted."""


class TestDeletedThreadsStayFound(Kit):
    __test__ = True
    store = DeletedThreadsStayFound


class IndexesNoSettlements(MemoryStore[str]):
    """What a turn settles with isn't in the index."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.settled: set[str] = set()

    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(settlement, context)
        self.settled |= {item.id for item in settlement.new_items}

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        page = await super().search_threads(query, limit, after, context)
        page.data = [hit for hit in page.data if hit.item_id not in self.settled]
        return page


class TestIndexesNoSettlements(Kit):
    __test__ = True
    store = IndexesNoSettlements


class QueriesAreCode(MemoryStore[str]):
    """Some characters of a query mean something to the index."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        if query.count('"') % 2:
            raise RuntimeError("syntax error near a quote")
        return await super().search_threads(query, limit, after, context)


class TestQueriesAreCode(Kit):
    __test__ = True
    store = QueriesAreCode


class FindsEachMessage(MemoryStore[str]):
    """A thread is found as often as it has messages that match."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        page = await super().search_threads(query, limit, after, context)
        return page.model_copy(update={"data": [hit for hit in page.data for _ in range(2)]})


class TestFindsEachMessage(Kit):
    __test__ = True
    store = FindsEachMessage


class TakesLongQueries(MemoryStore[str]):
    """However long a query is, its beginning is searched for."""

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: str
    ) -> Page[SearchHit]:
        return await super().search_threads(query[:20], limit, after, context)


class TestTakesLongQueries(Kit):
    __test__ = True
    store = TakesLongQueries
