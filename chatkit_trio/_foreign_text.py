"""Text that comes from user code: what an object says of itself, and what UTF-8 can't hold.

An error's `__str__` may raise, and a text may have half a surrogate pair in it. Neither may cost
more than what it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic_core import PydanticSerializationError, SchemaSerializer


def text_of(value: object, say: Callable[[object], str] = str) -> str:
    """Return what an object says, repaired; its class's name if it says nothing. Never raises."""
    try:
        return repaired_text(say(value)) or type(value).__name__
    except Exception:
        return type(value).__name__


def repaired_text(text: str) -> str:
    """Return text that UTF-8 can hold: surrogates that meet are joined, lone ones are U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repaired_json(plain: Any) -> bytes:
    """Return plain values as JSON with its texts repaired.

    Raises `ValueError` or `RecursionError` for what can't be JSON.
    """
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return repaired_text(text).encode()


def sendable_json(serializer: SchemaSerializer, value: object, **options: Any) -> bytes:
    """Return a value as JSON, its texts repaired if need be; the options are the serializer's.

    Raises `ValueError` or `RecursionError` for what can't be JSON.
    """
    try:
        return serializer.to_json(value, **options)
    except PydanticSerializationError:
        return repaired_json(serializer.to_python(value, mode="json", **options))
