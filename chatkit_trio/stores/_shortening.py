"""What is left of an item that holds too much to be loaded.

The engine's limits keep such items out, but a file may have them from before, and a page of them
would stop the process: millions of objects cost seconds, also to let go of. So a message of more
than 2,000 parts, and any field of a user's item with more than 100,000 JSON values, is loaded as
its beginning; a message then says so in its last part. The stored text stays as it is.

The text is read block by block, by a generator that can be left for other work between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from chatkit_trio._json_scan import BLOCK, outside_strings
from chatkit_trio.limits import MAX_PARTS, MAX_VALUES

REST_IS_LEFT_OUT = "[The rest of this message is too large to be loaded.]"

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rf'{{"id":{_STRING},"thread_id":{_STRING},"created_at":"[^"]*","type":"(\w+)"',
)
_HEAD_CHARS = 4096
_LONG = 512 * 1024  # characters; beyond that counting them at one go takes too long
_MARK = re.compile(rb"[\[\]{},]")
_BEGINNINGS = (b",", b"[", b"{")
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")
_PEELED_AT_MOST = 4
_NOTED_BLOCK = 4 * BLOCK  # what a block costs in which each mark is looked at
_MOST: Mapping[str, int] = {
    "user_message": MAX_PARTS,
    "client_tool_call": MAX_VALUES,
    "structured_input": MAX_VALUES,
}
"""What clients write."""
_PARTS = (b'"content":', b'"attachments":')
_LAST_PART = b'{"type":"input_text","text":"%s"}' % REST_IS_LEFT_OUT.encode()


def may_be_too_large(text: str) -> bool:
    """Say whether an item's text has to be looked at: it is long, or has many commas and brackets.

    Those in its prose count too, so this is no more than a first look.
    """
    most = _MOST.get(_type_of(text))
    if most is None or len(text) <= most:
        return False
    return len(text) > _LONG or sum(map(text.count, ",[{")) > most


def _type_of(text: str) -> str:
    """Return the type of an item, as far as its text begins as this package writes it."""
    head = _HEAD.match(text, 0, _HEAD_CHARS)
    return "" if head is None else head[1]


class Shortening:
    """Takes out of an item's text what is too much in it. Iterate it, then take `text`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._bytes = text.encode()
        self._is_message = _type_of(text) == "user_message"
        self._kept: list[bytes] = []
        self._kept_up_to = 0
        self._depth = 0
        self._field = 0  # where the field of the item begins that is being read
        self._values = 0  # in that field
        self._parts = 0  # of its list or object
        self._fits_up_to = 0
        self._is_over = False

    def __iter__(self) -> Iterator[int]:
        """Yield how much work the next step is, in bytes that are passed over."""
        for place, pieces in outside_strings(self._bytes):
            if self._skips(b"".join(pieces[::2])):
                yield BLOCK
            else:
                self._note_all(place, pieces)
                yield _NOTED_BLOCK
        self._kept.append(self._bytes[self._kept_up_to :])
        self.text = b"".join(self._kept).decode()

    def _skips(self, outside: bytes) -> bool:
        """Take in what is outside of strings, if it stays deep enough for nothing to be decided."""
        brackets = outside.translate(_TO_SQUARE, _NO_BRACKETS)
        for _ in range(_PEELED_AT_MOST):
            brackets = brackets.replace(b"[]", b"")
        closed = brackets.count(b"]")
        if self._depth - closed < (2 if self._is_over else 3):
            return False
        self._depth += len(brackets) - 2 * closed
        self._values += sum(map(outside.count, _BEGINNINGS))
        return True

    def _note_all(self, place: int, pieces: Sequence[bytes]) -> None:
        """Take in every comma and bracket outside of strings."""
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                for found in _MARK.finditer(piece):
                    self._note(found[0], place + found.start())
            place += len(piece) + 1

    def _note(self, mark: bytes, place: int) -> None:
        """Take in a comma or a bracket."""
        self._values += mark in _BEGINNINGS
        if mark in b"[{":
            self._depth += 1
            if self._depth == 1:
                self._field = place + 1
            elif self._depth == 2:
                self._fits_up_to = place + 1
        elif mark in b"]}":
            self._depth -= 1
            if self._depth == 1 and (self._is_over or self._is_too_much(self._parts + 1)):
                self._leave_out_up_to(place)
        elif self._depth == 1:
            self._field = place + 1
            self._values = self._parts = 0
            self._is_over = False
        elif self._depth == 2 and not self._is_over:
            self._parts += 1
            self._is_over = self._is_too_much(self._parts)
            self._fits_up_to = self._fits_up_to if self._is_over else place

    def _is_too_much(self, parts: int) -> bool:
        is_list_of_parts = self._is_message and self._bytes.startswith(_PARTS, self._field)
        return self._values > MAX_VALUES or (is_list_of_parts and parts > MAX_PARTS)

    def _leave_out_up_to(self, end: int) -> None:
        start = self._fits_up_to
        self._kept.append(self._bytes[self._kept_up_to : start])
        self._kept_up_to = end
        if self._is_message and self._bytes.startswith(b'"content":', self._field):
            comma = b"" if self._bytes[start - 1 : start] == b"[" else b","
            self._kept.append(comma + _LAST_PART)
