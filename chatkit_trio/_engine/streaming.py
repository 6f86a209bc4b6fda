"""Content as thread events: text that grows piece by piece, and widgets, whole or growing.

These are plain generators of events. They know nothing of turns, and nothing is stored here.
Only what the client can take do they learn from their surroundings.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
)
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from chatkit_trio.store import StoreItemType, default_generate_id
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    WidgetItem,
)
from chatkit_trio.widgets import WidgetRoot

from .widget_diff import diff_widget

takes_component_updates: ContextVar[bool] = ContextVar(
    "chatkit_trio_takes_component_updates", default=False
)
"""Whether the client that gets the events has asked for updates of single components."""


async def stream_text(
    thread: ThreadMetadata,
    chunks: AsyncIterable[str] | Iterable[str],
    generate_id: Callable[[StoreItemType], str] = default_generate_id,
) -> AsyncGenerator[ThreadStreamEvent, None]:
    """Yield the events of an assistant message whose text arrives in pieces.

    A `respond` that has nothing else to do returns them:

        class Echo(ChatKitServer[None]):
            def respond(self, thread, input_user_message, context):
                return stream_text(thread, self.words(input_user_message))

            async def words(self, message):
                for word in message.content[0].text.split():
                    await trio.sleep(0.1)
                    yield f"{word} "

    One that does more iterates over them, and closes them when its own turn is cut short:

        async with aclosing(stream_text(thread, model.stream(prompt))) as events:
            async for event in events:
                yield event

    The events are `thread.item.added` as soon as the first text is there, `thread.item.updated`
    for every chunk, and `thread.item.done` with the whole text. Empty chunks are skipped; if no
    chunk has text, there is no message and nothing is yielded. A plain string is one chunk.

    `generate_id` makes the message's id; pass
    `lambda kind: store.generate_item_id(kind, thread, context)` if your store makes ids of its own.

    `chunks` is closed when the events end, also when the consumer closes them early. An error that
    `chunks` raises is raised here; the turn then keeps the text that came before it.
    """
    pieces = aiter(chunks) if isinstance(chunks, AsyncIterable) else _each(chunks)
    message: AssistantMessageItem | None = None
    texts: list[str] = []
    try:
        async for chunk in pieces:
            if not chunk:
                continue
            if message is None:
                message = AssistantMessageItem(
                    id=generate_id("message"),
                    thread_id=thread.id,
                    created_at=datetime.now(UTC),
                    content=[],
                )
                yield ThreadItemAddedEvent(item=message)
            texts.append(chunk)
            delta = AssistantMessageContentPartTextDelta(content_index=0, delta=chunk)
            yield ThreadItemUpdatedEvent(item_id=message.id, update=delta)
    finally:
        await _close(pieces)  # noqa: ASYNC102 (see _close)
    if message is not None:
        content = [AssistantMessageContent(text="".join(texts))]
        yield ThreadItemDoneEvent(item=message.model_copy(update={"content": content}))


async def stream_widget(
    thread: ThreadMetadata,
    widget: WidgetRoot | AsyncIterator[WidgetRoot],
    copy_text: str | None = None,
    generate_id: Callable[[StoreItemType], str] = default_generate_id,
) -> AsyncGenerator[ThreadStreamEvent]:
    """Yield the events that show a widget.

    A widget gives one `thread.item.done`. An async iterator of states gives `added` for the
    first, an update for every change, and `done` with the last; one without states gives nothing.
    The iterator is closed, also when the consumer leaves early. Updates are those of `diff_widget`;
    in a turn whose client has asked for updates of single components, they are such ones.
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
            shown = item(state)  # its widget is of our classes, whatever the state is
            if last is None:
                yield ThreadItemAddedEvent(item=shown)
            else:
                components = takes_component_updates.get()
                for update in diff_widget(last, shown.widget, component_updates=components):
                    yield ThreadItemUpdatedEvent(item_id=item_id, update=update)
            last = shown.widget
    finally:
        await _close(widget)  # noqa: ASYNC102 (see _close)
    if last is not None:
        yield ThreadItemDoneEvent(item=item(last))


async def _each(chunks: Iterable[str]) -> AsyncIterator[str]:  # noqa: ASYNC124 (as an async one)
    """Yield the chunks of a plain iterable; closing this closes a plain generator too."""
    pieces = iter([chunks] if isinstance(chunks, str) else chunks)
    try:
        for chunk in pieces:
            yield chunk
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


async def _close(iterator: AsyncIterator[Any]) -> None:
    """Close the caller's iterator, without a shield: its own cleanup decides what it protects."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
