"""The stored form of threads, items and attachments: one JSON text each, and the owner beside it.

What is encoded has no tie to the caller's objects any more, and what is decoded belongs to the
caller. Encoding tries whether its text can be decoded: an object that couldn't be loaded again is
refused when it is stored, for it would make its whole thread unreadable. A `Thread` (metadata with
a page of items) is narrowed to its metadata here, and only here.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import b32encode
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from chatkit_trio._activity import ActivityPlace
from chatkit_trio._engine.items import check_new_id
from chatkit_trio._engine.pace import BigWork, Pace
from chatkit_trio._foreign_text import repaired_json
from chatkit_trio._reading_stores import Part
from chatkit_trio.errors import ThreadChangedError
from chatkit_trio.store import ActiveThread, Opening, Settlement, TContext, as_active_thread
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

from ._shortening import Shortening, may_be_too_large

T = TypeVar("T")

_THREAD: TypeAdapter[ThreadMetadata] = TypeAdapter(ThreadMetadata)
_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_ITEMS: TypeAdapter[list[ThreadItem]] = TypeAdapter(list[ThreadItem])
_ATTACHMENT: TypeAdapter[Attachment] = TypeAdapter(Attachment)

PAGE_CHARS = 8 * 1024 * 1024
"""How long the stored texts of a page may be together; a page has one at least."""

_CHARS_OF_OBJECT = 64
"""As so much text counts a list or an object, for the garbage collector goes over all of them."""

_COUNTED_CHARS = 512 * 1024
"""In so much of a text they are counted. Where they are many, no more of it is decoded."""

_LARGEST = 2**63 - 1

ORDERS = ("asc", "desc")


def one_owner(context: object) -> str:
    """Return the one owner that all callers share: the default of a store."""
    return ""


def owner_of(owner: Callable[[TContext], str], context: TContext) -> str:
    """Return the owner that the context stands for. Raises `TypeError` unless it is text.

    A forgotten login that yields None must not become an owner all such callers share.
    """
    name = owner(context)
    if not isinstance(name, str):
        raise TypeError(f"owner(context) must return a str, not {name!r}")
    return name


@lru_cache(maxsize=10_000)
def owner_key(owner: str) -> str:
    """Return what an index has before the words of an owner.

    Two may have the same, which costs time only: a hit is looked up among the owner's threads.
    """
    digest = hashlib.blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=5).digest()
    return b32encode(digest).decode().lower()[:4]


def one_more(limit: int) -> int:
    """Return how many rows to ask for: one more than wanted says whether there are more."""
    return min(limit, _LARGEST - 1) + 1  # sys.maxsize is a usual way to ask for all


def check_limit(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")


def activity_page(rows: Sequence[tuple[ActivityPlace, str]], limit: int) -> Page[ActiveThread]:
    """Return a page of threads by activity, of `one_more` rows with places and texts."""
    threads = [(place, decode_thread(text)) for place, text in rows[:limit]]
    return Part(threads, threads[-1][0] if len(rows) > limit else None).page(as_active_thread)


def check_page(limit: int, order: str) -> None:
    check_limit(limit)
    if order not in ORDERS:
        raise ValueError(f"order must be 'asc' or 'desc', not {order!r}")


def check_thread(item: ThreadItem, thread_id: str) -> None:
    if item.thread_id != thread_id:
        raise ValueError(
            f"item {item.id} says it is in thread {item.thread_id}; it can't be stored in"
            f" {thread_id}: set its thread_id"
        )


def check_new(item: ThreadItem, thread_id: str) -> None:
    """Raise `ValueError` for an item that can't be added to this thread."""
    check_thread(item, thread_id)
    check_new_id(item.id)


def check_opening(opening: Opening) -> None:
    _check_items(opening)
    if opening.new_thread is not None and opening.new_thread.id != opening.thread_id:
        raise ValueError(
            f"an opening on thread {opening.thread_id} can't save {opening.new_thread.id}"
        )


def check_settlement(settlement: Settlement) -> None:
    _check_items(settlement)
    if settlement.thread is not None and settlement.thread.id != settlement.thread_id:
        raise ValueError(
            f"a settlement of thread {settlement.thread_id} can't save {settlement.thread.id}"
        )


def _check_items(writes: Opening | Settlement) -> None:
    for item in writes.new_items:
        check_new(item, writes.thread_id)
    for item in writes.changed_items:
        check_thread(item, writes.thread_id)


def warn_of_taken_turn(logger: logging.Logger, settlement: Settlement, what_is_done: str) -> None:
    logger.warning(
        "turn %s of thread %s was taken for crashed by another process while it was alive here; %s",
        settlement.turn_id,
        settlement.thread_id,
        what_is_done,
    )


def encode_thread(thread: ThreadMetadata) -> str:
    return _encode(_THREAD, thread, f"thread {thread.id}")


def encode_item(item: ThreadItem) -> str:
    return _encode(_ITEM, item, f"item {item.id}")


def encode_attachment(attachment: Attachment) -> str:
    return _encode(_ATTACHMENT, attachment, f"attachment {attachment.id}")


def cut_page(rows: Iterable[tuple[str, str]], limit: int) -> tuple[list[tuple[str, str]], bool]:
    """Return the (id, text) of one page, and whether more follow: one more row says so.

    A page has up to `limit` rows, and fewer if their texts together are too long or hold too much.
    """
    page: list[tuple[str, str]] = []
    size = 0
    for row in rows:
        size += _weight(row[1])
        if len(page) == limit or (page and size > PAGE_CHARS):
            return page, True
        page.append(row)
    return page, False


def _weight(text: str) -> int:
    counted = sum(text.count(bracket, 0, _COUNTED_CHARS) for bracket in "[{")
    return len(text) + _CHARS_OF_OBJECT * counted


async def decode_page(
    rows: Sequence[tuple[str, str]],
    has_more: bool,
    decode: Callable[[str, Pace], Awaitable[T]],
    big_work: BigWork,
) -> Page[T]:
    """Return a page of (id, text), decoding it a piece at a time. A checkpoint, if it is big."""
    data: list[T] = []
    async with big_work.begin() as pace:
        for _, text in rows:
            data.append(await decode(text, pace))
    return Page(data=data, has_more=has_more, after=rows[-1][0] if has_more else None)


async def decode_page_thread(text: str, pace: Pace) -> ThreadMetadata:
    await pace.before(len(text))
    return decode_thread(text)


async def decode_page_item(text: str, pace: Pace) -> ThreadItem:
    """Decode an item, or the beginning of one that is too large. A checkpoint, if it is big."""
    await pace.before(len(text))
    if may_be_too_large(text):
        shortening = Shortening(text)
        for size in shortening:
            await pace.before(size)
        text = shortening.text
        await pace.before(len(text))
    return decode_item(text)


async def decode_one_item(text: str, big_work: BigWork) -> ThreadItem:
    """Decode an item as a page does."""
    async with big_work.begin() as pace:
        return await decode_page_item(text, pace)


def decode_thread(text: str) -> ThreadMetadata:
    return _THREAD.validate_json(text)


def decode_item(text: str) -> ThreadItem:
    return _ITEM.validate_json(text)


def check_premises(
    opening: Opening, thread: str | None, last_item_id: str | None, items: Mapping[str, str]
) -> None:
    """Raise `ThreadChangedError` unless a thread is as an opening needs it.

    `thread` is the thread as it is stored, None if there is none; `items` has the texts of at least
    those of its items that the opening names as unchanged.
    """
    if (
        (thread is None) == (opening.new_thread is None)
        or (opening.needs_active and thread is not None and not _is_active(thread))
        or opening.last_item_id not in (None, last_item_id)
        or not all(_is_unchanged(item, items) for item in opening.unchanged_items)
    ):
        raise ThreadChangedError(
            f"thread {opening.thread_id} has changed since it was looked at for this request, and"
            " nothing was done: send it again"
        )


def _is_active(thread: str) -> bool:
    return decode_thread(thread).status.type == "active"


def _is_unchanged(item: ThreadItem, items: Mapping[str, str]) -> bool:
    text = items.get(item.id)
    if text is None:
        return False
    if may_be_too_large(text):
        shortening = Shortening(text)
        deque(shortening, maxlen=0)
        text = shortening.text
    return decode_item(text) == item


def decode_items(text: str) -> list[ThreadItem]:
    return _ITEMS.validate_json(text)


def decode_attachment(text: str) -> Attachment:
    return _ATTACHMENT.validate_json(text)


def _encode(adapter: TypeAdapter[T], value: T, name: str) -> str:
    try:
        text = adapter.dump_json(value).decode()
    except PydanticSerializationError:
        text = _encode_broken_text(adapter, value, name)
    try:
        adapter.validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(
            f"{name} can't be stored, for it couldn't be loaded again: {problem['msg']}"
        ) from error
    return text


def _encode_broken_text(adapter: TypeAdapter[Any], value: object, name: str) -> str:
    """Encode text with lone surrogates, which no UTF-8 file can hold.

    A model that streams an emoji in two halves must not cost the user the answer around it: halves
    that meet become the character, a lone one becomes U+FFFD.
    """
    try:
        return repaired_json(adapter.dump_python(value, mode="json")).decode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} can't be stored as JSON: {error}") from error
