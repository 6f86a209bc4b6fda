"""What a thread without a title is called: the first words that the user has said in it."""

from __future__ import annotations

from chatkit_trio.types import ThreadItem, UserMessageItem, UserMessageTagContent

_MOST_CHARACTERS = 80
_LOOKED_AT = 1000
"""So many characters of each part are looked at: a message may be long."""


def first_words(item: ThreadItem) -> str:
    """Return the beginning of a message of the user, or its first file's name; else nothing."""
    if not isinstance(item, UserMessageItem):
        return ""
    parts = (
        f"@{part.text}" if isinstance(part, UserMessageTagContent) else part.text[:_LOOKED_AT]
        for part in item.content
    )
    words = " ".join("".join(parts).split())
    if not words and item.attachments:
        words = item.attachments[0].name
    if len(words) <= _MOST_CHARACTERS:
        return words
    cut = words[:_MOST_CHARACTERS]
    # Not in the middle of a word, unless it is a very long one.
    return f"{cut.rpartition(' ')[0] or cut}…"
