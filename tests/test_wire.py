"""Bytes to requests, events to frames, exceptions to error events."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit_trio._engine.wire import error_event, frame, parse_request, to_json
from chatkit_trio.errors import (
    ConflictError,
    CustomStreamError,
    ErrorCode,
    InvalidRequestError,
    StreamError,
)
from chatkit_trio.types import (
    ErrorEvent,
    FileAttachment,
    ProgressUpdateEvent,
    ThreadsGetByIdReq,
    UserMessageItem,
)


def test_a_request_is_parsed_by_its_type() -> None:
    request = parse_request(b'{"type": "threads.get_by_id", "params": {"thread_id": "t"}}')

    assert isinstance(request, ThreadsGetByIdReq)
    assert request.params.thread_id == "t"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"type": "threads.get_by_id"',
        b'{"type": "nonsense", "params": {}}',
        b'{"type": "threads.get_by_id", "params": {}}',
        b'{"type": "threads.get_by_id", "params": {"thread_id": 7}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not a ChatKit request"):
        parse_request(body)


@pytest.mark.parametrize("given", ['"secret"', '["secret"]', '{"secret": 1}', "7", "null"])
def test_a_type_that_is_none_is_not_repeated_and_those_that_are_are_told(given: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(f'{{"type": {given}, "params": {{}}}}'.encode())

    told = str(caught.value)
    assert told.startswith(
        "this is not a ChatKit request: body: its `type` is none of 'threads.create', "
    )
    assert told.endswith("'threads.sync_custom_action'")
    assert "secret" not in told


def test_a_refusal_names_the_place_and_never_repeats_the_input() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request('{"type": "threads.get_by_id", "params": {"thread_id": ["s3cret"]}}')

    assert "params.thread_id" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_its_frame_on_one_line(text: str) -> None:
    """Pain 6: a newline in a tool's result must not break the framing."""
    event = ProgressUpdateEvent(text=text)

    encoded = frame(event)

    assert encoded.startswith(b"data: ")
    assert encoded.endswith(b"\n\n")
    assert b"\n" not in encoded[6:-2]
    assert b"\r" not in encoded
    assert json.loads(encoded[6:])["text"] == text


def test_attachment_metadata_and_nulls_stay_at_home() -> None:
    attachment = FileAttachment(
        id="a", name="n", mime_type="text/plain", metadata={"secret": 1}, thread_id=None
    )
    item = UserMessageItem(
        id="i",
        thread_id="t",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        content=[],
        attachments=[attachment],
        inference_options={},
    )

    assert json.loads(to_json(item))["attachments"] == [
        {"id": "a", "name": "n", "mime_type": "text/plain", "type": "file"}
    ]


def test_exceptions_become_error_events_without_their_text() -> None:
    custom = CustomStreamError("No more quota", allow_retry=True)
    coded = StreamError(ErrorCode.STREAM_ERROR, allow_retry=False)

    assert [error_event(error) for error in (custom, coded, ConflictError("secret id"))] == [
        ErrorEvent(code="custom", message="No more quota", allow_retry=True),
        ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=False),
        ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True),
    ]
