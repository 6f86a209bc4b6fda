"""Text of users and of files, made so that it can be printed.

It may hold what steers a terminal, such as escapes, and letters that the output's encoding lacks.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from pydantic import ValidationError

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in ("\n", "\t")}
_STEERING = re.compile("[\x7f-\x9f\ud800-\udfff]")  # what json leaves; UTF-8 can't hold the last


def plain(text: str) -> str:
    """Return a text without what would steer a terminal, such as escapes."""
    return text.translate(_CONTROLS).encode(errors="replace").decode()


def one_line(text: str) -> str:
    """Return a text as it can stand in a line."""
    return " ".join(plain(text).split())


def json_text(value: Any, **form: Any) -> str:
    """Return JSON with its letters as they are, and escapes for what a terminal would obey.

    Where standard output has another encoding than UTF-8, all letters but those of ASCII are
    escaped too, so that it stays JSON.
    """
    has_all_letters = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return steers_nothing(json.dumps(value, ensure_ascii=not has_all_letters, **form))


def steers_nothing(json_text: str) -> str:
    """Return the same JSON with escapes for what a terminal would obey."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


def plural(count: int, noun: str) -> str:
    """Return so many things, in English."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def invalid(error: ValueError) -> str:
    """Return in one line why data isn't what it should be."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return one_line(": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]])))
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON: {error.msg} (character {error.pos + 1})"
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8: {error.reason} (byte {error.start + 1})"
    return one_line(str(error))
