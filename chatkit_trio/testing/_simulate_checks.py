"""What has to be true of any run, whatever happened in it. Nothing here waits.

The judgements rest on what clients were shown and answered, on what the store really wrote and
raised, and on what the run itself did to turns; not on what the engine says of itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatkit_trio._engine.keeping import ENDING_NOTES
from chatkit_trio.errors import BaseStreamError, ChatKitError
from chatkit_trio.server import CancelReason, RemoteTurn, Turn
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    UserMessageItem,
)

from ._client_turn import ids_of
from ._simulate_history import (
    Body,
    Exchange,
    Fact,
    History,
    Life,
    Reading,
    Request,
    extent,
    has_content,
    shortened,
)
from ._simulate_server import HIDDEN_TEXT, PlannedError
from ._simulate_store import Raised, StoreFault
from ._transport import RequestRefused

__all__ = ["Problem", "problems"]

_REASONS = {text: reason for reason, text in ENDING_NOTES.items()}
_JOURNAL_SLACK = 0.1
_LEASE_SLACK = 3.0
_LONGEST_ASKING = 15.0
_NEVER = 10**9
_WANT_A_THREAD = ("send", "load", "rename", "delete", "feedback")
_CLIENT_ERRORS = range(400, 500)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that must not be."""

    kind: str
    """The rule that is broken; the same one whenever it happens."""
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


def problems(history: History) -> list[Problem]:
    """Return all that is wrong; nothing if all is well."""
    found = [Problem(kind, words) for kind, words in history.problems]
    view = _View(history)
    for kind, rule in _RULES.items():
        found += [Problem(kind, words) for words in dict.fromkeys(rule(view))]
    return found


class _View:
    """The records, put in the order in which the rules ask for them."""

    def __init__(self, history: History) -> None:
        self.history = history

    @cached_property
    def stored(self) -> dict[str, ThreadItem]:
        return {item.id: item for items in self.history.stored.values() for item in items}

    @cached_property
    def bodies(self) -> dict[str, Body]:
        return {body.turn.id: body for body in self.history.bodies}

    @cached_property
    def produced(self) -> dict[str, tuple[ThreadItem, Body]]:
        """The items that `respond` has yielded, in their last state."""
        made: dict[str, tuple[ThreadItem, Body]] = {}
        for body in self.history.bodies:
            for event in body.recording.events:
                # One that was taken back isn't among the recording's items any more.
                if isinstance(event, ThreadItemAddedEvent | ThreadItemDoneEvent):
                    made[event.item.id] = event.item, body
            made |= {item.id: (item, body) for item in body.recording.items()}
        return made

    @cached_property
    def lives(self) -> dict[str, Life]:
        """The server that each turn ran in."""
        turns = {exchange.turn.id: exchange.request.life for exchange in self.history.exchanges}
        return turns | {body.turn.id: body.life for body in self.history.bodies}

    @cached_property
    def removed(self) -> set[str]:
        """Items that `respond` has taken back."""
        return {
            item_id
            for body in self.history.bodies
            for item_id in ids_of(body.recording.events, "thread.item.removed")
        }

    @cached_property
    def rewritten(self) -> set[str]:
        """Items that were replaced by others: what was shown before doesn't count."""
        return {
            item_id
            for body in self.history.bodies
            for item_id in ids_of(body.recording.events, "thread.item.replaced")
        }

    @cached_property
    def notes(self) -> dict[str, list[SDKHiddenContextItem]]:
        """The hidden notes that were ever stored, by the turn that they tell of."""
        ledger = self.history.ledger
        by_turn: dict[str, list[SDKHiddenContextItem]] = defaultdict(list)
        for item in (*self.stored.values(), *ledger.items.values()):
            if isinstance(item, SDKHiddenContextItem):
                # A store leaves a second note of a turn out: then it was never there.
                is_stored = item is self.stored.get(item.id)
                is_deleted = item.id not in self.stored and self.is_gone(item.id, item.thread_id)
                if is_stored or is_deleted:
                    by_turn[self.turn_of(item)].append(item)
        return by_turn

    def turn_of(self, note: SDKHiddenContextItem) -> str:
        """Return the id of the turn whose ending a note tells of."""
        if note.ending is not None:
            return note.ending.turn_id
        write = self.history.ledger.added.get(note.id)
        return "?" if write is None or write.turn_id is None else write.turn_id

    def is_gone(self, item_id: str, thread_id: str, before: int | None = None) -> bool:
        """Say whether an item was deleted on purpose, alone or with its thread."""
        ledger = self.history.ledger
        if item_id in self.removed:
            return True
        gone = ledger.gone.get(item_id)
        if gone is not None and (before is None or gone.number < before):
            return True
        deleted = ledger.deleted_threads.get(thread_id)
        return deleted is not None and (before is None or deleted < before)

    def is_excused(self, fact: Fact) -> bool:
        """Say whether a crash, or a store that was away to the end, may have cost this."""
        turn_id, life = fact.turn_id, fact.life
        if fact.is_done or turn_id is None:
            return False
        life = self.lives.get(turn_id, life)
        if life.crashed is not None and turn_id in life.unsettled:
            if self.history.ledger.wrapped.journal is None or life.door.has_hung:
                return True
            # One that was held up until then hasn't written its journal either.
            held = [began for began, seconds in life.troubles if began + seconds > life.crashed_at]
            return fact.time > self._journaled_before(min([life.crashed_at, *held]))
        if (lost := self.lost_from(life)) is not None and fact.time > self._journaled_before(lost):
            return True
        return life.ended_in_trouble

    def _journaled_before(self, time: float) -> float:
        """Return since when what a turn produced may be missing in the journal at this time."""
        interval = self.history.journal_interval + 3 * self.history.faults.seconds
        return time - interval - _JOURNAL_SLACK

    def lost_from(self, life: Life) -> float | None:
        """Return when trouble began because of which others may have taken a server for dead."""
        if self.history.settings.nodes == 1:
            return None
        lease = life.server.store.coordination.lease_timeout
        if sum(seconds for _, seconds in life.troubles) < lease - _LEASE_SLACK:
            return None
        return min(began for began, _ in life.troubles)

    def faults_of(self, turn_id: str) -> bool:
        """Say whether the store failed or hung in this turn."""
        return any(raised.turn_id == turn_id for raised in self.history.faults.raised)


# --- What was shown is stored ------------------------------------------------------------------


def _shown_is_stored(view: _View) -> Iterator[str]:
    """What any client was shown is in the store at the end, and no less of it."""
    last: dict[tuple[str, bool], Fact] = {}
    for fact in view.history.facts:
        if not view.is_excused(fact):
            last[fact.item_id, fact.is_done] = fact
    for fact in last.values():
        yield from _lacks(view, fact, view.stored.get(fact.item_id), "in the store")


def _lacks(
    view: _View, fact: Fact, item: ThreadItem | None, where: str, before: int | None = None
) -> Iterator[str]:
    if view.is_gone(fact.item_id, fact.thread_id, before):
        return
    if item is None:
        if fact.is_done or fact.is_worth_keeping:
            yield f"a client was shown {fact}, which isn't {where}"
    elif fact.item_id not in view.rewritten and not extent(item).startswith(fact.extent):
        yield f"a client was shown {fact}, and {where} is {shortened(extent(item))}"


def _accepted_is_stored(view: _View) -> Iterator[str]:
    """A message that a client saw accepted, or whose write had returned, is stored once."""
    ledger = view.history.ledger
    accepted = {exchange.accepted for exchange in view.history.exchanges if exchange.accepted}
    accepted |= {key for key, item in ledger.items.items() if isinstance(item, UserMessageItem)}
    for item_id in sorted(accepted):
        write = ledger.added.get(item_id)
        if write is None:
            yield f"a client saw its message {item_id} accepted, and it was never written"
        elif item_id not in view.stored and not view.is_gone(item_id, write.thread_id):
            yield f"message {item_id} was accepted and isn't in the store"


def _finished_is_whole(view: _View) -> Iterator[str]:
    """An answer that came to its end by itself is stored whole."""
    for body in view.history.bodies:
        if body.outcome != "finished" or view.notes.get(body.turn.id) or _may_be_cut(view, body):
            continue
        for item in body.recording.items():
            stored = view.stored.get(item.id)
            if view.is_gone(item.id, body.thread_id) or not _is_kept(item):
                continue
            if stored is None or extent(stored) != extent(item):
                has = "nothing" if stored is None else shortened(extent(stored))
                yield f"an answer that finished had {_described(item)}, and stored is {has}"


def _described(item: ThreadItem) -> str:
    return f"{item.type} {item.id} {shortened(extent(item))}"


def _is_kept(item: ThreadItem) -> bool:
    return isinstance(item, AssistantMessageItem) and has_content(item)


def _may_be_cut(view: _View, body: Body) -> bool:
    """Say whether something beside `respond` may have ended its turn."""
    life = body.life
    has_trouble = life.ended_in_trouble or view.lost_from(life) is not None
    return life.crashed is not None or has_trouble or body.turn.cancel_reason is not None


# --- Nothing that wasn't produced --------------------------------------------------------------


def _stored_was_produced(view: _View) -> Iterator[str]:
    """No item and no text is in the store that nobody has made."""
    for thread_id, items in view.history.stored.items():
        for item in items:
            if isinstance(item, UserMessageItem | SDKHiddenContextItem):
                continue
            made = view.produced.get(item.id)
            if made is None:
                yield f"{_described(item)} is stored, and no respond() made it"
            elif made[1].thread_id != thread_id:
                yield f"{item.type} {item.id} is in thread {thread_id}, and was made for another"
            elif item.id not in view.rewritten and not extent(made[0]).startswith(extent(item)):
                yield f"stored is {_described(item)}, and yielded was {_described(made[0])}"


def _nothing_twice(view: _View) -> Iterator[str]:
    """Every item is in the store once, and every message too."""
    for items in view.history.stored.values():
        for item_id, times in Counter(item.id for item in items).items():
            if times > 1:
                yield f"item {item_id} is in the store {times} times"
    seen: dict[str, str] = {}
    for exchange in view.history.exchanges:
        accepted = exchange.accepted
        if accepted is not None and exchange.request.operation.do == "send":
            number = str(exchange.request.number)
            if seen.setdefault(number, accepted) != accepted:
                yield f"one request has made two messages, {seen[number]} and {accepted}"
    sends = sum(request.operation.do == "send" for request in view.history.requests)
    messages = [i for i in view.history.ledger.items.values() if isinstance(i, UserMessageItem)]
    if len(messages) > sends:
        yield f"{sends} requests have made {len(messages)} messages"


def _gone_stays_gone(view: _View) -> Iterator[str]:
    """What was deleted doesn't come back."""
    for item_id, write in view.history.ledger.gone.items():
        if item_id in view.stored:
            yield f"item {item_id}, deleted by {write.what}, is in the store again"
    for exchange in view.history.exchanges:
        for item_id in sorted(exchange.removed & view.stored.keys()):
            yield f"a client was told that item {item_id} is removed, and it is in the store"
    for request in view.history.requests:
        is_deleted = request.operation.do == "delete" and request.outcome == "ok"
        if is_deleted and request.thread_id in view.history.threads:
            yield f"thread {request.thread_id} was deleted, and is in the store again"


# --- Notes -------------------------------------------------------------------------------------


def _one_note(view: _View) -> Iterator[str]:
    """A turn that was cut short has left one note, and no other turn has any."""
    for turn_id, notes in view.notes.items():
        if turn_id not in view.lives:
            yield f"{len(notes)} notes were written by nobody's turn {turn_id}"
        elif len(notes) > 1:
            yield f"a turn has left {len(notes)} notes: {', '.join(_reason(n) for n in notes)}"
    for body in view.history.bodies:
        has_no_note = body.outcome == "cancelled" and not view.notes.get(body.turn.id)
        if has_no_note and not _may_lack_note(view, body):
            yield f"the answer in thread {body.thread_id} was cut short, and has left no note"
    for items in view.history.stored.values():
        for item in items:
            if isinstance(item, SDKHiddenContextItem) and not item.content.strip():
                yield f"note {item.id} is empty"


def _may_lack_note(view: _View, body: Body) -> bool:
    life = body.life
    if body.thread_id in view.history.ledger.deleted_threads:
        return True
    if life.crashed is not None:
        if view.history.ledger.wrapped.journal is None:
            return True
        return body.turn.id not in life.unsettled
    failed = body.turn.cancel_reason in (None, CancelReason.FAILED)
    return failed or life.ended_in_trouble


def _reason(note: SDKHiddenContextItem) -> str:
    return _REASONS[note.content] if note.ending is None else note.ending.reason


def _true_reason(view: _View) -> Iterator[str]:
    """A note tells why its turn ended: somebody had done what it says."""
    for turn_id, notes in view.notes.items():
        for note in notes:
            reason = CancelReason(_reason(note))
            if note.content != ENDING_NOTES[reason] and view.history.uses_own_server:
                yield f"a note of thread {note.thread_id} says {reason} and {note.content!r}"
            elif not _was_caused(view, turn_id, note, reason):
                yield f"a note of thread {note.thread_id} says {reason}, and nobody did that"


def _was_caused(
    view: _View, turn_id: str, note: SDKHiddenContextItem, reason: CancelReason
) -> bool:
    history = view.history
    life, body = view.lives.get(turn_id), view.bodies.get(turn_id)
    began = min(
        [e.request.number for e in history.exchanges if e.turn.id == turn_id]
        + ([body.number] if body is not None else []),
        default=0,
    )
    write = history.ledger.added.get(note.id)
    written = history.ledger.writes[-1].number if write is None else write.number
    match reason:
        case CancelReason.CRASHED:
            if life is None or life.crashed is not None:
                return life is not None
            if body is None and view.faults_of(turn_id):
                return True  # it was begun, and nobody was told
            # The server has left without being able to settle it: to the journal it's a crash.
            return turn_id in life.unsettled or view.lost_from(life) is not None
        case CancelReason.DEADLINE:
            return body is None or body.turn.policy.turn_timeout is not None
        case CancelReason.SILENT:
            return body is None or body.turn.policy.idle_timeout is not None
        case CancelReason.FAILED:
            return _has_failed(view, turn_id, body)
        case CancelReason.DISCONNECTED | CancelReason.SUPERSEDED if body is not None:
            # By policy neither ends this turn, or the other turn has to wait.
            if not body.turn.allow_cancel:
                return False
            if reason is CancelReason.DISCONNECTED and body.turn.policy.on_disconnect == "finish":
                return False
    if reason is CancelReason.STOPPED and _may_have_quit(history, turn_id, life):
        return True
    causes = [
        cause
        for cause in history.causes
        if cause.number < written
        and cause.thread_id in (None, note.thread_id)
        and cause.turn_id in (None, turn_id)
        and cause.life in (None, life)
        and not _is_own(history, cause.request, turn_id)
        and (
            cause.request is None
            or (cause.request.ended or written) > began
            or _may_wait_elsewhere(history, cause.request)
        )
    ]
    first = min((cause.number for cause in causes if cause.reason is reason), default=None)
    if first is None or body is None or history.settings.nodes > 1:
        return first is not None
    # A stop takes effect at once; what came later isn't why the turn ended.
    stops = (
        cause.number
        for cause in causes
        if cause.reason is CancelReason.STOPPED
        and cause.request is not None
        and cause.request.operation.do != "delete"  # this looks for the thread first
    )
    return not any(body.number < stop < min(first, body.ended or written) for stop in stops)


def _may_wait_elsewhere(history: History, request: Request) -> bool:
    """Say whether the turn of a request may wait on another server, though its client has left."""
    return history.settings.nodes > 1 and request.operation.reading != "all"


def _is_own(history: History, request: Request | None, turn_id: str) -> bool:
    """Say whether the request is the one that began the turn: it doesn't supersede itself."""
    if request is None or request.operation.reading.startswith("stop"):
        return False
    return any(e.request is request and e.turn.id == turn_id for e in history.exchanges)


def _may_have_quit(history: History, turn_id: str, life: Life | None) -> bool:
    """Say whether the turn's own code may have stopped it."""
    if not history.uses_own_server:
        return True
    return life is not None and turn_id in life.server.quits


def _has_failed(view: _View, turn_id: str, body: Body | None) -> bool:
    if view.faults_of(turn_id) or body is None or body.outcome == "raised":
        return True
    if view.history.uses_own_server and turn_id in body.life.server.failures:
        return True  # the server may have crashed before it could log the error of a task
    return any(_is_planned(record.error) for record in view.history.log)


def _notes_stand_behind(view: _View) -> Iterator[str]:
    """What a turn has left stands together: its text, its note, and then the next turn's."""
    for thread_id, items in view.history.stored.items():
        places = {item.id: place for place, item in enumerate(items)}
        end, last = -1, ""
        for turn_id, own in _turns_of(view, thread_id, places):
            first = min(own)
            if first < end:
                yield f"what {turn_id} has left in thread {thread_id} stands before what {last} has"
            end, last = max(own), turn_id
        for turn_id, notes in view.notes.items():
            if body := view.bodies.get(turn_id):
                texts = [places[i.id] for i in body.recording.items() if i.id in places]
                for note in notes:
                    if note.id in places and texts and places[note.id] < max(texts):
                        yield f"note {note.id} stands before the text of its turn"


def _turns_of(
    view: _View, thread_id: str, places: dict[str, int]
) -> Iterator[tuple[str, list[int]]]:
    """Yield the turns of a thread in the order in which they have begun, with their places.

    One that is paused between its first writes and `respond` may be settled by another server, and
    call `respond` behind the next turn.
    """
    accepted = {e.turn.id: e.accepted for e in view.history.exchanges if e.accepted}
    openings = view.history.ledger.openings
    bodies = [body for body in view.history.bodies if body.thread_id == thread_id]
    for body in sorted(bodies, key=lambda body: openings.get(body.turn.id, 0)):
        ids = [item.id for item in body.recording.items()]
        ids += [note.id for note in view.notes.get(body.turn.id, ())]
        message_id = accepted.get(body.turn.id)
        if message_id is not None and not _is_of_a_try_before(view, body, message_id):
            ids.append(message_id)
        own = [places[item_id] for item_id in ids if item_id in places]
        if own:
            yield body.turn.id, own


def _is_of_a_try_before(view: _View, body: Body, message_id: str) -> bool:
    """Say whether a request had stored its message though the store had said that this failed.

    The same request, sent again, is the same turn, and may come behind another one.
    """
    write = view.history.ledger.added.get(message_id)
    return write is not None and any(
        raised.turn_id == body.turn.id and write.number < raised.number < body.number
        for raised in view.history.faults.raised
    )


# --- One turn at a time ------------------------------------------------------------------------


def _one_turn_at_a_time(view: _View) -> Iterator[str]:
    """`respond` begins on a thread only when nothing of the turn before remains to be stored."""
    for body in view.history.bodies:
        for write in view.history.ledger.writes:
            if write.number < body.number or write.thread_id != body.thread_id:
                continue
            earlier = view.bodies.get(write.turn_id or "")
            if (
                earlier is not None
                and earlier is not body
                and earlier.number < body.number
                and earlier.life.crashed is None
                and write.what != "delete_thread"
            ):
                yield (
                    f"respond() began on thread {body.thread_id}, and after that a turn before it"
                    f" wrote ({write.what})"
                )
                return


# --- What readers are told ---------------------------------------------------------------------


def _readers_never_go_back(view: _View) -> Iterator[str]:
    """What was seen stored stays, and who has read a stream to its end finds all of it."""
    for reading in view.history.readings:
        if not reading.is_all:
            continue
        items = {item.id: item for item in reading.items}
        for fact in _firm_before(view, reading):
            found = items.get(fact.item_id)
            yield from _lacks(view, fact, found, "what the thread has", reading.ended)
    yield from _readings_never_go_back(view)


def _firm_before(view: _View, reading: Reading) -> list[Fact]:
    """Return the last that the thread must show of each item."""
    last: dict[tuple[str, bool], Fact] = {}
    for fact in view.history.facts:
        if fact.number >= reading.number:
            break
        is_of_it = fact.thread_id == reading.thread_id and _is_firm(view, fact, reading)
        if is_of_it and not view.is_excused(fact):
            last[fact.item_id, fact.is_done] = fact
    return list(last.values())


def _is_firm(view: _View, fact: Fact, reading: Reading) -> bool:
    """Say whether the thread must show it already: it is live, or was told to be stored."""
    if fact.is_done or reading.with_live:
        return True
    # By turn and not by its id: one that was told to be over before it began may begin again.
    body = view.bodies.get(fact.turn_id or "")
    complete = any(
        exchange.turn.id == fact.turn_id
        and (body is None or _turn_read(view, exchange) is body.turn)
        and exchange.complete is not None
        and exchange.complete < reading.number
        for exchange in view.history.exchanges
    )
    stopped = any(
        thread_id == fact.thread_id and fact.number < began and effective < reading.number
        for began, effective, thread_id in view.history.stops
    )
    return complete or stopped


def _readings_never_go_back(view: _View) -> Iterator[str]:
    known: dict[tuple[str, bool], list[Reading]] = defaultdict(list)
    for reading in sorted(view.history.readings, key=lambda each: each.number):
        if not reading.is_all:
            continue
        items = {item.id: item for item in reading.items}
        for earlier in known[reading.thread_id, reading.with_live][-3:]:
            if earlier.ended > reading.number:
                continue
            has_crashed = _has_ended_between(view, earlier, reading)
            for item in earlier.items:
                found = items.get(item.id)
                if view.is_gone(item.id, reading.thread_id, reading.ended):
                    continue
                if found is None and not (earlier.with_live and has_crashed):
                    if not earlier.with_live or has_content(item):
                        yield f"a reader was told of {item.type} {item.id}, and a later one wasn't"
                elif found is not None and not has_crashed and not _has_grown(view, item, found):
                    yield (
                        f"a reader was told {shortened(extent(item))} of {item.id}, and a later one"
                        f" {shortened(extent(found))}"
                    )
        known[reading.thread_id, reading.with_live].append(reading)


def _has_grown(view: _View, before: ThreadItem, after: ThreadItem) -> bool:
    return before.id in view.rewritten or extent(after).startswith(extent(before))


def _has_ended_between(view: _View, earlier: Reading, later: Reading) -> bool:
    """Say whether a server has ended: what a reader was told of a live turn may be lost then."""
    return any(
        earlier.number < (life.crashed or life.ended or _NEVER) < later.ended
        or view.lost_from(life) is not None
        for life in view.history.lives
    )


def _known_threads_are_found(view: _View) -> Iterator[str]:
    """A thread that a client was told of is there until somebody deletes it."""
    history = view.history
    for thread_id, since in history.known.items():
        deleted = history.ledger.deleted_threads.get(thread_id)
        if thread_id not in history.threads and deleted is None:
            yield f"thread {thread_id} isn't in the store any more"
        for number, listed in history.lists:
            if since < number and deleted is None and thread_id not in listed:
                yield f"thread {thread_id} isn't listed"
    for request in history.requests:
        deleted = history.ledger.deleted_threads.get(request.thread_id or "", _NEVER)
        is_missed = request.outcome.startswith("404") and request.thread_id is not None
        if is_missed and request.operation.do in _WANT_A_THREAD and deleted > (request.ended or 0):
            yield f"{request.operation.do}: {request.error}; nobody had deleted it"


def _readers_agree(view: _View) -> Iterator[str]:
    """All who read a turn get the same frames, in order, and those that read on get them all."""
    # By turn and not by its id: a request whose first writes failed is repeated with the same id.
    frames: dict[Turn[Any] | RemoteTurn, dict[int, bytes]] = defaultdict(dict)
    exchanges = [exchange for exchange in view.history.exchanges if not exchange.is_repeat]
    for exchange in exchanges:
        own = frames[_turn_read(view, exchange)]
        for number, frame in enumerate(exchange.frames, exchange.first_frame):
            if own.setdefault(number, frame) != frame:
                yield f"two readers of one turn got different frames as number {number}"
    for exchange in exchanges:
        if exchange.complete is not None:
            end = exchange.first_frame + len(exchange.frames)
            missed = max(frames[_turn_read(view, exchange)], default=end - 1) + 1 - end
            if missed > 0:
                yield f"a reader was told that the stream is over, and lacks {missed} frames"


def _turn_read(view: _View, exchange: Exchange) -> Turn[Any] | RemoteTurn:
    if isinstance(exchange.turn, RemoteTurn) and exchange.turn.id in view.bodies:
        return view.bodies[exchange.turn.id].turn
    return exchange.turn


def _nothing_hidden_is_told(view: _View) -> Iterator[str]:
    """What is for the model only reaches no client."""
    for exchange in view.history.exchanges:
        for frame in exchange.frames:
            if b"hidden_context" in frame or HIDDEN_TEXT.encode() in frame:
                yield "a hidden item went out in a stream"
    for reading in view.history.readings:
        if any(isinstance(i, HiddenContextItem | SDKHiddenContextItem) for i in reading.items):
            yield "a hidden item was told to a reader"


def _last_title_stays(view: _View) -> Iterator[str]:
    """A thread that only clients have named bears the last of their names."""
    for thread_id, thread in view.history.threads.items():
        bodies = [body for body in view.history.bodies if body.thread_id == thread_id]
        if any(body.recording.thread.title != thread.title for body in bodies[-1:]):
            continue
        renames = [
            request
            for request in view.history.requests
            if request.operation.do == "rename" and request.thread_id == thread_id
        ]
        done = [request for request in renames if request.outcome == "ok"]
        latest = [
            request
            for request in renames
            if not any(request.ended and other.number > request.ended for other in done)
        ]
        titles = {request.operation.text for request in latest}
        given = {None, *(request.operation.text for request in renames)}
        is_named_by_respond = any(body.recording.thread.title not in given for body in bodies)
        if done and not is_named_by_respond and thread.title not in titles:
            wanted = " or ".join(sorted(titles))
            yield f"thread {thread_id} is called {thread.title!r}, not {wanted}"


# --- Requests and errors -----------------------------------------------------------------------


def _requests_end_well(view: _View) -> Iterator[str]:
    """A request is answered or refused; a server's own error is the store's or is planned."""
    for request in view.history.requests:
        if request.outcome == "broken":
            continue
        match request.error:
            case None:
                continue
            case RequestRefused(status=status, code=code):
                is_well = status in _CLIENT_ERRORS or _is_excusable(view, request, code)
            case ChatKitError(http_status=status, code=code):
                is_well = status in _CLIENT_ERRORS or _is_excusable(view, request, code)
            case _:
                is_well = False
        if not is_well:
            yield f"{request.operation.do} raised {request.error!r}"


def _is_excusable(view: _View, request: Request, code: str | None) -> bool:
    if code == "not_running":
        return True
    if code == "store" and any(view.lost_from(life) is not None for life in view.history.lives):
        return True
    return any(raised.number < (request.ended or 0) for raised in view.history.faults.raised)


def _readers_wait_bounded(view: _View) -> Iterator[str]:
    """A request that doesn't stream is answered within the longest settling time."""
    settings = view.history.settings
    limit = 4 * settings.settle_timeout + 20 * settings.store_seconds + 1
    if settings.nodes > 1:
        limit += _LONGEST_ASKING  # another server may have to be found dead first
    for request in view.history.requests:
        if request.operation.do not in ("load", "list", "stop", "rename", "feedback"):
            continue
        took = request.ended_at - request.time
        if took > limit and not view.history.faults.were_any:
            yield f"{request.operation.do} took {took:.1f} s"


def _no_error_vanishes(view: _View) -> Iterator[str]:
    """What the store raised is raised to a client or logged."""
    told = [leaf for record in view.history.log for leaf in _leaves(record.error)]
    told += [leaf for request in view.history.requests for leaf in _leaves(request.error)]
    told += [leaf for body in view.history.bodies for leaf in _leaves(body.error)]
    seen = {id(leaf) for leaf in told}
    for raised in view.history.faults.raised:
        if raised.error is None or raised.door.is_shut or id(raised.error) in seen:
            continue
        if not _is_told_of(view, raised):
            yield f"what the store raised at {raised.what} was neither logged nor told to anybody"


def _is_told_of(view: _View, raised: Raised) -> bool:
    """Say whether the log tells that this turn tries it again: of each try it needn't."""
    told = [rec.message for rec in view.history.log if (raised.turn_id or "?") in rec.message]
    if raised.what == "settle":
        return bool(told)
    # Settling looks at some items before it stores them.
    is_look = raised.what in ("load_item", "has_item")
    return any(
        "waits for the store" in message or (is_look and message.startswith("settling "))
        for message in told
    )


def _log_has_no_surprise(view: _View) -> Iterator[str]:
    """The log has no error that neither the store nor the plan has caused."""
    for record in view.history.log:
        is_surprise = record.is_error and record.error is not None and not _is_planned(record.error)
        if record.message.startswith("ending ") or (is_surprise and view.history.uses_own_server):
            yield f"logged: {record.message}: {record.error!r}"


def _is_planned(error: BaseException | None) -> bool:
    return any(
        isinstance(leaf, StoreFault | PlannedError | BaseStreamError | ChatKitError)
        for leaf in _leaves(error)
    )


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, those it holds, and those it came from."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _journal_is_closed(view: _View) -> Iterator[str]:
    """No turn is in the journal any more when all have ended."""
    if view.history.abandoned:
        yield f"{view.history.abandoned} turns are still in the journal"


_RULES: dict[str, Callable[[_View], Iterator[str]]] = {
    "shown and not stored": _shown_is_stored,
    "accepted and not stored": _accepted_is_stored,
    "finished and not whole": _finished_is_whole,
    "stored and not made": _stored_was_produced,
    "twice": _nothing_twice,
    "deleted and back": _gone_stays_gone,
    "notes": _one_note,
    "untrue reason": _true_reason,
    "out of order": _notes_stand_behind,
    "two turns at once": _one_turn_at_a_time,
    "readers go back": _readers_never_go_back,
    "thread not found": _known_threads_are_found,
    "readers differ": _readers_agree,
    "hidden told": _nothing_hidden_is_told,
    "title": _last_title_stays,
    "request": _requests_end_well,
    "slow": _readers_wait_bounded,
    "error vanished": _no_error_vanishes,
    "log": _log_has_no_surprise,
    "journal": _journal_is_closed,
}
