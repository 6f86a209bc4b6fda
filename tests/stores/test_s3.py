"""Attachments in a bucket, against a service in a process of its own."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import trio

from chatkit_trio.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    StoreError,
    TooLargeError,
    UnsupportedTypeError,
)
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    Attachment,
    AttachmentCreateParams,
    ImageAttachment,
    ThreadMetadata,
)

from .s3_service import SECRET_KEY, Service, make_session, service
from .test_attachments import (
    ANN,
    BOB,
    DAY,
    HTML,
    PNG,
    SECRET,
    FailingStore,
    Pieces,
    Quota,
    User,
    caller,
    cancelled_at,
    name_of,
    nobody,
    query_of,
)

from chatkit_trio.stores.s3 import S3AttachmentStore  # isort: skip  (s3_service skips without it)

__all__ = ["service"]


class Clock:
    """The machine's, and what tests add to it: the service has none that could be set."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Files(S3AttachmentStore[User]):
    """A store that knows its service, so that tests can look at what is really there."""

    def __init__(self, service: Service, bucket: str, metadata: Any, **options: Any) -> None:
        self.service = service
        self.bucket = bucket
        given = {
            "endpoint_url": service.url,
            "region": "us-east-1",
            "session": make_session(),
            "prefix": "files/",
            "secret": SECRET,
            "owner": name_of,
            "accept": ["image/*", "text/*"],
            **options,
        }
        super().__init__(
            bucket, metadata=metadata, base_url="https://example.org/attachments", **given
        )

    def stored(self) -> list[str]:
        """The objects of attachments, without what the store has noted for itself."""
        keys = [key.removeprefix("files/") for key in self.service.keys(self.bucket)]
        return [key for key in keys if key not in ("store", "ping")]


@asynccontextmanager
async def opened(service: Service, **options: Any) -> AsyncIterator[Files]:
    metadata = options.pop("metadata", None) or MemoryStore[User](owner=name_of)
    async with metadata, Files(service, service.make_bucket(), metadata, **options) as files:
        yield files


async def create(
    files: Files,
    name: str = "cat.png",
    mime_type: str = "image/png",
    size: int = len(PNG),
    user: User = ANN,
) -> Attachment:
    """Do what the server does for `attachments.create`."""
    params = AttachmentCreateParams(name=name, size=size, mime_type=mime_type)
    attachment = await files.create_attachment(params, user)
    await files.metadata.save_attachment(attachment, user)
    return attachment


def ask(
    method: str, url: object, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Do what a browser does with a URL of the bucket."""
    parts = urlsplit(str(url))
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body, headers or {})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


async def upload(attachment: Attachment, content: bytes = PNG) -> None:
    """Do what a page does with an upload descriptor."""
    descriptor = attachment.upload_descriptor
    assert descriptor is not None
    status, _, _ = await trio.to_thread.run_sync(
        ask, descriptor.method, descriptor.url, content, descriptor.headers
    )
    assert status == 200


async def send(files: Files, attachment: Attachment, user: User = ANN) -> Attachment:
    """Do what the server does when a message names an attachment."""
    attachment = await files.metadata.load_attachment(attachment.id, user)
    attachment = await files.check_attachment(attachment, user)
    thread = ThreadMetadata(id=f"thr_{attachment.id}", created_at=datetime.now(UTC))
    await files.metadata.save_thread(thread, user)
    sent = attachment.model_copy(update={"thread_id": thread.id})
    await files.metadata.save_attachment(sent, user)
    return sent


def signature_of(url: object) -> str:
    return query_of(url)["signature"]


# --- Two phases


async def test_a_file_put_into_the_bucket_is_admitted_when_a_message_names_it(
    service: Service,
) -> None:
    async with opened(service) as files:
        created = await create(files)
        assert files.stored() == [f"{created.id}.json"]
        await upload(created)
        assert files.stored() == [f"{created.id}.json", f"{created.id}.new"]
        sent = await send(files, created)
        assert files.stored() == [f"{created.id}.bin", f"{created.id}.json"]
        assert await files.read_attachment(created.id, ANN) == PNG
        assert sent == created.model_copy(
            update={"upload_descriptor": None, "thread_id": sent.thread_id}
        )


async def test_an_upload_url_is_signed_for_one_type_one_length_and_a_time(
    service: Service,
) -> None:
    async with opened(service, upload_lifetime=60) as files:
        created = await create(files)
        assert created.upload_descriptor is not None
        query = query_of(created.upload_descriptor.url)
        assert query["X-Amz-SignedHeaders"] == "content-length;content-type;host"
        assert query["X-Amz-Expires"] == "60"
        assert created.upload_descriptor.headers == {"Content-Type": "image/png"}
        assert created.upload_descriptor.method == "PUT"


def would_be_taken(method: str, url: object, headers: dict[str, str]) -> bool:
    """Check a signed URL as a service does (Signature Version 4); moto doesn't."""
    parts = urlsplit(str(url))
    fields = dict(parse_qsl(parts.query, keep_blank_values=True))
    signature = fields.pop("X-Amz-Signature")
    signed = fields["X-Amz-SignedHeaders"].split(";")
    sent = {"host": parts.netloc, **{name.lower(): value for name, value in headers.items()}}
    request = [
        method,
        parts.path,
        "&".join(
            f"{quote(name, safe='')}={quote(fields[name], safe='')}" for name in sorted(fields)
        ),
        *(f"{name}:{sent.get(name, '')}" for name in signed),
        "",
        ";".join(signed),
        "UNSIGNED-PAYLOAD",
    ]
    _, *scope = fields["X-Amz-Credential"].split("/")
    digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", fields["X-Amz-Date"], "/".join(scope), digest])
    key = b"AWS4" + SECRET_KEY.encode()
    for part in (*scope, text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex() == signature


async def test_a_service_that_checks_signatures_takes_what_was_declared_and_nothing_else(
    service: Service,
) -> None:
    async with opened(service, prefix="a b/ü+/") as files:
        created = await create(files)
        descriptor = created.upload_descriptor
        assert descriptor is not None
        right = {"Content-Length": str(len(PNG)), **descriptor.headers}
        assert would_be_taken("PUT", descriptor.url, right)
        assert not would_be_taken("PUT", descriptor.url, {**right, "Content-Length": "1"})
        assert not would_be_taken("PUT", descriptor.url, {**right, "Content-Type": "text/html"})
        assert not would_be_taken("GET", descriptor.url, right)
        another_key = str(descriptor.url).replace(".new?", ".bin?")
        assert not would_be_taken("PUT", another_key, right)


async def test_a_url_to_see_is_taken_only_as_it_was_signed(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files, "grüße.html", "text/html", len(HTML))
        await upload(created, HTML)
        url = await files.presigned_url(created.id, ANN)
        assert would_be_taken("GET", url, {})
        assert not would_be_taken("PUT", url, {})
        assert not would_be_taken("GET", url.replace("=attachment", "=inline"), {})
        assert not would_be_taken("GET", url.replace("octet-stream", "html"), {})


async def test_a_url_reaches_the_client_exactly_as_it_was_signed(service: Service) -> None:
    async with opened(service, prefix="a b/ü+/") as files:
        created = await create(files)
        assert created.upload_descriptor is not None
        parts = urlsplit(str(created.upload_descriptor.url))
        assert parts.path == f"/{files.bucket}/a%20b/%C3%BC%2B/{created.id}.new"
        await upload(created)
        await send(files, created)
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_encryption_is_asked_for_in_all_that_is_stored_and_signed(service: Service) -> None:
    async with opened(service, encryption="aws:kms", kms_key_id="a-key") as files:
        created = await create(files)
        assert created.upload_descriptor is not None
        assert created.upload_descriptor.headers == {
            "Content-Type": "image/png",
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "a-key",
        }
        signed = query_of(created.upload_descriptor.url)["X-Amz-SignedHeaders"]
        assert "x-amz-server-side-encryption;x-amz-server-side-encryption-aws-kms-key-id" in signed
        await upload(created)
        await send(files, created)
        for key in files.stored():
            head = files.service.head(files.bucket, f"files/{key}")
            assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "a-key")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (PNG + b"x", TooLargeError),
        (PNG[:-1], InvalidRequestError),
        (HTML.ljust(len(PNG)), UnsupportedTypeError),
        (b"", InvalidRequestError),
    ],
)
async def test_what_is_not_as_declared_is_refused_and_deleted_and_may_be_sent_again(
    service: Service, content: bytes, error: type[Exception]
) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created, content)
        with pytest.raises(error):
            await send(files, created)
        assert files.stored() == [f"{created.id}.json"]
        await upload(created)
        await send(files, created)
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_what_nobody_has_looked_at_cannot_be_read_in_any_way(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        signature = signature_of(files.view_url(created.id))
        for content, error in [(None, NotFoundError), (HTML.ljust(len(PNG)), UnsupportedTypeError)]:
            for way in (
                lambda: files.read_attachment(created.id, ANN),
                lambda: files.presigned_url(created.id, ANN),
                lambda: files.open_download(created.id, signature, caller(ANN)),
                lambda: files.check_attachment(created, ANN),
            ):
                if content is not None:
                    await upload(created, content)
                with pytest.raises(error):
                    await way()
                assert files.stored() == [f"{created.id}.json"]


async def test_an_empty_file_is_a_file(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files, "empty.txt", "text/plain", 0)
        await upload(created, b"")
        await send(files, created)
        assert await files.read_attachment(created.id, ANN) == b""


async def test_an_upload_url_cannot_change_what_was_admitted(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        await send(files, created)
        await upload(created, HTML.ljust(len(PNG)))
        assert await files.check_attachment(created, ANN) is not None
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_an_attachment_is_looked_at_once_and_never_again(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        sent = await send(files, created)
        asked: list[str] = []
        files._bucket._client.meta.events.register(
            "before-call.s3", lambda model, **_: asked.append(model.name)
        )
        assert await files.check_attachment(sent, ANN) == sent
        assert asked == []


async def test_what_would_be_refused_gets_no_upload_url(service: Service) -> None:
    async with opened(service, max_bytes=100) as files:
        for params, error in [
            ({"size": 101}, TooLargeError),
            ({"size": -1}, InvalidRequestError),
            ({"size": 1, "mime_type": "video/mp4"}, UnsupportedTypeError),
        ]:
            with pytest.raises(error):
                await create(files, **params)
        assert files.stored() == []


def test_bytes_that_go_past_the_server_are_those_declared_unless_they_are_refused() -> None:
    files = unreachable("http://127.0.0.1:1", accept=["image/*"], max_bytes=100)

    def past_server(size: int, mime_type: str = "image/png") -> int:
        return files.bytes_past_server(
            AttachmentCreateParams(name="cat.png", size=size, mime_type=mime_type)
        )

    assert [past_server(size) for size in (0, 1, 100, 101, -5, 10**30)] == [0, 1, 100, 0, 0, 0]
    assert [past_server(5, each) for each in ("text/html", "no type")] == [0, 0]


async def test_an_id_that_is_taken_is_a_conflict_and_the_record_stays(service: Service) -> None:
    class Repeating(Files):
        def generate_attachment_id(self, mime_type: str, context: User) -> str:
            return "atc_1"

    metadata = MemoryStore[User](owner=name_of)
    async with metadata, Repeating(service, service.make_bucket(), metadata) as files:
        await create(files)
        with pytest.raises(ConflictError):
            await create(files, user=BOB)
        record = json.loads(service.get(files.bucket, "files/atc_1.json"))
        assert record["owner"] == "ann"


# --- Seeing


async def test_an_images_preview_url_stays_and_leads_to_a_fresh_url_of_the_bucket(
    service: Service,
) -> None:
    async with opened(service, download_lifetime=300) as files:
        created = await create(files, "grüße cat.png")
        await upload(created)
        assert isinstance(created, ImageAttachment)
        assert str(created.preview_url) == files.view_url(created.id)
        signature = signature_of(created.preview_url)
        redirect = await files.open_download(created.id, signature, caller(ANN))
        assert redirect.max_age == 150
        assert query_of(redirect.url)["X-Amz-Expires"] == "300"
        status, headers, body = ask("GET", redirect.url)
        assert (status, body) == (200, PNG)
        assert headers["content-type"] == "image/png"
        assert headers["content-disposition"] == (
            "inline; filename*=UTF-8''gr%C3%BC%C3%9Fe%20cat.png"
        )


@pytest.mark.parametrize("mime_type", ["text/html", "image/svg+xml", "text/plain"])
async def test_what_could_carry_a_script_is_never_shown_as_a_page_of_the_bucket(
    service: Service, mime_type: str
) -> None:
    async with opened(service) as files:
        created = await create(files, "x.html", mime_type, len(HTML))
        await upload(created, HTML)
        status, headers, body = ask("GET", await files.presigned_url(created.id, ANN))
        stored = service.head(files.bucket, f"files/{created.id}.bin")
        assert (created.type, status, body) == ("file", 200, HTML)
        assert headers["content-type"] == stored["ContentType"] == "application/octet-stream"
        assert headers["content-disposition"] == stored["ContentDisposition"]
        assert headers["content-disposition"] == "attachment; filename*=UTF-8''x.html"


async def test_a_changed_view_url_is_refused(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        signature = signature_of(files.view_url(created.id))
        with pytest.raises(ForbiddenError):
            await files.open_download(created.id, signature + "0", nobody)


async def test_another_owners_attachment_is_not_found_in_any_way(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        signature = signature_of(files.view_url(created.id))
        for way in (
            lambda: files.open_download(created.id, signature, caller(BOB)),
            lambda: files.read_attachment(created.id, BOB),
            lambda: files.presigned_url(created.id, BOB),
            lambda: files.check_attachment(created, BOB),
        ):
            with pytest.raises(NotFoundError):
                await way()
        await files.delete_attachment(created.id, BOB)
        assert files.stored() == [f"{created.id}.json", f"{created.id}.new"]


async def test_a_bearer_url_is_good_for_whoever_has_it(service: Service) -> None:
    async with opened(service, context_for_owner=User, bearer_urls=True) as files:
        created = await create(files)
        await upload(created)
        signature = signature_of(files.view_url(created.id))
        redirect = await files.open_download(created.id, signature, nobody)
        assert ask("GET", redirect.url)[2] == PNG


async def test_contexts_that_do_not_lead_back_to_the_owner_are_noticed_at_once(
    service: Service,
) -> None:
    async with opened(service, context_for_owner=lambda owner: BOB) as files:
        created = await create(files)
        await upload(created)
        with pytest.raises(RuntimeError, match="each must undo the other"):
            await send(files, created)


@pytest.mark.parametrize("attachment_id", ["../x", "a/b", "A", "", ".", "x" * 101, "a\n", "a.json"])
async def test_an_id_that_is_no_id_is_not_found_and_nothing_is_asked_for_it(
    service: Service, attachment_id: str
) -> None:
    async with opened(service) as files:
        signature = signature_of(files.view_url(attachment_id))
        with pytest.raises(NotFoundError):
            await files.open_download(attachment_id, signature, caller(ANN))
        with pytest.raises(NotFoundError):
            await files.read_attachment(attachment_id, ANN)
        await files.delete_attachment(attachment_id, ANN)


# --- Direct uploads


async def test_a_direct_upload_goes_to_the_bucket_and_saves_its_metadata(service: Service) -> None:
    content = PNG + bytes(2_000_000)  # more than is held in memory
    pieces = [content[n : n + 200_000] for n in range(0, len(content), 200_000)]
    async with opened(service) as files:
        taken = await files.receive_direct("cat.png", "image/png", Pieces(*pieces), caller(ANN))
        assert files.stored() == [f"{taken.id}.bin", f"{taken.id}.json"]
        assert await files.metadata.load_attachment(taken.id, ANN) == taken
        assert await files.read_attachment(taken.id, ANN) == content
        assert await files.check_attachment(taken, ANN) == taken


@pytest.mark.parametrize(
    ("content", "error"), [(b"a" * 101, TooLargeError), (PNG[:50], UnsupportedTypeError)]
)
async def test_a_refused_direct_upload_leaves_nothing(
    service: Service, content: bytes, error: type[Exception]
) -> None:
    async with opened(service, max_bytes=100) as files:
        with pytest.raises(error):
            await files.receive_direct("a.txt", "text/plain", Pieces(content), caller(ANN))
        assert files.stored() == []


async def test_metadata_that_cannot_be_saved_takes_the_bytes_with_it(service: Service) -> None:
    metadata = FailingStore(owner=name_of)
    metadata.fails = True
    async with opened(service, metadata=metadata) as files:
        with pytest.raises(StoreError):
            await files.receive_direct("cat.png", "image/png", Pieces(PNG), caller(ANN))
        assert files.stored() == []


async def test_direct_uploads_are_metered_while_they_come(service: Service) -> None:
    async with opened(service) as files:
        quota = Quota(len(PNG))
        taken = await files.receive_direct(
            "a.png", "image/png", Pieces(PNG), caller(ANN), meter=quota.meter
        )
        with pytest.raises(TooLargeError, match="enough for today"):
            await files.receive_direct(
                "b.png", "image/png", Pieces(PNG), caller(ANN), meter=quota.meter
            )
        assert quota.users == [ANN, ANN]
        assert files.stored() == [f"{taken.id}.bin", f"{taken.id}.json"]


# --- Cancelling, deleting, two at once


async def test_looking_at_an_upload_cancelled_anywhere_is_done_or_not_begun(
    service: Service,
) -> None:
    async with opened(service) as files:
        for step in range(1, 100):
            created = await create(files)
            await upload(created)
            with cancelled_at(step) as scope:
                await files.check_attachment(created, ANN)
            kinds = {key.rpartition(".")[2] for key in files.stored()}
            assert kinds in ({"json", "new"}, {"json", "bin"})
            assert kinds == {"json", "bin"} or scope.cancelled_caught
            await files.delete_attachment(created.id, ANN)
            assert files.stored() == []
            if not scope.cancel_called:
                break
        assert step > 2


async def test_a_direct_upload_cancelled_anywhere_is_whole_or_leaves_nothing(
    service: Service,
) -> None:
    async with opened(service) as files:
        for step in range(1, 100):
            taken: Attachment | None = None
            with cancelled_at(step) as scope:
                taken = await files.receive_direct("a.png", "image/png", Pieces(PNG), caller(ANN))
            if taken is None:
                assert files.stored() == []
            else:
                assert await files.read_attachment(taken.id, ANN) == PNG
                assert await files.metadata.load_attachment(taken.id, ANN) == taken
                await files.delete_attachment(taken.id, ANN)
            if not scope.cancel_called:
                break
        assert step > 5


async def test_deleting_cancelled_anywhere_is_done_or_can_be_done_again(service: Service) -> None:
    async with opened(service) as files:
        for step in range(1, 100):
            created = await create(files)
            await upload(created)
            with cancelled_at(step) as scope:
                await files.delete_attachment(created.id, ANN)
            assert files.stored() in ([], [f"{created.id}.json", f"{created.id}.new"])
            await files.delete_attachment(created.id, ANN)
            assert files.stored() == []
            if not scope.cancel_called:
                break
        assert step > 2


@contextmanager
def hanging(files: Files, operation: str) -> Iterator[tuple[trio.Event, threading.Event]]:
    """Make requests hang; yield what is set when one does, and what lets it go on."""
    going_on = threading.Event()
    reached = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(**_: Any) -> None:
        token.run_sync_soon(reached.set)
        going_on.wait(30)

    files._bucket._client.meta.events.register(f"before-call.s3.{operation}", hang)
    try:
        yield reached, going_on
    finally:
        going_on.set()


async def test_a_read_that_hangs_is_left_at_once_when_it_is_cancelled(service: Service) -> None:
    async with opened(service) as files:
        with hanging(files, "GetObject") as (reached, going_on):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(files.read_attachment, "atc_1", ANN)
                await reached.wait()
                nursery.cancel_scope.cancel()
            assert not going_on.is_set()


async def test_deleting_removes_all_and_a_late_upload_brings_nothing_back(
    service: Service,
) -> None:
    async with opened(service) as files:
        admitted, waiting = await create(files), await create(files)
        await upload(admitted)
        await send(files, admitted)
        await files.delete_attachment(admitted.id, ANN)
        await files.delete_attachment(waiting.id, ANN)
        await files.delete_attachment(admitted.id, ANN)
        assert files.stored() == []
        await upload(waiting)
        for each in (admitted, waiting):
            with pytest.raises(NotFoundError):
                await files.check_attachment(each, ANN)
            with pytest.raises(NotFoundError):
                await files.read_attachment(each.id, ANN)


async def test_an_attachment_deleted_while_it_is_admitted_stays_deleted(service: Service) -> None:
    async with opened(service) as files, files_of(files) as others:
        created = await create(files)
        await upload(created)

        def delete_it(**_: Any) -> None:
            others._bucket.remove(created.id)
            service.put(files.bucket, f"files/{created.id}.new", PNG)  # as if it were still there

        files._bucket._client.meta.events.register("before-call.s3.CopyObject", delete_it)
        with pytest.raises(NotFoundError):
            await files.check_attachment(created, ANN)
        assert files.stored() == [f"{created.id}.new"]


async def test_an_attachment_admitted_while_it_is_deleted_is_deleted(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)

        def admit_it(params: Any, **_: Any) -> None:
            if params["url_path"].endswith(".json"):
                service.put(files.bucket, f"files/{created.id}.bin", PNG)

        files._bucket._client.meta.events.register("before-call.s3.DeleteObject", admit_it)
        await files.delete_attachment(created.id, ANN)
        assert files.stored() == []


@asynccontextmanager
async def files_of(files: Files) -> AsyncIterator[Files]:
    """Another process's store on the same bucket."""
    async with Files(files.service, files.bucket, files.metadata) as others:
        yield others


async def test_of_two_processes_that_admit_one_upload_both_succeed(service: Service) -> None:
    async with opened(service) as files, files_of(files) as others:
        created = await create(files)
        await upload(created)

        def be_quicker(**_: Any) -> None:
            others._bucket.admit(others_record, lambda size, head: None)

        others_record = await others._load_record(created.id)
        files._bucket._client.meta.events.register("before-call.s3.CopyObject", be_quicker)
        await files.check_attachment(created, ANN)
        assert files.stored() == [f"{created.id}.bin", f"{created.id}.json"]


def changed(**_: Any) -> Any:
    """Answer as services do when `CopySourceIfMatch` doesn't fit; moto ignores it."""

    class Response:
        status_code = 412

    return Response(), {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {}}


async def test_what_changed_while_it_was_looked_at_is_looked_at_again(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        asked: list[dict[str, str]] = []

        def change_once(params: Any, **_: Any) -> Any:
            asked.append(params["headers"])
            if len(asked) == 1:
                service.put(files.bucket, f"files/{created.id}.new", HTML.ljust(len(PNG)))
                return changed()
            return None

        files._bucket._client.meta.events.register("before-call.s3.CopyObject", change_once)
        with pytest.raises(UnsupportedTypeError):
            await files.check_attachment(created, ANN)
        assert len(asked) == 1
        assert "x-amz-copy-source-if-match" in asked[0]
        assert files.stored() == [f"{created.id}.json"]


async def test_a_client_that_uploads_again_and_again_gets_a_conflict(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        files._bucket._client.meta.events.register("before-call.s3.CopyObject", changed)
        with pytest.raises(ConflictError, match="is being uploaded"):
            await files.check_attachment(created, ANN)


# --- A service that fails


def failing(code: str, status: int) -> Any:
    class Response:
        status_code = status

    def fail(**_: Any) -> Any:
        return Response(), {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {}}

    return fail


async def test_an_upload_is_kept_when_the_service_fails_while_it_is_looked_at(
    service: Service,
) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        files._bucket._client.meta.events.register(
            "before-call.s3.CopyObject", failing("InternalError", 500)
        )
        with pytest.raises(StoreError):
            await files.check_attachment(created, ANN)
        assert files.stored() == [f"{created.id}.json", f"{created.id}.new"]


async def test_a_deletion_that_fails_half_way_can_be_done_again(service: Service) -> None:
    async with opened(service) as files:
        created = await create(files)
        await upload(created)
        await send(files, created)
        asked: list[str] = []

        def fail_once(params: Any, **_: Any) -> Any:
            asked.append(params["url_path"])
            return failing("InternalError", 500)() if len(asked) == 3 else None

        files._bucket._client.meta.events.register("before-call.s3.DeleteObject", fail_once)
        with pytest.raises(StoreError):
            await files.delete_attachment(created.id, ANN)
        assert files.stored() == [f"{created.id}.json"]
        await files.delete_attachment(created.id, ANN)
        assert files.stored() == []


async def test_a_direct_upload_that_fails_tells_its_own_error_though_nothing_can_be_cleaned_up(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(service) as files:
        events = files._bucket._client.meta.events
        events.register("before-call.s3.DeleteObject", failing("SlowDown", 503))
        with pytest.raises(UnsupportedTypeError):
            await files.receive_direct("a.png", "image/png", Pieces(HTML), caller(ANN))
        assert "what is left of an upload could not be deleted" in caplog.text
        [record] = files.stored()
        assert record.endswith(".json")  # so that it will be collected


async def test_a_record_whose_first_answer_was_lost_is_no_conflict(service: Service) -> None:
    async with opened(service) as files:
        events = files._bucket._client.meta.events

        def lose_answer(response_dict: Any, **_: Any) -> None:
            if response_dict["status_code"] == 200:
                response_dict["status_code"] = 500  # botocore tries again by itself

        events.register("before-parse.s3.PutObject", lose_answer)
        created = await create(files)
        assert files.stored() == [f"{created.id}.json"]


async def test_a_bucket_that_is_gone_is_a_store_error_and_not_an_attachment_that_is_missing(
    service: Service,
) -> None:
    async with opened(service) as files:
        service.delete_bucket(files.bucket)
        with pytest.raises(StoreError, match="there is no such bucket"):
            await files.read_attachment("atc_1", ANN)


class Answering(BaseHTTPRequestHandler):
    """Says the same to everything."""

    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def answering(status: int) -> Iterator[str]:
    handler = type("Handler", (Answering,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def unreachable(endpoint_url: str, **options: Any) -> S3AttachmentStore[User]:
    return S3AttachmentStore(
        "my-bucket",
        metadata=MemoryStore[User](),
        base_url="https://x/a",
        secret=SECRET,
        endpoint_url=endpoint_url,
        region="us-east-1",
        session=make_session(),
        **options,
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "there is no such bucket"), (403, "s3:ListBucket"), (500, "my-bucket")],
)
async def test_a_bucket_that_cannot_be_used_is_told_at_the_start(status: int, words: str) -> None:
    with answering(status) as url, pytest.raises(StoreError, match=words):
        async with unreachable(url):
            pass


async def test_a_service_that_is_not_there_is_a_store_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreError, match="can't use the bucket my-bucket"):
        async with unreachable(f"http://127.0.0.1:{port}"):
            pass


async def test_a_service_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"(?i)time"):
            async with unreachable(url, timeout=0.05):
                pass


async def test_a_bucket_of_another_region_is_told_at_the_start(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url)
    metadata = MemoryStore[User](owner=name_of)
    files = Files(
        service,
        service.make_bucket(),
        metadata,
        endpoint_url=None,
        region="eu-central-1",
        path_style=True,
    )
    with pytest.raises(StoreError, match="give region='us-east-1'"):
        async with files:
            pass


async def test_endpoint_region_and_credentials_come_from_the_usual_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with opened(
        service, endpoint_url=None, region=None, path_style=True, session=None
    ) as files:
        created = await create(files)
        assert created.upload_descriptor is not None
        credential = query_of(created.upload_descriptor.url)["X-Amz-Credential"]
        assert credential.startswith("key-of-the-environment/")


async def test_missing_credentials_are_told_at_the_start(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    files = Files(service, "my-bucket", MemoryStore[User](), session=None)
    with pytest.raises(StoreError, match="Unable to locate credentials"):
        async with files:
            pass


async def test_amazons_urls_name_the_buckets_region() -> None:
    # No redirect to another host: a browser's PUT wouldn't follow it, nor would the page's policy.
    files = unreachable("https://s3.eu-central-1.amazonaws.com", path_style=False)
    files._bucket._open_client = make_session().create_client(
        "s3", region_name="eu-central-1", config=files._bucket._config()
    )
    record = files._new_record("cat.png", "image/png", 5, ANN)
    url, _ = files._bucket.upload_url(record, 60)
    assert urlsplit(url).netloc == "my-bucket.s3.eu-central-1.amazonaws.com"
    files._bucket.close()


async def test_a_store_that_is_not_open_says_so(service: Service) -> None:
    files = Files(service, "bucket", MemoryStore[User]())
    with pytest.raises(RuntimeError, match="isn't open"):
        await create(files)


async def test_the_buckets_origin_is_known_once_the_store_is_open(service: Service) -> None:
    async with opened(service) as files:
        assert files.upload_origins == (service.url,)
    assert Files(service, "bucket", MemoryStore[User]()).upload_origins == ()


# --- Health


async def test_a_bucket_that_takes_bytes_is_well_and_shows_nothing_of_the_question(
    service: Service,
) -> None:
    clock = Clock()
    async with opened(service, clock=clock, context_for_owner=User) as files:
        created = await create(files)
        await files.ping()
        await files.ping()
        clock.ahead = DAY
        assert await files.collect_orphans() == [created.id]
        await files.ping()


async def test_a_bucket_that_takes_no_bytes_is_not_well_though_it_can_be_read(
    service: Service,
) -> None:
    async with opened(service) as files:
        events = files._bucket._client.meta.events
        events.register("before-call.s3.PutObject", failing("AccessDenied", 403))
        with pytest.raises(StoreError, match="AccessDenied"):
            await files.ping()


async def test_a_bucket_is_asked_once_in_a_while_however_many_ask(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(service) as files:
        asked: list[str] = []

        def note(model: Any, **_: Any) -> None:
            asked.append(model.name)

        files._bucket._client.meta.events.register("before-call.s3", note)
        for _ in range(5):
            await files.ping()
        assert asked == ["PutObject"]
        monkeypatch.setattr("chatkit_trio.stores.s3._PING_LASTS", 0.0)
        files._well_until = 0.0
        for _ in range(2):
            await files.ping()
        assert asked == ["PutObject"] * 3


async def test_a_bucket_that_falls_ill_after_it_was_found_well_is_told_when_that_no_longer_counts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatkit_trio.stores.s3._PING_LASTS", 0.0)
    async with opened(service) as files:
        await files.ping()
        service.delete_bucket(files.bucket)
        with pytest.raises(StoreError, match="there is no such bucket"):
            await files.ping()


async def test_a_ping_that_hangs_is_left_at_once_when_it_is_cancelled(service: Service) -> None:
    async with opened(service) as files:
        with hanging(files, "PutObject") as (reached, going_on):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(files.ping)
                await reached.wait()
                nursery.cancel_scope.cancel()
            assert not going_on.is_set()


# --- Orphans


async def test_orphans_are_collected_once_they_are_old_and_nothing_else(service: Service) -> None:
    clock = Clock()
    async with opened(service, clock=clock, context_for_owner=User) as files:
        never_uploaded, never_named, never_sent, sent, thread_gone = [
            await create(files) for _ in range(5)
        ]
        for each in (never_named, never_sent, sent, thread_gone):
            await upload(each)
        await files.check_attachment(never_sent, ANN)
        await send(files, sent)
        gone = await send(files, thread_gone)
        assert gone.thread_id is not None
        await files.metadata.delete_thread(gone.thread_id, ANN)
        assert await files.collect_orphans() == []
        clock.ahead = DAY
        orphans = sorted([never_uploaded.id, never_named.id, never_sent.id, thread_gone.id])
        assert await files.collect_orphans() == orphans
        assert files.stored() == [f"{sent.id}.bin", f"{sent.id}.json"]
        for orphan in orphans:
            with pytest.raises(NotFoundError):
                await files.metadata.load_attachment(orphan, ANN)
        assert await files.metadata.load_attachment(sent.id, ANN)


async def test_without_contexts_only_what_was_never_admitted_is_collected(service: Service) -> None:
    clock = Clock()
    async with opened(service, clock=clock) as files:
        never_named, admitted = await create(files), await create(files)
        for each in (never_named, admitted):
            await upload(each)
        await files.check_attachment(admitted, ANN)
        clock.ahead = DAY
        assert await files.collect_orphans() == [never_named.id]
        assert await files.read_attachment(admitted.id, ANN) == PNG


async def test_what_has_no_record_or_was_uploaded_again_goes_when_it_is_old(
    service: Service,
) -> None:
    clock = Clock()
    async with opened(service, clock=clock, context_for_owner=User) as files:
        sent = await create(files)
        await upload(sent)
        await send(files, sent)
        await upload(sent)
        foreign = ["of-somebody-else.txt", "sub/atc_3.bin"]
        for name in ("atc_1.bin", "atc_1.new", "atc_2.new", *foreign):
            service.put(files.bucket, f"files/{name}")
        service.put(files.bucket, "other/atc_4.bin")
        before = files.stored()
        assert await files.collect_orphans() == []
        assert files.stored() == before
        clock.ahead = DAY
        assert await files.collect_orphans() == []
        kept = [f"{sent.id}.bin", f"{sent.id}.json", *foreign, "other/atc_4.bin"]
        assert files.stored() == kept


@pytest.mark.parametrize("is_there_first", [True, False])
async def test_what_lay_behind_the_prefix_before_the_store_came_stays(
    service: Service, is_there_first: bool
) -> None:
    clock, metadata, bucket = Clock(), MemoryStore[User](owner=name_of), service.make_bucket()
    service.put(bucket, "files/")  # a "directory", as some tools make them: nobody's data
    others = ["firmware.bin", "old.new"]
    if is_there_first:
        for name in others:
            service.put(bucket, f"files/{name}")
    async with Files(service, bucket, metadata, clock=clock, context_for_owner=User) as files:
        if not is_there_first:
            for name in others:
                service.put(bucket, f"files/{name}")
        created = await create(files)
        clock.ahead = DAY
        assert await files.collect_orphans() == [created.id]
        assert files.stored() == (["", *others] if is_there_first else [""])


async def test_a_json_file_of_another_program_is_no_attachment_and_holds_up_no_collection(
    service: Service,
) -> None:
    clock = Clock()
    async with opened(service, clock=clock, context_for_owner=User) as files:
        contents = [b"{}", b"[1]", b"no json", b"\xff"]
        for number, content in enumerate(contents):
            service.put(files.bucket, f"files/a{number}.json", content)
        created = await create(files)
        with pytest.raises(NotFoundError):
            await files.read_attachment("a0", ANN)
        clock.ahead = DAY
        assert await files.collect_orphans() == [created.id]
        assert files.stored() == [f"a{number}.json" for number in range(len(contents))]


async def test_objects_of_one_attachment_on_two_pages_of_a_listing_stay_together(
    service: Service,
) -> None:
    clock = Clock()
    async with opened(service, clock=clock) as files:  # so that a record without bytes would go
        sent = [await create(files) for _ in range(5)]
        for each in sent:
            await upload(each)
            await send(files, each)
        before = files.stored()

        pages: list[Any] = []

        def three_at_a_time(params: Any, **_: Any) -> None:
            params["MaxKeys"] = 3
            pages.append(params)

        events = files._bucket._client.meta.events
        events.register("provide-client-params.s3.ListObjectsV2", three_at_a_time)
        clock.ahead = DAY
        assert await files.collect_orphans() == []
        assert files.stored() == before
        assert (len(before), len(pages)) == (10, 4)


async def test_bytes_stay_if_only_the_listing_has_no_record_of_them(service: Service) -> None:
    clock = Clock()
    async with opened(service, clock=clock, context_for_owner=User) as files:
        created = await create(files)
        await upload(created)
        await send(files, created)
        page = files._bucket.page

        def without_records(token: str | None) -> Any:
            objects, token = page(token)
            return [each for each in objects if not each.is_record], token

        files._bucket.page = without_records  # type: ignore[method-assign]
        clock.ahead = DAY
        assert await files.collect_orphans() == []
        assert await files.read_attachment(created.id, ANN) == PNG


# --- Settings


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"secret": "short"}, ValueError),
        ({"bearer_urls": True}, ValueError),
        ({"accept": "image/*"}, TypeError),
        ({"orphan_age": 10}, ValueError),
        ({"max_bytes": 6 * 1024**3}, ValueError),
        ({"upload_lifetime": 8 * DAY, "orphan_age": 9 * DAY}, ValueError),
        ({"download_lifetime": 0}, ValueError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": "5"}, TypeError),
        ({"upload_lifetime": True}, TypeError),
        ({"download_lifetime": float("nan")}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"encryption": "aes"}, ValueError),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    given = {"secret": SECRET, **options}
    with pytest.raises(error):
        S3AttachmentStore("b", metadata=MemoryStore[User](), base_url="https://x/a", **given)
