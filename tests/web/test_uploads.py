"""Uploads and downloads over real sockets: Hypercorn, h11 and files on the disk."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Request
from quart_trio import QuartTrio
from werkzeug.exceptions import Unauthorized

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import chatkit_blueprint, create_app
from chatkit_trio.web.uploads import uploads_blueprint

from .sockets import until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
HTML = b"<!doctype html><script>alert(1)</script>".ljust(len(PNG))
MEGABYTE = 1024 * 1024
Headers = Sequence[tuple[str, str]]


class Server(ChatKitServer[str]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: str
    ) -> AsyncIterator[ThreadStreamEvent]:
        await trio.lowlevel.checkpoint()
        none: tuple[ThreadStreamEvent, ...] = ()
        for event in none:
            yield event


def user_of(request: Request) -> str:
    user = request.cookies.get("user")
    if user is None:
        raise Unauthorized("Who are you?")
    return user


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.json()["error"]["code"]


@dataclass
class Site:
    """A server on a free port, and a browser of Ann's."""

    port: int
    directory: Path
    files: DiskAttachmentStore[str]
    user: str | None = "ann"
    headers: list[tuple[str, str]] = field(default_factory=list)

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Headers = (),
        *,
        user: str | None = "ann",
    ) -> Answer:
        """Send a request; a body in pieces goes chunked."""
        async with await self.connect() as stream:
            protocol = h11.Connection(h11.CLIENT)
            given = [
                ("Host", "localhost"),
                *headers,
                *([("Cookie", f"user={user}")] if user else []),
            ]
            if isinstance(body, bytes):
                given.append(("Content-Length", str(len(body))))
                body = (body,)
            else:
                given.append(("Transfer-Encoding", "chunked"))
            request = h11.Request(method=method, target=target, headers=given)
            await send(stream, protocol, request)
            for piece in body:
                await send(stream, protocol, h11.Data(data=piece))
            await send(stream, protocol, h11.EndOfMessage())
            return await read_answer(stream, protocol)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def call(self, kind: str, user: str = "ann", **params: Any) -> Answer:
        body = json.dumps({"type": kind, "params": params}).encode()
        headers = [("Content-Type", "application/json")]
        return await self.ask("POST", "/chatkit", body, headers, user=user)

    async def create(self, size: int = len(PNG), mime_type: str = "image/png") -> dict[str, Any]:
        answer = await self.call(
            "attachments.create", name="grüße.png", size=size, mime_type=mime_type
        )
        assert answer.status == 200
        created: dict[str, Any] = answer.json()
        return created

    def stored(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path.suffix)


async def send(stream: trio.SocketStream, protocol: h11.Connection, event: Any) -> None:
    data = protocol.send(event)
    if data:
        await stream.send_all(data)


async def read_answer(stream: trio.SocketStream, protocol: h11.Connection) -> Answer:
    answer: Answer | None = None
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Response):
            headers = {name.decode(): value.decode() for name, value in event.headers}
            answer = Answer(event.status_code, headers, b"")
        elif isinstance(event, h11.Data):
            assert answer is not None
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert answer is not None
            return answer


def path_of(url: str) -> str:
    return url.removeprefix("http://127.0.0.1:1")


def form(content: bytes, name: str = "cat.png", mime_type: str = "image/png") -> bytes:
    return (
        b'--xyz\r\nContent-Disposition: form-data; name="comment"\r\n\r\nnot a file\r\n'
        b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="'
        + name.encode()
        + b'"\r\nContent-Type: '
        + mime_type.encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n--xyz--\r\n"
    )


FORM = [("Content-Type", "multipart/form-data; boundary=xyz")]


def make_app(files: DiskAttachmentStore[str], **options: Any) -> QuartTrio:
    server = Server(files.metadata, files)
    if not options:
        return create_app(server, context=user_of)
    app = QuartTrio(__name__)
    app.register_blueprint(uploads_blueprint(server, context=user_of, **options))
    app.register_blueprint(chatkit_blueprint(server, context=user_of))
    return app


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 5
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(
            lambda task_status: serve(
                app, config, shutdown_trigger=stop.wait, task_status=task_status
            )
        )
        yield int(url.rpartition(":")[2])
        stop.set()


@asynccontextmanager
async def site(
    tmp_path: Path, blueprint_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Site]:
    files = DiskAttachmentStore[str](
        tmp_path / "files",
        metadata=SQLiteStore[str](tmp_path / "chat.db", owner=str),
        base_url="http://127.0.0.1:1/attachments",
        secret="a secret of tests only",
        **{"owner": str, "accept": ["image/*", "text/*"], **options},
    )
    async with serving(make_app(files, **(blueprint_options or {}))) as port:
        yield Site(port, tmp_path / "files", files)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (PNG, [("Content-Type", "image/png")]),
        ([PNG[:5000], PNG[5000:]], []),
        (form(PNG), FORM),
        ([form(PNG)[n : n + 1] for n in range(len(form(PNG)))], FORM),
    ],
    ids=["raw", "chunked", "form", "form byte by byte"],
)
async def test_what_goes_up_comes_down_again(
    tmp_path: Path, method: str, body: Any, headers: Headers
) -> None:
    async with site(tmp_path, upload_method=method) as web:
        created = await web.create()
        descriptor = created["upload_descriptor"]
        assert descriptor["method"] == method
        taken = await web.ask(method, path_of(descriptor["url"]), body, headers)
        shown = await web.ask("GET", path_of(created["preview_url"]))
    del created["upload_descriptor"]
    assert (taken.status, taken.json()) == (200, created)
    assert (shown.status, shown.body) == (200, PNG)


async def test_a_message_takes_a_file_that_has_come_and_keeps_nothing_of_its_upload(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as web:
        created = await web.create()
        text = {"type": "input_text", "text": "Look"}
        message = {"content": [text], "attachments": [created["id"]], "inference_options": {}}
        early = await web.call("threads.create", input=message)
        threads = await web.call("threads.list")
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), PNG)
        sent = await web.call("threads.create", input=message)
        kept = await web.files.metadata.load_attachment(created["id"], "ann")
    assert early.error == (404, "not_found")
    assert threads.json()["data"] == []
    assert created["id"] in sent.body.decode()
    assert "upload_descriptor" not in sent.body.decode()
    assert kept.upload_descriptor is None


async def test_an_image_is_sent_so_that_no_browser_takes_it_for_a_page(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        created = await web.create()
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), PNG)
        shown = await web.ask("GET", path_of(created["preview_url"]))
    del shown.headers["date"], shown.headers["server"]
    assert shown.headers == {
        "content-type": "image/png",
        "content-length": str(len(PNG)),
        "content-disposition": "inline; filename*=UTF-8''gr%C3%BC%C3%9Fe.png",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "private, max-age=3600",
    }


@pytest.mark.parametrize("mime_type", ["text/html", "image/svg+xml", "text/plain"])
async def test_anything_but_a_raster_image_is_sent_as_a_download(
    tmp_path: Path, mime_type: str
) -> None:
    async with site(tmp_path) as web:
        created = await web.create(mime_type=mime_type)
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), HTML)
        sent = await web.ask("GET", path_of(web.files.view_url(created["id"])))
    assert "preview_url" not in created
    assert sent.body == HTML
    assert sent.headers["content-type"] == mime_type
    assert sent.headers["content-disposition"].startswith("attachment;")


async def test_the_address_of_a_file_is_told_to_its_owner_alone(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        created = await web.create(mime_type="text/plain")
        address = f"/chatkit/attachments/{created['id']}/url"
        early = await web.ask("GET", address)
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), HTML)
        told = await web.ask("GET", address)
        sent = await web.ask("GET", path_of(told.json()["url"]))
        strangers = await web.ask("GET", address, user="bob")
        nobodys = await web.ask("GET", address, user=None)
        unknown = await web.ask("GET", "/chatkit/attachments/atc_none/url")
        elsewhere = await web.ask("GET", address, headers=[("Origin", "https://evil.example")])
        await web.call("attachments.delete", attachment_id=created["id"])
        deleted = await web.ask("GET", address)
    assert (told.status, told.headers["cache-control"]) == (200, "no-store")
    assert told.json() == {"url": web.files.view_url(created["id"])}
    assert sent.body == HTML
    del sent.headers["date"], sent.headers["server"]
    assert sent.headers == {
        "content-type": "text/plain",
        "content-length": str(len(HTML)),
        "content-disposition": "attachment; filename*=UTF-8''gr%C3%BC%C3%9Fe.png",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "private, max-age=3600",
    }
    for refused in (early, strangers, unknown, deleted):
        assert refused.error == (404, "not_found")
    assert (nobodys.status, elsewhere.status) == (401, 403)


async def test_a_store_without_addresses_says_that_it_has_none(tmp_path: Path) -> None:
    class Elsewhere(AttachmentStore[str]):
        async def delete_attachment(self, attachment_id: str, context: str) -> None:
            raise AssertionError("nobody deletes")

    app = create_app(Server(MemoryStore(), Elsewhere()), context=user_of)
    async with serving(app) as port:
        web = Site(port, tmp_path, None)  # type: ignore[arg-type]
        told = await web.ask("GET", "/chatkit/attachments/atc_1/url")
    async with serving(create_app(Server(MemoryStore()), context=user_of)) as port:
        web = Site(port, tmp_path, None)  # type: ignore[arg-type]
        without_store = await web.ask("GET", "/chatkit/attachments/atc_1/url")
    assert (told.status, told.json()) == (200, {"url": None})
    assert without_store.error == (400, "invalid_request")


async def test_a_form_sent_to_the_upload_url_makes_an_attachment(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        taken = await web.ask("POST", "/attachments", form(PNG, "../cat.png"), FORM)
        created = taken.json()
        shown = await web.ask("GET", path_of(created["preview_url"]))
        kept = await web.files.metadata.load_attachment(created["id"], "ann")
    assert taken.status == 200
    assert created == {
        "id": created["id"],
        "type": "image",
        "name": "cat.png",
        "mime_type": "image/png",
        "preview_url": web.files.view_url(created["id"]),
    }
    assert (kept.id, shown.body) == (created["id"], PNG)


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (form(PNG)[:-20], FORM, (400, "invalid_request")),
        (form(PNG).replace(b'name="file"', b'name="other"'), FORM, (400, "invalid_request")),
        (b"nonsense", FORM, (400, "invalid_request")),
        (form(PNG), [("Content-Type", "multipart/form-data")], (400, "invalid_request")),
        (PNG, [("Content-Type", "image/png")], (400, "invalid_request")),
        (form(HTML), FORM, (415, "unsupported_type")),
        (form(PNG, mime_type="video/mp4"), FORM, (415, "unsupported_type")),
        (form(PNG * 100), FORM, (413, "too_large")),
        ([form(PNG * 100)], FORM, (413, "too_large")),
        (b"--xyz\r\nA: " + bytes(2 * MEGABYTE), FORM, (413, "too_large")),
    ],
    ids=[
        "cut off",
        "no file",
        "no parts",
        "no boundary",
        "no form",
        "disguised",
        "unwanted type",
        "too large",
        "too large, not said",
        "endless headers",
    ],
)
async def test_a_form_that_is_refused_leaves_nothing(
    tmp_path: Path, body: Any, headers: Headers, error: tuple[int, str]
) -> None:
    async with site(tmp_path, max_bytes=MEGABYTE // 2) as web:
        answer = await web.ask("POST", "/attachments", body, headers)
        assert answer.error == error
        assert web.stored() == []


async def test_every_way_to_misuse_an_upload_url_has_its_status(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    async with site(tmp_path, clock=lambda: now) as web:
        first, second, deleted = [await web.create() for _ in range(3)]
        url, other_url, deleted_url = (
            path_of(each["upload_descriptor"]["url"]) for each in (first, second, deleted)
        )
        assert (await web.ask("PUT", url, HTML)).error == (415, "unsupported_type")
        assert (await web.ask("PUT", url, PNG + b"x")).error == (413, "too_large")
        assert (await web.ask("PUT", url, PNG[:-1])).error == (400, "invalid_request")
        assert (await web.ask("PUT", url + "0", PNG)).error == (403, "forbidden")
        assert (await web.ask("PUT", f"/attachments/{first['id']}", PNG)).error == (
            403,
            "forbidden",
        )
        assert (await web.ask("PUT", url, PNG, user="bob")).error == (404, "not_found")
        assert (await web.ask("PUT", url, PNG, user=None)).error == (401, "unauthorized")
        assert (await web.ask("PATCH", url, PNG)).error == (405, "method_not_allowed")
        for method in ("PATCH", "HEAD"):
            refused = await web.ask(method, url)
            assert refused.headers["allow"] == "GET, PUT, POST, OPTIONS"
        # Only a preflight is about another method than its own.
        about_another = [("Access-Control-Request-Method", "PUT")]
        assert (await web.ask("GET", url, headers=about_another)).status == 403
        assert (await web.ask("PUT", url, PNG)).status == 200
        assert (await web.ask("PUT", url, PNG)).error == (409, "conflict")
        assert (await web.call("attachments.delete", attachment_id=deleted["id"])).status == 200
        assert (await web.ask("PUT", deleted_url, PNG)).error == (404, "not_found")
        now += 601
        assert (await web.ask("PUT", other_url, PNG)).error == (410, "expired")
        assert web.stored() == sorted(
            [f"{first['id']}.bin", f"{first['id']}.json", f"{second['id']}.json"]
        )


async def test_every_way_to_misuse_a_preview_url_has_its_status(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        created = await web.create()
        url = path_of(created["preview_url"])
        assert (await web.ask("GET", url)).error == (404, "not_found")
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), PNG)
        assert (await web.ask("GET", url + "0")).error == (403, "forbidden")
        assert (await web.ask("GET", "/attachments/..%2Fchat.db?signature=x")).status == 404
        assert (await web.ask("GET", url, user="bob")).error == (404, "not_found")
        assert (await web.ask("GET", url)).status == 200
        assert (await web.call("attachments.delete", "bob", attachment_id=created["id"])).error == (
            404,
            "not_found",
        )
        await web.call("attachments.delete", attachment_id=created["id"])
        assert (await web.ask("GET", url)).error == (404, "not_found")
        assert web.stored() == []


async def test_bearer_urls_need_no_cookie(tmp_path: Path) -> None:
    async with site(tmp_path, bearer_urls=True, context_for_owner=str) as web:
        created = await web.create()
        url = path_of(created["upload_descriptor"]["url"])
        assert (await web.ask("PUT", url, PNG, user=None)).status == 200
        shown = await web.ask("GET", path_of(created["preview_url"]), user=None)
        assert shown.body == PNG
        assert (await web.ask("POST", "/attachments", form(PNG), FORM, user=None)).status == 401


async def test_a_page_of_another_site_can_send_no_form(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        foreign = [*FORM, ("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example")]
        answer = await web.ask("POST", "/attachments", form(PNG), foreign)
        assert answer.error == (403, "forbidden")
        assert web.stored() == []


async def test_an_allowed_page_of_another_site_may_put(tmp_path: Path) -> None:
    origin = "https://page.example"
    async with site(tmp_path, {"cors_origins": [origin]}) as web:
        url = path_of((await web.create())["upload_descriptor"]["url"])
        asking = [("Origin", origin), ("Access-Control-Request-Method", "PUT")]
        preflight = await web.ask("OPTIONS", url, headers=asking)
        assert preflight.headers["access-control-allow-methods"] == "GET, PUT, POST, OPTIONS"
        taken = await web.ask("PUT", url, PNG, [("Origin", origin)])
        assert taken.headers["access-control-allow-origin"] == origin


async def hang_up_half_way(web: Site, target: str, size: int) -> None:
    async with await web.connect() as stream:
        head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nCookie: user=ann\r\n"
        head += f"Content-Length: {size}\r\n"
        await stream.send_all(head.encode() + b"\r\n" + PNG)
        await until(lambda: any(name.endswith(".part") for name in web.stored()))


async def test_hanging_up_half_way_leaves_nothing_and_the_url_stays_good(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        created = await web.create(size=2 * len(PNG))
        url = path_of(created["upload_descriptor"]["url"])
        await hang_up_half_way(web, url, 2 * len(PNG))
        await until(lambda: web.stored() == [f"{created['id']}.json"])
        assert (await web.ask("PUT", url, PNG + PNG)).status == 200


async def test_a_second_upload_while_the_first_comes_in_is_a_conflict(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        created = await web.create()
        url = path_of(created["upload_descriptor"]["url"])
        async with await web.connect() as stream:
            head = f"PUT {url} HTTP/1.1\r\nHost: localhost\r\nCookie: user=ann\r\n"
            head += f"Content-Length: {len(PNG)}\r\n\r\n"
            await stream.send_all(head.encode() + PNG[:-1])
            await until(lambda: any(name.endswith(".part") for name in web.stored()))
            assert (await web.ask("PUT", url, PNG)).error == (409, "conflict")
            await stream.send_all(PNG[-1:])
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200")


async def test_an_upload_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async with site(tmp_path, {"idle_timeout": 0.05}) as web:
        created = await web.create()
        url = path_of(created["upload_descriptor"]["url"])
        async with await web.connect() as stream:
            head = f"PUT {url} HTTP/1.1\r\nHost: localhost\r\nCookie: user=ann\r\n"
            head += f"Content-Length: {len(PNG)}\r\n\r\n"
            await stream.send_all(head.encode() + PNG[:-1])
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 408")
        assert web.stored() == [f"{created['id']}.json"]


async def test_a_large_file_passes_through_a_small_memory(tmp_path: Path) -> None:
    size = 64 * MEGABYTE
    chunk = os.urandom(MEGABYTE // 4)

    def pieces() -> Iterable[bytes]:
        yield PNG
        for _ in range((size - len(PNG)) // len(chunk)):
            yield chunk
        yield bytes((size - len(PNG)) % len(chunk))

    async with site(tmp_path, max_bytes=size) as web:
        url = path_of((await web.create(size=size))["upload_descriptor"]["url"])
        tracemalloc.start()
        try:
            answer = await web.ask("PUT", url, pieces())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        [path] = web.directory.glob("*.bin")
        assert (answer.status, path.stat().st_size) == (200, size)
        assert peak < 8 * MEGABYTE


async def test_a_client_that_sends_too_much_gets_to_read_why(tmp_path: Path) -> None:
    async with site(tmp_path, max_bytes=MEGABYTE) as web:
        url = path_of((await web.create(size=MEGABYTE))["upload_descriptor"]["url"])
        answer = await web.ask("PUT", url, PNG.ljust(3 * MEGABYTE))
        assert answer.error == (413, "too_large")


async def test_orphans_are_collected_while_the_app_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("chatkit_trio.web.uploads._FIRST_COLLECTION", 0.0)
    monkeypatch.setattr(DiskAttachmentStore.keep_collecting, "__defaults__", (0.1,))
    async with site(tmp_path, clock=lambda: now, context_for_owner=str) as web:
        await web.create()
        assert len(web.stored()) == 1
        now += 24 * 3600
        await until(lambda: web.stored() == [])


async def test_routes_may_be_below_another_path_and_prefix(tmp_path: Path) -> None:
    files = DiskAttachmentStore[str](
        tmp_path / "files",
        metadata=MemoryStore[str](owner=str),
        base_url="http://127.0.0.1:1/api/files",
        secret="a secret of tests only",
        owner=str,
    )
    app = QuartTrio(__name__)
    server = Server(files.metadata, files)
    app.register_blueprint(
        uploads_blueprint(server, context=user_of, path="/files"), url_prefix="/api"
    )
    app.register_blueprint(chatkit_blueprint(server, context=user_of))
    async with serving(app) as port:
        web = Site(port, tmp_path / "files", files)
        created = await web.create()
        url = path_of(created["upload_descriptor"]["url"])
        assert (await web.ask("PUT", url, PNG)).status == 200
        assert (await web.ask("GET", path_of(created["preview_url"]))).body == PNG


def test_a_server_with_another_kind_of_attachment_store_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a DiskAttachmentStore or S3AttachmentStore"):
        uploads_blueprint(Server(MemoryStore[str]()))


def test_attachments_at_the_root_of_a_site_are_refused(tmp_path: Path) -> None:
    store = MemoryStore[str]()
    files = DiskAttachmentStore[str](
        tmp_path, metadata=store, base_url="https://example.org", secret="0123456789abcdef"
    )
    with pytest.raises(ValueError, match="a path of their own"):
        uploads_blueprint(Server(store, files))


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "attachments.md"


async def test_the_documented_server_takes_a_file_and_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTACHMENTS_URL", "http://127.0.0.1:1/attachments")
    example, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(example, names)
    async with serving(names["app"]) as port:
        web = Site(port, tmp_path / "files", names["files"])
        created = await web.create()
        await web.ask("PUT", path_of(created["upload_descriptor"]["url"]), PNG)
        text = {"type": "input_text", "text": "How large?"}
        message = {"content": [text], "attachments": [created["id"]], "inference_options": {}}
        answer = await web.call("threads.create", input=message)
    assert f"grüße.png (image/png) has {len(PNG)} bytes." in answer.body.decode()
