"""User code that fills Trio's thread limiter holds up nothing that the package does itself."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.testing import ScriptedRespond, ScriptedServer, say, scripted_server
from chatkit_trio.types import AttachmentCreateParams
from chatkit_trio.web import create_app
from chatkit_trio.widgets import WidgetTemplate

from .web.http import client_of

TEMPLATE = '{"version": "1.0", "name": "Hi", "template": "{}", "jsonSchema": {}}'


@asynccontextmanager
async def all_threads_of_user_code_taken():
    """Take every token that `trio.to_thread.run_sync` has for who names no limiter."""
    limiter = trio.to_thread.current_default_thread_limiter()
    tokens = [object() for _ in range(int(limiter.total_tokens))]
    for token in tokens:
        limiter.acquire_on_behalf_of_nowait(token)
    try:
        with trio.fail_after(30):
            yield
    finally:
        for token in tokens:
            limiter.release_on_behalf_of(token)


def files_in(tmp_path, store):
    return DiskAttachmentStore(
        tmp_path / "files", metadata=store, base_url="http://chat.test/files", secret="s" * 16
    )


@pytest.mark.parametrize("path", ["/", "/chatkit-trio.js", "/healthz", "/metrics"])
async def test_the_page_comes_while_user_code_has_all_threads(tmp_path, path):
    store = SQLiteStore(tmp_path / "chat.sqlite3")
    app = create_app(scripted_server(store, [say("Hello")]), metrics_path="/metrics")
    async with client_of(app) as client, all_threads_of_user_code_taken():
        answer = await client.ask("GET", path)

    assert answer.status == 200


async def test_a_file_is_taken_and_sent_while_user_code_has_all_threads(tmp_path):
    store = MemoryStore()
    files = files_in(tmp_path, store)
    server = ScriptedServer(store, ScriptedRespond([say("Hello")]), attachment_store=files)
    async with client_of(create_app(server)) as client, all_threads_of_user_code_taken():
        params = AttachmentCreateParams(name="a.txt", size=5, mime_type="text/plain")
        created = await files.create_attachment(params, None)
        await store.save_attachment(created, None)
        url = str(created.upload_descriptor.url).removeprefix("http://chat.test")
        taken = await client.ask("PUT", url, b"hello")
        path = files.view_url(created.id).removeprefix("http://chat.test")
        sent = await client.ask("GET", path)

    assert (taken.status, sent.status, sent.body) == (200, 200, b"hello")


async def test_a_widget_template_is_read_while_user_code_has_all_threads(tmp_path):
    path = tmp_path / "hi.widget"
    path.write_text(TEMPLATE, encoding="utf-8")

    async with all_threads_of_user_code_taken():
        template = await WidgetTemplate.load(path)

    assert template.name == "Hi"
