import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from chatkit_trio import types
from chatkit_trio.types import (
    AssistantMessageItem,
    AudioInput,
    ChatKitReq,
    EndOfTurnItem,
    FileAttachment,
    NonStreamingReq,
    Page,
    StreamingReq,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetItem,
    is_streaming_req,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def five_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be five hours west of Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "TEST+05")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        datetime(2024, 5, 1, 7),
        datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        "2024-05-01T07:00:00",
        "2024-05-01T12:00:00Z",
        "2024-05-01T08:00:00-04:00",
    ],
)
def test_times_are_utc_however_they_are_given(moment: datetime | str, five_west: None) -> None:
    values = {"id": "thr_1", "thread_id": "thr_1", "created_at": moment}

    for model in (ThreadMetadata, EndOfTurnItem):
        created_at = model.model_validate(values).created_at
        assert (created_at, created_at.tzinfo) == (NOON, UTC)


def test_a_time_goes_over_the_wire_with_its_zone(five_west: None) -> None:
    thread = ThreadMetadata(id="thr_1", created_at=datetime(2024, 5, 1, 7))

    assert thread.model_dump(mode="json")["created_at"] == "2024-05-01T12:00:00Z"


def test_a_time_that_is_set_later_is_local_too(five_west: None) -> None:
    item = EndOfTurnItem(id="i", thread_id="thr_1", created_at=NOON)
    item.created_at = datetime(2024, 5, 1, 7)

    assert item.model_dump(mode="json")["created_at"] == "2024-05-01T12:00:00Z"
    assert item.model_dump()["created_at"] == NOON


def test_what_is_written_now_is_now(five_west: None) -> None:
    thread = ThreadMetadata(id="thr_1", created_at=datetime.now())

    assert abs(thread.created_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "moment", [datetime.min, datetime.max, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"]
)
def test_a_time_outside_of_the_calendar_is_refused_by_its_field(
    moment: datetime | str, five_west: None
) -> None:
    with pytest.raises(ValidationError, match="created_at"):
        ThreadMetadata(id="thr_1", created_at=moment)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mime_type", "media_type"),
    [
        ("audio/webm", "audio/webm"),
        ("audio/webm;codecs=opus", "audio/webm"),
        (" Audio/WebM ; codecs=opus", "audio/webm"),
    ],
)
def test_a_media_type_is_bare_and_in_lower_case(mime_type: str, media_type: str) -> None:
    assert AudioInput(data=b"", mime_type=mime_type).media_type == media_type


def test_pages_do_not_share_their_default_list() -> None:
    first: Page[str] = Page()
    first.data.append("x")

    assert Page[str]().data == []


def test_an_attachment_keeps_its_metadata_from_clients_at_any_depth() -> None:
    attachment = FileAttachment(
        id="atc_1", name="a.txt", mime_type="text/plain", metadata={"path": "/srv/a.txt"}
    )
    message = UserMessageItem.model_validate(
        {
            "id": "msg_1",
            "thread_id": "thr_1",
            "created_at": NOON,
            "content": [],
            "attachments": [attachment],
            "inference_options": {},
        }
    )

    stored = message.model_dump()["attachments"][0]
    assert stored == attachment.model_dump() | {"metadata": {"path": "/srv/a.txt"}}
    sent = message.model_dump(context={"exclude_metadata": True})["attachments"][0]
    assert sent == {name: value for name, value in stored.items() if name != "metadata"}


def test_every_update_is_told_by_its_type() -> None:
    names = {update.model_fields["type"].default for update in get_args(ThreadItemUpdate)}

    assert len(names) == 10
    with pytest.raises(ValidationError, match="type"):
        ThreadItemUpdatedEvent.model_validate(
            {"item_id": "msg_1", "update": {"content_index": 0, "delta": "no type"}}
        )


@pytest.mark.parametrize("event", get_args(get_args(ThreadStreamEvent)[0]))
def test_every_event_of_a_stream_has_a_type_of_its_own(event: type) -> None:
    events = get_args(get_args(ThreadStreamEvent)[0])
    name = event.model_fields["type"].default  # type: ignore[attr-defined]

    assert [other for other in events if other.model_fields["type"].default == name] == [event]


def test_a_request_is_parsed_by_its_type_and_known_to_stream_or_not() -> None:
    parse = TypeAdapter[ChatKitReq](ChatKitReq).validate_python

    retry = parse(
        {"type": "threads.retry_after_item", "params": {"thread_id": "t", "item_id": "m"}}
    )
    rename = parse({"type": "threads.update", "params": {"thread_id": "t", "title": "New"}})

    assert (type(retry), is_streaming_req(retry)) == (types.ThreadsRetryAfterItemReq, True)
    assert (type(rename), is_streaming_req(rename)) == (types.ThreadsUpdateReq, False)
    assert (len(get_args(StreamingReq)), len(get_args(NonStreamingReq))) == (6, 10)


def test_an_unknown_request_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"threads\.fly"):
        TypeAdapter[ChatKitReq](ChatKitReq).validate_python({"type": "threads.fly", "params": {}})


def test_a_stored_widget_comes_back_with_props_this_release_does_not_know() -> None:
    widget = {
        "type": "Card",
        "border": {"size": 1, "glow": True},
        "status": {"text": "Open", "frame": True, "tone": "calm"},
        "children": [
            {"type": "Text", "value": "Hi", "hyphens": "auto"},
            {"type": "Table", "children": [{"type": "Table.Row", "cells": 3}]},
            {"type": "Button", "onClickAction": {"type": "go", "undoable": True}},
        ],
    }
    item = WidgetItem.model_validate(
        {"id": "w", "thread_id": "thr_1", "created_at": NOON, "widget": widget}
    )

    again = WidgetItem.model_validate_json(item.model_dump_json())
    action = {"handler": "server", "loadingBehavior": "auto", "streaming": True, "payload": None}
    widget["children"][2]["onClickAction"] |= {  # type: ignore[index]
        name: value for name, value in action.items() if value is not None
    }
    assert again.model_dump(exclude_none=True)["widget"] == widget


def test_a_message_survives_its_json() -> None:
    item = AssistantMessageItem.model_validate(
        {
            "id": "msg_1",
            "thread_id": "thr_1",
            "created_at": NOON,
            "content": [
                {
                    "text": "Cats \u2028 purr",
                    "annotations": [
                        {"source": {"type": "file", "title": "Cats", "filename": "cats.pdf"}},
                        {"source": {"type": "entity", "title": "Tom", "id": "cat_1"}, "index": 4},
                    ],
                }
            ],
        }
    )

    assert AssistantMessageItem.model_validate_json(item.model_dump_json()) == item


BASE: dict[str, Any] = {
    "id": "i1",
    "thread_id": "thr_1",
    "created_at": datetime(2025, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("item", "hidden"),
    [
        (types.HiddenContextItem(**BASE, content={"a": 1}), True),
        (types.SDKHiddenContextItem(**BASE, content="note"), True),
        (types.AssistantMessageItem(**BASE, content=[]), False),
        (types.EndOfTurnItem(**BASE), False),
    ],
    ids=lambda value: getattr(value, "type", None),
)
def test_what_is_for_the_model_only_is_hidden(item: types.ThreadItem, hidden: bool) -> None:
    assert types.is_hidden(item) is hidden


def test_the_vocabulary_is_light_to_import() -> None:
    code = "import sys, chatkit_trio.types; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    heavy = {"trio", "jinja2", "jsonschema", "quart", "openai", "agents", "hypercorn"}
    assert heavy & set(loaded) == set()
