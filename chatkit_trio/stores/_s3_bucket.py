"""The bucket of an `S3AttachmentStore`: what lies in it, under which keys, and who may write it.

For each attachment a record (`ID.json`); what a client has sent to its upload URL (`ID.new`); and,
once that has been looked at, the attachment's bytes (`ID.bin`). Clients can write `ID.new` only, as
often as they like until their URL expires. `ID.bin` is a copy of exactly what was looked at: who
can see it sees all of it, and no URL can change it any more. Beside them `store` says that what
has one of these names is ours, because the store found nothing here when it came; `ping` is a
question whether bytes are taken.

Everything here blocks and is for worker threads. One method is one step of the store: a thread is
never abandoned in the middle of one that writes. botocore signs, sends and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any
from urllib.parse import urlsplit

try:
    import botocore.session  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "S3AttachmentStore needs botocore: pip install 'chatkit-trio[s3]'", name=error.name
    ) from error

from chatkit_trio.errors import ChatKitError, ConflictError, StoreError

from ._attachment_record import Record, disposition, is_id, not_arrived, not_found
from ._media_types import INLINE_IMAGES, SNIFFED_BYTES, UNKNOWN

MAX_BYTES = 5 * 1024**3
"""What one request may put or copy."""

ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")

_RECORD, _BYTES, _UPLOAD = "json", "bin", "new"
_ADMITTING_TRIES = 3
_REQUEST_TRIES = 3
_MISSING = ("404", "NoSuchKey", "NotFound")
_CHANGED = ("412", "PreconditionFailed")


@dataclass(frozen=True, slots=True)
class Encryption:
    """With which of the service's keys objects are encrypted; None is the bucket's own setting."""

    algorithm: str | None = None
    kms_key_id: str | None = None

    def arguments(self) -> dict[str, str]:
        """Return them as botocore wants them."""
        given = {"ServerSideEncryption": self.algorithm, "SSEKMSKeyId": self.kms_key_id}
        return {name: value for name, value in given.items() if value is not None}

    def headers(self) -> dict[str, str]:
        """Return them as a client has to send them, for they are signed with its URL."""
        given = {
            "x-amz-server-side-encryption": self.algorithm,
            "x-amz-server-side-encryption-aws-kms-key-id": self.kms_key_id,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of an attachment, as a listing tells of it."""

    attachment_id: str
    kind: str
    stored_at: float
    """By the service's clock, in seconds since 1970."""

    @property
    def is_record(self) -> bool:
        return self.kind == _RECORD

    @property
    def is_bytes(self) -> bool:
        return self.kind == _BYTES

    @property
    def is_upload(self) -> bool:
        return self.kind == _UPLOAD


class Bucket:
    """The objects below one prefix of a bucket; methods may run in several threads at once."""

    def __init__(
        self,
        name: str,
        *,
        prefix: str,
        endpoint_url: str | None,
        region: str | None,
        path_style: bool | None,
        encryption: Encryption,
        timeout: float,
        session: Any,
    ) -> None:
        self.name = name
        self.origin: str | None = None
        self._prefix = prefix
        self._endpoint_url = endpoint_url
        self._region = region
        self._path_style = endpoint_url is not None if path_style is None else path_style
        self._encryption = encryption
        self._timeout = timeout
        self._session = session
        self._open_client: Any = None

    def open(self) -> None:
        """Find credentials and settings, and ask for the bucket."""
        with self._as_store_errors():
            session = self._session or botocore.session.Session()
            client = session.create_client(
                "s3",
                endpoint_url=self._endpoint_url,
                region_name=self._region,
                config=self._config(),
            )
            try:
                answer = client.head_bucket(Bucket=self.name)
                self._check_region(client, answer)
                self._mark(client)
                url = client.generate_presigned_url("get_object", Params=self._at("x", _BYTES))
            except BaseException:
                client.close()
                raise
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._open_client = client

    def close(self) -> None:
        client, self._open_client = self._open_client, None
        if client is not None:
            client.close()

    def check(self) -> None:
        """Raise `StoreError` unless bytes can be stored now."""
        with self._as_store_errors():
            self._put_note(self._client, "ping")

    # --- Records -------------------------------------------------------------------------------

    def save_record(self, record: Record) -> None:
        """Write the record of a new attachment. Raises `ConflictError` if its id is taken."""
        with self._as_store_errors():
            try:
                self._client.put_object(
                    **self._at(record.id, _RECORD),
                    Body=record.to_json(),
                    ContentType="application/json",
                    IfNoneMatch="*",
                    **self._encryption.arguments(),
                )
            except ClientError as error:
                if _code(error) not in _CHANGED:
                    raise
                # botocore may have sent it twice, because the first answer was lost.
                if self._record(record.id) != record:
                    raise ConflictError(f"there is an attachment {record.id} already") from None

    def load_record(self, attachment_id: str) -> Record:
        """Return the record of an attachment. Raises `NotFoundError`."""
        record = self._record(attachment_id)
        if record is None:
            raise not_found(attachment_id)
        return record

    def remove(self, attachment_id: str) -> None:
        """Remove all of an attachment; what isn't there is no error."""
        # The record goes when nothing else is left, so that a failure can be tried again. The
        # bytes go once more behind it: somebody may just have admitted them, and who admits looks
        # for the record afterwards.
        for kind in (_UPLOAD, _BYTES, _RECORD, _BYTES):
            self._delete(attachment_id, kind)

    def remove_stray(self, attachment_id: str) -> None:
        """Remove objects of an attachment that has no record, unless they may be others'."""
        if self._is_marked() and self._read(attachment_id, _RECORD) is None:
            self.remove(attachment_id)

    # --- Bytes ---------------------------------------------------------------------------------

    def read(self, attachment_id: str) -> bytes | None:
        """Return the bytes of an attachment, or None if there are none."""
        return self._read(attachment_id, _BYTES)

    def put(self, record: Record, file: IO[bytes]) -> None:
        """Make a file, which has been looked at, the bytes of an attachment.

        Raises `NotFoundError` if the attachment has been deleted meanwhile.
        """
        file.seek(0)
        with self._as_store_errors():
            self._client.put_object(
                **self._at(record.id, _BYTES), Body=file, **self._presentation(record)
            )
        self._check_still_there(record)

    def admit(self, record: Record, check: Callable[[int, bytes], None]) -> None:
        """Make what a client has uploaded the bytes of an attachment, unless it has them already.

        `check` gets the size and the first bytes, and raises a `ChatKitError` to refuse them; then
        the upload is deleted. Raises `NotFoundError` if nothing has come, or if the attachment has
        been deleted meanwhile, and `ConflictError` while the client uploads again and again.
        """
        for _ in range(_ADMITTING_TRIES):
            if self._head(record.id, _BYTES) is not None:
                return
            upload = self._head(record.id, _UPLOAD)
            if upload is None:
                if self._head(record.id, _BYTES) is None:  # another process may have been quicker
                    raise not_arrived(record)
                return
            with suppress(_ChangedError):
                self._admit_upload(record, upload, check)
                return
        raise ConflictError(f"attachment {record.id} is being uploaded")

    def _admit_upload(
        self, record: Record, upload: Any, check: Callable[[int, bytes], None]
    ) -> None:
        head = self._first_bytes(record, upload)
        try:
            check(upload["ContentLength"], head)
        except ChatKitError:
            self.remove_upload(record.id)
            raise
        self._copy(record, upload)
        self._check_still_there(record)
        self.remove_upload(record.id)

    def remove_upload(self, attachment_id: str) -> None:
        """Remove what a client has sent to its upload URL."""
        self._delete(attachment_id, _UPLOAD)

    def _first_bytes(self, record: Record, upload: Any) -> bytes:
        if not upload["ContentLength"]:
            return b""  # has no range to ask for
        with self._as_store_errors(), _noticing_changes():
            answer = self._client.get_object(
                **self._at(record.id, _UPLOAD),
                Range=f"bytes=0-{SNIFFED_BYTES - 1}",
                IfMatch=upload["ETag"],
            )
            head: bytes = answer["Body"].read()
            return head

    def _copy(self, record: Record, upload: Any) -> None:
        with self._as_store_errors(), _noticing_changes():
            self._client.copy_object(
                **self._at(record.id, _BYTES),
                CopySource=self._at(record.id, _UPLOAD),
                CopySourceIfMatch=upload["ETag"],
                MetadataDirective="REPLACE",
                **self._presentation(record),
            )

    def _check_still_there(self, record: Record) -> None:
        if self._head(record.id, _RECORD) is None:
            self._delete(record.id, _BYTES)
            raise not_found(record.id)

    # --- URLs ----------------------------------------------------------------------------------

    def upload_url(self, record: Record, lifetime: float) -> tuple[str, dict[str, str]]:
        """Return a URL to put an attachment's bytes to, and the headers to send with them.

        Type and length are signed: the service refuses a request with others.
        """
        arguments = {
            **self._at(record.id, _UPLOAD),
            "ContentType": record.mime_type,
            "ContentLength": record.size,
            **self._encryption.arguments(),
        }
        url = self._presigned("put_object", arguments, lifetime)
        return url, {"Content-Type": record.mime_type, **self._encryption.headers()}

    def download_url(self, record: Record, lifetime: float) -> str:
        """Return a URL to get an attachment's bytes from."""
        content_type, content_disposition = _shown_as(record)
        arguments = {
            **self._at(record.id, _BYTES),
            "ResponseContentType": content_type,
            "ResponseContentDisposition": content_disposition,
            "ResponseCacheControl": f"private, max-age={int(lifetime)}",
        }
        return self._presigned("get_object", arguments, lifetime)

    def _presigned(self, operation: str, arguments: dict[str, Any], lifetime: float) -> str:
        with self._as_store_errors():
            url: str = self._client.generate_presigned_url(
                operation, Params=arguments, ExpiresIn=int(lifetime)
            )
            return url

    # --- Listing -------------------------------------------------------------------------------

    def page(self, token: str | None) -> tuple[list[StoredObject], str | None]:
        """Return some objects in the order of their keys, and a token if there are more.

        The objects of one attachment follow one another.
        """
        more = {} if token is None else {"ContinuationToken": token}
        with self._as_store_errors():
            answer = self._client.list_objects_v2(
                Bucket=self.name, Prefix=self._prefix, Delimiter="/", **more
            )
        objects = [self._stored(each["Key"], each["LastModified"]) for each in _contents(answer)]
        next_token: str | None = answer.get("NextContinuationToken")
        return [each for each in objects if each is not None], next_token

    def _stored(self, key: str, stored_at: datetime) -> StoredObject | None:
        attachment_id, _, kind = key.removeprefix(self._prefix).rpartition(".")
        if kind not in (_RECORD, _BYTES, _UPLOAD) or not is_id(attachment_id):
            return None
        return StoredObject(attachment_id, kind, stored_at.timestamp())

    # --- Whose objects these are ---------------------------------------------------------------

    def _mark(self, client: Any) -> None:
        """Note that all that will lie behind the prefix is ours, if nothing does yet."""
        answer = client.list_objects_v2(Bucket=self.name, Prefix=self._prefix, MaxKeys=2)
        # Some tools make an object with the name of the prefix, as if it were a directory.
        if not any(each["Key"] != self._prefix for each in _contents(answer)):
            self._put_note(client, "store")

    def _is_marked(self) -> bool:
        with self._as_store_errors():
            return _head(self._client, self._note("store")) is not None

    def _put_note(self, client: Any, name: str) -> None:
        client.put_object(**self._note(name), Body=b"", **self._encryption.arguments())

    def _note(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.name, "Key": f"{self._prefix}{name}"}

    # --- Requests ------------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        if self._open_client is None:
            raise RuntimeError(
                f"the attachment store on bucket {self.name} isn't open: use it inside 'async with"
                " store:' (ChatKitServer does that for its own attachment_store)"
            )
        return self._open_client

    def _at(self, attachment_id: str, kind: str) -> dict[str, Any]:
        return {"Bucket": self.name, "Key": f"{self._prefix}{attachment_id}.{kind}"}

    def _presentation(self, record: Record) -> dict[str, str]:
        content_type, content_disposition = _shown_as(record)
        return {
            "ContentType": content_type,
            "ContentDisposition": content_disposition,
            **self._encryption.arguments(),
        }

    def _head(self, attachment_id: str, kind: str) -> Any | None:
        with self._as_store_errors():
            return _head(self._client, self._at(attachment_id, kind))

    def _record(self, attachment_id: str) -> Record | None:
        text = self._read(attachment_id, _RECORD)
        return None if text is None else Record.from_json(text)

    def _read(self, attachment_id: str, kind: str) -> bytes | None:
        with self._as_store_errors():
            try:
                answer = self._client.get_object(**self._at(attachment_id, kind))
                content: bytes = answer["Body"].read()
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return content

    def _delete(self, attachment_id: str, kind: str) -> None:
        with self._as_store_errors():
            self._client.delete_object(**self._at(attachment_id, kind))

    def _config(self) -> Any:
        return Config(
            signature_version="s3v4",
            # "auto" would sign URLs for a host that redirects to the bucket's region.
            s3={"addressing_style": "path" if self._path_style else "virtual"},
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            retries={"total_max_attempts": _REQUEST_TRIES, "mode": "standard"},
            # Other services don't know all the checksums that S3 does.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    def _check_region(self, client: Any, answer: Any) -> None:
        # botocore finds its way to another region by itself; a browser with a signed URL doesn't.
        region = answer.get("BucketRegion")
        if self._endpoint_url is None and region not in (None, client.meta.region_name):
            raise StoreError(
                f"the bucket {self.name} is in the region {region}, and not in"
                f" {client.meta.region_name}: give region={region!r}"
            )

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise StoreError(f"can't use the bucket {self.name}: {_reason(error)}") from error
        except BotoCoreError as error:
            raise StoreError(f"can't use the bucket {self.name}: {error}") from error


class _ChangedError(Exception):
    """What was looked at isn't there any more."""


@contextmanager
def _noticing_changes() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if _code(error) in (*_CHANGED, *_MISSING):
            raise _ChangedError from error
        raise


def _shown_as(record: Record) -> tuple[str, str]:
    """Return type and disposition for browsers: nothing but an image is ever shown in place."""
    is_inline = record.mime_type in INLINE_IMAGES
    # The bucket's own pages can't forbid scripts as ours do: what a browser could run has no type.
    content_type = record.mime_type if is_inline else UNKNOWN
    return content_type, disposition(record.name, is_inline=is_inline)


def _head(client: Any, at: dict[str, Any]) -> Any | None:
    try:
        return client.head_object(**at)
    except ClientError as error:
        if _code(error) in _MISSING:
            return None
        raise


def _contents(answer: Any) -> list[Any]:
    contents: list[Any] = answer.get("Contents", [])
    return contents


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: Any) -> str:
    match _code(error):
        case "404" | "NoSuchBucket":
            return "there is no such bucket"
        case "403" | "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" as code:
            return (
                f"{code}: these credentials may not; s3:ListBucket on the bucket, and"
                " s3:GetObject, s3:PutObject and s3:DeleteObject on its objects are needed"
            )
    return str(error)
