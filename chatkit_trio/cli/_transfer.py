"""Threads as lines of JSON, and back: for backups, and from one kind of store to another.

The first line says what the file is. A thread's line comes before those of its items; attachments
come last, without the bytes of their files. Import adds what is missing and replaces nothing, so
doing it twice is the same as doing it once, and one that was cut short can be done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from chatkit_trio.errors import ChatKitError, NotFoundError
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores._records import (
    decode_attachment,
    decode_item,
    decode_thread,
    encode_attachment,
    encode_item,
    encode_thread,
)
from chatkit_trio.types import Attachment, ThreadItem, ThreadMetadata, UserMessageItem

from ._plain import invalid, plain, plural, steers_nothing
from ._stored import StoredThread, StoredThreads

_FORMAT = "chatkit-trio threads"
_VERSION = 1
_BATCH = 100  # items that are stored in one step


def exported(stored: StoredThreads, threads: Iterable[StoredThread], *, all: bool) -> Iterator[str]:
    """Yield the lines of these threads and of their attachments; with `all`, of all attachments."""
    yield json.dumps({"format": _FORMAT, "version": _VERSION})
    named: set[str] = set()
    for thread in threads:
        yield _line("thread", encode_thread(thread.metadata), thread.owner)
        for item in stored.items(thread.id):
            yield _line("item", encode_item(item))
            if isinstance(item, UserMessageItem):
                named.update(each.id for each in item.attachments)
    for attachment_id, owner, text in stored.attachments():
        if all or attachment_id in named:
            yield _line("attachment", encode_attachment(decode_attachment(text)), owner)


def _line(kind: str, text: str, owner: str | None = None) -> str:
    owned = "" if owner is None else f'"owner": {json.dumps(owner)}, '
    return f'{{{owned}"{kind}": {steers_nothing(text)}}}'


@dataclass(slots=True)
class Imported:
    """What has come of an import."""

    threads: int = 0
    items: int = 0
    attachments: int = 0
    threads_there: int = 0
    items_there: int = 0
    attachments_there: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def as_text(self) -> str:
        added = _counted(self.threads, self.items, self.attachments)
        there = _counted(self.threads_there, self.items_there, self.attachments_there)
        return f"added: {added}; there already: {there}"


class Importer:
    """Adds the lines of an export to a store that is open."""

    def __init__(self, store: Store[str]) -> None:
        self.done = Imported()
        self._store = store
        self._owners: dict[str, str] = {}
        self._added: set[str] = set()
        self._batch: list[ThreadItem] = []

    async def run(self, lines: Iterable[bytes], source: str, tell: Callable[[int], None]) -> None:
        """Add all lines; `tell` is called with the length of each.

        Raises `click.ClickException` for a line that can't be understood or stored. The lines
        before it are stored then.
        """
        for number, line in enumerate(lines, 1):
            problem = await self._problem_with(line)
            if problem is not None:
                await self._store_batch()
                raise click.ClickException(plain(f"line {number} of {source} {problem}"))
            tell(len(line))
        await self._store_batch()

    async def _problem_with(self, line: bytes) -> str | None:
        """Take a line; return what is wrong with it, None if nothing is."""
        try:
            await self._take(line)
        except NotFoundError:
            return "can't be stored: what it names belongs to another owner here"
        except ChatKitError as error:
            return f"can't be stored: {error}"
        except RecursionError:
            return "is not a line of an export: it is nested too deep"
        except KeyError as error:
            return f"is not a line of an export: it has no {error}"
        except ValueError as error:
            return f"is not a line of an export: {invalid(error)}"
        return None

    async def _take(self, line: bytes) -> None:
        fields = json.loads(line.decode())
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        if "item" in fields:
            await self._take_item(decode_item(json.dumps(fields["item"])))
            return
        await self._store_batch()
        if "thread" in fields:
            thread = decode_thread(json.dumps(fields["thread"]))
            await self._take_thread(thread, _owner(fields))
        elif "attachment" in fields:
            attachment = decode_attachment(json.dumps(fields["attachment"]))
            await self._take_attachment(attachment, _owner(fields))
        elif fields.get("format") != _FORMAT or fields.get("version") != _VERSION:
            raise ValueError(f"this release reads version {_VERSION} of {_FORMAT!r}")

    async def _take_thread(self, thread: ThreadMetadata, owner: str) -> None:
        self._owners[thread.id] = owner
        try:
            await self._store.load_thread(thread.id, owner)
            self._added.discard(thread.id)  # its items may be there too: two exports in one file
            self.done.threads_there += 1
        except NotFoundError:
            await self._store.save_thread(thread, owner)
            self._added.add(thread.id)
            self.done.threads += 1

    async def _take_attachment(self, attachment: Attachment, owner: str) -> None:
        try:
            await self._store.load_attachment(attachment.id, owner)
            self.done.attachments_there += 1
        except NotFoundError:
            await self._store.save_attachment(attachment, owner)
            self.done.attachments += 1

    async def _take_item(self, item: ThreadItem) -> None:
        if item.thread_id not in self._owners:
            raise ValueError(f"no line before it is the thread {item.thread_id}")
        if self._batch and self._batch[0].thread_id != item.thread_id:
            await self._store_batch()
        owner = self._owners[item.thread_id]
        is_new = item.thread_id in self._added
        if not is_new and await self._store.has_item(item.thread_id, item.id, owner):
            self.done.items_there += 1
            return
        self._batch.append(item)
        if len(self._batch) == _BATCH:
            await self._store_batch()

    async def _store_batch(self) -> None:
        if not self._batch:
            return
        thread_id, items = self._batch[0].thread_id, tuple(self._batch)
        self._batch.clear()
        settlement = Settlement(thread_id, new_items=items)
        await self._store.settle(settlement, self._owners[thread_id])
        self.done.items += len(items)


def _counted(threads: int, items: int, attachments: int) -> str:
    last = plural(attachments, "attachment")
    return f"{plural(threads, 'thread')}, {plural(items, 'item')} and {last}"


def _owner(fields: dict[str, Any]) -> str:
    owner = fields["owner"]
    if not isinstance(owner, str):
        raise ValueError("its owner is no text")
    return owner
