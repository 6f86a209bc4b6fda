"""A text widget that grows with a model's answer."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

from chatkit_trio.widgets import Markdown, Text

TWidget = TypeVar("TWidget", Markdown, Text)


async def accumulate_text(
    events: AsyncIterable[Any], base_widget: TWidget
) -> AsyncIterator[TWidget]:
    """Yield the widget as given, then with the text so far, and at last with `streaming=False`.

    `events` are events of a model: `Runner.run_streamed(...).stream_events()`, or an OpenAI
    Responses stream. They are iterated by the task that iterates over the widgets, and closed when
    the widgets are closed.
    """
    text = ""
    try:
        yield base_widget
        async for event in events:
            delta = _text_delta(event)
            if delta is not None:
                # The engine sends the difference of two states, so each has to hold the whole text.
                text += delta
                yield base_widget.model_copy(update={"value": text})
    finally:
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()  # noqa: ASYNC102  (their own cleanup is bounded)
    yield base_widget.model_copy(update={"value": text, "streaming": False})


def _text_delta(event: Any) -> str | None:
    if event.type == "raw_response_event":
        event = event.data
    return event.delta if event.type == "response.output_text.delta" else None
