"""The app around a server: its life, the page, and blueprints in apps of one's own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from pathlib import Path

import pytest
import trio
from quart_trio import QuartTrio

from chatkit_trio.errors import StoreError
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ScriptedRespond,
    ScriptedServer,
    StoreWrapper,
    do,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import TranscriptionResult
from chatkit_trio.web import ChatPage, chatkit_blueprint, create_app

from .http import CREATE, client_of, read_until, thread_id_of

STATIC = Path(__file__).parents[2] / "chatkit_trio" / "web" / "static"


class NotedStore(StoreWrapper):
    """A store that counts how often it is opened and closed."""

    opened = 0
    closed = 0

    async def __aenter__(self):
        self.opened += 1
        return await super().__aenter__()

    async def __aexit__(self, *exc_info):
        self.closed += 1
        await super().__aexit__(*exc_info)


# --- The app's life ------------------------------------------------------------------------------


async def test_the_server_runs_as_long_as_its_app():
    store = NotedStore(MemoryStore())
    server = scripted_server(store, [say("Hello")])

    async with client_of(create_app(server)):
        running = server.is_running

    assert (running, server.is_running) == (True, False)
    assert (store.opened, store.closed) == (1, 1)


async def test_an_app_may_run_twice():
    server = scripted_server(MemoryStore(), [say("Hello")])
    app = create_app(server)
    statuses = []

    for _ in range(2):
        async with client_of(app) as client:
            statuses.append((await client.post(CREATE)).status)

    assert statuses == [200, 200]


async def test_a_server_that_runs_already_is_left_alone():
    store = NotedStore(MemoryStore())
    async with scripted_server(store, [say("Hello")]) as server:
        async with client_of(create_app(server)) as client:
            answer = await client.post(CREATE)
        running = server.is_running

    assert answer.status == 200
    assert running
    assert (store.opened, store.closed) == (1, 1)


async def test_the_end_of_the_app_settles_live_turns(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1), pause(3600)])
    stopping, stopped = trio.Event(), trio.Event()

    async def run(started):
        async with client_of(create_app(server)) as client:
            started(client)
            await stopping.wait()
        stopped.set()

    clients = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, clients.append)
        await trio.testing.wait_all_tasks_blocked()
        async with clients[0].open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await read_until(response, b" there")
            stopping.set()
            await stopped.wait()
            page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)

    _, partial, note = page.data
    assert partial.content[0].text == "Hello there"
    assert note.content.startswith("The server was restarted")


async def test_an_app_whose_store_cannot_open_does_not_start(tmp_path, caplog):
    store = SQLiteStore(tmp_path / "nowhere" / "chat.sqlite3")
    app = create_app(scripted_server(store, [say("Hello")]))

    with pytest.raises(RuntimeError, match="can't use"):
        async with client_of(app):
            pass


async def test_cancelling_the_app_settles_and_closes(autojump_clock):
    """What an ASGI server does that has lost its patience."""
    store = NotedStore(MemoryStore())
    server = scripted_server(store, [say("Hello", every=1), pause(3600)])
    app = create_app(server)
    with trio.CancelScope() as scope:
        async with client_of(app) as client, client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await read_until(response, b"Hello")
            scope.cancel()
            await trio.sleep_forever()

    page = await store.load_thread_items(thread_id, None, 10, "asc", None)
    assert [item.type for item in page.data][1:] == ["assistant_message", "sdk_hidden_context"]
    assert store.closed == 1


# --- Its paths -----------------------------------------------------------------------------------

ADMIN = "a-token-of-tests-only"


def app_with(tmp_path, attachments=None, page=False, **paths):
    store = MemoryStore()
    url = f"http://localhost{attachments}"
    files = attachments and DiskAttachmentStore(
        tmp_path, metadata=store, base_url=url, secret="s" * 16
    )
    server = ScriptedServer(store, ScriptedRespond([say("Hello")]), attachment_store=files)
    return create_app(server, page=page, **paths)


@pytest.mark.parametrize(
    ("given", "both"),
    [
        ({"page": True, "path": "/"}, r"the page \(unless page=False\) and path"),
        ({"page": True, "health_path": "/"}, r"the page \(unless page=False\) and health_path"),
        ({"page": True, "metrics_path": "/"}, r"the page \(unless page=False\) and metrics_path"),
        (
            {"page": True, "liveness_path": "/chatkit-trio.js"},
            r"the page \(unless page=False\) and liveness_path",
        ),
        (
            {"page": True, "attachments": "/static"},
            r"the page \(unless page=False\) and the attachment store's base_url",
        ),
        ({"admin_token": ADMIN, "path": "/admin"}, "admin_path and path"),
        ({"admin_token": ADMIN, "path": "/admin/"}, "admin_path and path"),
        ({"admin_token": ADMIN, "admin_path": "/healthz"}, "admin_path and health_path"),
        ({"admin_token": ADMIN, "health_path": "/admin/state"}, "admin_path and health_path"),
        ({"admin_token": ADMIN, "attachments": "/admin/files"}, "admin_path and .* base_url"),
        ({"attachments": "/chatkit"}, "path and the attachment store's base_url"),
        ({"attachments": "/livez"}, "liveness_path and the attachment store's base_url"),
        ({"attachments": "/chatkit/threads"}, "path and the attachment store's base_url"),
        ({"health_path": "/chatkit/search"}, "health_path and path"),
        ({"health_path": "/chatkit"}, "path and health_path"),
        ({"health_path": "/ready/", "liveness_path": "/ready"}, "health_path and liveness_path"),
    ],
)
def test_paths_that_hide_each_other_are_refused(tmp_path, given, both):
    with pytest.raises(ValueError, match=f"^{both} must be different paths, and are both '/"):
        app_with(tmp_path, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/"},
        {"health_path": "/"},
        {"page": True, "path": "/static"},
        {"page": True, "path": "/page/chat", "attachments": "/page"},
        {"page": True, "admin_token": ADMIN, "admin_path": "/chatkit/admin"},
        {"page": True, "attachments": "/chatkit/attachments"},
        {"page": True, "attachments": "/chatkit/threads/files"},
        {"admin_token": ADMIN, "health_path": "/admin/healthz", "metrics_path": "/admin/metrics"},
        {"admin_path": "/chatkit"},
        {"health_path": None, "liveness_path": None, "attachments": "/healthz"},
    ],
)
def test_paths_below_each_other_are_not(tmp_path, given):
    app_with(tmp_path, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/a//b"},
        {"health_path": "//healthz"},
        {"liveness_path": "/livez//"},
        {"metrics_path": "/a//metrics"},
        {"admin_token": ADMIN, "admin_path": "/a//admin"},
        {"attachments": "/a//files"},
    ],
)
def test_a_path_with_an_empty_part_is_refused(tmp_path, given):
    with pytest.raises(ValueError, match="path"):
        app_with(tmp_path, **given)


# --- The blueprint in an app of one's own --------------------------------------------------------


async def test_two_servers_share_an_app():
    app = QuartTrio(__name__)
    for name in ("help", "sales"):
        server = scripted_server(MemoryStore(), [say(f"This is {name}")])
        blueprint = chatkit_blueprint(server, path=f"/{name}", health_path=None, name=name)
        app.register_blueprint(blueprint)

    async with client_of(app) as client:
        helped = await client.ask("POST", "/help", CREATE)
        sold = await client.ask("POST", "/sales/", CREATE)
        health = await client.ask("GET", "/healthz")

    assert b"This is help" in helped.body
    assert sold.status == 404
    assert health.status == 404


async def test_the_apps_own_routes_keep_their_errors():
    app = QuartTrio(__name__)
    app.register_blueprint(chatkit_blueprint(scripted_server(MemoryStore(), [say("Hello")])))

    async with client_of(app) as client:
        answer = await client.ask("GET", "/nowhere")

    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")


# --- The page ------------------------------------------------------------------------------------


async def test_the_page_comes_with_a_strict_policy():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        page = await client.ask("GET", "/")

    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert "object-src 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-cache"


def page_files():
    """Yield every file the page is made of."""
    return sorted(path.name for path in STATIC.iterdir() if path.suffix in {".js", ".css", ".svg"})


@pytest.mark.parametrize("name", page_files())
async def test_every_file_of_the_page_is_served(name):
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.ask("GET", f"/static/{name}")

    assert answer.body == (STATIC / name).read_bytes()
    assert kinds[Path(name).suffix] in answer.headers["content-type"]
    assert "content-security-policy" in answer.headers
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("accepts", "encoding", "opened"),
    [
        ("gzip, deflate, br", "br", None),
        ("gzip", "gzip", gzip.decompress),
        ("br;q=0, gzip;q=0.5", "gzip", gzip.decompress),
        ("identity", None, bytes),
    ],
)
async def test_a_file_is_sent_compressed_to_whom_can_read_that(accepts, encoding, opened):
    [name] = [name for name in page_files() if name.startswith("element-")]
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        headers = {"Accept-Encoding": accepts}
        answer = await client.ask("GET", f"/static/{name}", b"", headers)

    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "Accept-Encoding"
    if opened is None:
        assert answer.body == (STATIC / f"{name}.br").read_bytes()
    else:
        assert opened(answer.body) == (STATIC / name).read_bytes()


async def test_pages_elsewhere_may_load_the_element():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        element = await client.ask("GET", "/chatkit-trio.js")
        imported = element.body.decode().split('"')[1].removeprefix(".")
        answers = [element, await client.ask("GET", imported)]
        answers.append(await client.ask("GET", "/chatkit-trio-react.js"))

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}
    # A new version is found at once.
    assert element.headers["cache-control"] == "no-cache"


async def test_the_page_may_be_framed_by_those_that_the_app_names():
    server = scripted_server(MemoryStore(), [say("Hello")])
    ancestors = ["https://shop.example", "http://localhost:3000", "https://東京.example"]
    page = ChatPage(frame_ancestors=ancestors)
    async with client_of(create_app(server, page=page)) as client:
        answer = await client.ask("GET", "/")

    policy = answer.headers["content-security-policy"]
    assert policy.endswith(
        "frame-ancestors 'self' https://shop.example http://localhost:3000"
        " https://xn--1lqs71d.example"
    )


@pytest.mark.parametrize(
    "origin",
    [
        "shop.example",
        "https://a.example; script-src *",
        "https://ü.example\uff1bscript-src",  # which would become a plain semicolon
        "https:// a",
        "https://ü..example",
    ],
)
def test_what_may_frame_the_page_has_to_be_an_origin(origin):
    server = scripted_server(MemoryStore(), [say("Hello")])
    with pytest.raises(ValueError, match="frame_ancestors"):
        create_app(server, page=ChatPage(frame_ancestors=[origin]))


@pytest.mark.parametrize(
    ("src", "allowed"),
    [
        ("https://fonts.example/nice.woff2", "'self' https://fonts.example"),
        ("https://fonts.example:8443/nice.woff2", "'self' https://fonts.example:8443"),
        ("//fonts.example/nice.woff2", "'self' fonts.example"),
        ("data:font/woff2;base64,d09GMgAB", "'self' data:"),
        ("DATA:font/woff2;base64,d09GMgAB", "'self' data:"),
        ("/fonts/nice.woff2", "'self'"),
        ("https://例え.テスト:8443/nice.woff2", "'self' https://xn--r8jz45g.xn--zckzah:8443"),
    ],
)
async def test_the_page_may_load_the_fonts_of_its_theme(src, allowed):
    source = {"family": "Nice", "src": src}
    theme = {"typography": {"fontFamily": "Nice", "fontSources": [source]}}
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server, page=ChatPage(options={"theme": theme}))) as client:
        answer = await client.ask("GET", "/")

    assert f"font-src {allowed};" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["prompts", "frame_ancestors", "scripts"])
def test_a_list_of_the_page_is_no_text(name):
    server = scripted_server(MemoryStore(), [say("Hello")])
    with pytest.raises(ValueError, match=f"^{name} must be a list, not 'Tell me a joke'"):
        create_app(server, page=ChatPage(**{name: "Tell me a joke"}))


async def test_the_page_may_load_and_send_nothing_of_others():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.ask("GET", "/")

    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    inline = re.search(r"<script>(.*?)</script>", answer.body.decode(), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert policy == {
        "default-src": "'self'",
        "script-src": f"'self' 'sha256-{digest}'",
        "img-src": "'self' data: blob: https:",  # which of them: the page's own js/urls.js
        "style-src": "'self' 'unsafe-inline'",
        "connect-src": "'self'",
        "font-src": "'self'",
        "media-src": "'self' blob:",
        "form-action": "'self'",
        "object-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'self'",
    }
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-dns-prefetch-control"] == "off"


async def test_an_unchanged_file_is_not_sent_again():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        path = f"/static/{page_files()[0]}"
        first = await client.ask("GET", path)
        headers = {"If-None-Match": first.headers["etag"]}
        second = await client.ask("GET", path, b"", headers)

    assert (second.status, second.body) == (304, b"")


@pytest.mark.parametrize("path", ["/static/../_page.py", "/static/%2e%2e/_page.py", "/static/"])
async def test_nothing_else_is_served(path):
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.ask("GET", path)

    assert answer.status == 404
    assert answer.json["error"]["code"] == "not_found"


async def test_without_the_page_there_is_only_the_endpoint():
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), page=False)
    async with client_of(app) as client:
        page = await client.ask("GET", "/")
        script = await client.ask("GET", "/chatkit-trio.js")
        health = await client.ask("GET", "/healthz")

    assert (page.status, script.status, health.status) == (404, 404, 200)


class Transcriber(ScriptedServer):
    async def add_feedback(self, thread_id, item_ids, feedback, context):
        return None

    async def transcribe(self, audio_input, context):
        return TranscriptionResult(text="Hello")


class Shelf(AttachmentStore):
    async def delete_attachment(self, attachment_id, context):
        return None


async def meta_tags(app):
    async with client_of(app) as client:
        page = (await client.ask("GET", "/")).body.decode()
    tags = dict(re.findall(r'<meta name="chatkit-([^"]*)" content="([^"]*)">', page))
    return [tags[name] for name in ("endpoint", "attachments", "dictation", "feedback")]


async def test_the_page_offers_what_the_server_can():
    plain = scripted_server(MemoryStore(), [say("Hello")])
    able = Transcriber(MemoryStore(), say("Hello"), attachment_store=Shelf())

    offered = [
        await meta_tags(create_app(plain)),
        await meta_tags(create_app(able, path="/api/chat")),
    ]

    assert offered == [["chatkit", "off", "off", "off"], ["api/chat", "on", "on", "on"]]


async def test_the_page_says_what_it_is_told():
    page = ChatPage(name='A "B" & co', greeting="<Hello>", prompts=['Say "hi"', "Größe?"])
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), page=page)

    async with client_of(app) as client:
        text = (await client.ask("GET", "/")).body.decode()

    contents = dict(re.findall(r'<meta name="([^"]*)" content="([^"]*)">', text))
    told = {name: html.unescape(content) for name, content in contents.items()}
    assert told["application-name"] == 'A "B" & co'
    assert told["chatkit-greeting"] == "<Hello>"
    assert json.loads(told["chatkit-prompts"]) == [{"label": 'Say "hi"'}, {"label": "Größe?"}]


async def test_the_page_loads_further_scripts_before_its_own(tmp_path):
    scripts = [tmp_path / "first.js", tmp_path / "second.v2.js"]
    for script in scripts:
        script.write_text(f"// {script.name}")
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), page=ChatPage(scripts=scripts))

    async with client_of(app) as client:
        text = (await client.ask("GET", "/")).body.decode()
        answers = [await client.ask("GET", f"/page/{script.name}") for script in scripts]
        other = await client.ask("GET", "/page/other.js")

    sources = re.findall(r'<script type="module" src="([^"]*)">', text)
    element, *own, page = sources
    assert own == ["page/first.js", "page/second.v2.js"]
    assert re.fullmatch(r"static/element-[0-9a-f]{12}\.js", element)
    assert re.fullmatch(r"static/page-[0-9a-f]{12}\.js", page)
    assert [answer.body.decode() for answer in answers] == ["// first.js", "// second.v2.js"]
    for answer in answers:
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert other.status == 404


async def test_scripts_of_similar_names_are_each_served(tmp_path):
    scripts = [tmp_path / name for name in ("a b.js", "a.b.js", "a-b.js")]
    for script in scripts:
        script.write_text(f"// {script.name}")
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), page=ChatPage(scripts=scripts))

    async with client_of(app) as client:
        answers = [
            await client.ask("GET", f"/page/{name}") for name in ("a%20b.js", "a.b.js", "a-b.js")
        ]

    assert [answer.body.decode() for answer in answers] == [f"// {each.name}" for each in scripts]


@pytest.mark.parametrize("names", [["a/x.js", "b/x.js"], ["x.js", "x.js"], ["<name>.js"]], ids=str)
def test_scripts_that_cannot_be_told_apart_are_refused(names):
    with pytest.raises(ValueError, match=r"^scripts must have .*, and one is '(x|<name>)\.js'"):
        ChatPage(scripts=names)


async def test_a_store_that_breaks_at_startup_is_named(caplog):
    class Broken(NotedStore):
        async def __aenter__(self):
            raise StoreError("the disk is full")

    app = create_app(scripted_server(Broken(MemoryStore()), [say("Hello")]))
    with pytest.raises(RuntimeError, match="the disk is full"):
        async with client_of(app):
            pass


async def test_user_code_that_does_not_end_holds_up_the_server_and_not_its_app(autojump_clock):
    """The app's own shutdown runs, and the process is then for others to end."""
    released, told = trio.Event(), []

    async def cling(turn):
        with trio.CancelScope(shield=True):
            await released.wait()

    server = scripted_server(MemoryStore(), [say("Hel", finish=False), do(cling)])
    app = create_app(server)

    @app.after_serving
    async def end():
        told.append((server.held_up.is_set(), [turn.state for turn in server.live_turns]))
        released.set()

    async with client_of(app) as client, client.open("POST", "/chatkit", CREATE) as response:
        await read_until(response, b"Hel")

    assert told == [(True, ["settled"])]
