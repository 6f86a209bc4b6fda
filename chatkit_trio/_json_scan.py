"""What stands outside of the strings of a JSON text, block by block, before anything is made of it.

Each block costs some passes in C. A text that isn't JSON gives something: the parser refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 16 * 1024
"""Bytes."""


def outside_strings(text: bytes | bytearray) -> Iterator[tuple[int, list[bytes]]]:
    """Yield a place in the text and what follows there, split at the quotes around strings.

    Every second piece, from the first on, stands outside of strings.
    """
    place, is_string = 0, False
    while place < len(text):
        block = bytes(text[place : place + BLOCK])
        # As long as the block, so that places stay. Only strings have backslashes.
        bare = block.replace(b"\\\\", b"--").replace(b'\\"', b"--")
        if is_string:
            end = bare.find(b'"') + 1
            is_string = not end
            # A backslash at the end belongs to what comes next.
            place += end or len(block) - (bare.endswith(b"\\") and len(block) > 1)
            yield place, []
            continue
        pieces = bare.split(b'"')
        is_string = len(pieces) % 2 == 0
        begun = len(pieces.pop()) if is_string else 0
        yield place, pieces
        place += len(block) - begun
