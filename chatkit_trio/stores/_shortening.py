"""What is left of an item that holds too much to be loaded.

The engine's limits keep such items out, but a file may have them from before, and a page of them
would stop the process: millions of objects cost seconds, also to let go of. So a message of more
than 2,000 parts, and any field of a user's item with more than 100,000 JSON values, is loaded as
its beginning; a message then says so in its last part. The stored text stays as it is.

The text is read block by block, by a generator that can be left for other work between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatkit_trio.limits import MAX_PARTS, MAX_VALUES

REST_IS_LEFT_OUT = "[The rest of this message is too large to be loaded.]"

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rf'{{"id":{_STRING},"thread_id":{_STRING},"created_at":"[^"]*","type":"(\w+)"',
)
_HEAD_CHARS = 4096
_LONG = 512 * 1024  # characters; beyond that counting them at one go takes too long
_MARK = re.compile(r"[\[\]{},]")
_BRACKETS = dict.fromkeys(range(128)) | str.maketrans("[]{}", "[][]")
_PEELED_AT_MOST = 4
_BLOCK = 16 * 1024  # characters
_MOST = {
    "user_message": MAX_PARTS,
    "client_tool_call": MAX_VALUES,
    "structured_input": MAX_VALUES,
}
"""What clients write."""
_PARTS = ('"content":', '"attachments":')


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
        self._is_message = _type_of(text) == "user_message"
        self._kept: list[str] = []
        self._kept_up_to = 0
        self._is_string = False
        self._depth = 0
        self._field = 0  # where the field of the item begins that is being read
        self._values = 0  # in that field
        self._parts = 0  # of its list or object
        self._fits_up_to = 0
        self._is_over = False

    def __iter__(self) -> Iterator[int]:
        """Yield how much is read next."""
        place = 0
        while place < len(self.text):
            yield _BLOCK
            place = self._read(place)
        self.text = "".join((*self._kept, self.text[self._kept_up_to :]))

    def _read(self, place: int) -> int:
        """Read on, by about a block; return the place to go on from."""
        block = self.text[place : place + _BLOCK]
        # As long as the block, so that places stay. Only strings have backslashes.
        bare = block.replace("\\\\", "--").replace('\\"', "--")
        if self._is_string:
            quote = bare.find('"')
            self._is_string = quote < 0
            # A backslash at the end belongs to what comes next.
            return place + (quote + 1 or len(block) - (bare.endswith("\\") and len(block) > 1))
        pieces = bare.split('"')
        self._is_string = len(pieces) % 2 == 0
        if self._is_string:
            block = block[: len(block) - len(pieces.pop())]
        if not self._skips("".join(pieces[::2])):
            start = place
            for number, piece in enumerate(pieces):
                if number % 2 == 0:
                    for found in _MARK.finditer(piece):
                        self._note(found[0], start + found.start())
                start += len(piece) + 1
        return place + len(block)

    def _skips(self, outside: str) -> bool:
        """Take in what is outside of strings, if it stays deep enough for nothing to be decided."""
        brackets = outside.translate(_BRACKETS)
        for _ in range(_PEELED_AT_MOST):
            brackets = brackets.replace("[]", "")
        closed = brackets.count("]")
        if self._depth - closed < (2 if self._is_over else 3):
            return False
        self._depth += len(brackets) - 2 * closed
        self._values += sum(map(outside.count, ",[{"))
        return True

    def _note(self, mark: str, place: int) -> None:
        """Take in a comma or a bracket."""
        self._values += mark in ",[{"
        if mark in "[{":
            self._depth += 1
            if self._depth == 1:
                self._field = place + 1
            elif self._depth == 2:
                self._fits_up_to = place + 1
        elif mark in "]}":
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
        is_list_of_parts = self._is_message and self.text.startswith(_PARTS, self._field)
        return self._values > MAX_VALUES or (is_list_of_parts and parts > MAX_PARTS)

    def _leave_out_up_to(self, end: int) -> None:
        start = self._fits_up_to
        self._kept.append(self.text[self._kept_up_to : start])
        self._kept_up_to = end
        if self._is_message and self.text.startswith('"content":', self._field):
            comma = "" if self.text[start - 1] == "[" else ","
            self._kept.append(f'{comma}{{"type":"input_text","text":"{REST_IS_LEFT_OUT}"}}')
