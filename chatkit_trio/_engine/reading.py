"""From the bytes of a request to what it asks for, a piece at a time.

A request of usual length is read at one go. Between two steps over a long one other tasks run, and
no step takes longer than some milliseconds: the limits see to that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

from pydantic_core import from_json

from chatkit_trio.errors import InvalidRequestError
from chatkit_trio.limits import RequestLimits
from chatkit_trio.types import ChatKitReq

from .input_limits import check_fields, check_shape, check_size
from .pace import BigWork
from .wire import parse_request

_AUDIO_PIECE = 512 * 1024  # characters, a multiple of four
_DIGEST_PIECE = 1024 * 1024  # bytes


def as_bytes(body: str | bytes | bytearray) -> bytes | bytearray:
    """Return a body as bytes. Raises `InvalidRequestError` for text that UTF-8 can't hold."""
    if not isinstance(body, str):
        return body
    try:
        return body.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("this is not a ChatKit request: it isn't UTF-8") from error


async def read_request(
    body: bytes | bytearray, limits: RequestLimits, big_work: BigWork
) -> ChatKitReq:
    """Return the request in a body.

    Raises `TooLargeError` for one over a limit, and `InvalidRequestError` for one that isn't of the
    protocol. A checkpoint, if the body is long.
    """
    size = len(body)
    check_size(body, limits)
    async with big_work.begin() as pace:
        for piece in check_shape(body, limits):
            await pace.before(piece)
        await pace.before(size)
        check_fields(_parsed(body), size, limits)
        await pace.before(size)
        return parse_request(body)


async def read_value(text: bytes | bytearray, limits: RequestLimits, big_work: BigWork) -> Any:
    """Return what JSON text of a stranger says.

    Raises `TooLargeError` for one with too many values or nested too deep, and
    `InvalidRequestError` for no JSON. A checkpoint, if the text is long.
    """
    async with big_work.begin() as pace:
        for piece in check_shape(text, limits):
            await pace.before(piece)
        await pace.before(len(text))
        try:
            return from_json(text)
        except ValueError as error:
            raise InvalidRequestError(f"this is no JSON: {error}") from error


async def read_json(
    body: bytes | bytearray, limits: RequestLimits, big_work: BigWork
) -> dict[str, Any]:
    """Return the JSON object in a body of another protocol; else do as `read_value`."""
    parsed = await read_value(body, limits, big_work)
    if not isinstance(parsed, dict):
        raise InvalidRequestError("the body of this request has to be a JSON object")
    return parsed


def _parsed(body: bytes | bytearray) -> object:
    """Return what JSON says, or None for no JSON: `parse_request` says what is wrong with it."""
    try:
        return from_json(body)
    except ValueError:
        return None


async def decode_audio(audio_base64: str, big_work: BigWork) -> bytes:
    """Return the bytes of Base64 text. Raises `InvalidRequestError` for anything else.

    A checkpoint, if the text is long.
    """
    pieces: list[bytes] = []
    async with big_work.begin() as pace:
        for start in range(0, len(audio_base64), _AUDIO_PIECE):
            piece = audio_base64[start : start + _AUDIO_PIECE]
            await pace.before(len(piece))
            is_last = start + _AUDIO_PIECE >= len(audio_base64)
            pieces.append(_decoded_base64(piece, is_last=is_last))
    return b"".join(pieces)


def _decoded_base64(text: str, *, is_last: bool) -> bytes:
    try:
        if text.endswith("=") and not is_last:
            raise binascii.Error("there is padding before the end")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("params.audio_base64 is not valid base64") from error


async def digest(body: bytes | bytearray, big_work: BigWork) -> str:
    """Return the SHA-256 of a body, in hexadecimal. A checkpoint, if the body is long."""
    data = memoryview(body)
    found = hashlib.sha256()
    async with big_work.begin() as pace:
        for start in range(0, len(data), _DIGEST_PIECE):
            piece = data[start : start + _DIGEST_PIECE]
            await pace.before(len(piece))
            found.update(piece)
    return found.hexdigest()
