"""The short way of a text delta gives the bytes, and does to the item, what the long way does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit_trio._engine.items import TurnItems
from chatkit_trio._engine.text_deltas import TextDeltas
from chatkit_trio._engine.wire import frame
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ThreadItemAddedEvent,
    ThreadItemUpdatedEvent,
    WidgetItem,
)

from .parts import NOW, card

ANY_TEXT = st.text(st.characters(codec="utf-8"))


def delta(item_id: str, index: int, text: str) -> ThreadItemUpdatedEvent:
    update = AssistantMessageContentPartTextDelta(content_index=index, delta=text)
    return ThreadItemUpdatedEvent(item_id=item_id, update=update)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["msg_1", "msg_2", 'a"\\\u2028é']) | ANY_TEXT,
            st.integers(-1, 3) | st.integers(),
            ANY_TEXT | st.sampled_from(['"', "\\", "\x00", "\x7f", "\u2028", "</script>", "😀"]),
        ),
        max_size=8,
    )
)
def test_a_delta_has_the_bytes_that_pydantic_gives_it(deltas: list[tuple[str, int, str]]) -> None:
    encoder = TextDeltas()
    for item_id, index, text in deltas:
        event = delta(item_id, index, text)
        assert encoder.encode(event) == frame(event)


class Text(str):
    __slots__ = ()


class Delta(AssistantMessageContentPartTextDelta):
    more: str = "more"


def with_update(**fields: Any) -> ThreadItemUpdatedEvent:
    given = {"type": "assistant_message.content_part.text_delta", "content_index": 0, "delta": "a"}
    update = AssistantMessageContentPartTextDelta.model_construct(**{**given, **fields})
    return ThreadItemUpdatedEvent.model_construct(item_id="msg_1", update=update)


ODD = {
    "a bool as index": with_update(content_index=True),
    "a float as index": with_update(content_index=0.0),
    "bytes as text": with_update(delta=b"a"),
    "no text": with_update(delta=None),
    "half a character": with_update(delta="\ud800"),
    "a text of a class of its own": with_update(delta=Text("a")),
    "another type": with_update(type="assistant_message.content_part.done"),
    "another event's type": ThreadItemUpdatedEvent.model_construct(
        type="other", item_id="msg_1", update=with_update().update
    ),
    "a number as id": ThreadItemUpdatedEvent.model_construct(
        item_id=1, update=with_update().update
    ),
    "a subclass": ThreadItemUpdatedEvent.model_construct(
        item_id="msg_1", update=Delta(content_index=0, delta="a")
    ),
    "another update": ThreadItemUpdatedEvent(
        item_id="msg_1",
        update=AssistantMessageContentPartAdded(
            content_index=0, content=AssistantMessageContent(text="a")
        ),
    ),
}


@pytest.mark.parametrize("known", [True, False], ids=["after a delta", "first"])
@pytest.mark.parametrize("event", ODD.values(), ids=ODD.keys())
def test_an_odd_delta_goes_the_long_way(event: ThreadItemUpdatedEvent, known: bool) -> None:
    encoder = TextDeltas()
    if known:
        encoder.encode(delta("msg_1", 0, "a"))
        encoder.encode(delta("msg_1", 1, "a"))
        encoder.encode(delta("msg_1", 0, "a"))
    assert encoder.encode(event) is None


def message(*texts: str) -> AssistantMessageItem:
    return AssistantMessageItem(
        id="msg_1",
        thread_id="thr_1",
        created_at=NOW,
        content=[AssistantMessageContent(text=text) for text in texts],
    )


@given(st.lists(st.tuples(st.integers(0, 3), ANY_TEXT), max_size=8))
def test_the_item_gets_the_same_text(deltas: list[tuple[int, str]]) -> None:
    short, long = TurnItems(), TurnItems()
    for items in (short, long):
        items.feed(ThreadItemAddedEvent(item=message("Begun. ")))
    for index, text in deltas:
        assert short.add_text(delta("msg_1", index, text))
        long.feed(delta("msg_1", index, text))
    assert short.pending() == long.pending()
    assert short.version == long.version


@pytest.mark.parametrize("index", [-1, 1024])
def test_an_index_that_no_part_may_have_is_refused(index: int) -> None:
    items = TurnItems()
    items.feed(ThreadItemAddedEvent(item=message("")))
    with pytest.raises(ValueError, match="out of range"):
        items.add_text(delta("msg_1", index, "a"))
    assert items.pending() == [message("")]


def test_what_is_no_text_of_a_begun_message_is_not_taken() -> None:
    items = TurnItems()
    widget = WidgetItem(id="widget", thread_id="thr_1", created_at=NOW, widget=card(""))
    items.feed(ThreadItemAddedEvent(item=widget))
    items.feed(ThreadItemAddedEvent(item=message("")))
    assert not items.add_text(delta("another", 0, "a"))
    assert not items.add_text(delta("widget", 0, "a"))
    assert not items.add_text(ODD["another update"])
    assert items.pending() == [widget, message("")]
