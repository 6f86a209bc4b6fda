"""The bytes of attachments on a local disk, with signed URLs to upload and to see them.

`DiskAttachmentStore` decides who may do what and in which order; `_attachment_files` names and
writes the files, `_media_types` knows the formats, and `chatkit_trio.web.uploads` speaks HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias
from urllib.parse import urlencode, urlsplit

import trio
from pydantic import AnyUrl
from typing_extensions import TypeVar, TypeVarTuple

from chatkit_trio._settings import check_choice, check_count, check_seconds
from chatkit_trio.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnsupportedTypeError,
)
from chatkit_trio.store import AttachmentStore, Store, TContext
from chatkit_trio.types import (
    Attachment,
    AttachmentCreateParams,
    AttachmentUploadDescriptor,
    FileAttachment,
    ImageAttachment,
)

from ._attachment_files import AttachmentFiles, PartFile, Record, is_id
from ._counted_entry import CountedEntry
from ._media_types import (
    DEFAULT_ACCEPT,
    INLINE_IMAGES,
    SNIFFED_BYTES,
    agrees,
    is_accepted,
    media_type,
)
from ._records import one_owner, owner_of

__all__ = [
    "DEFAULT_ACCEPT",
    "DiskAttachmentStore",
    "Download",
    "ForbiddenError",
    "GoneError",
    "UnsupportedTypeError",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MIN_SECRET_BYTES = 16
_MAX_NAME_LENGTH = 255
_WRITTEN_AT_ONCE = 128 * 1024  # bytes; a hop to a worker thread costs the same for 1 and for these
_CLEANUP_TIMEOUT = 30.0  # seconds
_THREADS = 16


Count: TypeAlias = Callable[[int], Awaitable[None]]
"""Counts bytes that have arrived, and raises if they are too many."""

Meter: TypeAlias = Callable[[TContext], AbstractAsyncContextManager[Count]]
"""Counts one upload of the owner whose context it gets."""


@dataclass(frozen=True, slots=True)
class Download:
    """An attachment whose bytes may be sent: where they are and how to present them."""

    path: Path
    name: str
    mime_type: str
    size: int
    is_inline: bool


class DiskAttachmentStore(AttachmentStore[TContext]):
    """Keep attachments in a directory, and let clients upload and see them by signed URLs.

    `metadata` is the server's own store. `base_url` is where clients reach the routes of
    `chatkit_trio.web.uploads`, scheme and host included. `secret`, of at least 16 bytes, signs the
    URLs: all processes share it, and another one makes the old ones (previews too) invalid.

    `max_bytes` bounds a file, and `accept` lists the types taken: "image/png", "image/*", "*/*".
    `owner` names, for a request's context, whose files it may see, as the other stores' does.
    `upload_lifetime` is how many seconds an upload URL can be used, `upload_method` what clients
    are told to use, and `orphan_age` after how many seconds `collect_orphans` may take a file.

    `context_for_owner` turns an owner's name back into a context. With it, orphans are collected
    when nobody's request is at hand, and `bearer_urls=True` is possible: whoever has a URL may use
    it. Otherwise the request that comes with the URL must have its owner's context too, which
    works for cookies, but not for tokens that an `<img>` can't send.

        files = DiskAttachmentStore(
            "files", metadata=store, base_url="https://example.org/attachments", secret=key
        )
        server = MyServer(store, files)

    `ChatKitServer` enters it: that makes the directory and removes the remains of dead processes.
    Entering more than once is counted. Methods that wait are checkpoints; files are read and
    written in worker threads, and a write that has begun runs to its end.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        metadata: Store[TContext],
        base_url: str,
        secret: str | bytes,
        max_bytes: int = 20 * 1024 * 1024,
        accept: Collection[str] = DEFAULT_ACCEPT,
        owner: Callable[[TContext], str] = one_owner,
        upload_lifetime: float = 600,
        upload_method: Literal["PUT", "POST"] = "PUT",
        orphan_age: float = 24 * 3600,
        context_for_owner: Callable[[str], TContext] | None = None,
        bearer_urls: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if bearer_urls and context_for_owner is None:
            raise ValueError("bearer_urls=True needs context_for_owner: no request tells the owner")
        if isinstance(accept, str):
            raise TypeError(f"accept must be a collection of types, not the str {accept!r}")
        check_count("max_bytes", max_bytes)
        check_choice("upload_method", upload_method, ("PUT", "POST"))
        check_seconds("upload_lifetime", upload_lifetime)
        check_seconds("orphan_age", orphan_age)
        if orphan_age < upload_lifetime:
            raise ValueError("orphan_age must not be shorter than upload_lifetime")
        self.metadata = metadata
        self.base_url = _checked_base_url(base_url)
        self.max_bytes = max_bytes
        self._accept = tuple(accept)
        self._owner = owner
        self._upload_lifetime = upload_lifetime
        self._upload_method: Literal["PUT", "POST"] = upload_method
        self._orphan_age = orphan_age
        self._context_for_owner = context_for_owner
        self._bearer_urls = bearer_urls
        self._clock = clock
        self._sign = _Signer(secret)
        self._files = AttachmentFiles(Path(directory))
        self._pinging = trio.CapacityLimiter(1)
        self._receiving: set[str] = set()
        # Its own, for user code may take all threads of Trio's default limiter.
        self._threads = trio.CapacityLimiter(_THREADS)
        self._entry = CountedEntry(
            partial(self._in_thread, self._files.open),
            partial(self._in_thread, self._files.close),
            close_timeout=_CLEANUP_TIMEOUT,
        )

    # --- Lifecycle -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the directory, making it if needed. Raises `StoreError`."""
        await self._entry.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the directory when the last who entered leaves, even if cancelled."""
        await self._entry.leave()  # noqa: ASYNC102  (it shields itself)

    # --- The contract of AttachmentStore -------------------------------------------------------

    async def create_attachment(
        self, input: AttachmentCreateParams, context: TContext
    ) -> Attachment:
        """Return a new attachment with a signed URL for its bytes.

        Raises `TooLargeError`, `UnsupportedTypeError` or `InvalidRequestError` for what would be
        refused when it comes.
        """
        if input.size < 0:
            raise InvalidRequestError(f"size must not be negative, and is {input.size}")
        self._check_size(input.size)
        record = self._new_record(input.name, input.mime_type, input.size, context)
        await self._in_thread(self._files.save_record, record)
        return self._attachment(record, with_descriptor=True)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete the bytes of an attachment, and end the upload that brings them.

        One that isn't there, or is another owner's, is left as it is; that is not an error.
        """
        with suppress(NotFoundError):
            record = await self._load_record(attachment_id)
            if record.owner == owner_of(self._owner, context):
                await self._in_thread(self._files.remove, record.id)

    async def ping(self) -> None:
        """Raise `StoreError` unless bytes can be written now, into the directory that was opened.

        It makes a small file and removes it. Cancelled, it may go on in its thread.
        """
        await trio.to_thread.run_sync(
            self._files.check, limiter=self._pinging, abandon_on_cancel=True
        )

    # --- Reading -------------------------------------------------------------------------------

    async def read_attachment(self, attachment_id: str, context: TContext) -> bytes:
        """Return all bytes of an attachment, to be shown to a model.

        Raises `NotFoundError` for what isn't there, hasn't arrived, or is another owner's.
        """
        record = await self._load_record(attachment_id)
        self._check_owner(record, context)
        try:
            return await self._in_thread(self._files.bytes_path(record.id).read_bytes)
        except FileNotFoundError:
            raise _not_arrived(record) from None

    def view_url(self, attachment_id: str) -> str:
        """Return the URL of an attachment's bytes, the same each time."""
        return self._url(attachment_id, signature=self._sign("view", attachment_id))

    async def open_download(
        self, attachment_id: str, signature: str, caller: Callable[[], Awaitable[TContext]]
    ) -> Download:
        """Return what a `view_url` is about.

        `caller` gives the request's context; it isn't asked for bearer URLs. Raises
        `ForbiddenError` and `NotFoundError`.
        """
        self._check_signature(signature, "view", attachment_id)
        record = await self._load_record(attachment_id)
        await self._context_of(record, caller)
        size = await self._in_thread(self._files.size, record.id)
        if size is None:
            raise _not_arrived(record)
        path = self._files.bytes_path(record.id)
        is_inline = record.mime_type in INLINE_IMAGES
        return Download(path, record.name, record.mime_type, size, is_inline)

    # --- Receiving -----------------------------------------------------------------------------

    async def receive_upload(
        self,
        attachment_id: str,
        expires: str,
        signature: str,
        chunks: AsyncIterator[bytes],
        caller: Callable[[], Awaitable[TContext]],
        *,
        meter: Meter[TContext] | None = None,
    ) -> Attachment:
        """Take the bytes of a created attachment, and clear its upload descriptor.

        `expires` and `signature` are of the upload URL; `caller` gives the request's context, and
        isn't asked for bearer URLs. `meter` is entered with the owner's context for as long as
        bytes arrive, and what it gives is called with their number before they are written. An
        upload that fails, is refused or is cancelled leaves nothing, and may be tried again until
        the URL expires.

        Raises `ForbiddenError`, `GoneError` (expired), `NotFoundError` (deleted, or another
        owner's), `ConflictError` (there already, or being uploaded), `TooLargeError`,
        `UnsupportedTypeError`, `InvalidRequestError` (fewer bytes than declared), `StoreError`.
        """
        self._check_signature(signature, "upload", attachment_id, expires)
        if self._clock() >= float(expires):
            raise GoneError("this upload URL has expired; ask for another with attachments.create")
        record = await self._load_record(attachment_id)
        context = await self._context_of(record, caller)
        if await self._in_thread(self._files.size, record.id) is not None:
            await self._clear_descriptor(record.id, context)  # a crash may have come before it
            raise ConflictError(f"attachment {record.id} has been uploaded already")
        await self._receive(record, chunks, context, meter)
        try:
            return await self._clear_descriptor(record.id, context)
        except BaseException:
            # What came is taken back, so that the URL is good for another try.
            with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
                await self._in_thread(self._files.remove_bytes, record.id)
            raise

    async def receive_direct(
        self,
        name: str,
        mime_type: str,
        chunks: AsyncIterator[bytes],
        caller: Callable[[], Awaitable[TContext]],
        *,
        meter: Meter[TContext] | None = None,
    ) -> Attachment:
        """Take the bytes of a new attachment and save its metadata.

        Raises as `receive_upload`. What fails, is refused or is cancelled leaves nothing.
        """
        caller_context = await caller()
        record = self._new_record(name, mime_type, None, caller_context)
        context = self._metadata_context(record, caller_context)
        attachment = self._attachment(record, with_descriptor=False)
        try:
            await self._in_thread(self._files.save_record, record)
            await self._receive(record, chunks, context, meter)
            await self.metadata.save_attachment(attachment, context)
        except BaseException:
            with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
                await self._in_thread(self._files.remove, record.id)
            raise
        return attachment

    async def _receive(
        self,
        record: Record,
        chunks: AsyncIterator[bytes],
        context: TContext,
        meter: Meter[TContext] | None,
    ) -> None:
        if meter is None:
            await self._receive_metered(record, chunks, _unmetered)
        else:
            async with meter(context) as count:
                await self._receive_metered(record, chunks, count)

    async def _receive_metered(
        self, record: Record, chunks: AsyncIterator[bytes], count: Count
    ) -> None:
        if record.id in self._receiving:
            raise ConflictError(f"attachment {record.id} is being uploaded")
        self._receiving.add(record.id)
        try:
            part = await self._in_thread(self._files.begin)
            try:
                await self._write_all(part, record, chunks, count)
                await self._in_thread(self._files.publish, part, record.id)
            except BaseException:
                # Cancelled or not, half a file must not stay. One thread hop, bounded.
                with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
                    await self._in_thread(part.discard)
                raise
        finally:
            self._receiving.discard(record.id)

    async def _write_all(
        self, part: PartFile, record: Record, chunks: AsyncIterator[bytes], count: Count
    ) -> None:
        check = _ContentCheck(record, self._limit(record))
        waiting = bytearray()
        async for chunk in chunks:
            check.feed(chunk)
            await count(len(chunk))
            waiting += chunk
            if len(waiting) >= _WRITTEN_AT_ONCE:
                await self._in_thread(part.write, bytes(waiting))
                waiting.clear()
        check.end()
        await self._in_thread(part.write, bytes(waiting))

    async def _clear_descriptor(self, attachment_id: str, context: TContext) -> Attachment:
        attachment = await self.metadata.load_attachment(attachment_id, context)
        if attachment.upload_descriptor is not None:
            attachment = attachment.model_copy(update={"upload_descriptor": None})
            await self.metadata.save_attachment(attachment, context)
        return attachment

    # --- Collecting ----------------------------------------------------------------------------

    async def collect_orphans(self) -> list[str]:
        """Delete what nobody needs any more, and return the ids.

        That is, `orphan_age` after its creation, an attachment that was never uploaded, wasn't
        sent in a message, or was sent in a thread that has been deleted since. Without
        `context_for_owner` only the first kind can be told, and its metadata stays. Several
        processes may collect at once. Raises `StoreError`; cancelled, it stops between two files.
        """
        collected: list[str] = []
        for attachment_id in await self._in_thread(self._files.record_ids):
            with suppress(NotFoundError):  # deleted while this went on
                record = await self._load_record(attachment_id)
                is_old = self._clock() - record.created_at >= self._orphan_age
                if is_old and record.id not in self._receiving and await self._collect(record):
                    collected.append(record.id)
        return collected

    async def keep_collecting(self, interval: float = 3600) -> None:
        """Collect orphans now and every `interval` seconds, until cancelled; errors are logged.

        The web layer does this for the stores it serves.
        """
        check_seconds("interval", interval)
        while True:
            try:
                collected = await self.collect_orphans()
                if collected:
                    logger.info("%d orphaned attachments deleted", len(collected))
            except Exception:
                logger.exception("orphaned attachments could not be collected; trying again later")
            await trio.sleep(interval)

    async def _collect(self, record: Record) -> bool:
        if self._context_for_owner is None:
            if await self._in_thread(self._files.size, record.id) is not None:
                return False
        else:
            context = self._owners_context(record.owner)
            if await self._is_in_use(record.id, context):
                return False
            # The metadata first: the record says, after a crash, that there is something to do.
            await self.metadata.delete_attachment(record.id, context)
        await self._in_thread(self._files.remove, record.id)
        return True

    async def _is_in_use(self, attachment_id: str, context: TContext) -> bool:
        try:
            attachment = await self.metadata.load_attachment(attachment_id, context)
            if attachment.thread_id is None:
                return False
            await self.metadata.load_thread(attachment.thread_id, context)
        except NotFoundError:
            return False
        return True

    # --- Records, owners, URLs -----------------------------------------------------------------

    def _new_record(self, name: str, declared: str, size: int | None, context: TContext) -> Record:
        name = _plain_name(name)
        mime_type = media_type(declared, name)
        if mime_type is None:
            raise InvalidRequestError("mime_type is not a media type such as image/png")
        if not is_accepted(mime_type, self._accept):
            raise UnsupportedTypeError(f"files of type {mime_type} are not accepted here")
        attachment_id = self.generate_attachment_id(mime_type, context)
        if not is_id(attachment_id):
            raise ValueError(
                f"generate_attachment_id returned {attachment_id!r}; here an id is up to 100 of"
                " a-z, 0-9, _ and -"
            )
        owner = owner_of(self._owner, context)
        return Record(attachment_id, owner, name, mime_type, size, self._clock())

    def _attachment(self, record: Record, *, with_descriptor: bool) -> Attachment:
        descriptor = self._upload_descriptor(record) if with_descriptor else None
        if record.mime_type in INLINE_IMAGES:
            return ImageAttachment(
                id=record.id,
                name=record.name,
                mime_type=record.mime_type,
                upload_descriptor=descriptor,
                preview_url=AnyUrl(self.view_url(record.id)),
            )
        return FileAttachment(
            id=record.id,
            name=record.name,
            mime_type=record.mime_type,
            upload_descriptor=descriptor,
        )

    def _upload_descriptor(self, record: Record) -> AttachmentUploadDescriptor:
        expires = str(int(self._clock() + self._upload_lifetime))
        signature = self._sign("upload", record.id, expires)
        return AttachmentUploadDescriptor(
            url=AnyUrl(self._url(record.id, expires=expires, signature=signature)),
            method=self._upload_method,
            headers={"Content-Type": record.mime_type},
        )

    def _url(self, attachment_id: str, **query: str) -> str:
        return f"{self.base_url}/{attachment_id}?{urlencode(query)}"

    def _check_signature(self, signature: str, *signed: str) -> None:
        if not hmac.compare_digest(signature.encode(), self._sign(*signed).encode()):
            raise ForbiddenError("this URL was not signed by this server")

    async def _load_record(self, attachment_id: str) -> Record:
        return await self._in_thread(self._files.load_record, attachment_id)

    def _check_owner(self, record: Record, context: TContext) -> None:
        if owner_of(self._owner, context) != record.owner:
            raise NotFoundError(f"there is no attachment {record.id}")

    async def _context_of(
        self, record: Record, caller: Callable[[], Awaitable[TContext]]
    ) -> TContext:
        """Return the context for the metadata, having checked that the caller is the owner."""
        if self._bearer_urls:
            return self._owners_context(record.owner)
        context = await caller()
        self._check_owner(record, context)
        return self._metadata_context(record, context)

    def _metadata_context(self, record: Record, context: TContext) -> TContext:
        # Use the collector's context now, so that a wrong one fails at the first upload and not at
        # the collection a day later.
        return context if self._context_for_owner is None else self._owners_context(record.owner)

    def _owners_context(self, owner: str) -> TContext:
        assert self._context_for_owner is not None
        context = self._context_for_owner(owner)
        if owner_of(self._owner, context) != owner:
            raise RuntimeError(
                f"owner(context_for_owner({owner!r})) is {self._owner(context)!r}: each must undo"
                " the other"
            )
        return context

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise TooLargeError(f"a file may have {self.max_bytes} bytes; this one has {size}")

    def _limit(self, record: Record) -> int:
        return self.max_bytes if record.size is None else record.size

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        # Never abandoned: when it raises Cancelled it hasn't begun, and else it has ended.
        return await trio.to_thread.run_sync(function, *args, limiter=self._threads)


class _ContentCheck:
    """Follows a file that is being received, and refuses it as soon as it must."""

    def __init__(self, record: Record, limit: int) -> None:
        self._record = record
        self._limit = limit
        self._size = 0
        self._head = bytearray()
        self._is_head_checked = False

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit:
            of = "declared" if self._record.size is not None else "allowed"
            raise TooLargeError(f"the file is larger than the {self._limit} bytes {of}")
        if not self._is_head_checked:
            self._head += chunk[:SNIFFED_BYTES]
            if len(self._head) >= SNIFFED_BYTES:
                self._check_head()

    def end(self) -> None:
        if not self._is_head_checked:
            self._check_head()
        if self._record.size is not None and self._size != self._record.size:
            raise InvalidRequestError(
                f"{self._record.size} bytes were declared, and {self._size} came"
            )

    def _check_head(self) -> None:
        self._is_head_checked = True
        if not agrees(self._record.mime_type, bytes(self._head[:SNIFFED_BYTES])):
            raise UnsupportedTypeError(f"the file's content is not {self._record.mime_type}")


class _Signer:
    """Signs lists of short texts, none of which has a newline in it."""

    def __init__(self, secret: str | bytes) -> None:
        self._key = secret.encode() if isinstance(secret, str) else secret
        if len(self._key) < MIN_SECRET_BYTES:
            raise ValueError(
                f"secret must have at least {MIN_SECRET_BYTES} bytes; make one with"
                " secrets.token_hex() and keep it"
            )

    def __call__(self, *parts: str) -> str:
        return hmac.new(self._key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


async def _unmetered(size: int) -> None:  # noqa: ASYNC124 (other meters wait)
    return


def _checked_base_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"base_url must be a whole URL (https://example.org/attachments), not {base_url!r}"
        )
    return base_url.rstrip("/")


def _plain_name(name: str) -> str:
    """Return the last part of a file's name without what could deceive a reader."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = (c if c.isprintable() else " " if c.isspace() else "" for c in last)
    return "".join(printable).strip()[-_MAX_NAME_LENGTH:] or "file"


def _not_arrived(record: Record) -> NotFoundError:
    return NotFoundError(f"attachment {record.id} has not been uploaded yet")
