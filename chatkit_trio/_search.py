"""What a search finds: how text becomes words, when a text matches, and what is shown of it.

All stores use these rules, so a search finds the same in each. An index may hold `index_words` and
be asked for `Query.terms`: it finds all that matches and now and then more, and `Query.find` on the
text itself decides.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .errors import InvalidRequestError
from .types import AssistantMessageItem, ThreadItem, UserMessageItem, UserMessageTagContent

MOST_QUERY_CHARS = 256
MOST_QUERY_WORDS = 32
SEARCHED_CHARS = 100_000
"""So much of a message is searched: some 20,000 words."""

_WORD_CHARS = 40
"""So much of a word is in the index. What follows counts all the same: `find` sees it."""

_FOLDINGS_KEPT = 20_000
_EXCERPT_CHARS = 160
_BEFORE_MATCH = 40
_MOST_MATCHES = 50
_PIECE = 256

# Thai, Lao, Tibetan, Burmese, Khmer, and the scripts of Chinese and Japanese: no spaces between
# words, so any part of such a run can be looked for.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\U00020000-\U000323af"
)
_RUNS = re.compile(f"[{_UNSPACED}]+|[^ {_UNSPACED}]+")
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")

# Accents of Latin, Greek and Cyrillic, points of Hebrew, vowel signs of Arabic, variation selectors
# (in an emoji, or for another form of a character): written or not, and the word is the same.
_UNCOUNTED = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u180b-\u180d\u180f\ufe00-\ufe0f"
    "\U000e0100-\U000e01ef]+"
)
_CONTROLS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def _folded(char: str) -> str:
    """Return what is compared of a character: spaces separate words."""
    category = unicodedata.category(char)
    if category in ("So", "Co", "Cn"):
        return f" {char} "  # an emoji is a word
    if category[0] not in "LNM":
        return " "
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    plain = _UNCOUNTED.sub("", plain)
    return "".join(each if unicodedata.category(each)[0] in "LNM" else " " for each in plain)


class _Folding(dict[int, str]):
    """What each character is folded to; for `str.translate`."""

    def __missing__(self, code: int) -> str:
        folded = _folded(chr(code))
        if len(self) < _FOLDINGS_KEPT:
            self[code] = folded
        return folded


_FOLDING = _Folding()


def searchable_text(item: ThreadItem) -> str:
    """Return what is searched of an item: what the user wrote or the assistant answered.

    Of all other kinds it is nothing, and so of hidden context.
    """
    match item:
        case UserMessageItem():
            text = "".join(
                f"@{part.text}" if isinstance(part, UserMessageTagContent) else part.text
                for part in item.content
            )
        case AssistantMessageItem():
            text = "\n".join(part.text for part in item.content)
        case _:
            return ""
    return text[:SEARCHED_CHARS]


def index_words(text: str) -> set[str]:
    """Return the words of a text for an index; of a run without spaces, each two characters."""
    words: set[str] = set()
    for run in _runs(text[:SEARCHED_CHARS].translate(_FOLDING)):
        if _is_unspaced(run):
            words.update(run[at : at + 2] for at in range(len(run)))
        else:
            words.add(run[:_WORD_CHARS])
    return words


def _runs(folded: str) -> Iterable[str]:
    """Return the words of a folded text, and its runs without spaces."""
    return set(folded.split()) if folded.isascii() else _RUNS.findall(folded)


def _is_unspaced(run: str) -> bool:
    return not run.isascii() and _ONE_UNSPACED.match(run) is not None


@dataclass(frozen=True, slots=True)
class Term:
    """A word that the index has to have, or the beginning of one."""

    word: str
    is_prefix: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Where a text matches: some of it around the first place, and the matches in that."""

    excerpt: str
    matches: tuple[tuple[int, int], ...]


class Query:
    """What somebody looks for: a text matches if each word of the query begins a word of it.

    Case and accents don't count, nor does the order. In scripts without spaces between words a run
    of the query has to be somewhere in the text. A query without any word finds nothing.
    """

    def __init__(self, text: str) -> None:
        """Read a query. Raises `InvalidRequestError` for one that is too long."""
        if len(text) > MOST_QUERY_CHARS:
            raise InvalidRequestError(
                f"a search may have {MOST_QUERY_CHARS} characters, and this one has {len(text)}"
            )
        self.runs = tuple(dict.fromkeys(_RUNS.findall(text.translate(_FOLDING))))
        if len(self.runs) > MOST_QUERY_WORDS:
            raise InvalidRequestError(
                f"a search may have {MOST_QUERY_WORDS} words, and this one has {len(self.runs)}"
            )

    def terms(self) -> list[Term]:
        """Return what an index of `index_words` is asked for; all of them have to be there."""
        return list(dict.fromkeys(self._terms()))

    def _terms(self) -> Iterator[Term]:
        for run in self.runs:
            if _is_unspaced(run) and len(run) > 1:
                yield from (Term(run[at : at + 2], False) for at in range(len(run) - 1))
            else:
                yield Term(run[:_WORD_CHARS], True)

    def find(self, text: str) -> Found | None:
        """Return where a text matches; None if it doesn't."""
        text = text[:SEARCHED_CHARS]
        folded = text.translate(_FOLDING)
        first = [next(_places(run, folded, 0), None) for run in self.runs]
        begins = [place for place in first if place is not None]
        if not begins or len(begins) < len(first):
            return None
        offsets = _Offsets(text)
        begin, end = _window(text, offsets.raw(min(begins)))
        ranges: set[tuple[int, int]] = set()
        for run in self.runs:
            for place in _places(run, folded, min(begins)):
                its = offsets.raw(place), _end(text, offsets.raw(place + len(run) - 1) + 1)
                if its[1] > end or len(ranges) == _MOST_MATCHES:
                    break
                ranges.add(its)
        before, behind = "…" if begin else "", "…" if end < len(text) else ""
        shift = len(before) - begin
        return Found(
            before + _CONTROLS.sub(" ", text[begin:end]) + behind,
            tuple((start + shift, stop + shift) for start, stop in _united(ranges)),
        )


def _end(text: str, end: int) -> int:
    """Return where a match ends with all that belongs to its last character."""
    while end < len(text) and not _FOLDING[ord(text[end])]:
        end += 1
    return end


def _places(run: str, folded: str, at: int) -> Iterator[int]:
    """Yield where a word of a query begins a word, or a run without spaces is."""
    is_anywhere = _is_unspaced(run)
    while (at := folded.find(run, at)) >= 0:
        if is_anywhere or at == 0 or folded[at - 1] == " " or _is_unspaced(folded[at - 1]):
            yield at
        at += 1


class _Offsets:
    """Which character of a text a place in its folded form comes from.

    Piece by piece, for only the pieces with the places need be gone through character by character.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_same = text.isascii()  # each character is folded to one
        self._starts = [0]
        """Where in the folded text each piece begins; the last is where the next would begin."""
        self._pieces: dict[int, list[int]] = {}

    def raw(self, place: int) -> int:
        if self._is_same:
            return place
        while self._starts[-1] <= place:
            piece = self._piece(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + len(piece.translate(_FOLDING)))
        number = bisect_right(self._starts, place) - 1
        if number not in self._pieces:
            self._pieces[number] = [
                at for at, char in enumerate(self._piece(number)) for _ in _FOLDING[ord(char)]
            ]
        return number * _PIECE + self._pieces[number][place - self._starts[number]]

    def _piece(self, number: int) -> str:
        return self._text[number * _PIECE : (number + 1) * _PIECE]


def _window(text: str, at: int) -> tuple[int, int]:
    """Return which part of a text is shown around a place: whole words, if they aren't long."""
    begin = max(0, at - _BEFORE_MATCH)
    if begin > 0:
        space = text.find(" ", begin, at)
        begin = begin if space < 0 else space + 1
    end = min(len(text), begin + _EXCERPT_CHARS)
    if end < len(text):
        space = text.rfind(" ", at + _EXCERPT_CHARS // 2, end)
        end = end if space < 0 else space
    return begin, end


def _united(ranges: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges in order; those that meet are one."""
    last: tuple[int, int] | None = None
    for begin, end in sorted(ranges):
        if last is not None and begin <= last[1]:
            last = last[0], max(last[1], end)
            continue
        if last is not None:
            yield last
        last = begin, end
    if last is not None:
        yield last
