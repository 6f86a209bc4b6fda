"""A conversation so far, read from the items in the store. Nothing here waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatkit_trio.server import CancelReason
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
)

MAX_TITLE_LENGTH = 48


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The previous answer if it was cut short: its text so far, and the reason."""

    text: str
    reason: CancelReason


def text_of(item: UserMessageItem | AssistantMessageItem) -> str:
    """Return the text of a message."""
    return "".join(content.text for content in item.content)


def cut_answer(items: Sequence[ThreadItem]) -> CutAnswer | None:
    """Return the answer before the latest message, or None if it wasn't cut short.

    `items` are the thread's items, the oldest first; the last one is the latest message.
    """
    text, reason = "", None
    for item in _previous_exchange(items):
        if isinstance(item, AssistantMessageItem):
            text += text_of(item)
        elif isinstance(item, SDKHiddenContextItem) and item.ending is not None:
            reason = CancelReason(item.ending.reason)
    return None if reason is None else CutAnswer(text, reason)


def _previous_exchange(items: Sequence[ThreadItem]) -> Sequence[ThreadItem]:
    """Return the items between the last two messages of the user."""
    places = [place for place, item in enumerate(items) if isinstance(item, UserMessageItem)]
    end = places[-1] if places else len(items)
    start = places[-2] + 1 if len(places) > 1 else 0
    return items[start:end]


def title_of(message: str) -> str:
    """Return a title made from a message's first words."""
    words = " ".join(message.split())
    if len(words) <= MAX_TITLE_LENGTH:
        return words or "New chat"
    return words[:MAX_TITLE_LENGTH].rsplit(" ", 1)[0] + "…"


def as_model_messages(items: Iterable[ThreadItem]) -> list[dict[str, str]]:
    """Return the conversation as chat messages; hidden notes get the role `user`.

    They don't get the role `system`: a note may quote what users wrote, and must not have the
    authority of instructions.
    """
    messages: list[dict[str, str]] = []
    for item in items:
        match item:
            case UserMessageItem():
                messages.append({"role": "user", "content": _with_quote(item)})
            case AssistantMessageItem():
                messages.append({"role": "assistant", "content": text_of(item)})
            case HiddenContextItem() | SDKHiddenContextItem():
                note = f"<note-from-the-application>{item.content}</note-from-the-application>"
                messages.append({"role": "user", "content": note})
            case _:
                pass
    return messages


def _with_quote(message: UserMessageItem) -> str:
    if message.quoted_text is None:
        return text_of(message)
    return f"> {message.quoted_text}\n\n{text_of(message)}"
