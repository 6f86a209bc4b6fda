"""Frames of text deltas: what most events are, made with little more work than their text takes."""

from __future__ import annotations

from pydantic_core import to_json

from chatkit_trio.types import AssistantMessageContentPartTextDelta, ThreadItemUpdatedEvent

from .wire import frame

_EVENT = "thread.item.updated"
_UPDATE = "assistant_message.content_part.text_delta"
_EMPTY = b'""}}\n\n'
"""How the frame of a delta without text ends."""
_END = b"}}\n\n"


class TextDeltas:
    """Encodes text deltas as `frame` does, byte for byte.

    The bytes before the text are kept: they are the same for all deltas of one part of an item.
    """

    def __init__(self) -> None:
        self._item_id: object = None
        self._index: object = None
        self._begin = b""

    def encode(self, event: ThreadItemUpdatedEvent) -> bytes | None:
        """Return the frame of a text delta; None for another update, and for an odd one.

        What has been made without validation may hold anything, and is for `frame` to judge.
        """
        update = event.update
        if type(update) is not AssistantMessageContentPartTextDelta:
            return None
        item_id, index, text = event.item_id, update.content_index, update.delta
        if type(text) is not str or event.type != _EVENT or update.type != _UPDATE:
            return None
        if item_id != self._item_id or index != self._index or type(index) is not int:
            if type(item_id) is not str or type(index) is not int:
                return None
            empty = frame(ThreadItemUpdatedEvent(item_id=item_id, update=_delta(index, "")))
            self._item_id, self._index = item_id, index
            self._begin = empty.removesuffix(_EMPTY)
        try:
            return self._begin + to_json(text) + _END
        except ValueError:
            return None


def _delta(index: int, text: str) -> AssistantMessageContentPartTextDelta:
    return AssistantMessageContentPartTextDelta(content_index=index, delta=text)
