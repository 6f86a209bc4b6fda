"""What is left of an item that holds too much to be loaded.

The engine's limits keep such items out, but a file may have them from before, and a page of them
would stop the process: millions of objects cost seconds, also to let go of. So a message of more
than 2,000 parts, and any field of a user's item with more than 100,000 JSON values, is loaded as
its beginning; a message then says so in its last part. The stored text stays as it is.

The text is read mark by mark, by a generator that can be left for other work between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from chatkit_trio.limits import MAX_PARTS, MAX_VALUES

REST_IS_LEFT_OUT = "[The rest of this message is too large to be loaded.]"

_STRING = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rf'{{"id":{_STRING},"thread_id":{_STRING},"created_at":"[^"]*","type":"(\w+)"',
)
_HEAD_CHARS = 4096
_MARK = re.compile(r'[\[\]{},"]')
_STEPS_AT_ONCE = 2_000
_MOST = {
    "user_message": MAX_PARTS,
    "client_tool_call": MAX_VALUES,
    "structured_input": MAX_VALUES,
}
"""What clients write."""
_PARTS = ('"content":', '"attachments":')


def may_be_too_large(text: str) -> bool:
    """Say whether an item's text has to be looked at: more commas and brackets than it may have.

    Those in its prose count too, so this is no more than a first look.
    """
    most = _MOST.get(_type_of(text))
    if most is None or len(text) <= most:
        return False
    return sum(map(text.count, ",[{")) > most


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

    def __iter__(self) -> Iterator[None]:
        depth = field = values = parts = fits_up_to = 0
        is_over = False
        for mark, place in _marks(self.text):
            if not mark:
                yield
                continue
            if mark in ",[{":
                values += 1
            if mark in "[{":
                depth += 1
                if depth == 1:
                    field = place + 1
                elif depth == 2:
                    fits_up_to = place + 1
            elif mark in "]}":
                depth -= 1
                if depth == 1 and (is_over or self._is_over(field, values, parts + 1)):
                    self._leave_out(field, fits_up_to, place)
            elif depth == 1:
                field, values, parts, is_over = place + 1, 0, 0, False
            elif depth == 2 and not is_over:
                parts += 1
                is_over = self._is_over(field, values, parts)
                fits_up_to = fits_up_to if is_over else place
        self._kept.append(self.text[self._kept_up_to :])
        self.text = "".join(self._kept)

    def _is_over(self, field: int, values: int, parts: int) -> bool:
        is_list_of_parts = self._is_message and self.text.startswith(_PARTS, field)
        return values > MAX_VALUES or (is_list_of_parts and parts > MAX_PARTS)

    def _leave_out(self, field: int, start: int, end: int) -> None:
        self._kept.append(self.text[self._kept_up_to : start])
        self._kept_up_to = end
        if self._is_message and self.text.startswith('"content":', field):
            comma = "" if self.text[start - 1] == "[" else ","
            self._kept.append(f'{comma}{{"type":"input_text","text":"{REST_IS_LEFT_OUT}"}}')


def _marks(text: str) -> Iterator[tuple[str, int]]:
    """Yield the commas and brackets outside of strings, and an empty one after every some steps."""
    place, is_string = 0, False
    for step in count(1):
        if step % _STEPS_AT_ONCE == 0:
            yield "", place
        if is_string:
            quote = text.index('"', place)
            before = text[place:quote]
            # An odd number of backslashes escapes the quote; the search goes on behind it.
            is_string = (len(before) - len(before.rstrip("\\"))) % 2 == 1
            place = quote + 1
            continue
        found = _MARK.search(text, place)
        if found is None:
            return
        place = found.end()
        is_string = found[0] == '"'
        if not is_string:
            yield found[0], found.start()
