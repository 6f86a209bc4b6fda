"""The pages of the API, and the how-tos about users, stored data and front ends, as they stand.

That the site can be built, that its links lead somewhere and that each public name is in the API
is what `mkdocs build --strict` looks at, in `.ci/run`, with `docs/.site/hooks.py`.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from itsdangerous import URLSafeTimedSerializer

import chatkit_trio
from chatkit_trio.stores import AsyncioStore, MemoryStore
from chatkit_trio.testing import JumpClock
from chatkit_trio.testing._asgi import ASGITransport
from tests.web.http import CREATE, events_of
from tests.web.sockets import running

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NODE = shutil.which("node")
TOLD_ELSEWHERE = ("chatkit_trio.cli", "chatkit_trio.demo", "chatkit_trio.stores.")
"""Commands, and modules whose names are those of `chatkit_trio.stores`."""


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.S | re.M)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_public_module_has_its_page() -> None:
    modules = {
        module.name
        for module in pkgutil.walk_packages(chatkit_trio.__path__, "chatkit_trio.")
        if "._" not in module.name
        and "__" not in module.name
        and not module.name.startswith(TOLD_ELSEWHERE)
    }
    pages = sorted((DOCS / "reference" / "api").glob("*.md"))
    told = {name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)}

    assert told == modules


def test_every_page_is_in_the_navigation() -> None:
    nav = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))

    assert sorted(nav) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.fixture
def login(in_tmp_path: None) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "login"}
    exec("\n\n".join(blocks("how-to/auth.md")), names)
    return names


async def ask(
    transport: ASGITransport, body: bytes, *headers: tuple[str, str], path: str = "/chatkit"
) -> tuple[int, bytes, dict[str, str]]:
    async with transport.exchange("POST", path, body, list(headers)) as answer:
        return answer.status, await answer.body(), dict(answer.headers)


async def test_who_logs_in_gets_a_cookie_and_nobody_elses_threads(
    login: dict[str, Any], jump_clock: JumpClock
) -> None:
    app = login["app"]
    form = ("Content-Type", "application/x-www-form-urlencoded")
    async with ASGITransport(app, "", []) as transport:
        stranger = await ask(transport, b"{}")
        wrong = await ask(transport, b"name=ann&password=", form, path="/login")
        nobody = await ask(transport, b"name=&password=", form, path="/login")
        ann = await ask(transport, b"name=ann&password=correct+horse", form, path="/login")
        old = URLSafeTimedSerializer("another secret", "chat-user").dumps("ann")
        forged = await ask(transport, b"{}", ("Cookie", f"user={old}"))
        cookie = ann[2]["set-cookie"]
        mine = ("Cookie", cookie.partition(";")[0])
        others = ("Cookie", f"user={login['cookies'].dumps('bob')}")
        said = await ask(transport, json.dumps(CREATE).encode(), mine)
        events = [event.data for event in events_of(said[1])]
        thread = events[0]["thread"]["id"]
        load = json.dumps({"type": "threads.get_by_id", "params": {"thread_id": thread}})
        statuses = [(await ask(transport, load.encode(), each))[0] for each in (mine, others)]

    assert [stranger[0], wrong[0], nobody[0], ann[0], forged[0]] == [401, 401, 401, 204, 401]
    assert "HttpOnly" in cookie
    assert "Secure" in cookie
    assert "SameSite=Lax" in cookie
    assert events[-1]["item"]["content"][0]["text"] == "Hello, ann."
    assert statuses == [200, 404]


async def test_a_token_is_taken_only_if_it_is_ours_and_in_time(login: dict[str, Any]) -> None:
    jwt, app = login["jwt"], login["tokens_app"]
    good = {"sub": "ann", "aud": "chat", "exp": time.time() + 60}
    key = login["TOKEN_KEY"]
    tokens = [
        jwt.encode(good, key, "HS256"),
        jwt.encode({**good, "exp": time.time() - 60}, key, "HS256"),
        jwt.encode({**good, "aud": "shop"}, key, "HS256"),
        jwt.encode({"sub": "ann", "aud": "chat"}, key, "HS256"),
        jwt.encode(good, "another key that is long enough for it", "HS256"),
        jwt.encode(good, None, "none"),
    ]
    body = b'{"type":"threads.list","params":{}}'
    async with ASGITransport(app, "", []) as transport:
        statuses = [
            (await ask(transport, body, ("Authorization", f"Bearer {token}")))[0]
            for token in tokens
        ]
        basic = await ask(transport, body, ("Authorization", f"Basic {tokens[0]}"))

    assert statuses == [200, 401, 401, 401, 401, 401]
    assert basic[0] == 401


async def test_what_a_store_of_the_original_has_is_copied_once() -> None:
    chatkit_types = pytest.importorskip("chatkit.types", reason="the extra `parity` is missing")
    from datetime import datetime, timedelta

    from tests.samples.memory_store import MemoryStore as OldStore

    names: dict[str, Any] = {}
    exec(blocks("how-to/stored-data.md")[0], names)
    old, began = OldStore(), datetime(2026, 5, 4, 12, 0)
    for number in range(60):
        thread_id = f"thr_{number:08x}"
        old.threads[thread_id] = chatkit_types.ThreadMetadata(
            id=thread_id, created_at=began + timedelta(minutes=number), title=f"T {number}"
        )
        old.items[thread_id] = [
            chatkit_types.HiddenContextItem(
                id=f"msg_{number:04x}{item:04x}",
                thread_id=thread_id,
                created_at=began + timedelta(minutes=number, seconds=item),
                content=f"note {item}",
            )
            for item in range(3 if number else 120)
        ]
    new: MemoryStore[Any] = MemoryStore()

    first = await names["copy"](AsyncioStore(old), new, None)
    renamed = (await new.load_thread("thr_00000000", None)).model_copy(update={"title": "Mine"})
    await new.save_thread(renamed, None)
    again = await names["copy"](AsyncioStore(old), new, None)

    page = await new.load_thread_items("thr_00000000", None, 200, "asc", None)
    threads = await new.load_threads(100, None, "asc", None)
    assert (first, again) == (120 + 59 * 3, 0)
    assert [item.content for item in page.data] == [f"note {number}" for number in range(120)]
    assert page.data[0].created_at == began.astimezone()
    titles = ["Mine", *(f"T {number}" for number in range(1, 60))]
    assert [thread.title for thread in threads.data] == titles


TRY_IT = """
import { Chat } from "./chat.mjs";
const chat = new Chat(process.argv[2]);
const texts = () => [...chat.items.values()].map((item) => item.content[0].text);
console.log(await chat.send("words"), JSON.stringify(texts()));
const waiting = chat.send("wait");
while (texts().length < 4 || !texts()[3]) await new Promise((done) => setTimeout(done, 20));
await chat.stop();
console.log(await waiting, JSON.stringify(texts()));
console.log(await chat.comeBack(chat.threadId));
const other = new Chat(process.argv[2]);
const slow = other.send("slowly").catch(() => null);
while (!other.lastEventId) await new Promise((done) => setTimeout(done, 20));
const back = new Chat(process.argv[2]);
back.items = other.items;
console.log(await back.comeBack(other.threadId, other.lastEventId) !== undefined, await slow);
await new Chat(`${process.argv[2]}/nowhere`).send("words").catch(() => console.log("refused"));
"""


@pytest.mark.skipif(
    NODE is None and "CHATKIT_TRIO_NEEDS_NODE" not in os.environ, reason="there is no node"
)
async def test_the_front_end_of_the_page_sends_stops_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "chat.mjs").write_text(blocks("how-to/own-front-end.md", "js")[0])
    (tmp_path / "try_it.mjs").write_text(TRY_IT)
    command = [
        sys.executable,
        "-m",
        "chatkit_trio",
        "serve",
        "tests.protocol.app:app",
        "--port",
        "0",
    ]
    async with running(command, tmp_path, "Serving on") as server:
        url = f"http://127.0.0.1:{server.port}/chatkit"
        run = await trio.run_process(
            [NODE or "node", "try_it.mjs", url],
            cwd=tmp_path,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )

    assert run.stdout.decode().splitlines() == [
        'finished ["words","One two three."]',
        'stopped ["words","One two three.","wait","One "]',
        "null",
        "true finished",
        "refused",
    ]
