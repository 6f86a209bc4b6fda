"""A text widget that grows with a model's answer."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

from chatkit_trio.widgets import Markdown, Text

from ._model_run import WatchedAnswer, check_failure

TWidget = TypeVar("TWidget", Markdown, Text)


async def accumulate_text(
    events: AsyncIterable[Any], base_widget: TWidget
) -> AsyncIterator[TWidget]:
    """Yield the widget as given, then with the text so far, and at last with `streaming=False`.

    `events` are events of a model: `Runner.run_streamed(...).stream_events()`, or an OpenAI
    Responses stream. They are iterated by the task that iterates over the widgets, and closed when
    the widgets are closed. Raises `ModelError` if the model reports an error or a Responses stream
    breaks off.
    """
    text = ""
    answer = WatchedAnswer(events)
    try:
        yield base_widget
        async for wrapped in events:
            event = _bare(wrapped)
            if event is wrapped:
                answer.check(event)
            else:
                check_failure(event)  # the SDK itself sees to it that answers are whole
            delta = _text_delta(event)
            if delta is not None:
                # The engine sends the difference of two states, so each has to hold the whole text.
                text += delta
                yield base_widget.model_copy(update={"value": text})
        answer.check_end()
    finally:
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()  # noqa: ASYNC102  (their own cleanup is bounded)
    yield base_widget.model_copy(update={"value": text, "streaming": False})


def _bare(event: Any) -> Any:
    """Return a model's event without what the Agents SDK puts around it."""
    return event.data if getattr(event, "type", None) == "raw_response_event" else event


def _text_delta(event: Any) -> str | None:
    return event.delta if event.type == "response.output_text.delta" else None
