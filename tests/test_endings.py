"""Which cut answers a client is told of, by the items alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chatkit_trio._engine.endings import (
    answer_ending,
    behind_last_message,
    ends_search,
    note_at_the_end,
    notes_of_page,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    InferenceOptions,
    SDKHiddenContextItem,
    ThreadItem,
    TurnEnding,
    UserMessageItem,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def thread(*ids: str) -> list[ThreadItem]:
    return [item(item_id) for item_id in ids]


def item(item_id: str) -> ThreadItem:
    """Return an item of the kind that its id begins with: user, answer, hidden, old (a note
    without an ending)."""
    match item_id.rstrip("0123456789"):
        case "user":
            return UserMessageItem(
                id=item_id,
                thread_id="t",
                created_at=NOW,
                content=[],
                inference_options=InferenceOptions(),
            )
        case "hidden":
            return HiddenContextItem(id=item_id, thread_id="t", created_at=NOW, content="")
        case "old":
            return SDKHiddenContextItem(id=item_id, thread_id="t", created_at=NOW, content="")
        case _:
            return AssistantMessageItem(id=item_id, thread_id="t", created_at=NOW, content=[])


def note(*item_ids: str, reason: str = "stopped", name: str = "note") -> SDKHiddenContextItem:
    ending = TurnEnding(turn_id=f"turn_of_{name}", reason=reason, item_ids=list(item_ids))
    return SDKHiddenContextItem(id=name, thread_id="t", created_at=NOW, content="", ending=ending)


def test_a_search_ends_at_a_message_and_at_a_note_with_an_ending() -> None:
    items = [*thread("user", "answer", "hidden", "old"), note()]
    assert [each.id for each in items if ends_search(each)] == ["user", "note"]


def test_a_page_has_its_own_notes_whatever_they_name() -> None:
    own = note("gone")
    assert notes_of_page([*thread("user", "answer"), own], []) == [own]


def test_a_page_has_the_note_behind_it_that_names_one_of_its_items() -> None:
    about = note("answer1", "answer2")
    assert notes_of_page(thread("user", "answer1"), [item("answer2"), about]) == [about]
    assert notes_of_page(thread("user"), [*thread("answer1", "answer2"), about]) == []


def test_the_latest_items_stand_behind_the_last_message() -> None:
    items = thread("user1", "answer1", "user2", "answer2", "answer3")
    assert behind_last_message(items) == items[3:]
    assert behind_last_message(items[:3]) == []
    assert behind_last_message(thread("answer")) is None


def test_the_last_answer_is_cut_if_nothing_visible_stands_behind_its_note() -> None:
    own = note("answer")
    assert note_at_the_end([item("answer"), own]) == own
    assert note_at_the_end([item("answer"), own, *thread("hidden", "old")]) == own
    assert note_at_the_end([item("answer1"), own, item("answer2")]) is None
    assert note_at_the_end([]) is None


@pytest.mark.parametrize(
    ("reason", "latest", "can_continue"),
    [
        ("stopped", ["answer", "note"], True),
        ("crashed", ["answer", "note"], True),
        ("a reason of a later version", ["answer", "note"], True),
        ("superseded", ["answer", "note"], False),
        ("stopped", ["note"], False),
        ("stopped", [], False),
    ],
)
def test_an_answer_can_be_continued_while_it_is_the_last_word(
    reason: str, latest: list[str], can_continue: bool
) -> None:
    own = note("answer", "gone", reason=reason)
    ending = answer_ending(own, [own if name == "note" else item(name) for name in latest])

    assert ending.model_dump() == {
        "turn_id": "turn_of_note",
        "reason": reason,
        "item_ids": ["answer", "gone"],
        "can_continue": can_continue,
    }
