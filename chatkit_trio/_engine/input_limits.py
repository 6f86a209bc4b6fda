"""Whether a request keeps to the server's limits, seen before it is validated.

Plain functions: `check_size` and `check_shape` look at the bytes, `check_fields` at the values that
a parser has made of them, which may still be of any type. What has a wrong type is passed over: the
validation names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from chatkit_trio._json_scan import BLOCK, outside_strings
from chatkit_trio.errors import TooLargeError
from chatkit_trio.limits import DEFAULT_BODY_BYTES, RequestLimits

_SHORT = 1024 * 1024  # bytes; so much is looked at whatever it is
_END = 1024  # bytes
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")

_Check: TypeAlias = Callable[[Mapping[str, Any], RequestLimits], None]


def check_size(body: bytes | bytearray, limits: RequestLimits) -> None:
    """Raise `TooLargeError` for a body that is too long for what it can be.

    A very long one has to say what it is near one of its ends, where a type stands.
    """
    size = len(body)
    if size > limits.longest_body:
        raise TooLargeError(f"a request may have {limits.longest_body} bytes at most")
    if size <= _SHORT:
        return
    ends = bytes(body[:_END] + body[-_END:])
    if not any(kind.encode() in ends for kind in _kinds_of(size, limits)):
        kinds = " and ".join(_kinds_of(size, limits))
        raise TooLargeError(f"of all requests only {kinds} may have more than {_SHORT} bytes")


def _kinds_of(size: int, limits: RequestLimits) -> list[str]:
    """Return the types of the requests that may have so many bytes."""
    return [kind for kind in DEFAULT_BODY_BYTES if size <= limits.bytes_of(kind)]


def check_shape(body: bytes | bytearray, limits: RequestLimits) -> Iterator[int]:
    """Raise `TooLargeError` for a body that holds too much or is nested too deep.

    A generator, which yields how many bytes it is going to look at.
    """
    values = depth = 0
    yield BLOCK
    for _, pieces in outside_strings(body):
        outside = b"".join(pieces[::2])
        # Each value but the first of a list or object has a comma before it, the first its bracket.
        values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if values >= limits.values:
            raise TooLargeError(f"a request may have {limits.values} JSON values at most")
        for bracket in outside.translate(None, _NO_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > limits.depth:
                raise TooLargeError(
                    f"the lists and objects of a request may be nested {limits.depth} deep at most"
                )
            if depth < 0:
                return  # it is no JSON
        yield BLOCK


def check_fields(request: object, size: int, limits: RequestLimits) -> None:
    """Raise `TooLargeError` for a request of so many bytes with a field that is over its limit."""
    if not isinstance(request, dict):
        return
    kind = request.get("type")
    if not isinstance(kind, str) or kind not in DEFAULT_BODY_BYTES:
        return
    if size > limits.bytes_of(kind):
        raise TooLargeError(f"{kind} may have {limits.bytes_of(kind)} bytes at most")
    params = request.get("params")
    if isinstance(params, dict):
        for check in (_check_common, *_CHECKS.get(kind, ())):
            check(params, limits)


def _check_common(params: Mapping[str, Any], limits: RequestLimits) -> None:
    for name in ("thread_id", "item_id", "attachment_id", "after"):
        _chars(f"params.{name}", params.get(name), limits.id_chars)
    for name in ("title", "name", "mime_type"):
        _chars(f"params.{name}", params.get(name), limits.name_chars)


def _check_message(params: Mapping[str, Any], limits: RequestLimits) -> None:
    message = params.get("input")
    if not isinstance(message, dict):
        return
    place = "params.input"
    parts = _list(f"{place}.content", message.get("content"), limits.content_parts)
    tags = sum(isinstance(part, dict) and part.get("type") == "input_tag" for part in parts)
    _most(f"{place}.content", tags, limits.tags, "tags")
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    length = sum(len(text) for text in texts if isinstance(text, str))
    _most(f"{place}.content", length, limits.text_chars, "characters of text")
    for number, part in enumerate(parts):
        if isinstance(part, dict):
            _chars(f"{place}.content.{number}.id", part.get("id"), limits.id_chars)
            _chars(f"{place}.content.{number}.group", part.get("group"), limits.name_chars)
    ids = _list(f"{place}.attachments", message.get("attachments"), limits.attachments)
    _each_chars(f"{place}.attachments", ids, limits.id_chars)
    _chars(f"{place}.quoted_text", message.get("quoted_text"), limits.quote_chars)
    options = message.get("inference_options")
    if isinstance(options, dict):
        _chars(f"{place}.inference_options.model", options.get("model"), limits.id_chars)
        tool = options.get("tool_choice")
        if isinstance(tool, dict):
            name = f"{place}.inference_options.tool_choice.id"
            _chars(name, tool.get("id"), limits.id_chars)


def _check_answers(params: Mapping[str, Any], limits: RequestLimits) -> None:
    submission = params.get("input")
    answers = submission.get("answers") if isinstance(submission, dict) else None
    if not isinstance(answers, dict):
        return
    place = "params.input.answers"
    _most(place, len(answers), limits.answers, "answers")
    for question_id, answer in answers.items():
        _chars(f"a key of {place}", question_id, limits.id_chars)
        if isinstance(answer, dict):
            _list(f"the values of each of {place}", answer.get("values"), limits.answers)


def _check_action(params: Mapping[str, Any], limits: RequestLimits) -> None:
    action = params.get("action")
    if isinstance(action, dict):
        _chars("params.action.type", action.get("type"), limits.id_chars)


def _check_feedback(params: Mapping[str, Any], limits: RequestLimits) -> None:
    ids = _list("params.item_ids", params.get("item_ids"), limits.item_ids)
    _each_chars("params.item_ids", ids, limits.id_chars)


_CHECKS: Mapping[str, Sequence[_Check]] = {
    "threads.create": [_check_message],
    "threads.add_user_message": [_check_message],
    "threads.retry_after_item": [_check_message],
    "threads.add_structured_input": [_check_answers],
    "threads.custom_action": [_check_action],
    "threads.sync_custom_action": [_check_action],
    "items.feedback": [_check_feedback],
}
"""What there is to check beside the fields that many requests have."""


def _most(place: str, number: int, limit: int, what: str) -> None:
    if number > limit:
        raise TooLargeError(f"{place} may have {limit} {what} at most")


def _chars(place: str, value: object, limit: int) -> None:
    if isinstance(value, str):
        _most(place, len(value), limit, "characters")


def _each_chars(place: str, values: Sequence[object], limit: int) -> None:
    for number, value in enumerate(values):
        _chars(f"{place}.{number}", value, limit)


def _list(place: str, value: object, limit: int) -> Sequence[Any]:
    """Return a list if it is one and short enough, an empty one if it isn't any."""
    if not isinstance(value, list):
        return ()
    _most(place, len(value), limit, "entries")
    return value
