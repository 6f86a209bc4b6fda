"""The bytes of attachments on a local disk, with signed URLs to upload and to see them.

`DiskAttachmentStore` decides in which order things happen; `_signed_attachments` who may do what,
`_attachment_files` names and writes the files, `_attachment_record` says what a file has to be,
`_media_types` knows the formats, and `chatkit_trio.web.uploads` speaks HTTP.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Literal

from pydantic import AnyUrl

from chatkit_trio._settings import check_choice
from chatkit_trio.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    UnsupportedTypeError,
)
from chatkit_trio.store import Store, TContext
from chatkit_trio.types import Attachment, AttachmentUploadDescriptor

from ._attachment_files import AttachmentFiles
from ._attachment_record import Record, not_arrived
from ._media_types import DEFAULT_ACCEPT, INLINE_IMAGES
from ._records import one_owner
from ._signed_attachments import Count, Download, Meter, SignedAttachmentStore

__all__ = [
    "DEFAULT_ACCEPT",
    "DiskAttachmentStore",
    "Download",
    "ForbiddenError",
    "GoneError",
    "UnsupportedTypeError",
]


class DiskAttachmentStore(SignedAttachmentStore[TContext]):
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
        check_choice("upload_method", upload_method, ("PUT", "POST"))
        self._files = AttachmentFiles(Path(directory))
        self._upload_method: Literal["PUT", "POST"] = upload_method
        self._receiving: set[str] = set()
        super().__init__(
            self._files,
            metadata=metadata,
            base_url=base_url,
            secret=secret,
            max_bytes=max_bytes,
            accept=accept,
            owner=owner,
            upload_lifetime=upload_lifetime,
            orphan_age=orphan_age,
            context_for_owner=context_for_owner,
            bearer_urls=bearer_urls,
            clock=clock,
        )

    # --- Reading -------------------------------------------------------------------------------

    async def read_attachment(self, attachment_id: str, context: TContext) -> bytes:
        """Return all bytes of an attachment, to be shown to a model.

        Raises `NotFoundError` for what isn't there, hasn't arrived, or is another owner's.
        """
        record = await self._load_record(attachment_id)
        self._check_owner(record, context)
        try:
            return await self._reading(self._files.bytes_path(record.id).read_bytes)
        except FileNotFoundError:
            raise not_arrived(record) from None

    async def open_download(
        self, attachment_id: str, signature: str, caller: Callable[[], Awaitable[TContext]]
    ) -> Download:
        """Return what a `view_url` is about.

        `caller` gives the request's context; it isn't asked for bearer URLs. Raises
        `ForbiddenError` and `NotFoundError`.
        """
        record = await self._record_to_view(attachment_id, signature, caller)
        size = await self._size(record)
        path = self._files.bytes_path(record.id)
        is_inline = record.mime_type in INLINE_IMAGES
        return Download(path, record.name, record.mime_type, size, is_inline)

    async def _check_bytes(self, record: Record) -> None:
        await self._size(record)

    async def _size(self, record: Record) -> int:
        size = await self._reading(self._files.size, record.id)
        if size is None:
            raise not_arrived(record)
        return size

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
        """Take the bytes of a created attachment, and return it without its upload descriptor.

        `expires` and `signature` are of the upload URL; `caller` gives the request's context, and
        isn't asked for bearer URLs. `meter` is as for `receive_direct`. An upload that fails, is
        refused or is cancelled leaves nothing, and may be tried again until the URL expires. What
        the metadata store has isn't changed: a message that takes the attachment does that.

        Raises `ForbiddenError`, `GoneError` (expired), `NotFoundError` (deleted, or another
        owner's), `ConflictError` (there already, or being uploaded), `TooLargeError`,
        `UnsupportedTypeError`, `InvalidRequestError` (fewer bytes than declared), `StoreError`.
        """
        self._check_signature(signature, "upload", attachment_id, expires)
        if self._clock() >= float(expires):
            raise GoneError("this upload URL has expired; ask for another with attachments.create")
        record = await self._load_record(attachment_id)
        context = await self._context_of(record, caller)
        if await self._reading(self._files.size, record.id) is not None:
            raise ConflictError(f"attachment {record.id} has been uploaded already")
        # Nothing may be written or taken back once the bytes are there: a message may have them.
        attachment = await self.metadata.load_attachment(record.id, context)
        await self._receive(record, chunks, context, meter)
        return attachment.model_copy(update={"upload_descriptor": None})

    async def _receive_metered(
        self, record: Record, chunks: AsyncIterator[bytes], count: Count
    ) -> None:
        if record.id in self._receiving:
            raise ConflictError(f"attachment {record.id} is being uploaded")
        self._receiving.add(record.id)
        try:
            part = await self._in_thread(self._files.begin)
            try:
                await self._write_all(part.write, record, chunks, count)
                await self._in_thread(self._files.publish, part, record.id)
            except BaseException:
                # Cancelled or not, half a file must not stay. One thread hop, bounded.
                await self._clean_up(part.discard)  # noqa: ASYNC102  (it shields itself)
                raise
        finally:
            self._receiving.discard(record.id)

    async def _upload_descriptor(  # noqa: ASYNC124  (a bucket's URL needs a thread)
        self, record: Record
    ) -> AttachmentUploadDescriptor:
        expires = str(int(self._clock() + self._upload_lifetime))
        signature = self._sign("upload", record.id, expires)
        return AttachmentUploadDescriptor(
            url=AnyUrl(self._url(record.id, expires=expires, signature=signature)),
            method=self._upload_method,
            headers={"Content-Type": record.mime_type},
        )

    # --- Collecting ----------------------------------------------------------------------------

    async def collect_orphans(self) -> list[str]:
        """Delete what nobody needs any more, and return the ids.

        That is, `orphan_age` after its creation, an attachment that was never uploaded, wasn't
        sent in a message, or was sent in a thread that has been deleted since. One whose bytes are
        there, and no metadata, goes `orphan_age` after it was first missed. Without
        `context_for_owner` only the first kind can be told, and its metadata stays. Several
        processes may collect at once. Raises `StoreError`; cancelled, it stops between two files.
        """
        return [
            attachment_id
            for attachment_id in await self._reading(self._files.record_ids)
            if await self._collect_each(attachment_id, self._collect_old(attachment_id))
        ]

    async def _collect_old(self, attachment_id: str) -> bool:
        record = await self._load_record(attachment_id)
        if not self._is_old(record.created_at) or record.id in self._receiving:
            return False
        has_arrived = await self._reading(self._files.size, record.id) is not None
        return await self._collect(record, may_be_used=has_arrived)
