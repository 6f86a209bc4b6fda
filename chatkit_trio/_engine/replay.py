"""What a client is told that comes too late for a turn's frames: events that rebuild its items.

The items come from the store. Nothing here knows of requests or keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from chatkit_trio.errors import NotFoundError
from chatkit_trio.store import Store
from chatkit_trio.types import (
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadStreamEvent,
    TurnEnding,
    UserMessageItem,
    is_hidden,
)

from .frames import FrameReader
from .loading import load_item
from .pages import encode_events
from .turn import Turn

LONGEST_ANSWER = 1000
"""How many items are looked through for the user's message that an answer is for: a thread may have
none."""

_PAGE_SIZE = 50


_TRIES, _PATIENCE = 10, 0.2
"""How often, and with how many seconds in between, it is tried to meet a turn at rest."""


async def frames_so_far(turn: Turn[Any], reader: FrameReader) -> bytes:
    """Return frames that rebuild a live turn; the reader goes on with what they don't tell."""
    hooks = turn.hooks
    load = partial(latest_items, hooks.store, turn.thread_id, turn.context)
    events, others = await state_so_far(turn, reader, load)
    return b"".join([*await encode_events(events, hooks.big_work), *others])


async def state_so_far(
    turn: Turn[Any],
    reader: FrameReader,
    load: Callable[[], Awaitable[Iterable[ThreadItem]]],
) -> tuple[list[ThreadStreamEvent], list[bytes]]:
    """Return what rebuilds a live turn; the reader goes on with what that doesn't tell.

    First the events that rebuild its items, then the frames of other events that came meanwhile.
    All are to be told in one piece: see `FrameReader.knows_items`. `load` loads the stored items.
    What the store has must not be newer than the place in the frames, or a piece of text would be
    told twice.
    """
    tries_left = _TRIES
    while True:
        tries_left -= 1
        writes = turn.writes
        stored = await load()
        is_at_rest = turn.is_shown and turn.writes == writes
        if is_at_rest or not tries_left:
            break
        with trio.move_on_after(0 if turn.is_shown else _PATIENCE):
            await reader.wait_for_more()
    new, changed = turn.items_as_told()
    others = reader.knows_items()
    newest = {item.id: item for item in changed}
    items = [newest.pop(item.id, item) for item in stored]
    events: list[ThreadStreamEvent] = [
        *(ThreadItemDoneEvent(item=item) for item in items),
        *(ThreadItemReplacedEvent(item=item) for item in newest.values()),
        *(ThreadItemAddedEvent(item=item) for item in new),
    ]
    return events, others


async def load_latest(
    store: Store[Any],
    thread_id: str,
    count: int,
    context: Any,
    *,
    up_to: Callable[[ThreadItem], bool] = lambda item: False,
) -> list[ThreadItem]:
    """Return the latest items of a thread, so many or up to one that is asked for, newest first.

    A store may return fewer at once, if they are big. An empty list, if the thread changes so that
    there is no going on.
    """
    items: list[ThreadItem] = []
    after: str | None = None
    while len(items) < count:
        try:
            limit = min(_PAGE_SIZE, count - len(items))
            page = await store.load_thread_items(thread_id, after, limit, "desc", context)
        except NotFoundError:
            if after is None:
                raise
            return []
        for item in page.data:
            items.append(item)
            if up_to(item):
                return items
        if not page.has_more:
            return items
        after = page.after
    return items


async def latest_items(store: Store[Any], thread_id: str, context: Any) -> list[ThreadItem]:
    """Return the visible items from the last user message on, or the `LONGEST_ANSWER` latest."""
    items = await load_latest(
        store,
        thread_id,
        LONGEST_ANSWER,
        context,
        up_to=lambda item: isinstance(item, UserMessageItem),
    )
    return [item for item in reversed(items) if not is_hidden(item)]


async def items_by_id(
    store: Store[Any], thread_id: str, item_ids: Sequence[str], context: Any
) -> list[ThreadItem]:
    """Return those of these items that the thread has and the client may see."""
    items: list[ThreadItem] = []
    for item_id in item_ids:
        with suppress(NotFoundError):
            item = await load_item(store, thread_id, item_id, context)
            if not is_hidden(item):
                items.append(item)
    return items


async def ending_of(
    store: Store[Any], thread_id: str, turn_id: str, context: Any
) -> TurnEnding | None:
    """Return how a turn was cut, if its note is among the `LONGEST_ANSWER` latest items."""
    endings: list[TurnEnding] = []

    def is_its_note(item: ThreadItem) -> bool:
        ending = item.ending if isinstance(item, SDKHiddenContextItem) else None
        if ending is not None and ending.turn_id == turn_id:
            endings.append(ending)
        return bool(endings)

    await load_latest(store, thread_id, LONGEST_ANSWER, context, up_to=is_its_note)
    return endings[0] if endings else None


async def items_behind(
    store: Store[Any], thread_id: str, item_id: str, turn_id: str, context: Any
) -> tuple[list[ThreadItem], str | None]:
    """Return the visible items of a turn that began behind an item, and why it ended.

    They end with the note of the turn's ending, if it has one, or before the next user message.
    The reason is None without a note. Nothing is found if the item isn't there any more.
    """
    items: list[ThreadItem] = []
    after: str | None = item_id
    with suppress(NotFoundError):
        while after is not None:
            page = await store.load_thread_items(thread_id, after, _PAGE_SIZE, "asc", context)
            for item in page.data:
                if isinstance(item, UserMessageItem):
                    return items, None
                if isinstance(item, SDKHiddenContextItem) and item.ending is not None:
                    if item.ending.turn_id == turn_id:
                        return items, item.ending.reason
                elif not is_hidden(item):
                    items.append(item)
            after = page.after if page.has_more else None
    return items, None
