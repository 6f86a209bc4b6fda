"""What a request may hold: each limit by name, and nothing hostile gets as far as validation."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import from_json

from chatkit_trio._engine import reading
from chatkit_trio._engine.pace import BigWork
from chatkit_trio._json_scan import BLOCK
from chatkit_trio.errors import ChatKitError, InvalidRequestError, TooLargeError
from chatkit_trio.limits import DEFAULT_BODY_BYTES, RequestLimits
from chatkit_trio.types import ChatKitReq, ThreadsCreateReq

TAG = {"type": "input_tag", "id": "i", "text": "t", "data": {}}
TEXT = {"type": "input_text", "text": "hello"}


def read(body: Any, limits: RequestLimits | None = None) -> ChatKitReq:
    """Return the request in a body, which is encoded unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return trio.run(reading.read_request, data, limits or RequestLimits(), BigWork())


def message(content: Any = (TEXT,), **fields: Any) -> dict[str, Any]:
    given = {"content": content, "attachments": [], "inference_options": {}, **fields}
    return {"type": "threads.create", "params": {"input": given}}


def request(request_type: str, /, **params: Any) -> dict[str, Any]:
    return {"type": request_type, "params": {"thread_id": "t", **params}}


def action(payload: Any, name: str = "a") -> dict[str, Any]:
    return request("threads.custom_action", action={"type": name, "payload": payload})


def answers(count: int, values: int = 1, key: str = "") -> dict[str, Any]:
    given = {f"{key}{number}": {"values": ["v"] * values} for number in range(count)}
    return request("threads.add_structured_input", item_id="i", input={"answers": given})


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def errors_in(error: InvalidRequestError) -> int:
    """Return how many errors the validator has collected."""
    assert isinstance(error.__cause__, ValidationError)
    return error.__cause__.error_count()


SMALL = RequestLimits(
    values=200,
    depth=12,
    text_chars=20,
    quote_chars=10,
    content_parts=6,
    tags=3,
    attachments=4,
    id_chars=8,
    name_chars=9,
    item_ids=5,
    answers=7,
)

LIMITS: dict[str, tuple[Callable[[int], Any], int, str]] = {
    "values": (lambda size: action([0] * (size - 7)), 200, "200 JSON values"),
    "depth": (lambda size: action(nested(size - 3)), 12, "nested 12 deep"),
    "text": (lambda size: message([{**TEXT, "text": "x" * size}]), 20, "content may have 20 char"),
    "text in two parts": (
        lambda size: message([{**TEXT, "text": "x" * 5}, {**TEXT, "text": "x" * (size - 5)}]),
        20,
        "content may have 20 char",
    ),
    "quote": (lambda size: message(quoted_text="x" * size), 10, "quoted_text may have 10 char"),
    "parts": (
        lambda size: message([{**TEXT, "text": ""}] * size),
        6,
        "params.input.content may have 6 entries",
    ),
    "tags": (lambda size: message([TAG] * size), 3, "params.input.content may have 3 tags"),
    "a tag's id": (
        lambda size: message([{**TAG, "id": "x" * size}]),
        8,
        "params.input.content.0.id may have 8 char",
    ),
    "a tag's group": (
        lambda size: message([TEXT, {**TAG, "group": "x" * size}]),
        9,
        "params.input.content.1.group may have 9 char",
    ),
    "attachments": (
        lambda size: message(attachments=["a"] * size),
        4,
        "params.input.attachments may have 4 entries",
    ),
    "an attachment's id": (
        lambda size: message(attachments=["a", "x" * size]),
        8,
        "params.input.attachments.1 may have 8 char",
    ),
    "model": (
        lambda size: message(inference_options={"model": "x" * size}),
        8,
        "inference_options.model may have 8 char",
    ),
    "tool": (
        lambda size: message(inference_options={"tool_choice": {"id": "x" * size}}),
        8,
        "tool_choice.id may have 8 char",
    ),
    "thread id": (
        lambda size: request("threads.delete", thread_id="x" * size),
        8,
        "params.thread_id may have 8 char",
    ),
    "item id": (
        lambda size: request("threads.retry_after_item", item_id="x" * size),
        8,
        "params.item_id may have 8 char",
    ),
    "attachment id": (
        lambda size: request("attachments.delete", attachment_id="x" * size),
        8,
        "params.attachment_id may have 8 char",
    ),
    "cursor": (lambda size: request("items.list", after="x" * size), 8, "after may have 8 char"),
    "threads cursor": (
        lambda size: request("threads.list", after="x" * size),
        8,
        "params.after may have 8 char",
    ),
    "title": (
        lambda size: request("threads.update", title="x" * size),
        9,
        "params.title may have 9 char",
    ),
    "file name": (
        lambda size: request("attachments.create", name="x" * size, size=1, mime_type="a/b"),
        9,
        "params.name may have 9 char",
    ),
    "media type": (
        lambda size: request("input.transcribe", audio_base64="", mime_type="x" * size),
        9,
        "params.mime_type may have 9 char",
    ),
    "feedback": (
        lambda size: request("items.feedback", item_ids=["i"] * size, kind="positive"),
        5,
        "params.item_ids may have 5 entries",
    ),
    "feedback's ids": (
        lambda size: request("items.feedback", item_ids=["x" * size], kind="positive"),
        8,
        "params.item_ids.0 may have 8 char",
    ),
    "answers": (answers, 7, "params.input.answers may have 7 answers"),
    "an answer's values": (
        lambda size: answers(1, size),
        7,
        "the values of each of params.input.answers may have 7 entries",
    ),
    "question": (
        lambda size: answers(1, key="x" * (size - 1)),
        8,
        "a key of params.input.answers may have 8 char",
    ),
    "action": (lambda size: action(None, "x" * size), 8, "params.action.type may have 8 char"),
    "sync action": (
        lambda size: request("threads.sync_custom_action", action={"type": "x" * size}),
        8,
        "params.action.type may have 8 char",
    ),
    "message to a thread": (
        lambda size: request(
            "threads.add_user_message", input=message([TAG] * size)["params"]["input"]
        ),
        3,
        "params.input.content may have 3 tags",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_request_at_its_limit_is_taken_and_one_above_it_is_refused_by_name(name: str) -> None:
    make, limit, said = LIMITS[name]

    read(make(limit), SMALL)
    with pytest.raises(TooLargeError, match=said) as caught:
        read(make(limit + 1), SMALL)

    assert caught.value.http_status == 413


@pytest.mark.parametrize("kind", DEFAULT_BODY_BYTES)
def test_each_kind_of_request_has_its_own_longest_body(kind: str) -> None:
    limits = RequestLimits(body_bytes={kind: 3000})
    body = json.dumps({"type": kind, "params": 0}).encode().ljust(3000)

    with pytest.raises(InvalidRequestError, match="not a ChatKit request"):  # not too large
        read(body, limits)
    with pytest.raises(TooLargeError, match=f"{kind} may have 3000 bytes at most"):
        read(body + b" ", limits)


def test_only_a_recording_may_be_as_long_as_a_recording() -> None:
    longest = max(DEFAULT_BODY_BYTES.values())

    recorded = read(
        request("input.transcribe", audio_base64="QUJD" * 2_000_000, mime_type="audio/webm")
    )
    with pytest.raises(TooLargeError, match=r"only input\.transcribe may have more than 1048576"):
        read(message([{**TEXT, "text": "x" * 2_000_000}]))
    with pytest.raises(TooLargeError, match=f"a request may have {longest} bytes"):
        read(b" " * (longest + 1))

    assert recorded.type == "input.transcribe"


HOSTILE = {
    "zeros": message([0] * 200_000),
    "tags": message([TAG] * 20_000),
    "wrong parts": message([{"type": "x"}] * 10_000),
    "texts without text": message([{"type": "input_text"}] * 10_000),
    "attachments that are none": message(attachments=[0] * 40_000),
    "ids that are none": request("items.feedback", item_ids=[0] * 40_000, kind="positive"),
    "answers that are none": request(
        "threads.add_structured_input",
        item_id="i",
        input={"answers": {str(number): 0 for number in range(20_000)}},
    ),
    "values that are none": request(
        "threads.add_structured_input",
        item_id="i",
        input={"answers": {"a": {"values": [0] * 9999}}},
    ),
    "an action of keys": action({str(number): 0 for number in range(60_000)}),
    "empty lists": action([[]] * 60_000),
    "many brackets": b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "closing brackets": b"}" * 900_000,
    "quotes": b'"' * 900_000,
    "backslashes": b'{"type":"' + b"\\" * 900_000,
    "a long number": b'{"type":"threads.list","params":{"limit":' + b"1" * 900_000 + b"}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_never_makes_the_validator_collect_errors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: 3,400,000 errors were made to report five, and everybody waited."""
    counts: list[int] = []
    parse = reading.parse_request

    def counting(body: bytes) -> ChatKitReq:
        try:
            return parse(body)
        except InvalidRequestError as error:
            counts.append(errors_in(error))
            raise

    monkeypatch.setattr(reading, "parse_request", counting)

    with pytest.raises(ChatKitError) as caught:
        read(HOSTILE[name])

    assert caught.value.http_status in (400, 413)
    assert sum(counts) <= 1


def test_lists_at_their_limit_report_one_wrong_entry_each() -> None:
    wrong = request(
        "threads.add_structured_input",
        item_id="i",
        input={"answers": {str(number): {"values": [0] * 100} for number in range(100)}},
    )

    with pytest.raises(InvalidRequestError) as caught:
        read(wrong)

    assert errors_in(caught.value) == 100
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("field", ["content", "attachments"])
def test_of_a_key_that_comes_twice_the_limits_see_the_one_that_is_validated(field: str) -> None:
    """Otherwise a short list in front could hide a long one behind, or the other way round."""
    text = json.dumps(message())
    short, long = json.dumps(message()["params"]["input"][field]), json.dumps([TAG] * 5)

    for first, second in ((short, long), (long, short)):
        body = text.replace(f'"{field}": {short}', f'"{field}": {first}, "{field}": {second}')
        seen = from_json(body)["params"]["input"][field]
        assert seen == json.loads(second)
        if field == "content":
            parsed = read(body.encode())
            assert isinstance(parsed, ThreadsCreateReq)
            assert len(parsed.params.input.content) == len(json.loads(second))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_what_stands_in_strings_counts_neither_as_values_nor_as_nesting(text: str) -> None:
    limits = RequestLimits(values=12, depth=7)
    tricky = [f'[[[[[[[[[{{{{{{{{,,,,,,,,,,,,\\"{text}\\', text]

    for part in tricky:
        parsed = read(message([{**TEXT, "text": part}]), limits)
        assert isinstance(parsed, ThreadsCreateReq)
        assert parsed.params.input.content[0].text == part


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_strings_and_escapes_across_the_blocks_of_the_scan_are_strings(place: int) -> None:
    text = "x" * (BLOCK - 200 + place * 8) + '\\"[[[[,,,,' * 40 + "\\\\" * 99 + '"{{{{'
    parsed = read(message([{**TEXT, "text": text}]), RequestLimits(values=12, depth=7))

    assert isinstance(parsed, ThreadsCreateReq)
    assert parsed.params.input.content[0].text == text


@given(st.binary(max_size=100))
def test_base64_is_decoded_in_pieces_as_it_would_be_whole(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_AUDIO_PIECE", 8)
        text = base64.b64encode(data).decode()

        assert trio.run(reading.decode_audio, text, BigWork()) == data


@pytest.mark.parametrize("garbage", ["A", "AB", "\n", "ü", "-", "="])
@pytest.mark.parametrize("place", [0, 5, 8, 16, 19])
def test_what_is_no_base64_is_refused_in_whatever_piece_it_is(
    place: int, garbage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_AUDIO_PIECE", 8)
    text = "QUJD" * 5

    with pytest.raises(InvalidRequestError, match="not valid base64"):
        trio.run(reading.decode_audio, text[:place] + garbage + text[place:], BigWork())


def test_padding_at_the_end_of_a_piece_that_isnt_the_last_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_AUDIO_PIECE", 8)

    with pytest.raises(InvalidRequestError, match="not valid base64"):
        trio.run(reading.decode_audio, "QUJDQUI=QUJD", BigWork())


def test_strict_base64_only() -> None:
    """Defect 6.2: garbage was decoded leniently."""
    assert trio.run(reading.decode_audio, "c291bmQ=", BigWork()) == b"sound"
    for garbage in ("c291bmQ", "c29 1bmQ=", "ü", "!!!!"):
        with pytest.raises(InvalidRequestError, match="base64"):
            trio.run(reading.decode_audio, garbage, BigWork())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"values": 0}, "values must be 1 or more"),
        ({"depth": True}, "depth must be a whole number"),
        ({"text_chars": 1.5}, "text_chars must be a whole number"),
        ({"body_bytes": {"threads.list": -1}}, r"threads\.list must be 1 or more"),
        ({"body_bytes": {"nonsense": 1}}, r"no request types \['nonsense'\]"),
        ({"values": 100_001}, "values may be 100000 at most"),
        ({"content_parts": 2001}, "content_parts may be 2000 at most"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        RequestLimits(**settings)


def test_limits_dont_change_with_the_mapping_they_were_made_of() -> None:
    given = {"threads.list": 5000}
    limits = RequestLimits(body_bytes=given)
    given["threads.list"] = 1

    assert limits.bytes_of("threads.list") == 5000
    assert limits.bytes_of("threads.create") == DEFAULT_BODY_BYTES["threads.create"]
