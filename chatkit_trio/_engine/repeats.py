"""Requests that carry an `Idempotency-Key`: the same one twice is carried out once.

The store decides. `Store.begin_request` records a key for its owner, with a digest of the body and
the ids that the request will use; a repeat gets that record back and uses the same ids. What else
is needed while requests are under way is found by the record's turn id, which can't be guessed and
has one owner. Those tables are weak: an entry lasts as long as a result, a turn or a call that
needs it.

| the first request                     | its repeat                                             |
|---------------------------------------|--------------------------------------------------------|
| hasn't written anything, or was       | is carried out, with the same ids                      |
| refused, or its first writes failed   |                                                        |
| streams now, here or in another       | reads the same turn from its first event               |
| process of the same store             |                                                        |
| streams, and is being settled         | waits, then gets what the turn has stored              |
| has streamed, here or in a process    | gets what the turn has stored                          |
| that is gone                          |                                                        |
| is being answered                     | waits for the answer                                   |
| has been answered                     | gets the same bytes                                    |

A turn counts as carried out from `CheckedRequest.began` on, which is after its first writes and
before `respond`. If the store couldn't note that, the thread tells: something is behind the user's
message, or, if the request has none, there is the note of the turn's ending.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import trio

from chatkit_trio.errors import (
    ChatKitError,
    ConflictError,
    FramesLost,
    InvalidRequestError,
    NotFoundError,
    StoreError,
)
from chatkit_trio.store import RequestRecord
from chatkit_trio.types import (
    StreamOptions,
    StreamOptionsEvent,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)

from .frames import FrameReader
from .hooks import ServerHooks
from .keeping import CancelReason, stored_reason
from .loading import load_thread
from .opening import CheckedRequest, PreparedRequest
from .pages import encode_events
from .policy import TurnPolicy
from .reading import digest
from .remote import RemoteReader, RemoteTurn
from .replay import ending_of, items_behind, items_by_id, state_so_far
from .settling import Outcome, ending_events
from .storing import ends_within
from .turn import Turn, TurnState, new_turn_id
from .wire import thread_answer

logger = logging.getLogger(__name__)

Reading: TypeAlias = tuple[Turn[Any], FrameReader]
RemoteReading: TypeAlias = tuple[RemoteTurn, RemoteReader]

MAX_KEY_LENGTH = 255

_TRY = "\x1f"
"""What stands in a key before the number of a later try: no client's key has it."""


class Repeats:
    """The requests with a key that are under way in this process.

    A key counts for `window` seconds from the first request on.
    """

    def __init__(self, server: ServerHooks[Any], window: float) -> None:
        self._server = server
        self._window = window
        self._opened: WeakValueDictionary[str, KeyedRequest] = WeakValueDictionary()
        self._begun = 0
        """How often the store was asked about a key."""
        self._asking: dict[int, None] = {}
        """The numbers of those questions that have no answer yet, the oldest first."""
        # Requests whose turn has ended while the store was asked about a key: its answer may be
        # older than that end. With each, the number of the first question that comes later.
        self._just_ended: deque[tuple[int, KeyedRequest]] = deque()
        self._answering: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def open(
        self, key: str, body: bytes | bytearray, request: CheckedRequest, context: Any
    ) -> KeyedRequest:
        """Return the streaming request of this key: a new one, or the one that this one repeats.

        Raises `InvalidRequestError` for an unfit key and `ConflictError` for another body. A
        cancelled call leaves at most a record, which a repeat uses.
        """
        _check_key(key)
        await request.name_message()
        record = RequestRecord(
            key,
            await digest(body, self._server.big_work),
            thread_id=request.thread_id,
            item_id=request.message_id,
            turn_id=new_turn_id(),
        )
        number = self._begun
        self._begun += 1
        self._asking[number] = None
        try:
            known = await self._begin(record, context)
            opened = self._opened.get(known.turn_id)
            if opened is None:
                opened = KeyedRequest(self._server, known, request)
                self._opened[known.turn_id] = opened
        finally:
            del self._asking[number]
            oldest = next(iter(self._asking), self._begun)
            while self._just_ended and self._just_ended[0][0] <= oldest:
                self._just_ended.popleft()
        opened.name(request)
        if known is not record:
            opened.is_repeated(known)
        return opened

    async def knows(self, key: str, context: Any) -> bool:
        """Say whether a request with this key has come before; records nothing."""
        _check_key(key)
        known = await self._server.store.find_request(key, self._window, context)
        return known is not None

    async def run(self, request: KeyedRequest, turn: Turn[Any]) -> None:
        """Run the turn of a request, then record what it has made."""
        await self._server.live_turns.run(turn)
        if request.is_carried_out_by(turn):
            await request.ended(turn)
        if self._asking:
            self._just_ended.append((self._begun, request))

    async def answer(
        self,
        key: str,
        body: bytes | bytearray,
        carry_out: Callable[[], Awaitable[bytes]],
        context: Any,
    ) -> bytes:
        """Return the answer of the request with this key, carrying it out if there is none yet.

        One of several calls at the same time carries it out, in whatever process, and the others
        wait. Raises what `carry_out` raises, and what `open` does; then, and after a cancellation,
        the next call carries it out. Raises `StoreError` if another process takes long.

        Each try has a record of its own, so that one call only begins it.
        """
        _check_key(key)
        body_digest = await digest(body, self._server.big_work)
        number = 0
        while True:
            record = RequestRecord(
                f"{key}{_TRY}{number}" if number else key,
                body_digest,
                item_id=self._node,
                turn_id=new_turn_id(),
                begun=True,
            )
            # Locked before it is recorded: then no other call here comes first.
            async with self._lock_of(record):
                known = await self._begin(record, context)
                if known is not record and known.answer is None:
                    async with self._lock_of(known):
                        known = await self._begin_when_free(record, context)
                if known is record:
                    return await self._carry_out(record, carry_out, context)
            if known.answer is not None:
                return known.answer
            number += 1

    def _lock_of(self, record: RequestRecord) -> trio.Lock:
        """Return the lock that is held here while the request of this record is carried out."""
        return self._answering.setdefault(record.turn_id, trio.Lock())

    async def _carry_out(
        self, record: RequestRecord, carry_out: Callable[[], Awaitable[bytes]], context: Any
    ) -> bytes:
        """Return the answer, and record it, or that there is none."""
        outcome = replace(record, begun=False)
        try:
            answer = await carry_out()
            outcome = replace(record, answer=answer)
            return answer
        finally:
            seconds = self._server.policy.settle_timeout
            await _save_in_time(seconds, self._server, outcome, context)  # noqa: ASYNC102

    @property
    def _node(self) -> str:
        """The id of this process's node; empty if the store has no coordination."""
        coordination = self._server.store.coordination
        return "" if coordination is None else coordination.node

    async def _begin_when_free(self, record: RequestRecord, context: Any) -> RequestRecord:
        """Do as `_begin`, waiting while a node that lives is carrying the request out."""
        coordination = self._server.store.coordination
        if coordination is None:
            return await self._begin(record, context)
        with trio.move_on_after(2 * coordination.lease_timeout):
            while True:
                known = await self._begin(record, context)
                is_free = known.answer is not None or not known.begun or known.item_id == self._node
                if is_free or known.item_id not in await coordination.nodes():
                    return known
                await trio.sleep(coordination.poll_interval)
        raise StoreError("another server is answering this request; send it again")

    async def _begin(self, record: RequestRecord, context: Any) -> RequestRecord:
        """Return the record of the key: this one, or the one that the store has."""
        known = await self._server.store.begin_request(record, self._window, context)
        if known is None:
            return record
        if known.digest != record.digest:
            raise ConflictError(
                f"the Idempotency-Key {record.key} has been used with another body; send each"
                " request with a key of its own"
            )
        return known


class KeyedRequest(CheckedRequest):
    """A streaming request with a key, shared by all its repeats in this process.

    A context lasts no longer than its own request and the turn which that has started. So what is
    done for the turn is done with the context of the repeat that has started it, and what is done
    for a reader with that reader's.
    """

    def __init__(
        self, server: ServerHooks[Any], record: RequestRecord, request: CheckedRequest
    ) -> None:
        self.kind = request.kind
        self.turn_id = record.turn_id
        self.thread_id = record.thread_id
        self.makes_thread = request.makes_thread
        if request.message_id:
            self.message_id = record.item_id
        self._server = server
        self._record = record
        self._request = request  # the one whose turn was started last
        self._is_repeat = False
        self._turn: Turn[Any] | None = None

    def name(self, request: CheckedRequest) -> None:
        """Give a request the ids that were recorded, the same for all repeats."""
        request.thread_id, request.message_id = self.thread_id, self.message_id

    def is_repeated(self, record: RequestRecord) -> None:
        """Take note that the request has been sent again, and what the store knew of it."""
        self._is_repeat = True
        if record.begun and not self._record.begun:
            self._record = record

    # --- For its turn --------------------------------------------------------------------------

    async def check(self) -> None:
        await self._request.check()

    async def prepare(self, turn_id: str) -> PreparedRequest:
        return await self._request.prepare(turn_id)

    async def refresh(self, thread: ThreadMetadata) -> None:
        await self._request.refresh(thread)

    async def began(self) -> None:
        """Record that the request has been carried out; a failure is logged."""
        self._record = replace(self._record, begun=True)
        try:
            if not self.message_id:
                item_id = await self._last_item_id(self._turn_context)
                self._record = replace(self._record, item_id=item_id)
        except Exception:
            logger.exception(
                "the place where %s begins in its thread couldn't be recorded", self.turn_id
            )
        await _save(self._server, self._record, self._turn_context)

    @property
    def _turn_context(self) -> Any:
        assert self._turn is not None
        return self._turn.context

    async def _last_item_id(self, context: Any) -> str:
        page = await self._server.store.load_thread_items(self.thread_id, None, 1, "desc", context)
        return page.data[0].id if page.data else ""

    def is_carried_out_by(self, turn: Turn[Any]) -> bool:
        """Say whether `respond` of this turn answers the request; an earlier one may have failed
        before."""
        # The record may say of another node's turn that it has begun.
        return self._record.begun and turn is self._turn and turn.has_begun

    async def ended(self, turn: Turn[Any]) -> None:
        """Record what its turn has made; a failure is logged."""
        answer = _encoded_end(turn.item_ids(), turn.cancel_reason)
        self._record = replace(self._record, answer=answer)
        seconds = turn.policy.settle_timeout
        await _save_in_time(seconds, self._server, self._record, turn.context)

    # --- For its readers -----------------------------------------------------------------------

    async def reading(
        self,
        request: CheckedRequest,
        context: Any,
        policy: TurnPolicy,
        check: Callable[[], Awaitable[None]],
        start: Callable[[], Reading],
        nursery: trio.Nursery,
        *,
        can_return: bool,
        component_updates: bool,
    ) -> Callable[[], Reading | RemoteReading]:
        """Return what opens the stream, when its first frame is asked for.

        Waits for a turn that is being settled. A request that hasn't been carried out is checked,
        and raises what `check` raises; its turn is started by the first that reads it. In the
        nursery there is loaded what later ones have missed.
        """
        elsewhere = await self._elsewhere(policy, context, component_updates=component_updates)
        if elsewhere is not None:
            return lambda: elsewhere
        if (recalled := await self._recalled(policy, context)) is not None:
            return lambda: recalled
        if not self._has_turn:
            try:
                await check()
            except ChatKitError:
                # What has changed the thread meanwhile may be the turn of this very request.
                if not self._has_turn:
                    raise
        return partial(
            self._read,
            request,
            start,
            nursery,
            partial(self._opening, context),
            can_return=can_return,
            component_updates=component_updates,
        )

    @property
    def _has_turn(self) -> bool:
        """Whether a turn of this request has begun here, or may begin."""
        return self._turn is not None and (
            self._record.begun or not self._turn.is_ending or self._turn.state in _MAY_BEGIN
        )

    @property
    def _is_live_here(self) -> bool:
        """Whether a turn of this request isn't over: one that was refused is, and another process
        may run the request."""
        return self._turn is not None and not self._turn.is_ending

    async def _elsewhere(
        self, policy: TurnPolicy, context: Any, *, component_updates: bool
    ) -> RemoteReading | None:
        """Return the turn if another process runs it, and a reader from its first frame.

        If that isn't kept any more, the reader begins with what a late reader here is told first.
        """
        if self._is_live_here or not self._is_repeat:
            return None
        live = self._server.live_turns
        watch = partial(live.watch_elsewhere, component_updates=component_updates)
        try:
            return await watch(self.thread_id, self.turn_id, 0, policy)
        except FramesLost:
            allow_cancel = await live.allows_cancel_elsewhere(self.thread_id)
            events = await self._first_events(context, allow_cancel=allow_cancel)
            front = b"".join(await encode_events(events, self._server.big_work))
            return await watch(self.thread_id, self.turn_id, None, policy, front=front)

    async def _recalled(self, policy: TurnPolicy, context: Any) -> Reading | None:
        """Return what the turn has stored, as a turn to read, if it has ended; else None."""
        if self._is_live_here or not self._is_repeat:
            return None
        await self._server.live_turns.ready_to_read(self.thread_id)
        if not await self._has_begun(context):
            return None
        await self._server.live_turns.wait_settled_elsewhere(self.thread_id, self.turn_id)
        created = await self._thread_created(context)
        items, reason = await self._stored(context)
        events = [
            *created,
            *(ThreadItemDoneEvent(item=item) for item in items),
            *ending_events(Outcome(reason)),
        ]
        frames = await encode_events(events, self._server.big_work)
        turn: Turn[Any] = Turn(self._server, self, policy, context)
        reader = turn.open_reader(leads=True)  # it leads, so that all frames are kept for it
        turn.recall(frames, reason)
        return turn, reader

    def _read(
        self,
        request: CheckedRequest,
        start: Callable[[], Reading],
        nursery: trio.Nursery,
        opening: Callable[[Turn[Any], FrameReader], Awaitable[bytes]],
        *,
        can_return: bool,
        component_updates: bool,
    ) -> Reading:
        """Return the request's turn, started if need be, and a reader from its first event."""
        if self._turn is None or not self._has_turn:
            self._request = request
            reading = start()
            self._turn = reading[0]
            return reading
        turn = self._turn
        open_reader = partial(
            turn.open_reader, can_return=can_return, component_updates=component_updates
        )
        try:
            return turn, open_reader(0)
        except FramesLost:
            reader = open_reader()
            reader.begin_with(partial(opening, turn, reader), nursery)
            return turn, reader

    async def _has_begun(self, context: Any) -> bool:
        if self._record.begun:
            return True
        if not self.message_id:
            return await self._has_left_a_note(context)
        try:
            page = await self._server.store.load_thread_items(
                self.thread_id, self.message_id, 1, "asc", context
            )
        except NotFoundError:
            return False
        return bool(page.data)

    async def _has_left_a_note(self, context: Any) -> bool:
        """Say whether the thread has the note of the turn's ending, and take it for the record.

        The turn's process died before it could note that the turn had begun. Who settled the turn
        has noted why it ended, and which items were cut.
        """
        try:
            ending = await ending_of(self._server.store, self.thread_id, self.turn_id, context)
        except NotFoundError:
            return False
        if ending is None:
            return False
        answer = _encoded_end(ending.item_ids, ending.reason)
        self._record = replace(self._record, answer=answer, begun=True)
        return True

    async def _stored(self, context: Any) -> tuple[list[ThreadItem], CancelReason | None]:
        """Return the items of the turn that the thread has, and why the turn was cut short."""
        record = self._record
        if self._turn is not None and self._turn.has_begun:
            item_ids = [*self._message_ids, *self._turn.item_ids()]
            return await self._load(item_ids, context), self._turn.cancel_reason
        if record.answer is not None:
            item_ids, reason = _decoded_end(record.answer)
            items = await self._load([*self._message_ids, *item_ids], context)
            return items, _reason_of(reason)
        # Its process died, or couldn't record the end.
        items, reason = await items_behind(
            self._server.store, self.thread_id, record.item_id, self.turn_id, context
        )
        return [*await self._load(self._message_ids, context), *items], _reason_of(reason)

    @property
    def _message_ids(self) -> list[str]:
        return [self.message_id] if self.message_id else []

    async def _load(self, item_ids: Sequence[str], context: Any) -> list[ThreadItem]:
        return await items_by_id(self._server.store, self.thread_id, item_ids, context)

    async def _thread_created(self, context: Any) -> list[ThreadStreamEvent]:
        """Return the event that tells of a new thread; a deleted thread is a `NotFoundError`."""
        thread = await load_thread(self._server.store, self.thread_id, context)
        return [ThreadCreatedEvent(thread=thread_answer(thread))] if self.makes_thread else []

    async def _first_events(self, context: Any, *, allow_cancel: bool) -> list[ThreadStreamEvent]:
        """Return what a client is told before the items of a turn."""
        options = StreamOptions(allow_cancel=allow_cancel)
        created = await self._thread_created(context)
        return [*created, StreamOptionsEvent(stream_options=options)]

    async def _opening(self, context: Any, turn: Turn[Any], reader: FrameReader) -> bytes:
        async def load() -> list[ThreadItem]:
            return await self._load([*self._message_ids, *turn.item_ids()], context)

        begins = await self._first_events(context, allow_cancel=turn.allow_cancel)
        events, others = await state_so_far(turn, reader, load)
        encoded = await encode_events([*begins, *events], self._server.big_work)
        return b"".join([*encoded, *others])


_MAY_BEGIN = (TurnState.BEGINNING, TurnState.ANSWERING, TurnState.SETTLING)
"""A turn that is cut in another state hasn't begun and won't."""


def _reason_of(value: str | None) -> CancelReason | None:
    return None if value is None else stored_reason(value)


def _check_key(key: str) -> None:
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidRequestError(
            f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable characters"
        )


_NOT_RECORDED = (
    "a request with an Idempotency-Key couldn't be recorded; its repeat may be carried out"
)


async def _save(server: ServerHooks[Any], record: RequestRecord, context: Any) -> None:
    try:
        await server.store.update_request(record, context)
    except Exception:
        logger.exception(_NOT_RECORDED)


async def _save_in_time(
    seconds: float, server: ServerHooks[Any], record: RequestRecord, context: Any
) -> None:
    """Do as `_save`, shielded, in so many seconds; never raises."""
    try:
        if not await ends_within(seconds, server.store.update_request, record, context):
            logger.error(_NOT_RECORDED)
    except Exception:
        logger.exception(_NOT_RECORDED)


def _encoded_end(item_ids: Sequence[str], reason: str | None) -> bytes:
    return json.dumps({"item_ids": item_ids, "reason": reason}).encode()


def _decoded_end(answer: bytes) -> tuple[list[str], str | None]:
    end = json.loads(answer)
    return end["item_ids"], end["reason"]
