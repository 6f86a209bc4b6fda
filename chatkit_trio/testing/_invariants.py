"""What has to be true after a turn was cut short, whatever cut it and wherever. Nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chatkit_trio._engine.keeping import kept_items
from chatkit_trio._engine.thread_state import as_metadata
from chatkit_trio.server import CancelReason
from chatkit_trio.types import (
    AssistantMessageItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    WorkflowItem,
    is_hidden,
)

from ._client_turn import ids_of
from ._trial import Aftermath

__all__ = ["describe", "problems"]


def problems(aftermath: Aftermath) -> list[str]:
    """Return what is wrong, in words; nothing if all is well."""
    found = list(aftermath.problems)
    if found:
        return found
    for invariant in _INVARIANTS if aftermath.has_begun else (_nothing_begun,):
        found += invariant(aftermath)
    return found


def _nothing_begun(aftermath: Aftermath) -> Iterator[str]:
    """A turn that hadn't begun has left nothing; a store that fails half way may keep the half."""
    store_failed = aftermath.cut is not None and aftermath.cut.reason is CancelReason.FAILED
    if aftermath.is_half_begun and not store_failed:
        yield "the turn hadn't begun, and something of its first writes is in the store"


def _nothing_twice(aftermath: Aftermath) -> Iterator[str]:
    """Every item is in the store once."""
    ids = [item.id for item in aftermath.stored]
    for item_id in dict.fromkeys(ids):
        if ids.count(item_id) > 1:
            yield f"item {item_id} is in the store {ids.count(item_id)} times"


def _yielded_is_stored(aftermath: Aftermath) -> Iterator[str]:
    """What `respond` had yielded when the turn was cut is in the store."""
    for item in aftermath.produced:
        if item.id not in aftermath.removed:
            is_finished = item.id in aftermath.finished
            yield from _lacks(aftermath, item, "respond() had yielded", is_finished=is_finished)


def _received_is_stored(aftermath: Aftermath) -> Iterator[str]:
    """What the client was shown is in the store, and what it was told is done is stored as told."""
    done = ids_of(aftermath.received_events, "thread.item.done", "thread.item.replaced")
    for item in aftermath.received:
        if item.id not in aftermath.removed:
            yield from _lacks(aftermath, item, "the client had got", is_finished=item.id in done)


def _lacks(aftermath: Aftermath, item: ThreadItem, who: str, *, is_finished: bool) -> Iterator[str]:
    stored = next((other for other in aftermath.stored if other.id == item.id), None)
    if stored is None:
        if is_finished or kept_items([item]):
            yield f"{who} {describe(item)}, and the store hasn't got it"
    elif is_finished and not any(_same(stored, told) for told in (item, *_final(aftermath, item))):
        yield f"{who} {describe(item)} as done, and the store has {describe(stored)}"
    elif not _extent(stored).startswith(_extent(item)):
        yield f"{who} {describe(item)}, and the store has {describe(stored)}"


def _final(aftermath: Aftermath, item: ThreadItem) -> list[ThreadItem]:
    """Return what `respond` made of the item in the end; it may have gone on after the cut."""
    return [other for other in aftermath.produced_at_end if other.id == item.id]


def _same(one: ThreadItem, other: ThreadItem) -> bool:
    """Compare as JSON: a widget comes back from a store as a model of another class."""
    return one == other or _dump(one) == _dump(other)


def _dump(item: ThreadItem) -> Any:
    return item.model_dump(mode="json", exclude_none=True)


def _stored_was_yielded(aftermath: Aftermath) -> Iterator[str]:
    """No text is in the store that `respond` hasn't yielded."""
    produced = {item.id: item for item in aftermath.produced_at_end}
    for stored in aftermath.stored:
        item = produced.get(stored.id)
        if item is not None and not _extent(item).startswith(_extent(stored)):
            yield f"the store has {describe(stored)}, and respond() had yielded {describe(item)}"


def _one_note(aftermath: Aftermath) -> Iterator[str]:
    """The hidden note is there once if the turn was cut short, and not if it finished."""
    if not aftermath.uses_default_hook:
        return
    notes = [item for item in _after_message(aftermath) if isinstance(item, SDKHiddenContextItem)]
    if aftermath.reason is None:
        wanted: tuple[int, ...] = (0,)
    elif aftermath.reason is CancelReason.FAILED:
        # Only if something had been begun that is worth keeping.
        wanted = (0, 1)
    else:
        wanted = (1,)
    if len(notes) not in wanted:
        yield f"{len(notes)} hidden notes are in the store, for a turn that ended {_end(aftermath)}"


def _after_message(aftermath: Aftermath) -> Sequence[ThreadItem]:
    """Return the items behind the user message of the turn in question."""
    places = [i for i, item in enumerate(aftermath.stored) if isinstance(item, UserMessageItem)]
    return aftermath.stored[places[-1] :] if places else aftermath.stored


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
    if list(map(_dump, aftermath.read_at_once)) != list(map(_dump, final)):
        read = ", ".join(map(describe, aftermath.read_at_once))
        yield f"a client that read the thread at the cut was told: {read}"


def _next_turn_builds_on_it(aftermath: Aftermath) -> Iterator[str]:
    """The next turn ran, and changed nothing of what it found."""
    before, after = aftermath.stored, aftermath.stored_after_next
    if after[: len(before)] != before:
        yield "the next turn found or left other items than those that were stored"
    elif not any(isinstance(item, UserMessageItem) for item in after[len(before) :]):
        yield "the next turn's message isn't in the store"


_INVARIANTS: tuple[Callable[[Aftermath], Iterator[str]], ...] = (
    _nothing_twice,
    _yielded_is_stored,
    _received_is_stored,
    _stored_was_yielded,
    _one_note,
    _thread_is_saved,
    _readers_see_the_end,
    _next_turn_builds_on_it,
)


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
