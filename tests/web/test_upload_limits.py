"""What an owner may upload: bytes and files an hour, and files at the same time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore
from chatkit_trio.testing import ScriptedRespond, ScriptedServer, say
from chatkit_trio.web import create_app

from .http import Client, client_of
from .sockets import until

SITE = "http://chat.test"


@asynccontextmanager
async def site(tmp_path, **limits: int):
    """A server with limits, and a client of it that says who it is in a header."""
    store: MemoryStore[str] = MemoryStore(owner=str)
    files = DiskAttachmentStore(
        tmp_path / "files", metadata=store, base_url=f"{SITE}/files", secret="s" * 16, owner=str
    )
    server = ScriptedServer(
        store,
        ScriptedRespond([say("Hello")]),
        attachment_store=files,
        owner_limits=OwnerLimits(**limits),
    )
    app = create_app(server, context=lambda request: request.headers["User"])
    async with client_of(app) as client:
        yield client


async def create(client: Client, size: int, user: str = "ann") -> Any:
    params = {"name": "a.txt", "size": size, "mime_type": "text/plain"}
    request = {"type": "attachments.create", "params": params}
    return await client.post(request, {"User": user})


async def created_url(client: Client, size: int, user: str = "ann") -> str:
    created = await create(client, size, user)
    url: str = created.json["upload_descriptor"]["url"]
    return url.removeprefix(SITE)


def scope_of(method: str, url: str, user: str = "ann") -> dict[str, Any]:
    """Return the scope of a request without a Content-Length."""
    path, _, query = url.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"chat.test"), (b"user", user.encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


async def put(client: Client, size: int, user: str = "ann") -> Any:
    url = await created_url(client, size, user)
    return await client.ask("PUT", url, b"x" * size, {"User": user})


async def post_form(client: Client, size: int, user: str = "ann") -> Any:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    body = head + b"Content-Type: text/plain\r\n\r\n" + b"x" * size + b"\r\n--b--\r\n"
    headers = {"User": user, "Content-Type": "multipart/form-data; boundary=b"}
    return await client.ask("POST", "/files", body, headers)


def limit_of(answer: Any) -> Any:
    return answer.status, answer.json["error"]["limit"], int(answer.headers["retry-after"])


@pytest.mark.parametrize("upload", [put, post_form])
async def test_bytes_an_hour_are_counted_as_they_arrive(tmp_path, upload):
    async with site(tmp_path, upload_bytes_per_hour=10_000) as client:
        first = await upload(client, 6_000)
        second = await upload(client, 6_000)
        other = await upload(client, 6_000, "ben")
        bins = list((tmp_path / "files").glob("*.bin"))

    assert (first.status, other.status) == (200, 200)
    assert limit_of(second)[:2] == (429, "upload_bytes_per_hour")
    assert 500 < limit_of(second)[2] <= 3600
    assert len(bins) == 2


async def test_a_file_larger_than_an_hours_bytes_is_taken_once_and_paid_for_later(tmp_path):
    async with site(tmp_path, upload_bytes_per_hour=1_000) as client:
        answers = [await put(client, 3_000) for _ in range(2)]

    assert answers[0].status == 200
    assert limit_of(answers[1])[2] > 3600


async def test_a_file_of_unknown_length_is_refused_when_it_goes_over_the_limit(tmp_path):
    async with site(tmp_path, upload_bytes_per_hour=10_000) as client:
        url = await created_url(client, 15_000)
        pieces = [b"x" * 5_000] * 3
        answered = []

        async def receive():
            if not pieces:
                await trio.sleep_forever()
            return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

        async def send(message):
            answered.append(message.get("status"))

        await client._transport._app(scope_of("PUT", url), receive, send)
        again = await put(client, 1)
        kept = {path.suffix for path in (tmp_path / "files").iterdir()}

    assert answered[0] == 429
    assert again.status == 429
    assert not kept & {".part", ".bin"}


@pytest.mark.parametrize("upload", [create, post_form])
async def test_new_files_an_hour_are_counted_whether_their_bytes_come_or_not(
    tmp_path, upload, jump_clock
):
    async with site(tmp_path, uploads_per_hour=2) as client:
        answers = [await upload(client, 10) for _ in range(3)]
        other = await upload(client, 10, "ben")
        records = list((tmp_path / "files").glob("*.json"))

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert limit_of(answers[2]) == (429, "uploads_per_hour", 1800)
    assert other.status == 200
    assert len(records) == 3


async def test_files_that_arrive_at_once_are_counted(tmp_path):
    async with site(tmp_path, live_uploads=1) as client:
        url = await created_url(client, 10)
        app, files = client._transport._app, tmp_path / "files"
        pieces = [b"x"]

        async def receive():
            if not pieces:
                await trio.sleep_forever()
            return {"type": "http.request", "body": pieces.pop(), "more_body": True}

        async def send(message):
            raise AssertionError("it never arrives")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, scope_of("PUT", url), receive, send)
            # It counts from before its bytes are kept.
            await until(lambda: any(files.glob("*.part")))
            second = await put(client, 10)
            other = await put(client, 10, "ben")
            nursery.cancel_scope.cancel()
        third = await put(client, 10)

    assert limit_of(second) == (429, "live_uploads", 5)
    assert (other.status, third.status) == (200, 200)


async def test_a_download_is_a_request(tmp_path):
    async with site(tmp_path, requests_per_minute=4) as client:
        uploaded = await put(client, 10)  # two requests
        url = f"/files/{uploaded.json['id']}?signature=x"
        answers = [await client.ask("GET", url, b"", {"User": "ann"}) for _ in range(2)]
        listed = [
            await client.post({"type": "threads.list", "params": {}}, {"User": "ann"})
            for _ in range(3)
        ]

    # A URL that isn't ours is refused before anybody is asked who they are.
    assert [answer.status for answer in answers] == [403, 403]
    assert [answer.status for answer in listed] == [200, 200, 429]


async def test_recordings_are_uploads(tmp_path):
    audio = "A" * 4_000
    request = {"type": "input.transcribe", "params": {"audio_base64": audio, "mime_type": "a/b"}}
    async with site(tmp_path, upload_bytes_per_hour=5_000, text_bytes_per_minute=10) as client:
        answers = [await client.post(request, {"User": "ann"}) for _ in range(2)]

    assert answers[0].status == 501
    assert limit_of(answers[1])[1] == "upload_bytes_per_hour"
