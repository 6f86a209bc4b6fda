"""Bytes to requests, events to frames, exceptions to error events: the protocol's text form.

Nothing here waits. What a client must not see (hidden items, attachment metadata, exception
text) is taken out here and nowhere else.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from chatkit_trio._foreign_text import repaired_text, sendable_json, text_of
from chatkit_trio._http_errors import http_error_of
from chatkit_trio.errors import (
    ChatKitError,
    CustomStreamError,
    ErrorCode,
    InvalidRequestError,
    StreamError,
    TurnFencedError,
)
from chatkit_trio.types import (
    ChatKitReq,
    ErrorEvent,
    Page,
    Thread,
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    is_hidden,
)

logger = logging.getLogger(__name__)

_REQUEST: TypeAdapter[ChatKitReq] = TypeAdapter(ChatKitReq)
_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_MAX_REPORTED_PROBLEMS = 5
_FOR_CLIENT: dict[str, Any] = {
    "by_alias": True,
    "exclude_none": True,
    "context": {"exclude_metadata": True},
}


def parse_request(body: str | bytes | bytearray) -> ChatKitReq:
    """Return the request in a body. Raises `InvalidRequestError` that names each wrong field."""
    try:
        return _REQUEST.validate_json(body)
    except ValidationError as error:
        raise InvalidRequestError(f"this is not a ChatKit request: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Say what is wrong and where, without repeating the values."""
    problems = error.errors(include_url=False, include_input=False)
    lines = [
        f"{'.'.join(str(step) for step in problem['loc']) or 'body'}: {_say(problem)}"
        for problem in problems[:_MAX_REPORTED_PROBLEMS]
    ]
    more = len(problems) - len(lines)
    if more:
        lines.append(f"and {more} more")
    return "; ".join(lines)


def _say(problem: ErrorDetails) -> str:
    # The validator's own words are about tags and discriminators; the protocol has types.
    if problem["type"] == "union_tag_not_found":
        return "it has no `type`"
    if problem["type"] == "union_tag_invalid":
        return f"its `type` is none of {problem.get('ctx', {})['expected_tags']}"
    if problem["type"] == "model_type":
        return "Input should be an object"  # as of JSON text, and without our own class's name
    return problem["msg"]


def to_json(model: BaseModel) -> bytes:
    """Return a model as the client gets it: no nulls, no attachment metadata, its texts repaired.

    Raises `PydanticSerializationError` for what can't be JSON.
    """
    return sendable_json(model.__pydantic_serializer__, model, **_FOR_CLIENT)


def item_to_json(item: ThreadItem) -> bytes:
    """Return an item as the client gets it: the fields of the protocol, also for a subclass."""
    return sendable_json(_ITEM.serializer, item, **_FOR_CLIENT)


def frame(event: ThreadStreamEvent) -> bytes:
    """Return an event as one SSE frame. JSON has no raw newlines, so one line is enough."""
    return b"data: " + to_json(event) + b"\n\n"


def strict_frame(event: ThreadStreamEvent, *, odd_parts: Literal["warn", "error"]) -> bytes:
    """Return an event as one SSE frame if nothing in it has to be repaired.

    Raises `PydanticSerializationError` for text that UTF-8 can't hold, and with `odd_parts="error"`
    for a part of another class than the model's fields say, or of another type.
    """
    encoded = event.__pydantic_serializer__.to_json(event, warnings=odd_parts, **_FOR_CLIENT)
    return b"data: " + encoded + b"\n\n"


def thread_answer(thread: ThreadMetadata, items: Page[ThreadItem] | None = None) -> Thread:
    """Return a thread as the client gets it: without metadata and hidden items."""
    return Thread(
        id=thread.id,
        title=thread.title,
        created_at=thread.created_at,
        status=thread.status,
        allowed_image_domains=thread.allowed_image_domains,
        items=Page() if items is None else visible(items),
    )


def visible(page: Page[ThreadItem]) -> Page[ThreadItem]:
    """Return the page without its hidden items."""
    return page.model_copy(update={"data": [item for item in page.data if not is_hidden(item)]})


def error_event(error: BaseException) -> ErrorEvent:
    """Return what the client is told of an exception in user code: never its text.

    One that raises when it is looked at is told as any other. Never raises.
    """
    try:
        return _event_of(error)
    except Exception:
        logger.exception("%s can't be told to the client as it is", type(error).__name__)
        return ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True)


def _event_of(error: BaseException) -> ErrorEvent:
    match error:
        case CustomStreamError():
            # As user code has given them: types aren't checked where an error is raised.
            message, allow_retry = repaired_text(str(error.message)), bool(error.allow_retry)
            return ErrorEvent(code="custom", message=message, allow_retry=allow_retry)
        case StreamError() if isinstance(error.code, ErrorCode):
            return ErrorEvent(code=error.code, allow_retry=bool(error.allow_retry))
    http_error = http_error_of(error)
    if http_error is not None and http_error.is_of_client and isinstance(http_error.detail, str):
        # Its author wrote it for the client, and the request would be at fault again.
        message = repaired_text(http_error.detail)
        return ErrorEvent(code="custom", message=message, allow_retry=False)
    return ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True)


def refusal_event(error: ChatKitError) -> ErrorEvent:
    """Return what the client is told when its request was refused after the stream began."""
    allow_retry = isinstance(error, TurnFencedError)  # somebody else has been faster
    return ErrorEvent(code="custom", message=text_of(error), allow_retry=allow_retry)
