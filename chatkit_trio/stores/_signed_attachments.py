"""What all attachment stores of this package share: owners, signed URLs, limits and orphans.

Where records and bytes are kept is a `Backend`'s affair: a directory for `DiskAttachmentStore`, a
bucket for `S3AttachmentStore`. `chatkit_trio.web.uploads` serves any of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias
from urllib.parse import urlencode, urlsplit

import trio
from pydantic import AnyUrl
from typing_extensions import TypeVar, TypeVarTuple

from chatkit_trio._settings import check_count, check_seconds
from chatkit_trio.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    StoreError,
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

from ._attachment_record import ContentCheck, Record, disposition, is_id, not_found, plain_name
from ._counted_entry import CountedEntry
from ._media_types import DEFAULT_ACCEPT, INLINE_IMAGES, is_accepted, media_type
from ._records import one_owner, owner_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MIN_SECRET_BYTES = 16
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

    @property
    def disposition(self) -> str:
        """The `Content-Disposition` header."""
        return disposition(self.name, is_inline=self.is_inline)


@dataclass(frozen=True, slots=True)
class Redirect:
    """An attachment whose bytes are elsewhere: a URL that may be used for `max_age` seconds."""

    url: str
    max_age: float


class Backend(Protocol):
    """Where records and bytes are. Its methods block, and may run in several threads at once."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def check(self) -> None: ...
    def save_record(self, record: Record) -> None: ...
    def load_record(self, attachment_id: str) -> Record: ...
    def remove(self, attachment_id: str) -> None: ...


class SignedAttachmentStore(AttachmentStore[TContext]):
    """An attachment store whose URLs carry the server's signature.

    The arguments are described by the stores that derive from it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        metadata: Store[TContext],
        base_url: str,
        secret: str | bytes,
        max_bytes: int = 20 * 1024 * 1024,
        accept: Collection[str] = DEFAULT_ACCEPT,
        owner: Callable[[TContext], str] = one_owner,
        upload_lifetime: float = 600,
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
        check_seconds("upload_lifetime", upload_lifetime)
        check_seconds("orphan_age", orphan_age)
        if orphan_age < upload_lifetime:
            raise ValueError("orphan_age must not be shorter than upload_lifetime")
        self.metadata = metadata
        self.base_url = _checked_base_url(base_url)
        self.max_bytes = max_bytes
        self.accept = tuple(accept)
        self._owner = owner
        self._upload_lifetime = upload_lifetime
        self._orphan_age = orphan_age
        self._missed: dict[str, float] = {}
        """When bytes were first found to have no metadata, by the id of the attachment."""
        self._context_for_owner = context_for_owner
        self._bearer_urls = bearer_urls
        self._clock = clock
        self._sign = _Signer(secret)
        self._backend = backend
        # Its own, for user code may take all threads of Trio's default limiter.
        self._threads = trio.CapacityLimiter(_THREADS)
        self._pinging = trio.CapacityLimiter(1)
        self._entry = CountedEntry(
            partial(self._in_thread, backend.open),
            partial(self._in_thread, backend.close),
            close_timeout=_CLEANUP_TIMEOUT,
        )

    @property
    def upload_origins(self) -> tuple[str, ...]:
        """The other origins to which pages send files, and from which they get them."""
        return ()

    # --- Lifecycle -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open what the bytes are kept in. Raises `StoreError`."""
        await self._entry.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it when the last who entered leaves, even if cancelled."""
        await self._entry.leave()  # noqa: ASYNC102  (it shields itself)

    # --- The contract of AttachmentStore -------------------------------------------------------

    async def create_attachment(
        self, input: AttachmentCreateParams, context: TContext
    ) -> Attachment:
        """Return a new attachment with a signed URL for its bytes.

        Raises `TooLargeError`, `UnsupportedTypeError` or `InvalidRequestError` for what would be
        refused when it comes.
        """
        self._check_declared_size(input.size)
        record = self._new_record(input.name, input.mime_type, input.size, context)
        await self._in_thread(self._backend.save_record, record)
        return self._attachment(record, await self._upload_descriptor(record))

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete the bytes of an attachment, and end the upload that brings them.

        One that isn't there, or is another owner's, is left as it is; that is not an error.
        """
        with suppress(NotFoundError):
            record = await self._load_record(attachment_id)
            if record.owner == owner_of(self._owner, context):
                await self._in_thread(self._backend.remove, record.id)

    async def check_attachment(self, attachment: Attachment, context: TContext) -> Attachment:
        """Return an attachment whose bytes are there, without its upload descriptor.

        Raises `NotFoundError` if they haven't arrived, or if it is another owner's. In a bucket,
        what is too large or small, or isn't of its type, is deleted, and `TooLargeError`,
        `InvalidRequestError` or `UnsupportedTypeError` raised; the upload URL can then be used
        again until it expires. One without a descriptor has been looked at already, and is returned
        as it is.
        """
        if attachment.upload_descriptor is None:
            return attachment
        record = await self._load_record(attachment.id)
        self._check_owner(record, context)
        self._metadata_context(record, context)
        await self._check_bytes(record)
        return attachment.model_copy(update={"upload_descriptor": None})

    async def attachment_url(self, attachment_id: str, context: TContext) -> str:
        """Return the `view_url` of an attachment whose bytes are there.

        Raises `NotFoundError` for what isn't there, hasn't arrived, or is another owner's. A
        checkpoint; what is begun may go on in its thread when cancelled, and changes nothing seen.
        """
        record = await self._load_record(attachment_id)
        self._check_owner(record, context)
        await self._check_bytes(record)
        return self.view_url(record.id)

    async def ping(self) -> None:
        """Raise `StoreError` unless bytes can be stored now.

        It stores a few, where they are no attachment. Cancelled, it may go on in its thread.
        """
        await trio.to_thread.run_sync(
            self._backend.check, limiter=self._pinging, abandon_on_cancel=True
        )

    # --- What browsers come for ----------------------------------------------------------------

    def view_url(self, attachment_id: str) -> str:
        """Return the URL of an attachment's bytes, the same each time."""
        return self._url(attachment_id, signature=self._sign("view", attachment_id))

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

        `caller` gives the request's context. `meter` is entered with the owner's context for as
        long as bytes arrive, and what it gives is called with their number before they are
        written. What fails, is refused or is cancelled leaves nothing.

        Raises `TooLargeError`, `UnsupportedTypeError`, `InvalidRequestError`, `StoreError`.
        """
        caller_context = await caller()
        record = self._new_record(name, mime_type, None, caller_context)
        context = self._metadata_context(record, caller_context)
        attachment = self._attachment(record, None)
        try:
            await self._in_thread(self._backend.save_record, record)
            await self._receive(record, chunks, context, meter)
            await self.metadata.save_attachment(attachment, context)
        except BaseException:
            await self._clean_up(self._backend.remove, record.id)  # noqa: ASYNC102  (it shields itself)
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

    async def _write_all(
        self,
        write: Callable[[bytes], object],
        record: Record,
        chunks: AsyncIterator[bytes],
        count: Count,
    ) -> None:
        """Write what comes, in worker threads, and refuse it as soon as it must be."""
        check = ContentCheck(record, self.max_bytes)
        waiting = bytearray()
        async for chunk in chunks:
            check.feed(chunk)
            await count(len(chunk))
            waiting += chunk
            if len(waiting) >= _WRITTEN_AT_ONCE:
                await self._in_thread(write, bytes(waiting))
                waiting.clear()
        check.end()
        await self._in_thread(write, bytes(waiting))

    @abstractmethod
    async def open_download(
        self, attachment_id: str, signature: str, caller: Callable[[], Awaitable[TContext]]
    ) -> Download | Redirect:
        """Return what a `view_url` is about, if the caller may see it."""

    # --- Collecting ----------------------------------------------------------------------------

    @abstractmethod
    async def collect_orphans(self) -> list[str]:
        """Delete what nobody needs any more, and return the ids."""

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

    async def _collect(self, record: Record, *, may_be_used: bool) -> bool:
        """Delete an attachment that is old enough, unless it is used; say whether it was."""
        if self._context_for_owner is None:
            if may_be_used:
                return False
        else:
            context = self._owners_context(record.owner)
            is_in_use = await self._is_in_use(record.id, context)
            if is_in_use or (is_in_use is None and may_be_used and not self._is_given_up(record)):
                return False
            # The metadata first: the record says, after a crash, that there is something to do.
            await self.metadata.delete_attachment(record.id, context)
        await self._in_thread(self._backend.remove, record.id)
        self._missed.pop(record.id, None)
        return True

    def _is_old(self, created_at: float) -> bool:
        return self._clock() - created_at >= self._orphan_age

    async def _is_in_use(self, attachment_id: str, context: TContext) -> bool | None:
        """Say whether a thread has an attachment; None if there is no metadata that could say."""
        try:
            attachment = await self.metadata.load_attachment(attachment_id, context)
        except NotFoundError:
            return None
        self._missed.pop(attachment_id, None)
        try:
            if attachment.thread_id is None:
                return False
            await self.metadata.load_thread(attachment.thread_id, context)
        except NotFoundError:
            return False
        return True

    def _is_given_up(self, record: Record) -> bool:
        """Say whether bytes have been without metadata for long.

        The store of the metadata may be another one by mistake, or still be filled.
        """
        if not self._missed:
            logger.warning(
                "attachment %s has bytes, and no metadata in this store: such files are deleted"
                " %d s from now. Is it the store that they belong to?",
                record.id,
                self._orphan_age,
            )
        first = self._missed.setdefault(record.id, self._clock())
        return self._clock() - first >= self._orphan_age

    async def _collect_each(self, record_id: str, collecting: Awaitable[bool]) -> bool:
        """Return what collecting an attachment returns; whatever fails is logged.

        One that can't be collected mustn't keep the others. Raises `StoreError`.
        """
        try:
            return await collecting
        except NotFoundError:
            return False  # deleted while this went on
        except StoreError:
            raise
        except Exception:
            logger.exception("attachment %s can't be collected", record_id)
            return False

    # --- What a store has to say ---------------------------------------------------------------

    @abstractmethod
    async def _upload_descriptor(self, record: Record) -> AttachmentUploadDescriptor: ...

    @abstractmethod
    async def _check_bytes(self, record: Record) -> None:
        """Raise `NotFoundError` unless the bytes have arrived and may be seen."""

    @abstractmethod
    async def _receive_metered(
        self, record: Record, chunks: AsyncIterator[bytes], count: Count
    ) -> None:
        """Take bytes that come through this server, all of them or none."""

    # --- Records, owners, URLs -----------------------------------------------------------------

    def _new_record(self, name: str, declared: str, size: int | None, context: TContext) -> Record:
        name = plain_name(name)
        mime_type = self._accepted_type(declared, name)
        attachment_id = self.generate_attachment_id(mime_type, context)
        if not is_id(attachment_id):
            raise ValueError(
                f"generate_attachment_id returned {attachment_id!r}; here an id is up to 100 of"
                " a-z, 0-9, _ and -"
            )
        owner = owner_of(self._owner, context)
        return Record(attachment_id, owner, name, mime_type, size, self._clock())

    def _check_declared_size(self, size: int) -> None:
        if size < 0:
            raise InvalidRequestError(f"size must not be negative, and is {size}")
        if size > self.max_bytes:
            raise TooLargeError(f"a file may have {self.max_bytes} bytes; this one has {size}")

    def _accepted_type(self, declared: str, name: str) -> str:
        mime_type = media_type(declared, name)
        if mime_type is None:
            raise InvalidRequestError("mime_type is not a media type such as image/png")
        if not is_accepted(mime_type, self.accept):
            raise UnsupportedTypeError(f"files of type {mime_type} are not accepted here")
        return mime_type

    def _attachment(
        self, record: Record, descriptor: AttachmentUploadDescriptor | None
    ) -> Attachment:
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

    def _url(self, attachment_id: str, **query: str) -> str:
        return f"{self.base_url}/{attachment_id}?{urlencode(query)}"

    def _check_signature(self, signature: str, *signed: str) -> None:
        if not hmac.compare_digest(signature.encode(), self._sign(*signed).encode()):
            raise ForbiddenError("this URL was not signed by this server")

    async def _load_record(self, attachment_id: str) -> Record:
        if not is_id(attachment_id):
            raise not_found(attachment_id)
        return await self._reading(self._backend.load_record, attachment_id)

    async def _record_to_view(
        self, attachment_id: str, signature: str, caller: Callable[[], Awaitable[TContext]]
    ) -> Record:
        """Return the record that a `view_url` is about, if its caller may see it."""
        self._check_signature(signature, "view", attachment_id)
        record = await self._load_record(attachment_id)
        await self._context_of(record, caller)
        return record

    def _check_owner(self, record: Record, context: TContext) -> None:
        if owner_of(self._owner, context) != record.owner:
            raise not_found(record.id)

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

    # --- Threads -------------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        # Never abandoned: when it raises Cancelled it hasn't begun, and else it has ended.
        return await trio.to_thread.run_sync(function, *args, limiter=self._threads)

    async def _reading(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        # Left to itself when cancelled: it changes nothing, and a network may be slow.
        return await trio.to_thread.run_sync(
            function, *args, limiter=self._threads, abandon_on_cancel=True
        )

    async def _clean_up(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Undo what was begun, for a caller that is about to raise; a failure is logged."""
        with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
            try:
                await self._in_thread(function, *args)
            except Exception:
                # The caller's own error is the one to tell; what stays here becomes an orphan.
                logger.exception("what is left of an upload could not be deleted")


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


async def _unmetered(size: int) -> None:  # noqa: ASYNC124  (a meter may have to wait)
    return


def _checked_base_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"base_url must be a whole URL (https://example.org/attachments), not {base_url!r}"
        )
    return base_url.rstrip("/")
