"""A bucket behind the web layer: real sockets, the service in a process, a real browser."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from chatkit_trio.server import stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import create_app
from tests.chromium import needs_chromium, running_chromium
from tests.stores.s3_service import Service, make_session, service

from .test_uploads import FORM, HTML, PAGE, PNG, Server, Site, form, path_of, serving, user_of

from chatkit_trio.stores.s3 import S3AttachmentStore  # isort: skip  (s3_service skips without it)

__all__ = ["service"]

ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Reader(Server):
    """Says how many bytes the files of a message have."""

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: str
    ) -> AsyncIterator[ThreadStreamEvent]:
        return stream_text(thread, self.sizes(input_user_message, context))

    async def sizes(self, message: UserMessageItem | None, context: str) -> AsyncIterator[str]:
        files = self.attachment_store
        assert isinstance(files, S3AttachmentStore)
        for attachment in message.attachments if message else []:
            content = await files.read_attachment(attachment.id, context)
            yield f"{attachment.name} has {len(content)} bytes. "


@dataclass
class Bucket:
    name: str
    service: Service

    def kinds(self) -> list[str]:
        """The kinds of the objects of attachments, which have a dot in their names."""
        keys = self.service.keys(self.name)
        return [kind for _, dot, kind in (key.rpartition(".") for key in keys) if dot]


@asynccontextmanager
async def site(service: Service) -> AsyncIterator[tuple[Site, Bucket]]:
    bucket = Bucket(service.make_bucket(), service)
    files = S3AttachmentStore[str](
        bucket.name,
        metadata=MemoryStore[str](owner=str),
        base_url="http://127.0.0.1:1/attachments",
        secret="a secret of tests only",
        endpoint_url=service.url,
        region="us-east-1",
        session=make_session(),
        owner=str,
        accept=["image/*", "text/*"],
    )
    async with serving(create_app(Reader(files.metadata, files), context=user_of)) as port:
        yield Site(port, None, files), bucket  # type: ignore[arg-type]


async def ask_bucket(
    method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Any:
    parts = urlsplit(url)
    web = Site(parts.port, None, None)  # type: ignore[arg-type]
    given = list((headers or {}).items())
    return await web.ask(method, f"{parts.path}?{parts.query}", body, given, user=None)


def message(attachment: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "input_text", "text": "How large?"}
    return {"content": [text], "attachments": [attachment["id"]], "inference_options": {}}


async def put(created: dict[str, Any], content: bytes) -> None:
    descriptor = created["upload_descriptor"]
    answer = await ask_bucket(
        descriptor["method"], descriptor["url"], content, descriptor["headers"]
    )
    assert answer.status == 200


async def test_what_goes_into_the_bucket_is_read_by_the_model_and_seen_by_its_owner(
    service: Service,
) -> None:
    async with site(service) as (web, bucket):
        created = await web.create()
        await put(created, PNG)
        answer = await web.call("threads.create", input=message(created))
        shown = await web.ask("GET", path_of(created["preview_url"]))
        image = await ask_bucket("GET", shown.headers["location"])
        assert f"has {len(PNG)} bytes." in answer.body.decode()
        assert '"upload_descriptor"' not in answer.body.decode()
        assert (shown.status, shown.body) == (302, b"")
        assert shown.headers["cache-control"] == "private, max-age=150"
        assert shown.headers["referrer-policy"] == "no-referrer"
        assert (image.status, image.body) == (200, PNG)
        assert bucket.kinds() == ["bin", "json"]


async def test_a_message_with_a_disguised_file_is_refused_and_the_file_deleted(
    service: Service,
) -> None:
    async with site(service) as (web, bucket):
        created = await web.create()
        await put(created, HTML)
        answer = await web.call("threads.create", input=message(created))
        threads = await web.call("threads.list")
        assert answer.error == (415, "unsupported_type")
        assert threads.json()["data"] == []
        assert bucket.kinds() == ["json"]


async def test_a_message_with_a_file_that_has_not_come_is_refused(service: Service) -> None:
    async with site(service) as (web, _):
        created = await web.create()
        answer = await web.call("threads.create", input=message(created))
        assert answer.error == (404, "not_found")


async def test_every_way_to_misuse_a_preview_url_has_its_status(service: Service) -> None:
    async with site(service) as (web, bucket):
        created = await web.create()
        url = path_of(created["preview_url"])
        assert (await web.ask("GET", url)).error == (404, "not_found")
        await put(created, PNG)
        assert (await web.ask("GET", url + "0")).error == (403, "forbidden")
        assert (await web.ask("GET", url, user="bob")).error == (404, "not_found")
        assert (await web.ask("PUT", url, PNG)).error == (405, "method_not_allowed")
        assert (await web.ask("GET", url)).status == 302
        await web.call("attachments.delete", attachment_id=created["id"])
        assert (await web.ask("GET", url)).error == (404, "not_found")
        assert bucket.kinds() == []


async def test_the_address_of_a_file_is_told_to_its_owner_when_it_has_come(
    service: Service,
) -> None:
    async with site(service) as (web, _):
        created = await web.create(mime_type="text/plain")
        address = f"/chatkit/attachments/{created['id']}/url"
        assert (await web.ask("GET", address)).error == (404, "not_found")
        await put(created, HTML)
        assert (await web.ask("GET", address, user="bob")).error == (404, "not_found")
        told = (await web.ask("GET", address)).json()["url"]
        sent = await web.ask("GET", path_of(told))
        content = await ask_bucket("GET", sent.headers["location"])
        assert content.body == HTML
        assert content.headers["content-disposition"].startswith("attachment;")


async def test_a_form_sent_to_the_server_goes_on_to_the_bucket(service: Service) -> None:
    async with site(service) as (web, bucket):
        taken = await web.ask("POST", "/attachments", form(PNG, "../cat.png"), FORM)
        shown = await web.ask("GET", path_of(taken.json()["preview_url"]))
        image = await ask_bucket("GET", shown.headers["location"])
        refused = await web.ask("POST", "/attachments", form(HTML), FORM)
        assert (taken.status, taken.json()["name"], image.body) == (200, "cat.png", PNG)
        assert refused.error == (415, "unsupported_type")
        assert bucket.kinds() == ["bin", "json"]


async def test_a_bucket_that_is_gone_is_answered_with_try_again(service: Service) -> None:
    async with site(service) as (web, bucket):
        created = await web.create()
        await web.call("attachments.delete", attachment_id=created["id"])
        service.delete_bucket(bucket.name)
        answer = await web.call("attachments.create", name="a", size=1, mime_type="text/plain")
        assert answer.error == (503, "store")
        assert "retry-after" in answer.headers


async def test_the_page_may_send_files_to_the_bucket_and_nowhere_else(service: Service) -> None:
    async with site(service) as (web, _):
        page = await web.ask("GET", "/")
    policy = dict(
        directive.split(" ", 1) for directive in page.headers["content-security-policy"].split("; ")
    )
    assert policy["connect-src"] == f"'self' {service.url}"
    assert policy["img-src"] == f"'self' data: blob: https: {service.url}"


async def test_the_documented_server_takes_a_file_into_its_bucket_and_reads_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "ATTACHMENTS_URL": "http://127.0.0.1:1/attachments",
        "ATTACHMENTS_BUCKET": service.make_bucket(),
        "ATTACHMENTS_ENDPOINT": service.url,
        "ATTACHMENTS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": "a secret key of tests only",
    }.items():
        monkeypatch.setenv(name, value)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "documentation"}
    exec("\n".join(blocks), names)
    async with serving(names["app"]) as port:
        web = Site(port, None, names["files"])  # type: ignore[arg-type]
        created = await web.create()
        await put(created, PNG)
        answer = await web.call("threads.create", input=message(created))
    assert f"grüße.png (image/png) has {len(PNG)} bytes." in answer.body.decode()


# --- In a browser


@dataclass(frozen=True)
class Seen:
    answer: str
    requests: list[tuple[str, str]]
    problems: list[str]


def send_a_picture(url: str, picture: Path) -> Seen:
    """Send a file with the page, load the page again, and wait until it shows the picture."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    requests: list[tuple[str, str]] = []
    problems: list[str] = []
    with running_chromium() as browser:
        context = browser.new_context()
        context.set_default_timeout(20_000)
        context.add_cookies([{"name": "user", "value": "ann", "url": url}])
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("requestfinished", lambda r: requests.append((r.method, r.url)))
        page.goto(url)
        page.get_by_test_id("attach-input").set_input_files(picture)
        page.get_by_test_id("composer").fill("How large?")
        page.get_by_test_id("send").click()
        answer = page.get_by_test_id("message-assistant").last
        sync_api.expect(answer).to_contain_text("bytes", timeout=20_000)
        page.reload()
        picture_shown = page.locator("img.attachment-image")
        sync_api.expect(picture_shown).to_have_js_property("naturalWidth", 1, timeout=20_000)
        text: str = answer.inner_text()
    return Seen(text, requests, problems)


@pytest.mark.browser
@needs_chromium
async def test_the_page_sends_a_picture_to_the_bucket_and_shows_it_from_there(
    service: Service, tmp_path: Path
) -> None:
    picture = tmp_path / "dot.png"
    picture.write_bytes(ONE_PIXEL)
    async with site(service) as (web, bucket):
        own = f"http://127.0.0.1:{web.port}"
        web.files.base_url = f"{own}/attachments"
        rule = {"AllowedOrigins": [own], "AllowedMethods": ["PUT"], "AllowedHeaders": ["*"]}
        service.client.put_bucket_cors(Bucket=bucket.name, CORSConfiguration={"CORSRules": [rule]})
        seen = await trio.to_thread.run_sync(send_a_picture, own, picture)
        kinds = bucket.kinds()
    assert f"dot.png has {len(ONE_PIXEL)} bytes." in seen.answer
    assert seen.problems == []
    to_bucket = [method for method, url in seen.requests if url.startswith(service.url)]
    assert to_bucket.count("PUT") == 1
    assert "GET" in to_bucket
    assert kinds == ["bin", "json"]
