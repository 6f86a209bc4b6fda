"""What has to be true after a turn was cut short, whatever cut it and wherever. Nothing waits.

Both ways: nothing that was shown is missing from the store, and there is nothing too much in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chatkit_trio._engine.keeping import ENDING_NOTES, kept_items
from chatkit_trio._engine.thread_state import as_metadata
from chatkit_trio.server import CancelReason
from chatkit_trio.types import (
    AssistantMessageItem,
    ErrorEvent,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    WorkflowItem,
    is_hidden,
)

from ._cuts import RESPOND_RAISES, TASK_RAISES, expected_reason
from ._trial import Aftermath

__all__ = ["describe", "problems"]

_SLACK = 0.1
"""So many seconds more than the longest settling are no fault."""

_TELLING_LENGTH = 4
"""A text this long that another one begins with is no coincidence."""

_DIFFERS = frozenset({"id", "thread_id", "created_at"})
"""What two copies of one item may differ in."""


def problems(aftermath: Aftermath) -> list[str]:
    """Return what is wrong, in words; nothing if all is well."""
    found = list(aftermath.problems)
    if found:
        return found
    always = (
        _uncut_finished,
        _others_answered,
        _true_reason,
        _settled_in_time,
        _faults_are_told,
        _nothing_leaks,
    )
    begun = _INVARIANTS if aftermath.has_begun else (_nothing_begun,)
    for invariant in (*always, *begun):
        found += invariant(aftermath)
    return found


# --- The end itself ----------------------------------------------------------------------------


def _uncut_finished(aftermath: Aftermath) -> Iterator[str]:
    """The turn that nothing cuts finishes; one that fails by itself shows nothing about cuts."""
    if aftermath.cut is not None or aftermath.may_fail:
        return
    if aftermath.reason is not None:
        yield f"it ended as {aftermath.reason}, so its cuts would show nothing: {_why(aftermath)}"
    elif any(isinstance(event, ErrorEvent) for event in aftermath.received_events):
        yield f"it ended with an error event, so its cuts would show nothing: {_why(aftermath)}"


def _others_answered(aftermath: Aftermath) -> Iterator[str]:
    """The answers before the turn don't fail, nor does the next one: what was cut is no poison."""
    if not aftermath.may_fail:
        yield from (f"{what}: {_why(aftermath)}" for what in aftermath.failed_beside)


def _why(aftermath: Aftermath) -> str:
    errors = [f"{type(error).__name__}: {error}" for error in aftermath.told]
    return "; ".join(dict.fromkeys(errors or aftermath.logged)) or "nothing was logged"


def _true_reason(aftermath: Aftermath) -> Iterator[str]:
    """The turn ended for what cut it, or finished because the cut came too late."""
    if aftermath.cut is None:
        return
    name, trouble = aftermath.cut.reason, aftermath.cut.trouble
    expected = expected_reason(name)
    allowed = {None, expected}
    # A first write that hangs fails: before `respond` is called, nothing is there to be cut.
    if trouble == "failing_write" or (trouble == "hanging_write" and not aftermath.was_called):
        allowed.add(CancelReason.FAILED)
    if name in (RESPOND_RAISES, TASK_RAISES) and aftermath.faults:
        allowed = {expected}
    if aftermath.may_fail:
        allowed.add(CancelReason.FAILED)
    if aftermath.reason not in allowed:
        wanted = "finished" if expected is None else f"ended as {expected}"
        yield f"the turn should have {wanted}, and it ended {_end(aftermath)}"
        yield from (f"logged: {line}" for line in aftermath.logged)


def _settled_in_time(aftermath: Aftermath) -> Iterator[str]:
    """Nothing makes the settling take longer than it may, and the stream ends with it."""
    if aftermath.reason is None:
        return
    seconds, limit = aftermath.settling_seconds, aftermath.longest_settling
    if seconds is not None and seconds > limit + _SLACK:
        yield f"the turn was settled {seconds:.3g} s after the cut, and may take {limit:.3g} s"
    seconds = aftermath.stream_seconds
    if aftermath.page is not None and seconds is not None and seconds > _SLACK:
        yield f"the stream ended {seconds:.3g} s after the turn had been settled"


def _faults_are_told(aftermath: Aftermath) -> Iterator[str]:
    """What the explorer's own doubles raise is told to the client or logged at ERROR."""
    events = aftermath.received_events
    client_knows = any(isinstance(event, ErrorEvent) and event.code != "custom" for event in events)
    for fault in aftermath.faults:
        is_logged = any(error is fault for error in aftermath.told) or any(
            str(fault) in line for line in aftermath.logged
        )
        if not is_logged and not (client_knows and aftermath.page is not None):
            yield f"{type(fault).__name__} ({fault}) was neither told to the client nor logged"


def _nothing_leaks(aftermath: Aftermath) -> Iterator[str]:
    """No task of the turn is left, no generator is open, and nothing of it writes on."""
    yield from aftermath.leaks
    for item_id in aftermath.written_late:
        item = _with_id(aftermath.stored_after_next or aftermath.stored, item_id)
        what = f"item {item_id[:12]}" if item is None else describe(item)
        yield f"{what} was written after the turn had been settled"


def _nothing_begun(aftermath: Aftermath) -> Iterator[str]:
    """A turn that hadn't begun has left nothing; a store that fails half way may keep the half."""
    cut = aftermath.cut
    store_failed = cut is not None and (
        cut.reason == CancelReason.FAILED or cut.trouble in ("hanging_write", "failing_write")
    )
    if aftermath.is_half_begun and not store_failed:
        yield "the turn hadn't begun, and something of its first writes is in the store"


# --- Nothing is missing ------------------------------------------------------------------------


def _yielded_is_stored(aftermath: Aftermath) -> Iterator[str]:
    """What `respond` had yielded when the turn was cut is in the store, as it was or later.

    Of a turn that finished, all is stored as `respond` left it in the end.
    """
    for item_id, states in aftermath.states.items():
        if aftermath.reason is None and aftermath.cut is None:
            count = len(states)
        else:
            count = aftermath.states_at_cut.get(item_id, 0)
        if count and item_id not in aftermath.removed:
            is_finished = item_id in aftermath.finished
            yield from _lacks(aftermath, states[count - 1], count - 1, is_finished=is_finished)


def _lacks(
    aftermath: Aftermath, item: ThreadItem, place: int, *, is_finished: bool
) -> Iterator[str]:
    stored = _with_id(aftermath.stored, item.id)
    if stored is None:
        if is_finished or kept_items([item]):
            yield f"respond() had yielded {describe(item)}, and the store hasn't got it"
    elif _place(aftermath.states[item.id], stored) < place:
        done = " as done" if is_finished else ""
        yield f"respond() had yielded {describe(item)}{done}, and the store has {describe(stored)}"


def _place(states: Sequence[ThreadItem], item: ThreadItem) -> int:
    """Return the number of the latest of the states that an item is in; -1 if it's in none."""
    wanted = _dump(item)
    for number in range(len(states) - 1, -1, -1):
        state = states[number]
        if any(_dump(form) == wanted for form in (state, *kept_items([state]))):
            return number
    return -1


def _received_is_stored(aftermath: Aftermath) -> Iterator[str]:
    """What a client that left had been shown is in the store, as far as it had been shown."""
    if aftermath.page is not None:
        return
    done = aftermath.told_done
    for item in aftermath.received:
        if item.id in aftermath.removed:
            continue
        stored = _with_id(aftermath.stored, item.id)
        if stored is None:
            if item.id in done or kept_items([item]):
                yield f"the client had got {describe(item)}, and the store hasn't got it"
        elif not _is_as_far(aftermath, stored, item):
            yield f"the client had got {describe(item)}, and the store has {describe(stored)}"


def _is_as_far(aftermath: Aftermath, stored: ThreadItem, item: ThreadItem) -> bool:
    states = aftermath.states.get(item.id, [])
    place = _place(states, stored)
    return _dump(stored) == _dump(item) or any(
        _dump(state) == _dump(item) for state in states[: place + 1]
    )


def _page_shows_what_is_stored(aftermath: Aftermath) -> Iterator[str]:
    """A client that read on to the end has the stored items in their final state, in order.

    Items that neither `respond` yielded nor the client saw are the server's own affair.
    """
    if aftermath.page is None or _was_kept_by_hand(aftermath):
        return
    page = [item for item in aftermath.page if not is_hidden(item)]
    shown = {item.id for item in page}
    stored = [
        item
        for item in aftermath.stored
        if not is_hidden(item) and (item.id in shown or item.id in aftermath.states)
    ]
    for item in page:
        other = _with_id(stored, item.id)
        if other is None:
            yield f"a client that read to the end shows {describe(item)}, and it isn't stored"
        elif _dump(other) != _dump(item):
            yield (
                f"a client that read to the end shows {describe(item)}, and the store has"
                f" {describe(other)}{_difference(item, other)}"
            )
    for item in stored:
        if item.id not in shown:
            yield f"a client that read to the end doesn't show {describe(item)}, which is stored"
        elif item.id in _owed_done(aftermath) and item.id not in aftermath.told_done:
            yield f"a client that read to the end was never told that {describe(item)} is done"
    ids = [item.id for item in stored if item.id in shown]
    if ids != [item.id for item in page if item.id in set(ids)]:
        yield (
            f"a client that read to the end shows {', '.join(map(describe, page))} in this order,"
            f" stored are {', '.join(map(describe, stored))}"
        )


def _was_kept_by_hand(aftermath: Aftermath) -> bool:
    """Say whether a hook has stored what it wanted without the default; nobody can tell a client
    of that."""
    return (
        aftermath.reason is not None
        and not aftermath.uses_default_hook
        and not any(isinstance(note, SDKHiddenContextItem) for note in aftermath.notes)
    )


def _owed_done(aftermath: Aftermath) -> set[str]:
    """Return the ids of items that the client has to be told are done.

    Those that `respond` had finished; of a turn that was cut short all, but for an error.
    """
    if aftermath.reason in (None, CancelReason.FAILED):
        return aftermath.finished
    return set(aftermath.states) - {item.id for item in aftermath.known}


def _difference(one: ThreadItem, other: ThreadItem) -> str:
    """Name the fields in which two items differ, if their descriptions don't show it."""
    if describe(one) != describe(other):
        return ""
    mine, its = _dump(one), _dump(other)
    names = [name for name in {**mine, **its} if mine.get(name) != its.get(name)]
    return f" with another {', '.join(names)}"


def _thread_is_saved(aftermath: Aftermath) -> Iterator[str]:
    """Changes that `respond` had made to the thread are in the store."""
    if not aftermath.thread_states or aftermath.thread is None:
        return
    stored = as_metadata(aftermath.thread)
    if stored not in aftermath.thread_states:
        yield f"respond() had left the thread as {aftermath.thread_states[0]}, stored is {stored}"


def _readers_see_the_end(aftermath: Aftermath) -> Iterator[str]:
    """Who reads the thread from the moment of the cut on sees what will be there for good."""
    if aftermath.read_at_once is None:
        return
    final = [item for item in aftermath.stored if not is_hidden(item)]
    if not _begins_with(aftermath.read_at_once, final, aftermath.changed_by_next):
        read = ", ".join(map(describe, aftermath.read_at_once))
        yield f"a client that read the thread at the cut was told: {read}"


def _next_turn_builds_on_it(aftermath: Aftermath) -> Iterator[str]:
    """The next turn ran, and changed nothing of what it found."""
    before, after = aftermath.stored, aftermath.stored_after_next
    if not _begins_with(after, before, aftermath.changed_by_next):
        yield "the next turn found or left other items than those that were stored"
    elif not any(isinstance(item, UserMessageItem) for item in after[len(before) :]):
        yield "the next turn's message isn't in the store"


def _begins_with(items: Sequence[ThreadItem], first: Sequence[ThreadItem], but: set[str]) -> bool:
    """Say whether a list begins with these items; those with the ids in `but` may have changed."""
    there, wanted = (
        [None if item.id in but else _dump(item) for item in some]
        for some in (items[: len(first)], first)
    )
    return there == wanted


# --- Nothing is too much -----------------------------------------------------------------------


def _nothing_twice(aftermath: Aftermath) -> Iterator[str]:
    """Every item is in the store once."""
    ids = [item.id for item in aftermath.stored_after_next or aftermath.stored]
    for item_id in dict.fromkeys(ids):
        if ids.count(item_id) > 1:
            yield f"item {item_id} is in the store {ids.count(item_id)} times"


def _nothing_doubled(aftermath: Aftermath) -> Iterator[str]:
    """What `respond` yielded isn't stored again under an id that it didn't yield."""
    known = {item.id for item in aftermath.known}
    yielded = [state for states in aftermath.states.values() for state in states]
    for stored in aftermath.stored_after_next or aftermath.stored:
        if stored.id in known or stored.id in aftermath.states or is_hidden(stored):
            continue
        if isinstance(stored, UserMessageItem):
            continue
        if _is_of_next_turn(aftermath, stored):
            continue
        original = next((item for item in reversed(yielded) if _doubles(stored, item)), None)
        if original is not None:
            yield (
                f"the store has {describe(stored)} beside {describe(original)}, which respond()"
                " had yielded"
            )


def _is_of_next_turn(aftermath: Aftermath, item: ThreadItem) -> bool:
    """Say whether an item came after the message that was sent after the turn."""
    return _with_id(aftermath.stored, item.id) is None


def _doubles(stored: ThreadItem, item: ThreadItem) -> bool:
    if type(stored) is not type(item):
        return False
    if not isinstance(stored, AssistantMessageItem):
        return bool(_dump(stored, _DIFFERS) == _dump(item, _DIFFERS))
    shorter, longer = sorted([_extent(stored), _extent(item)], key=len)
    if not shorter.strip():
        return False
    return longer == shorter or (longer.startswith(shorter) and len(shorter) >= _TELLING_LENGTH)


def _removed_is_gone(aftermath: Aftermath) -> Iterator[str]:
    """Of a turn that finished, nothing is stored that `respond` had taken back."""
    if aftermath.reason is not None or aftermath.faults:
        return
    gone = aftermath.removed - {item.id for item in aftermath.produced_at_end}
    for item in aftermath.stored:
        if item.id in gone:
            yield f"respond() had removed {describe(item)}, and it's in the store"


def _one_note(aftermath: Aftermath) -> Iterator[str]:
    """The hidden note is there once if the turn was cut short, and not if it finished."""
    notes = aftermath.notes
    if aftermath.reason is None:
        wanted: tuple[int, ...] = (0,)
    elif aftermath.reason is CancelReason.FAILED or not aftermath.expects_note:
        # After a failure, only if something had been begun that is worth keeping.
        wanted = (0, 1)
    else:
        wanted = (1,)
    if len(notes) not in wanted:
        yield f"{len(notes)} hidden notes are in the store, for a turn that ended {_end(aftermath)}"
    yield from _good_notes(aftermath)


def _good_notes(aftermath: Aftermath) -> Iterator[str]:
    """A note says something, what it says is true, and it comes after what it's about.

    A hook of the user's own isn't told of items that are done and not stored yet.
    """
    kept = set(aftermath.states)
    if _was_kept_by_hand(aftermath):
        kept -= aftermath.finished
    for note in aftermath.notes:
        if not isinstance(note, HiddenContextItem | SDKHiddenContextItem):
            continue
        if not str(note.content).strip():
            yield f"the hidden note {note.id[:12]} is empty"
        elif _is_untrue(aftermath, note):
            yield f"a turn that ended {_end(aftermath)} has the note {note.content!r}"
        behind = aftermath.stored[aftermath.stored.index(note) :]
        for item in behind:
            if item.id in kept and item not in aftermath.known:
                yield f"{describe(item)} stands behind the note about its end"


def _is_untrue(aftermath: Aftermath, note: HiddenContextItem | SDKHiddenContextItem) -> bool:
    reason = aftermath.reason
    is_ours = aftermath.uses_default_hook and reason is not None
    return is_ours and note.content != ENDING_NOTES[reason or CancelReason.STOPPED]


_INVARIANTS: tuple[Callable[[Aftermath], Iterator[str]], ...] = (
    _nothing_twice,
    _yielded_is_stored,
    _received_is_stored,
    _page_shows_what_is_stored,
    _nothing_doubled,
    _removed_is_gone,
    _one_note,
    _thread_is_saved,
    _readers_see_the_end,
    _next_turn_builds_on_it,
)


def _with_id(items: Sequence[ThreadItem], item_id: str) -> ThreadItem | None:
    return next((item for item in items if item.id == item_id), None)


def _dump(item: ThreadItem, without: frozenset[str] = frozenset({"thread_id"})) -> Any:
    """Return an item as JSON: a widget comes back from a store as a model of another class."""
    return item.model_dump(mode="json", exclude_none=True, exclude=set(without))


def _end(aftermath: Aftermath) -> str:
    return "by itself" if aftermath.reason is None else f"as {aftermath.reason}"


def _extent(item: ThreadItem) -> str:
    """Return how far an item has got, as text that only grows while it streams."""
    if isinstance(item, AssistantMessageItem):
        return "\0".join(content.text for content in item.content)
    if isinstance(item, WorkflowItem):
        return "\0".join(str(getattr(task, "title", "")) for task in item.workflow.tasks)
    return ""


def describe(item: ThreadItem) -> str:
    """Return an item in a few words."""
    extent = _extent(item).replace("\0", "|")
    return f"{item.type} {item.id[:12]}" + (f" {extent!r}" if extent else "")
