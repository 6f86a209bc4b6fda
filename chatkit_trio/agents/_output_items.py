"""The items of a model's answer while they stream: which event is about which, and in which order.

Plain data: nothing here waits, and nothing knows of threads. `OpenItems` finds the item that an
event is about, `InOrder` lets items end in the order in which they began, and `MessageParts` and
`Reasoning` collect what has streamed of a message and of a thought.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

from chatkit_trio.types import Annotation, AssistantMessageContent, ThreadStreamEvent

T = TypeVar("T")

ThoughtPart: TypeAlias = tuple[str, int]
"""A part of reasoning: its kind ("raw" or "summary"), and its index among those of its kind."""


class OpenItems(Generic[T]):
    """The items of one kind that an answer has begun and not ended.

    `output_index` says which one an event is about: some providers give each event of an item
    another id, and others give all items the same one. The id decides if several items have the
    same index, or if the event or the item has no index. An event with neither is about the item
    that began last.
    """

    def __init__(self) -> None:
        self._open: list[tuple[int | None, Any, T]] = []
        self._ended: list[tuple[int | None, Any]] = []
        self._late: set[int] = set()

    @property
    def are_known(self) -> bool:
        """Whether the answer has begun any item of this kind."""
        return bool(self._open or self._ended)

    def add(self, index: int | None, model_id: Any, item: T) -> None:
        """Note that an item has begun."""
        self._open.append((index, model_id, item))
        if index is not None:
            self._late.discard(index)

    def find(self, index: int | None, model_id: Any) -> T | None:
        """Return the item that an event with this index and id is about."""
        place = self._place(index, model_id)
        return None if place is None else self._open[place][2]

    def end(self, index: int | None, model_id: Any) -> T | None:
        """Remove an item that has ended, and return it."""
        self._ended.append((index, model_id))
        if index is not None:
            self._late.add(index)
        place = self._place(index, model_id)
        return None if place is None else self._open.pop(place)[2]

    def has_ended(self, index: int | None) -> bool:
        """Say whether the item of this index has ended, so that an event about it is late."""
        return index in self._late

    def left(self, whole: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Return those of the whole answer's items that haven't ended, with their indexes.

        `whole` are its items of this kind. As many of them have ended as ended here; which ones,
        their indexes and ids say, if the provider keeps to them.
        """
        count = len(whole) - len(self._ended)
        if count <= 0:
            return []
        indexes = {index for index, _id in self._ended}
        ids = {model_id for _index, model_id in self._ended}
        unknown = [(i, item) for i, item in whole if i not in indexes and _id(item) not in ids]
        left = (unknown if len(unknown) >= count else whole)[-count:]
        for index, item in left:
            self._adopt(index, _id(item))
        return list(left)

    def _adopt(self, index: int, model_id: Any) -> None:
        """Let the oldest open item be the one of this index and id, if none is yet."""
        if self._open and self._place(index, model_id) is None:
            self._open[0] = (index, model_id, self._open[0][2])

    def take_all(self) -> list[T]:
        """Remove all items, for the answer is over, and return them."""
        items = [item for _index, _id, item in self._open]
        self._open.clear()
        self._ended.clear()
        self._late.clear()
        return items

    def _place(self, index: int | None, model_id: Any) -> int | None:
        if index is None and model_id is None:
            return len(self._open) - 1 if self._open else None
        same_index = [
            place
            for place, entry in enumerate(self._open)
            if None not in (index, entry[0]) and entry[0] == index
        ]
        same_id = [place for place, entry in enumerate(self._open) if entry[1] == model_id]
        if same_index:
            both = [place for place in same_index if place in same_id]
            return (both or same_index)[-1]
        by_id = [place for place in same_id if index is None or self._open[place][0] is None]
        return by_id[-1] if by_id else None


def _id(item: Any) -> Any:
    return getattr(item, "id", None)


class InOrder:
    """Holds back the end of an item while an earlier one is open.

    A page shows items in the order of their beginnings, and a thread has them in the order of
    their ends. So both show the same after a reload. What is held back is no less safe: the turn
    keeps an item that has begun.
    """

    def __init__(self) -> None:
        self._ends: dict[str, list[ThreadStreamEvent]] = {}
        """For each item the event that ends it and those behind it; none while it is open."""

    @property
    def has_open(self) -> bool:
        """Whether an item is open, so that the end of a later one would be held back."""
        return bool(self._ends)

    def has_begun(self, item_id: str) -> bool:
        """Say whether an item has begun and isn't through."""
        return item_id in self._ends

    def begin(self, item_id: str) -> None:
        """Note that an item has begun."""
        self._ends.setdefault(item_id, [])

    def end(self, item_id: str, event: ThreadStreamEvent) -> Iterator[ThreadStreamEvent]:
        """Take the event that ends an item, and return the events whose time has come."""
        if item_id not in self._ends:
            yield event
            return
        self._ends[item_id].append(event)
        yield from self._due()

    def change(self, item_id: str, event: ThreadStreamEvent) -> Iterator[ThreadStreamEvent]:
        """Take an event that changes an item; it stays behind the item's end if that is held."""
        if held := self._ends.get(item_id):
            held.append(event)
        else:
            yield event

    def drop(self, item_id: str) -> Iterator[ThreadStreamEvent]:
        """Forget an item that has been removed; return the events whose time has come."""
        self._ends.pop(item_id, None)
        yield from self._due()

    def _due(self) -> Iterator[ThreadStreamEvent]:
        while self._ends:
            first = next(iter(self._ends))
            if not self._ends[first]:
                return
            yield from self._ends.pop(first)

    def release(self) -> list[ThreadStreamEvent]:
        """Return all that is held back: nothing is waited for any more."""
        held = [event for events in self._ends.values() for event in events]
        self._ends.clear()
        return held


@dataclass(slots=True)
class _Part:
    pieces: list[str] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(slots=True)
class Message:
    """An assistant message in progress, with what has streamed of it."""

    id: str
    created_at: datetime
    _parts: dict[int, _Part] = field(default_factory=dict)

    def part(self, index: int) -> _Part:
        """Return a part, which may be new."""
        return self._parts.setdefault(index, _Part())

    def set_part(self, index: int, content: AssistantMessageContent) -> None:
        """Put a whole part in the place of what has streamed of it."""
        self._parts[index] = _Part([content.text], list(content.annotations))

    def merged(self, whole: list[AssistantMessageContent]) -> list[AssistantMessageContent]:
        """Return the message's content: `whole`, and what has streamed and isn't in it.

        Some providers end a message without its text or its citations, which the user has seen.
        """
        streamed = [
            AssistantMessageContent(text="".join(part.pieces), annotations=list(part.annotations))
            for _index, part in sorted(self._parts.items())
        ]
        if not any(content.text for content in whole):
            return streamed if any(content.text for content in streamed) else whole
        for content, seen in zip(whole, streamed, strict=False):
            content.annotations = content.annotations or seen.annotations
        return whole


@dataclass(slots=True)
class Reasoning:
    """Reasoning in progress: the pieces of each of its parts, and which parts are shown whole."""

    pieces: dict[ThoughtPart, list[str]] = field(default_factory=dict)
    done: set[ThoughtPart] = field(default_factory=set)

    def unfinished(self, item: Any) -> list[tuple[ThoughtPart, str]]:
        """Return the parts that aren't shown whole, with their text, when the reasoning ends.

        Raw reasoning is left out if there is a summary of it.
        """
        summary = _texts("summary", getattr(item, "summary", None))
        raw = _texts("raw", getattr(item, "content", None))
        kinds = {kind for kind, _index in (*self.pieces, *self.done)}
        if not kinds:
            kinds = {"summary"} if summary else {"raw"}
        texts = {part: text for part, text in {**raw, **summary}.items() if part[0] in kinds}
        for part, pieces in self.pieces.items():
            texts.setdefault(part, "".join(pieces))
        return [(part, texts[part]) for part in sorted(texts) if part not in self.done]


def _texts(kind: str, parts: Any) -> dict[ThoughtPart, str]:
    texts = [getattr(part, "text", None) for part in parts or ()]
    return {(kind, index): text for index, text in enumerate(texts) if text}
