"""The bytes of attachments in a bucket of S3, or of a service that speaks its protocol.

`S3AttachmentStore` decides in which order things happen; `_signed_attachments` who may do what,
`_s3_bucket` names and moves the objects, `_attachment_record` says what a file has to be, and
`chatkit_trio.web.uploads` speaks HTTP. It needs the extra `s3` (botocore).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from itertools import groupby
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Literal

import trio
from pydantic import AnyUrl

from chatkit_trio._settings import check_choice, check_count, check_seconds
from chatkit_trio.errors import ChatKitError, StoreError
from chatkit_trio.store import Store, TContext
from chatkit_trio.types import AttachmentCreateParams, AttachmentUploadDescriptor

from ._attachment_record import Record, check_head, check_size, not_arrived, plain_name
from ._media_types import DEFAULT_ACCEPT
from ._records import one_owner
from ._s3_bucket import ENCRYPTIONS, MAX_BYTES, Bucket, Encryption, StoredObject
from ._signed_attachments import Count, Redirect, SignedAttachmentStore

__all__ = ["DEFAULT_ACCEPT", "S3AttachmentStore"]

_MAX_LIFETIME = 7 * 24 * 3600  # seconds; the service takes no URL that lasts longer
_PING_LASTS = 5.0  # seconds
_HELD_IN_MEMORY = 1024 * 1024  # bytes of a direct upload; the rest of it is in a temporary file


class S3AttachmentStore(SignedAttachmentStore[TContext]):
    """Keep attachments in a bucket, for servers on many machines.

    Clients upload straight to the bucket, with a signed URL that is good for one type and one
    length. What has come is looked at before a message may name it: size and first bytes have to
    be as declared, or it is refused and deleted. `view_url`, and an image's `preview_url`, lead to
    this server, last for ever, and are answered with a redirect to a fresh URL of the bucket.

    `prefix` is what all keys begin with. `endpoint_url` is for other services than Amazon's, and
    `path_style` says whether their URLs have the bucket in the path; by default they do. `region`,
    credentials and the rest come from the usual environment and files, or from a `session` of
    botocore's. `encryption` and `kms_key_id` are sent with all that is stored.

    `download_lifetime` is how many seconds a URL of the bucket can be used. `timeout` bounds, in
    seconds, the making of a connection and each wait for bytes; a request is tried three times.
    The other arguments are `DiskAttachmentStore`'s.

        files = S3AttachmentStore(
            "my-bucket", metadata=store, base_url="https://example.org/attachments", secret=key
        )
        server = MyServer(store, files)

    `ChatKitServer` enters it: that finds the credentials, and fails unless the bucket can be used.
    Methods that wait are checkpoints. Requests are made in worker threads; one that writes runs to
    its end when cancelled. Any of them raises `StoreError` if the service can't be used.
    """

    def __init__(
        self,
        bucket: str,
        *,
        metadata: Store[TContext],
        base_url: str,
        secret: str | bytes,
        prefix: str = "attachments/",
        endpoint_url: str | None = None,
        region: str | None = None,
        path_style: bool | None = None,
        encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None,
        kms_key_id: str | None = None,
        session: Any = None,
        timeout: float = 10,
        download_lifetime: float = 300,
        max_bytes: int = 20 * 1024 * 1024,
        accept: Collection[str] = DEFAULT_ACCEPT,
        owner: Callable[[TContext], str] = one_owner,
        upload_lifetime: float = 600,
        orphan_age: float = 24 * 3600,
        context_for_owner: Callable[[str], TContext] | None = None,
        bearer_urls: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if encryption is not None:
            check_choice("encryption", encryption, ENCRYPTIONS)
        check_seconds("timeout", timeout)
        check_count("max_bytes", max_bytes)
        if max_bytes > MAX_BYTES:
            raise ValueError(f"max_bytes must be at most {MAX_BYTES}: more takes several requests")
        for name, lifetime in {
            "upload_lifetime": upload_lifetime,
            "download_lifetime": download_lifetime,
        }.items():
            check_seconds(name, lifetime)
            if not 1 <= lifetime <= _MAX_LIFETIME:
                raise ValueError(f"{name} must be from 1 to {_MAX_LIFETIME} seconds")
        self._bucket = Bucket(
            bucket,
            prefix=prefix,
            endpoint_url=endpoint_url,
            region=region,
            path_style=path_style,
            encryption=Encryption(encryption, kms_key_id),
            timeout=timeout,
            session=session,
        )
        self._download_lifetime = download_lifetime
        self._well_until = 0.0
        super().__init__(
            self._bucket,
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

    @property
    def upload_origins(self) -> tuple[str, ...]:
        """The bucket's origin, which a page's Content-Security-Policy has to allow; open only."""
        return () if self._bucket.origin is None else (self._bucket.origin,)

    async def ping(self) -> None:
        """Raise `StoreError` unless the bucket takes bytes now.

        It puts a few at the key `ping` behind the prefix. What it has found good counts for 5
        seconds, because each request costs money and anybody may ask. Cancelled, it may go on in
        its thread.
        """
        now = time.monotonic()
        if now < self._well_until:
            await trio.lowlevel.checkpoint()
            return
        await super().ping()
        self._well_until = now + _PING_LASTS

    # --- Uploads past this server --------------------------------------------------------------

    def bytes_past_server(self, input: AttachmentCreateParams) -> int:
        """Return the declared size: the signed URL takes that many bytes. 0 if it is refused."""
        try:
            self._check_declared_size(input.size)
            self._accepted_type(input.mime_type, plain_name(input.name))
        except ChatKitError:
            return 0
        return input.size

    async def _check_bytes(self, record: Record) -> None:
        def check(size: int, head: bytes) -> None:
            check_size(record, size)
            check_head(record, head)

        await self._in_thread(self._bucket.admit, record, check)

    async def _upload_descriptor(self, record: Record) -> AttachmentUploadDescriptor:
        url, headers = await self._reading(self._bucket.upload_url, record, self._upload_lifetime)
        return AttachmentUploadDescriptor(url=AnyUrl(url), method="PUT", headers=headers)

    # --- Uploads through this server -----------------------------------------------------------

    async def _receive_metered(
        self, record: Record, chunks: AsyncIterator[bytes], count: Count
    ) -> None:
        # Nothing goes to the bucket before all of it has come and was looked at.
        with SpooledTemporaryFile(_HELD_IN_MEMORY) as spool:
            await self._write_all(_Spool(spool).write, record, chunks, count)
            await self._in_thread(self._bucket.put, record, spool)

    # --- Reading -------------------------------------------------------------------------------

    async def read_attachment(self, attachment_id: str, context: TContext) -> bytes:
        """Return all bytes of an attachment, to be shown to a model.

        Raises `NotFoundError` for what isn't there, hasn't arrived, or is another owner's, and as
        `check_attachment` for what nobody has looked at yet.
        """
        record = await self._load_record(attachment_id)
        self._check_owner(record, context)
        content = await self._reading(self._bucket.read, record.id)
        if content is None:
            await self._check_bytes(record)
            content = await self._reading(self._bucket.read, record.id)
        if content is None:
            raise not_arrived(record)
        return content

    async def presigned_url(self, attachment_id: str, context: TContext) -> str:
        """Return a URL of the bucket for an attachment, for a model that fetches files itself.

        It lasts for `download_lifetime`. Raises as `read_attachment`.
        """
        record = await self._load_record(attachment_id)
        self._check_owner(record, context)
        return await self._download_url(record)

    async def open_download(
        self, attachment_id: str, signature: str, caller: Callable[[], Awaitable[TContext]]
    ) -> Redirect:
        """Return where the bytes are that a `view_url` is about.

        `caller` gives the request's context; it isn't asked for bearer URLs. Raises
        `ForbiddenError`, and as `read_attachment`.
        """
        record = await self._record_to_view(attachment_id, signature, caller)
        # Half of the URL's time is left to whoever has the redirect in a cache.
        return Redirect(await self._download_url(record), max_age=self._download_lifetime / 2)

    async def _download_url(self, record: Record) -> str:
        await self._check_bytes(record)
        return await self._reading(self._bucket.download_url, record, self._download_lifetime)

    # --- Collecting ----------------------------------------------------------------------------

    async def collect_orphans(self) -> list[str]:
        """Delete what nobody needs any more, and return the ids.

        That is, `orphan_age` after its creation, an attachment that was never uploaded, wasn't
        sent in a message, or was sent in a thread that has been deleted since. One whose bytes are
        there, and no metadata, goes `orphan_age` after it was first missed. Without
        `context_for_owner` only what was never sent or seen can be told, and its metadata stays.
        What a crash has left without a record goes too, and what was uploaded again. Where
        something lay behind the prefix before the store came, only what has a record goes.

        It lists all objects, and asks for the record of each attachment that is old enough. Several
        processes may collect at once. Cancelled, it stops between two attachments.
        """
        collected: list[str] = []
        objects: list[StoredObject] = []
        token: str | None = None
        while True:
            page, token = await self._reading(self._bucket.page, token)
            by_id = groupby([*objects, *page], attrgetter("attachment_id"))
            groups = [list(group) for _, group in by_id]
            # The last attachment's other objects may be on the next page.
            objects = groups.pop() if token is not None and groups else []
            for group in groups:
                attachment_id = group[0].attachment_id
                if await self._collect_each(attachment_id, self._collect_from(group)):
                    collected.append(attachment_id)
            if token is None:
                return collected

    async def keep_collecting(self, interval: float = 24 * 3600) -> None:
        """Collect orphans now and every `interval` seconds, until cancelled; errors are logged.

        The web layer does this for the stores it serves. Each request costs money here, so that it
        is once a day by default.
        """
        await super().keep_collecting(interval)

    async def _collect_from(self, objects: list[StoredObject]) -> bool:
        attachment_id = objects[0].attachment_id
        old = [each for each in objects if self._is_old(each.stored_at)]
        has_arrived = any(each.is_bytes for each in objects)
        if any(each.is_record for each in old):
            record = await self._load_record(attachment_id)
            if await self._collect(record, may_be_used=has_arrived):
                return True
            if has_arrived and any(each.is_upload for each in old):
                await self._in_thread(self._bucket.remove_upload, attachment_id)
        elif old == objects:
            await self._in_thread(self._bucket.remove_stray, attachment_id)
        return False


class _Spool:
    """A temporary file that is written to in worker threads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            raise StoreError(f"can't write an upload to a temporary file: {error}") from error
