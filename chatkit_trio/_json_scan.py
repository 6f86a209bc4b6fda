"""How much a JSON text holds, before anything is made of it.

Every step here is one pass in C over the text or over what is left of it; strings are taken out
first, without looking into them. A text that isn't JSON gives some number: the parser refuses it.
"""

from __future__ import annotations

_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")
_QUOTES_A_VALUE = 4  # a string has two, and so has its key


def structure(text: bytes | bytearray, max_values: int) -> bytes | None:
    """Return the text without its strings; None if it has more than `max_values` values."""
    # In a run of backslashes each pair is one that was escaped. Outside of strings there are none.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > _QUOTES_A_VALUE * max_values:
        return None
    outside = b"".join(bare.split(b'"')[::2])
    # Each value but the first of a list or object has a comma before it, the first its bracket.
    if outside.count(b",") + outside.count(b"[") + outside.count(b"{") >= max_values:
        return None
    return outside


def is_nested_deeper(outside: bytes, depth: int) -> bool:
    """Say whether lists and objects are nested deeper than this in the result of `structure`."""
    brackets = outside.translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(depth):
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            return False  # none are left, or they don't match
        brackets = peeled
    return bool(brackets)
