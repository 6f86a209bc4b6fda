"""A widget, or the growing states of one, as thread events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from chatkit_trio.store import StoreItemType, default_generate_id
from chatkit_trio.types import (
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    WidgetItem,
)
from chatkit_trio.widgets import WidgetRoot

from .widget_diff import diff_widget


async def stream_widget(
    thread: ThreadMetadata,
    widget: WidgetRoot | AsyncIterator[WidgetRoot],
    copy_text: str | None = None,
    generate_id: Callable[[StoreItemType], str] = default_generate_id,
) -> AsyncIterator[ThreadStreamEvent]:
    """Yield the events that show a widget.

    A widget gives one `thread.item.done`. An async iterator of states gives `added` for the
    first, an update for every change, and `done` with the last; one without states gives nothing.
    The iterator is closed, also when the consumer leaves early.
    """
    item_id = generate_id("message")

    def item(state: WidgetRoot) -> WidgetItem:
        return WidgetItem(
            id=item_id,
            thread_id=thread.id,
            created_at=created_at,
            widget=state,
            copy_text=copy_text,
        )

    created_at = datetime.now(UTC)
    if not isinstance(widget, AsyncIterator):
        yield ThreadItemDoneEvent(item=item(widget))
        return
    last: WidgetRoot | None = None
    try:
        async for state in widget:
            if last is None:
                yield ThreadItemAddedEvent(item=item(state))
            else:
                for update in diff_widget(last, state):
                    yield ThreadItemUpdatedEvent(item_id=item_id, update=update)
            last = state
    finally:
        # No shield: it closes the caller's generator, whose own cleanup decides what it protects.
        aclose = getattr(widget, "aclose", None)
        if aclose is not None:
            await aclose()  # noqa: ASYNC102
    if last is not None:
        yield ThreadItemDoneEvent(item=item(last))
