"""The storage contract: what the engine asks of a store, and what it may rely on.

A store implements the twelve abstract methods of `Store`; that is enough. The operations below
them (`update_item`, `update_thread`, `begin_turn`, `settle`, `delete_items_after`, `set_aside`,
`begin_request`, `update_request`, `search_threads`, `load_threads_by_activity`, `journal`,
`coordination`, `ping`, `async with`) have defaults. A
store with transactions overrides `update_item`, `update_thread`, `settle` and `delete_items_after`
to make each one atomic.
A store that can keep more than threads overrides `begin_request` and `update_request`, or else a
request sent twice is carried out twice. A store that several processes may use at once has
`coordination`.

Rules for every method:

- It runs on trio and may be called from any task. Blocking work goes to a worker thread, so that
  other tasks get to run. The thread is never abandoned: when a cancelled write returns, it has
  happened; when it raises `trio.Cancelled`, it hasn't.
- What is stored can be loaded. An object that couldn't be read again is refused with `ValueError`,
  for it would make its whole thread unreadable.
- A load or write of an id that isn't there, or belongs to another owner or thread, raises
  `NotFoundError`; a delete of one does nothing.
- Items and threads are ordered by insertion, never by `created_at` alone. `order` is `"asc"` or
  `"desc"`. `after` is the id of the last item or thread of the page before. If that was deleted
  meanwhile, its place counts: the page holds what stands behind it. The bundled stores remember
  such places for thirty days.
- The engine hands over objects it doesn't change afterwards, and owns what a load returns.
"""

from __future__ import annotations

import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Literal, Self

import trio
from typing_extensions import TypeVar

from ._activity import ActivityPlace
from ._reading_stores import Hit, read_by_activity, read_to_find
from ._search import Query
from .errors import ChatKitError, NotFoundError, TurnFencedError, means_not_found
from .limits import OwnerUsage

# Under these names too, because the original's module has them and code in use imports them there.
from .types import (
    Attachment as Attachment,
)
from .types import (
    AttachmentCreateParams as AttachmentCreateParams,
)
from .types import (
    Page as Page,
)
from .types import (
    ThreadItem as ThreadItem,
)
from .types import (
    ThreadMetadata as ThreadMetadata,
)

__all__ = [
    "ActiveThread",
    "AttachmentStore",
    "Coordination",
    "Fence",
    "Hint",
    "Journal",
    "JournalEntry",
    "News",
    "NotFoundError",
    "Opening",
    "RequestRecord",
    "SearchHit",
    "Settlement",
    "Store",
    "StoreItemType",
    "TurnRecord",
    "UnstorableItem",
    "behind_fence",
    "default_generate_id",
    "fencing_turn",
]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
TContext = TypeVar("TContext", default=Any)

StoreItemType = Literal[
    "thread", "message", "tool_call", "task", "workflow", "attachment", "sdk_hidden_context"
]

_ID_PREFIXES: dict[StoreItemType, str] = {
    "thread": "thr",
    "message": "msg",
    "tool_call": "tc",
    "task": "tsk",
    "workflow": "wf",
    "attachment": "atc",
    "sdk_hidden_context": "shcx",
}

_RANDOM = re.compile("[0-9a-f]{32}")

_DELETE_PAGE_SIZE = 100


def default_generate_id(item_type: StoreItemType) -> str:
    """Return a new id with the prefix of its kind and 128 random bits, so it can't be guessed."""
    return f"{_ID_PREFIXES[item_type]}_{secrets.token_hex(16)}"


def is_random_id(item_type: StoreItemType, new_id: str) -> bool:
    """Say whether a new id is as `default_generate_id` makes them: nothing has it yet."""
    prefix, _, rest = new_id.partition("_")
    return prefix == _ID_PREFIXES[item_type] and _RANDOM.fullmatch(rest) is not None


@dataclass(frozen=True, slots=True)
class Opening:
    """The first writes of a turn, in the order in which they are carried out.

    A thread that is made, attachments that are saved, the items behind `delete_after` that are
    deleted, those of `deleted_item_ids`, items that are added, and items that replace the stored
    ones of the same id or are added if there are none.

    They follow from a look at the thread, and between that look and these writes the whole turn of
    another process may pass. So `Coordination.begin` writes nothing if `new_thread` is there
    already, or if the thread isn't as the last three fields say.
    """

    thread_id: str
    turn_id: str
    new_thread: ThreadMetadata | None = None
    attachments: tuple[Attachment, ...] = ()
    delete_after: str | None = None
    deleted_item_ids: tuple[str, ...] = ()
    new_items: tuple[ThreadItem, ...] = ()
    changed_items: tuple[ThreadItem, ...] = ()
    needs_active: bool = False
    """Whether the thread's status has to be "active"."""
    last_item_id: str | None = None
    """The id of the item that has to be the thread's last one; None: it doesn't matter which is."""
    unchanged_items: tuple[ThreadItem, ...] = ()
    """Items that the thread has to have just as they are here: as the store has loaded them."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a turn leaves behind when it ends: stored in one step, exactly once.

    `new_items` are added in order unless an item with that id is there already (an earlier write
    whose outcome was unknown); `changed_items` replace the stored ones of the same id; `thread` is
    saved if given; the journal's entry of `turn_id` is closed.

    A store with a journal has one more rule, for a turn that another process took for crashed and
    settled while it was alive. See `Store.settle`.
    """

    thread_id: str
    turn_id: str | None = None
    new_items: tuple[ThreadItem, ...] = ()
    changed_items: tuple[ThreadItem, ...] = ()
    thread: ThreadMetadata | None = None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What one turn has to store when it ends, as of its last checkpoint."""

    turn_id: str
    thread_id: str
    items: tuple[ThreadItem, ...] = ()
    """The items that the turn has begun and the thread hasn't got yet."""
    changed_items: tuple[ThreadItem, ...] = ()
    """The items that were stored earlier and have grown since. Recovery replaces the stored ones
    with these."""
    reason: str | None = None
    """The value of the `CancelReason` if the turn had been cut and couldn't be settled before its
    process died; None if the process died while the turn was answering."""
    unreadable: tuple[UnstorableItem, ...] = ()
    """The items among them that this version can't read, as they were written down."""


@dataclass(frozen=True, slots=True)
class UnstorableItem:
    """An item that the store refused while it took others of the same turn, or can't read."""

    thread_id: str
    item_id: str
    turn_id: str
    text: str
    """The item as JSON, or as near to it as it could be written."""
    error: str
    """What the store said."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that carried an `Idempotency-Key`, and what has become of it."""

    key: str
    digest: str
    """A digest of the request's body. The same key with another digest is another request."""
    thread_id: str = ""
    item_id: str = ""
    """The id of the user's message; if the request has none, the id of the last item that the
    thread had before `respond` was called. If it doesn't stream, the node that carries it out."""
    turn_id: str = ""
    """The id of the turn, if the request streams."""
    answer: bytes | None = None
    """The whole answer of a request that doesn't stream, once it is known. Of one that streams, the
    ids of its items and why it ended, as JSON, once the turn has ended."""
    begun: bool = False
    """Whether the request has been carried out, or is about to be: its first writes are made. Of
    one that doesn't stream, whether it is being carried out or has been."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A thread that a search has found, and the place of it that is shown."""

    thread: ThreadMetadata
    item_id: str | None
    """The newest message that matches; None if only the title does."""
    excerpt: str
    """Some plain text around the match, in one line; `…` stands where more text was."""
    matches: tuple[tuple[int, int], ...]
    """Which characters of the excerpt match: the first, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class ActiveThread:
    """A thread, and when something was last written in it."""

    thread: ThreadMetadata
    last_activity_at: datetime
    """When the newest item that a client sees was made, or the thread if it has none."""


def as_active_thread(entry: tuple[ActivityPlace, ThreadMetadata]) -> ActiveThread:
    """Return a thread with the time that its place says."""
    place, thread = entry
    return ActiveThread(thread, place.moment)


def as_search_hit(hit: Hit) -> SearchHit:
    """Return a hit as callers get it."""
    return SearchHit(hit.thread, hit.item_id, hit.found.excerpt, hit.found.matches)


class Journal(ABC, Generic[TContext]):
    """A write-ahead record of turns that haven't ended, so that a crash loses no partial answer.

    The engine begins an entry before a turn's first event, checkpoints all live turns at once
    every so often, and closes the entry through `Store.settle`.
    """

    engine: Any = None
    """What the engine keeps with this journal; not for stores."""

    @abstractmethod
    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn on this thread is live, owned by this process.

        The life of an entry:

            await store.journal.begin(turn_id, thread_id, context)
            await store.journal.checkpoint([JournalEntry(turn_id, thread_id, items)])
            ...  # and again, as the items grow
            await store.settle(Settlement(thread_id, turn_id, items), context)

        and if the process dies before the last line, in any process that lives:

            for entry in await store.journal.abandoned():
                await store.journal.settle_abandoned(
                    Settlement(entry.thread_id, entry.turn_id, entry.items, entry.changed_items)
                )

        The thread may be unknown to the store: a turn on a new thread begins before the thread is
        saved. The owner is kept with the entry. Raises `ConflictError` if the journal has the turn
        already. Is a checkpoint; if it raises `trio.Cancelled`, there is no entry.
        """

    @abstractmethod
    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace what is recorded of these turns, in one transaction.

        An entry whose turn isn't open (closed meanwhile) is ignored, so a checkpoint that is
        overtaken by the turn's end can't bring it back to life. An entry with an item that can't
        be stored mustn't keep the other entries from being written. Is a checkpoint; if it raises
        `trio.Cancelled`, nothing has been replaced.
        """

    @abstractmethod
    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        """Return the open entries whose process is gone.

        With a `thread_id`, only the entries of that thread, and all of them. Without one, of very
        many it may return some, others each time: a process may have died with thousands, and who
        has settled some asks again. The engine asks for a thread's each time it reads the thread or
        begins a turn, so the answer "none" must be cheap: one read, and no write transaction. Every
        caller in every process gets an entry until it is settled; from the first return on the
        entry counts as abandoned, even if its process turns out to live.

        An item that can't be read, as one of a newer version, is among the `unreadable` of its
        entry. Is a checkpoint. After `trio.Cancelled` the next call returns the same.
        """

    @abstractmethod
    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        """Do as `Store.settle`, on behalf of the owner recorded with the entry, atomically.

        `changed_items` replace the stored ones, as there. A thread that is gone closes the entry
        and stores nothing. Several processes may do it for one entry: the first counts, and an
        entry that is settled already, or was never abandoned, is left as it is.

        Returns whether this call has closed the entry, so that the turn is told of once. A journal
        that returns None is taken at its word that it has. Is a checkpoint; if it raises
        `trio.Cancelled`, nothing has happened.
        """

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool | None:
        """Do as `settle_abandoned`, and keep what is left out as `Store.set_aside` does.

        The engine calls it for an entry that it couldn't settle whole for a while: of a process
        that runs a newer version, or with an item that the store refuses. A journal with
        transactions does both in one, for the owner recorded with the entry. Returns and raises
        what `settle_abandoned` does.

        This default writes what is left out to the log, as the default of `set_aside` does.
        """
        for item in left_out:
            _log_unstorable(item)
        return await self.settle_abandoned(settlement)


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """That a turn is live on a thread, or waits for it, and on which node."""

    turn_id: str
    thread_id: str
    node: str


@dataclass(frozen=True, slots=True)
class News:
    """What a node is told when it asks."""

    messages: tuple[bytes, ...] = ()
    """What other nodes have posted to it since it asked last, in the order of their posting."""
    live: frozenset[str] = frozenset()
    """The turns that are recorded as live on this node."""


class Hint:
    """Somebody waits for a change, and is told that there may have been one."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """Say that there may have been a change."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return when there may have been a change since the last wait, or after `seconds`."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        self._event = trio.Event()


class Coordination(ABC, Generic[TContext]):
    """How several processes share a store: one live turn a thread, over all of them.

    A *node* is one open store object, usually one process. A node that has not asked for its news
    for `lease_timeout` seconds is dead, and so is one whose process or connection is known to be
    gone; only the store's own clock counts. A node that hasn't asked for its own news for so long
    takes nobody for dead because of silence until it has asked for `lease_timeout` seconds again:
    it may have been the store that was away. Turns of a dead node are what `Journal.abandoned`
    returns. A store with coordination has a journal, and its journal's entry of a turn is the
    turn's record: `begin` makes it, `Store.settle` and `Journal.settle_abandoned` end it, and so
    does the deletion of the thread.

    **The fence.** A write of a task for which `fencing_turn` names a turn happens only while that
    turn has its record on this node, looked up in the same transaction. Else it raises
    `TurnFencedError` and changes nothing, whatever method was called: another node has settled the
    turn, or the thread was deleted. `set_aside` alone passes, for it is called behind the end. The
    turn's own settlement ends the record too, and then the engine lifts the fence; `behind_fence`
    sees to the writes that are on their way just then.
    `Store.settle` with a `turn_id` asks for the record of that turn; if the record is gone because
    this very settlement has been stored before, it returns.

    Hints make waiting shorter and are never relied on: everything works when all are lost.
    """

    node: str
    """The id of this node, new each time the store is opened."""
    lease_timeout: float = 15.0
    """Seconds after which a node that doesn't react counts as dead."""
    poll_interval: float = 1.0
    """Seconds after which those who wait look again, if no hint comes."""
    engine: Any = None
    """What the engine keeps with this node; not for stores."""
    spans_processes: bool = True
    """Whether nodes may be in different processes; `serve --workers` asks."""

    def __init__(self) -> None:
        self._hints: dict[str, list[Hint]] = {}

    @property
    def usage(self) -> OwnerUsage | None:
        """Where the nodes count together what owners use; None: each counts for itself.

        Slots that a dead node has taken are free.
        """
        return None

    @abstractmethod
    async def begin(self, opening: Opening, context: TContext) -> TurnRecord | None:
        """Carry out a turn's first writes and record it as live here, in one transaction.

        Returns None when that is done. If another turn is live on the thread, of whatever node, or
        one that was refused earlier still waits for it, nothing is written but a place in the
        thread's line, and the record of the turn to wait for is returned: the live one, else the
        first in the line. A turn that asks again keeps its place. The places of dead nodes don't
        count; a live record of a dead node does, until it is settled.

        A turn whose record exists already on this node has begun: None, and nothing is written.
        Raises what the writes raise (`NotFoundError`, `ConflictError`), `TurnFencedError` for a
        turn that is recorded on another node, or is known to be settled, and `ConflictError` for
        an id of another owner's turn. If the turn may begin and the thread isn't as `opening` needs
        it, raises `ThreadChangedError`: the engine looks at the thread again. Is a checkpoint; if
        it raises `trio.Cancelled`, nothing has been written.
        """

    @abstractmethod
    async def line_up(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Take a place in the line of a thread for a turn that can't begin yet.

        The engine calls it for a turn that waits for another one of its own process, so that those
        who come later to other nodes wait behind it. A turn that has a place keeps it, and one that
        is recorded gets none. Raises `ConflictError` for an id of another owner's turn. Is a
        checkpoint; if it raises `trio.Cancelled`, nothing has been written.
        """

    @abstractmethod
    async def withdraw(self, turn_id: str) -> None:
        """Give up the place in the line that a turn has taken on this node; none is not an error.

        Another node may have taken one for the same turn, of a request that was sent twice: that
        one stays. A checkpoint.
        """

    @abstractmethod
    async def abandon(self, turn_id: str) -> None:
        """Treat a turn of this node as one of a dead node from now on, if it has a record.

        The engine calls it for a turn that it doesn't run: its `begin` was given up before the
        outcome was known. A checkpoint.
        """

    @abstractmethod
    async def record(self, thread_id: str) -> TurnRecord | None:
        """Return the record of the turn that is live on a thread, of whatever node. One read."""

    @abstractmethod
    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        """Return what the journal has of a live turn; None if its record is gone. One read."""

    @abstractmethod
    async def post(self, node: str, message: bytes) -> None:
        """Put a message into a node's box, and give it a hint; a dead node's is dropped.

        A message has at most some 100 kB. Is a checkpoint; if it raises `trio.Cancelled`, nothing
        has been posted.
        """

    @abstractmethod
    async def news(self) -> News:
        """Return what is new for this node, and renew its lease.

        Each message is returned once. Raises `StoreError` if the store can't be asked; then the
        lease isn't renewed. Is a checkpoint; after `trio.Cancelled` the next call returns the same.
        """

    async def nodes(self) -> list[str]:
        """Return the ids of the nodes that live, in no order. One read.

        This default knows of this one only.
        """
        await trio.lowlevel.checkpoint()
        return [self.node]

    async def listen(self) -> None:
        """Pass the hints of other nodes on to `tell`, until cancelled; the server runs it.

        This default passes none on.
        """
        await trio.sleep_forever()

    @contextmanager
    def hint(self, about: str) -> Iterator[Hint]:
        """Give a hint that is told of changes of a thread's record, or of a node's box.

        with coordination.hint(thread_id) as hint:
            while await coordination.record(thread_id) is not None:
                await hint.wait(coordination.poll_interval)
        """
        hint = Hint()
        self._hints.setdefault(about, []).append(hint)
        try:
            yield hint
        finally:
            self._hints[about].remove(hint)
            if not self._hints[about]:
                del self._hints[about]

    def tell(self, about: str) -> None:
        """Tell those on this node who wait that a thread's record or this box may have changed."""
        for hint in self._hints.get(about, ()):
            hint.tell()


@dataclass(eq=False, slots=True)
class Fence:
    """Whose writes the writes of a task are; the engine raises it for each turn that has begun."""

    turn_id: str
    is_lifted: bool = False
    """Whether the turn has settled itself, or its thread is gone: what its tasks write afterwards
    is written as anybody's. A turn that another node has settled keeps its fence for good."""
    _settled: trio.Event | None = field(default=None, init=False)

    def lift(self) -> None:
        """Let writes pass again."""
        self.is_lifted = True

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Have writes that are refused wait for the turn's own settlement, which happens inside.

        The record may be gone before the caller of `Store.settle` is told so, and can lift the
        fence. What the settlement itself writes mustn't wait for it: it has a fence of its own.
        """
        settled = self._settled = trio.Event()
        token = fence.set(Fence(self.turn_id))
        try:
            yield
        finally:
            fence.reset(token)
            settled.set()

    async def is_lifted_soon(self) -> bool:
        """Say whether the fence is lifted, after a settlement that is under way. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._settled is not None:
            await self._settled.wait()
        return self.is_lifted


fence: ContextVar[Fence | None] = ContextVar("chatkit_trio_fence", default=None)
"""The fence of the calling task. `fencing_turn` is what a store asks."""


def fencing_turn() -> str | None:
    """Return the turn without whose record the calling task may not write; None if it may.

    Ask it on the trio thread, before the work is given to a worker thread. `behind_fence` does.
    """
    current = fence.get()
    return None if current is None or current.is_lifted else current.turn_id


async def behind_fence(write: Callable[[str | None], Awaitable[_T]]) -> _T:
    """Carry out a write of the calling task as its fence allows, and return its result.

        async def save_item(self, thread_id, item, context):
            async def write(turn_id):
                return await self._in_transaction(turn_id, _SAVE_ITEM, thread_id, item)

            await behind_fence(write)

    `write` is called with what `fencing_turn` says. If it names a turn that has no record here,
    `write` raises `TurnFencedError` and changes nothing. Where it was the turn's own settlement
    that has ended the record while the write was on its way, `write` is called once more, with
    None. Raises what `write` raises.
    """
    turn_id, mine = fencing_turn(), fence.get()
    try:
        return await write(turn_id)
    except TurnFencedError as error:
        if turn_id is None or mine is None:
            raise
        refusal = error
    if not await mine.is_lifted_soon():
        raise refusal
    return await write(None)


class AttachmentStore(ABC, Generic[TContext]):
    """Where the bytes of attachments are kept; their metadata is in the `Store`."""

    @abstractmethod
    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete the bytes of an attachment; one that isn't there is not an error."""

    async def create_attachment(
        self, input: AttachmentCreateParams, context: TContext
    ) -> Attachment:
        """Return a new attachment with an `upload_descriptor` that says where the bytes go.

        The engine saves the returned attachment. Needed for two-phase uploads only.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no create_attachment(); override it to offer two-phase"
            " uploads (attachments.create)"
        )

    def bytes_past_server(self, input: AttachmentCreateParams) -> int:
        """Return how many bytes of this file will be uploaded where the server can't count them.

        They count against its owner's limit when `create_attachment` is asked for, before it is
        called. Return 0 for a file that it will refuse. This default says 0. It isn't a checkpoint.
        """
        return 0

    async def check_attachment(self, attachment: Attachment, context: TContext) -> Attachment:
        """Return an attachment that a message is about to name, as the message shall have it.

        `attachment` is what the `Store` has. The engine asks before anything of the message is
        stored, perhaps twice, and saves what it gets together with the message. Where clients
        upload past this server, this is the place to look at what has come, and to refuse it with a
        `ChatKitError`. This default returns the attachment as it is, and doesn't wait.
        """
        return attachment

    async def attachment_url(self, attachment_id: str, context: TContext) -> str | None:
        """Return a URL at which a reader's browser gets the bytes of an attachment, or None.

        A page asks for it when a file of a message is clicked, and goes there. Raises
        `NotFoundError` for what isn't there, or is another owner's. What answers at the URL has to
        see to it that no file is shown as a page of its site: `Content-Disposition: attachment`.
        This default has no URLs and returns None, without a checkpoint.
        """
        return None

    def generate_attachment_id(self, mime_type: str, context: TContext) -> str:
        """Return a new attachment id."""
        return default_generate_id("attachment")

    async def ping(self) -> None:
        """Raise unless bytes could be stored now; see `Store.ping`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


def _writable(text: str) -> str:
    """Return a text that a log can be written with: half of a pair of surrogates is spelt out."""
    return text.encode(errors="backslashreplace").decode()


def _log_unstorable(item: UnstorableItem) -> None:
    logger.error(
        "item %s of thread %s (turn %s) can't be stored (%s); its text is kept in this line"
        " only: %s",
        item.item_id,
        item.thread_id,
        item.turn_id,
        _writable(item.error),
        _writable(item.text),
    )


class Store(ABC, Generic[TContext]):
    """Threads, their items and the metadata of attachments, scoped by the caller's context.

    Each async method is a checkpoint unless it says otherwise. A write that raises `trio.Cancelled`
    has happened whole or not at all. Raises `StoreError` if the database can't do it now.
    """

    journal: Journal[TContext] | None = None
    """The store's crash journal, or None if it has none."""
    coordination: Coordination[TContext] | None = None
    """How processes share this store; None if only one process may use it at a time."""

    def get_owner(self, context: TContext) -> str:
        """Return the owner that this context stands for; limits are counted by it.

        This default has one owner for all contexts. It isn't a checkpoint.
        """
        return ""

    def generate_thread_id(self, context: TContext) -> str:
        """Return a new thread id. A request that gets one its owner has already is refused."""
        return default_generate_id("thread")

    def generate_item_id(
        self, item_type: StoreItemType, thread: ThreadMetadata, context: TContext
    ) -> str:
        """Return a new id for an item of this kind."""
        return default_generate_id(item_type)

    @abstractmethod
    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        """Return a thread's metadata. Raises `NotFoundError`."""

    @abstractmethod
    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Insert a thread or replace its metadata; its place in the order stays.

        Raises `NotFoundError` if the id belongs to another owner.
        """

    @abstractmethod
    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        """Return up to `limit` items of a thread behind `after`, in insertion order.

        `Page.has_more` says whether items remain, and `Page.after` is then the cursor of the next
        page. Raises `NotFoundError` for an unknown thread, and for a cursor that never was in this
        thread.
        """

    @abstractmethod
    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it."""

    @abstractmethod
    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        """Return an attachment's metadata. Raises `NotFoundError`."""

    @abstractmethod
    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete an attachment's metadata; one that isn't there is not an error."""

    @abstractmethod
    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        """Return up to `limit` of the owner's threads behind `after`, in insertion order.

        Raises `NotFoundError` for a cursor that never was a thread of this owner.
        """

    @abstractmethod
    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Append an item to a thread.

        Raises `NotFoundError` for an unknown thread, `ConflictError` for an id the thread has.
        """

    @abstractmethod
    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Replace an item in its place, or append it if it isn't there."""

    @abstractmethod
    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        """Return one item of this thread. Raises `NotFoundError`."""

    @abstractmethod
    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        """Delete a thread and its items; one that isn't there is not an error."""

    @abstractmethod
    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete one item; one that isn't there is not an error."""

    async def update_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Replace an item that is in the thread; its place stays.

        `save_item` would append an item that has been deleted meanwhile, and so bring it back.
        Raises `NotFoundError` if the item is gone, or the thread, or it belongs to another owner.
        Is a checkpoint; if it raises `trio.Cancelled`, nothing has changed.

        This default loads the item and then saves it, so a deletion can fall between the two. A
        store with transactions overrides it with one step.
        """
        await self.load_item(thread_id, item.id, context)
        await self.save_item(thread_id, item, context)

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Replace the metadata of a thread that exists; its place in the order stays.

        `save_thread` would insert a thread that has been deleted meanwhile, and so bring a deleted
        conversation back. Raises `NotFoundError` if the thread is gone or belongs to another
        owner. Is a checkpoint; if it raises `trio.Cancelled`, nothing has changed.

        This default loads the thread and then saves it, so a deletion can fall between the two. A
        store with transactions overrides it with one step.
        """
        await self.load_thread(thread.id, context)
        await self.save_thread(thread, context)

    async def begin_turn(self, opening: Opening, context: TContext) -> None:
        """Carry out the first writes of a turn; see `Opening`.

        A store with `coordination` isn't asked: its `Coordination.begin` does the same and records
        the turn, in one step. Raises what the single writes raise. This default takes one write for
        each, so a cancellation or a crash may leave a part.
        """
        thread_id = opening.thread_id
        if opening.new_thread is not None:
            await self.save_thread(opening.new_thread, context)
        for attachment in opening.attachments:
            await self.save_attachment(attachment, context)
        if opening.delete_after is not None:
            await self.delete_items_after(thread_id, opening.delete_after, context)
        for item_id in opening.deleted_item_ids:
            await self.delete_thread_item(thread_id, item_id, context)
        for item in opening.new_items:
            await self.add_thread_item(thread_id, item, context)
        for item in opening.changed_items:
            await self.save_item(thread_id, item, context)

    async def settle(self, settlement: Settlement, context: TContext) -> bool | None:
        """Store all that a turn leaves behind; see `Settlement`.

            note = SDKHiddenContextItem(
                ..., content="The user stopped the answer.", ending=TurnEnding(turn_id=turn_id, ...)
            )
            await store.settle(
                Settlement(thread_id, turn_id, new_items=(partial_answer, note)), context
            )

        Doing it twice is the same as doing it once. Raises `NotFoundError` if the thread is gone;
        nothing is stored then.

        A store with a journal looks at the entry of `settlement.turn_id` first. If this process
        has no open entry of the turn any more, another process may have taken the turn for crashed
        and settled it with less text. Then:

        - a new item that is in the thread already is replaced,
        - a new item that isn't there is added, in front of the note of the same turn
          (`ending.turn_id`) if the thread has one: what is told to be cut off stands before that,
        - a new `SDKHiddenContextItem` is left out if the thread has a note of the same turn, so
          that there is one note a turn,
        - a warning is logged.

        An entry that another process has marked as abandoned, and nobody has settled yet, is still
        there: the process whose turn it is settles it, for it has more of the answer.

        Returns whether the turn was this process's own until now; False if another had taken it for
        crashed. Then the turn's fence stays. A store that returns None is taken at its word that it
        was. Is a checkpoint. If it raises `trio.Cancelled`, a store with transactions has changed
        nothing. This default takes one write an item, so a cancellation or a crash may leave a
        part, and calling it again adds the rest.
        """
        thread_id = settlement.thread_id
        await self.load_thread(thread_id, context)  # one that was deleted isn't brought back
        for item in settlement.new_items:
            if not await self.has_item(thread_id, item.id, context):
                await self.add_thread_item(thread_id, item, context)
        for item in settlement.changed_items:
            await self.save_item(thread_id, item, context)
        if settlement.thread is not None:
            await self.update_thread(settlement.thread, context)
        return None

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        """Keep for the operator what the store has refused.

        The engine calls it when an item of a turn can't be stored however often it tries, so that
        the rest of the turn can be settled and the text isn't lost. It never raises for what the
        item contains. Keeping an item twice is the same as keeping it once. A store that keeps it
        is a checkpoint here, and `trio.Cancelled` means that it hasn't been kept.

        This default writes the item to the log, at ERROR, with the whole of its text. It doesn't
        wait.
        """
        _log_unstorable(item)

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        """Record a request, unless its owner has sent that key less than `window` seconds ago.

        Returns None if `record` is new and has been recorded, else the record that is there. Of
        many callers with the same key at the same time, one gets None. Two owners may use the same
        key. Records older than `window` seconds are dropped. A store that keeps records is a
        checkpoint here, and `trio.Cancelled` means that nothing has been recorded.

        This default keeps nothing and returns None, so every request is a new one. It doesn't wait.
        """
        return None

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        """Return the record that the owner has of a key, if it is younger than `window` seconds.

        Changes nothing: the engine asks when a limit keeps it from recording a request. A store
        that keeps records is a checkpoint here. This default keeps none and returns None.
        """
        return None

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        """Replace the record of the same key and owner; its age stays.

        A record that isn't there any more is not an error, and isn't brought back. A store that
        keeps records is a checkpoint here, and `trio.Cancelled` means that nothing has changed.
        This default does nothing.
        """

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`.

        Raises `NotFoundError`, before anything is deleted, if that item isn't in the thread. This
        default deletes the newest first, so that a crash half way leaves no hole; a store with
        transactions overrides it.
        """
        newer: list[str] = []
        after: str | None = None
        while item_id not in newer:
            page = await self.load_thread_items(
                thread_id, after, _DELETE_PAGE_SIZE, "desc", context
            )
            newer += [item.id for item in page.data]
            after = page.after
            if not page.has_more:
                break
        if item_id not in newer:
            raise NotFoundError(f"thread {thread_id} has no item {item_id}")
        for newer_id in newer[: newer.index(item_id)]:
            await self.delete_thread_item(thread_id, newer_id, context)

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: TContext
    ) -> Page[ActiveThread]:
        """Return up to `limit` of the owner's threads behind `after`, the latest active first.

        A thread is active when an item is added that clients see: a message, an answer. Renaming
        it, replacing an item, deleting one and hidden notes are no activity. `Page.after` is the
        cursor of the next page. It is a time and an id, so a page goes on behind it also when that
        thread has been deleted or has moved to the top. Raises `NotFoundError` for a text that is
        no cursor. Is a checkpoint.

        This default reads, for every page, the newest item of each of the owner's newest 1,000
        threads; older threads aren't in the list. Override it if your store can sort.
        """
        part = await read_by_activity(self, limit, after, context)
        return part.page(as_active_thread)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        """Return up to `limit` of the owner's threads that match, the latest active first.

        Searched are titles, the users' messages and the assistant's answers, of each the first
        100,000 characters; never hidden context, tools or widgets. One of these texts has to have
        all words of the query, each as a word or as the beginning of one; case and accents don't
        count. In scripts without spaces between words, such as Chinese, a run of the query has to
        be in the text as it stands. A query without a word finds nothing. No character in a query
        has a meaning of its own.

        A thread is found once, by its newest message that matches. A page may have fewer hits than
        `limit` and yet `has_more`; `Page.after` is then the cursor of the next one, as for
        `load_threads_by_activity`. Raises `InvalidRequestError` for a query of more than 256
        characters or 32 words, and `NotFoundError` for a text that is no cursor. Is a checkpoint.

        This default reads the owner's newest 1,000 threads with the newest item of each, and then
        the items of one thread after the other until it has a page, 10,000 items at most; the next
        page goes on behind the last thread that was read. Of a thread with more items than that,
        the newest are searched. Override it if your store has an index.
        """
        part = await read_to_find(self, Query(query), limit, after, context)
        return part.page(as_search_hit)

    async def ping(self) -> None:
        """Raise unless a write would succeed now, and what it writes would be there to read.

        The health check asks so, again and again: it must be cheap, change nothing that can be
        seen, and hold up no other operation. It need not be quick when the store isn't well: it may
        be cancelled, and is then asked anew. Is a checkpoint. The default knows nothing and
        returns.
        """

    async def __aenter__(self) -> Self:
        """Open the store; `ChatKitServer` does it. Entering more than once is allowed."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store when the last who entered it leaves."""
        return

    async def has_item(self, thread_id: str, item_id: str, context: TContext) -> bool:
        """Say whether the owner has a thread with this item. It loads the item. A checkpoint."""
        try:
            found: ThreadItem | None = await self.load_item(thread_id, item_id, context)
        except Exception as error:
            if means_not_found(error):
                return False
            if not isinstance(error, ChatKitError):
                error.add_note(
                    f"{type(self).__name__}.load_item() was asked whether there is an item"
                    f" {item_id}: it has to raise NotFoundError for one that isn't there"
                )
            raise
        return found is not None  # as stores written for openai-chatkit may say it
