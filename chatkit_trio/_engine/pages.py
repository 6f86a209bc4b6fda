"""Answers of many items, encoded one by one: as many as a page may have in bytes, one at least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from chatkit_trio.types import Page, ThreadItem, ThreadMetadata, ThreadStreamEvent, is_hidden

from .pace import BigWork
from .wire import frame, item_to_json, thread_answer, to_json

T = TypeVar("T")
TEntry = TypeVar("TEntry", ThreadItem, ThreadMetadata)

_NO_DATA = b'"data":[]'


@dataclass(frozen=True, slots=True)
class CutPage(Generic[TEntry]):
    """The entries of a page that fit, and the text of those that the client may see."""

    page: Page[TEntry]
    encoded: Sequence[bytes]

    @property
    def shell(self) -> Page[TEntry]:
        """The page without its entries."""
        return self.page.model_copy(update={"data": []})


@dataclass(frozen=True, slots=True)
class PagedAnswer:
    """An answer whose one empty `data` is filled with entries that have been encoded."""

    shell: BaseModel
    encoded: Sequence[bytes]

    def to_json(self) -> bytes:
        # In a string the quotes would be escaped, so this is the empty list and no text.
        head, _, tail = to_json(self.shell).partition(_NO_DATA)
        return b"".join((head, b'"data":[', b",".join(self.encoded), b"]", tail))


async def cut_items(
    page: Page[ThreadItem], max_bytes: int, big_work: BigWork
) -> CutPage[ThreadItem]:
    """Return what fits of a page of items; hidden ones take no room. A checkpoint, if it is big."""
    return await _cut(
        page, lambda item: b"" if is_hidden(item) else item_to_json(item), max_bytes, big_work
    )


async def cut_threads(
    page: Page[ThreadMetadata], max_bytes: int, big_work: BigWork
) -> CutPage[ThreadMetadata]:
    """Return what fits of a page of threads. A checkpoint, if it is big."""
    return await _cut(page, lambda thread: to_json(thread_answer(thread)), max_bytes, big_work)


async def _cut(
    page: Page[TEntry], encode: Callable[[TEntry], bytes], max_bytes: int, big_work: BigWork
) -> CutPage[TEntry]:
    encoded: list[bytes] = []
    size = 0
    async with big_work.begin() as pace:
        for number, entry in enumerate(page.data):
            text = encode(entry)
            size += len(text)
            if encoded and size > max_bytes:
                last_id = page.data[number - 1].id
                update = {"data": page.data[:number], "has_more": True, "after": last_id}
                return CutPage(page.model_copy(update=update), encoded)
            if text:
                encoded.append(text)
            await pace.before(len(text))
    return CutPage(page, encoded)


async def encode_items(items: Iterable[ThreadItem], big_work: BigWork) -> list[bytes]:
    """Return the texts of items that a client may see. A checkpoint, if they are big."""
    return await _encode(items, item_to_json, big_work)


async def encode_events(events: Iterable[ThreadStreamEvent], big_work: BigWork) -> list[bytes]:
    """Return the frames of events. A checkpoint, if they are big."""
    return await _encode(events, frame, big_work)


async def _encode(
    entries: Iterable[T], encode: Callable[[T], bytes], big_work: BigWork
) -> list[bytes]:
    encoded: list[bytes] = []
    async with big_work.begin() as pace:
        for entry in entries:
            encoded.append(encode(entry))
            # What comes next is likely to be as big.
            await pace.before(len(encoded[-1]))
    return encoded
