"""Answers that a prompt injection wrote, in a real browser: they reach nobody and break nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chromium import running_chromium

from .hostile import MARKUP, SCRIPT_URLS, UNSAFE
from .recorder import Recorder, certificate

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificate"
)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The URL of the server with the hostile answers."""
    target = "tests.browser.hostile:app"
    command = [sys.executable, "-m", "chatkit_trio", "serve", target, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as site:
        try:
            yield re.search(r"http://\S+", site.stdout.readline())[0]
        finally:
            site.terminate()


@pytest.fixture(scope="module")
def third_party(tmp_path_factory) -> Iterator[Recorder]:
    recorder = Recorder(certificate(tmp_path_factory.mktemp("tls")))
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def browser(third_party):
    rules = f"MAP *.test 127.0.0.1:{third_party.port}"
    with running_chromium(f"--host-resolver-rules={rules}") as browser:
        yield browser


@pytest.fixture
def page(browser, address, third_party):
    """A new user's page; a test fails if a script of an answer ran, or if the page failed."""
    third_party.forget()
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(20_000)
    context.add_init_script("window.tried = () => { document.documentElement.dataset.tried = 1 }")
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    expect(page.get_by_test_id("composer")).to_be_visible()
    yield page
    ran = page.evaluate("'tried' in document.documentElement.dataset")
    pages = len(context.pages)
    context.close()
    assert (ran, pages, problems) == (False, 1, [])


def ask(page, text: str) -> None:
    """Send a message, and wait until its whole answer is drawn."""
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("send").click()
    expect(page.get_by_text("That was all.")).to_be_visible()
    expect(page.locator("body")).to_have_attribute("data-state", "idle")
    all_is_drawn(page)


def all_is_drawn(page) -> None:
    """Wait for what is loaded when it is needed, and for long texts, drawn one by one."""
    expect(page.locator(".items")).to_be_visible()
    expect(page.locator(".items .is-plain, .items .shimmer")).to_have_count(0)


def scroll_through(page) -> None:
    """Bring everything into view: lazy images only load there."""
    log = page.locator(".log")
    height = log.evaluate("(log) => log.scrollHeight")
    for top in range(0, height, 400):
        # For a frame, in which is seen what has come into view.
        log.evaluate(
            """(log, top) => {
              log.scrollTo({ top, behavior: "instant" });
              return new Promise(requestAnimationFrame);
            }""",
            top,
        )
    page.wait_for_load_state("networkidle")


def wait_for_requests(page, third_party: Recorder, count: int) -> None:
    """Wait until at least so many have come; the network may be idle before the first."""
    for _ in range(400):
        if len(third_party.requests) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"only these were asked for: {third_party.requests}")


def reload(page) -> None:
    """Load the page again, with all of the conversation."""
    page.reload()
    expect(page.get_by_text("That was all.")).to_be_visible()
    older = page.locator(".older button")
    while older.count():
        # The last page may come, and the button go, while it is to be clicked.
        with suppress(sync_api.TimeoutError):
            older.click(timeout=2000)
    all_is_drawn(page)


def counts(page) -> dict[str, int]:
    kinds = ["message-assistant", "workflow", "widget", "undrawable"]
    return {kind: page.get_by_test_id(kind).count() for kind in kinds}


# --- Links and scripts ---------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["as it streams", "after a reload"])
def test_no_script_address_of_an_answer_gets_into_the_document(page, again):
    ask(page, "links")
    if again:
        reload(page)

    assert page.evaluate(UNSAFE) == []
    shown = page.locator(".app").inner_text()
    assert [n for n in range(len(SCRIPT_URLS)) if f"raw {n}" not in shown] == []


def test_all_items_with_script_addresses_are_drawn(page):
    ask(page, "links")

    drawn = {"message-assistant": 7, "workflow": 1, "widget": 1 + len(SCRIPT_URLS)}
    assert counts(page) == {**drawn, "undrawable": 0}


def test_an_address_that_is_not_safe_is_no_link_at_all(page):
    inline = (
        "[one](javascript:x) [two]() <javascript:x> [four](<vbscript:x>) [five](data:text/html,x)"
    )
    raw = '<a href="javascript:x">six</a> <a href="">seven</a> <a>eight</a> <a href="file:///x">nine</a>'
    source = {"index": 0, "source": {"type": "url", "title": "ten", "url": "javascript:x"}}
    part = {"text": f"{inline}\n\n{raw}", "annotations": [source]}
    serve_items(page, [{"type": "assistant_message", "content": [part]}])

    expect(page.get_by_test_id("message-assistant")).to_contain_text("nine")
    expect(page.get_by_test_id("message-assistant")).to_contain_text("ten")
    expect(page.locator(".items [href]")).to_have_count(0)


def test_addresses_that_are_safe_are_links_that_tell_nothing(page):
    answer = "[web](https://example.com/a?b=c#d) [mail](mailto:a@example.com) [own](help/start)"
    serve_items(page, [assistant(answer)])

    links = page.get_by_test_id("message-assistant").locator("a")
    assert links.evaluate_all("(links) => links.map((each) => each.href)") == [
        "https://example.com/a?b=c#d",
        "mailto:a@example.com",
        page.evaluate("new URL('help/start', document.baseURI).href"),
    ]
    told = links.evaluate_all("(links) => links.map((each) => `${each.target} ${each.rel}`)")
    assert set(told) == {"_blank noopener noreferrer"}


@pytest.mark.parametrize("again", [False, True], ids=["as it streams", "after a reload"])
def test_markup_of_an_answer_runs_nothing_and_asks_nobody(page, third_party, again):
    ask(page, "markup")
    if again:
        reload(page)
    scroll_through(page)

    for target in page.locator(".items a, .items button:not(.workflow-head)").all():
        target.dispatch_event("mouseover")
    assert page.evaluate(UNSAFE) == []
    assert (third_party.connections, third_party.requests) == (0, [])
    number = len(MARKUP)
    assert counts(page) == {
        "message-assistant": number + 1,
        "workflow": number,
        "widget": number,
        "undrawable": 0,
    }


def test_markup_of_an_answer_can_not_dress_up_as_the_page(page):
    answer = '<p id="app" class="dialog">x</p><div class="toasts" role="alert">y</div>'
    serve_items(page, [assistant(answer)])

    assert page.locator(".items [id], .items .dialog, .items .toasts").count() == 0


# --- Images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["as it streams", "after a reload"])
def test_without_a_rule_no_image_of_another_host_is_asked_for(page, third_party, again):
    ask(page, "images")
    if again:
        reload(page)
    scroll_through(page)

    assert (third_party.connections, third_party.requests) == (0, [])
    # On each host: in a message, a link, two steps, a task, an image, four places of a card, two
    # of a list. And the one of the notice, which isn't stored.
    expect(page.get_by_test_id("picture-ask")).to_have_count(24 if again else 25)
    expect(page.get_by_test_id("picture-ask").first).to_contain_text("evil.test")


def test_a_click_loads_one_image(page, third_party):
    ask(page, "images")
    expect(page.get_by_test_id("picture-ask")).to_have_count(25)
    page.get_by_role("button", name="Load image from evil.test").first.click()
    expect(page.get_by_role("img", name="A chart of sales")).to_have_js_property("complete", True)
    page.wait_for_load_state("networkidle")

    assert third_party.requests == ["evil.test/message.png"]
    expect(page.get_by_test_id("picture-ask")).to_have_count(24)


def test_a_key_loads_one_image_and_keeps_the_focus_near(page, third_party):
    ask(page, "images")
    page.get_by_role("button", name="Load image from evil.test").first.focus()
    page.keyboard.press("Enter")
    image = page.get_by_role("img", name="A chart of sales")
    expect(image).to_be_focused()
    expect(image).to_have_js_property("complete", True)

    assert third_party.requests == ["evil.test/message.png"]


def test_a_click_loads_all_images_of_a_host_until_the_page_is_left(page, third_party):
    ask(page, "images")
    page.get_by_role("button", name="Always from evil.test").first.click()
    scroll_through(page)
    wait_for_requests(page, third_party, 12)
    hosts = {request.partition("/")[0] for request in third_party.requests}
    loaded = len(third_party.requests)

    assert (hosts, loaded) == ({"evil.test"}, len(set(third_party.requests)))
    expect(page.get_by_test_id("picture-ask")).to_have_count(12)
    third_party.forget()
    reload(page)
    scroll_through(page)
    assert third_party.requests == []


def test_a_rule_lets_its_hosts_load_and_nobody_else(page, third_party):
    ask(page, "images only cdn.test")
    scroll_through(page)
    wait_for_requests(page, third_party, 11)

    hosts = {request.partition("/")[0] for request in third_party.requests}
    assert hosts == {"a.cdn.test"}
    assert len(third_party.requests) == 11
    expect(page.get_by_test_id("picture-ask")).to_have_count(0)
    expect(page.get_by_test_id("picture-refused")).to_have_count(13)


def test_an_empty_rule_lets_no_other_host_load(page, third_party):
    ask(page, "images only")
    scroll_through(page)

    assert (third_party.connections, third_party.requests) == (0, [])
    expect(page.get_by_test_id("picture-refused")).to_have_count(25)
    expect(page.get_by_test_id("picture-ask")).to_have_count(0)


SOURCES = Path(__file__).parents[2] / "chatkit_trio" / "web" / "page"

VERDICT = """async ([url, domains]) =>
  (await import(`${location.origin}/sources/js/urls.js`)).imageVerdict(url, domains)"""


def serve_sources(page):
    """Let the page import its own modules, which the server doesn't send as they are."""

    def send(route):
        name = route.request.url.partition("/sources/")[2]
        route.fulfill(path=SOURCES / name, content_type="text/javascript")

    page.route("**/sources/**", send)


@pytest.mark.parametrize(
    ("domain", "host", "verdict"),
    [
        ("cdn.test", "cdn.test", "load"),
        ("cdn.test", "a.b.cdn.test", "load"),
        ("CDN.Test", "cdn.test.", "load"),
        ("cdn.test", "CDN.TEST:8443", "load"),
        ("bücher.test", "xn--bcher-kva.test", "load"),
        ("cdn.test", "evilcdn.test", "refused"),
        ("cdn.test", "cdn.test.evil.test", "refused"),
        ("cdn.test", "evil.test/cdn.test", "refused"),
        ("cdn.test", "cdn.test@evil.test", "refused"),
        ("a.cdn.test", "cdn.test", "refused"),
        ("", "evil.test.", "refused"),
        (".", "evil.test", "refused"),
        ("*", "evil.test", "refused"),
        ("*.test", "evil.test", "refused"),
        ("https://cdn.test", "cdn.test", "refused"),
        ("cdn.test/x", "cdn.test", "refused"),
        (None, "evil.test", "refused"),
        (7, "7", "refused"),
    ],
)
def test_a_domain_stands_for_itself_and_what_is_below_it(page, domain, host, verdict):
    serve_sources(page)
    assert page.evaluate(VERDICT, [f"https://{host}/x.png", [domain]]) == verdict


ODD = [
    "http://evil.test/plain.png",
    "//evil.test/relative.png",
    "https:evil.test/no-slashes.png",
    "https:\\\\evil.test\\backslashes.png",
    "https://user:word@evil.test/userinfo.png",
    "ht\ttps://evil.test/tab.png",
    " https://evil.test/space.png",
    "HTTPS://EVIL.TEST/case.png",
    "ftp://evil.test/ftp.png",
    "data:text/html,x",
    "blob:https://evil.test/1",
]


def test_odd_addresses_load_from_no_other_host(page, third_party):
    items = []
    for url in ODD:
        attachment = {"id": "a", "type": "image", "name": "a.png", "preview_url": url}
        items += [
            {"type": "generated_image", "image": {"id": "1", "url": url}},
            widget({"type": "Card", "children": [{"type": "Image", "src": url}]}),
            {"type": "user_message", "content": [], "attachments": [attachment]},
        ]
    serve_items(page, items)
    scroll_through(page)

    assert (third_party.connections, third_party.requests) == (0, [])
    assert page.locator(".items img").count() == 0
    expect(page.locator(".picture")).to_have_count(3 * len(ODD))


def test_a_file_that_the_user_has_picked_may_be_shown(page):
    serve_sources(page)
    own = page.evaluate("URL.createObjectURL(new Blob())")

    assert page.evaluate(VERDICT, [own, []]) == "load"


def test_images_of_the_page_itself_and_of_the_answer_load(page):
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    icon = page.locator("link[rel=icon]").get_attribute("href")
    answer = f"![own]({icon}) ![data]({dot})"
    serve_items(page, [assistant(answer)], allowed_image_domains=[])

    images = page.locator(".items img")
    expect(images).to_have_count(2)
    expect(images.first).not_to_have_js_property("naturalWidth", 0)
    expect(images.last).to_have_js_property("naturalWidth", 1)


# --- Items that can't be drawn -------------------------------------------------------------------


def assistant(text) -> dict:
    return {"type": "assistant_message", "content": [{"type": "output_text", "text": text}]}


def widget(root) -> dict:
    return {"type": "widget", "widget": root}


def nested(depth: int) -> dict:
    node: dict = {"type": "Text", "value": "the innermost"}
    for _ in range(depth):
        node = {"type": "Box", "children": [node]}
    return {"type": "Card", "children": [node]}


def _items(parts: list) -> list:
    common = {"thread_id": "thr", "created_at": "2026-01-01T00:00:00Z"}
    return [
        {"id": f"item-{number}", **common, **part} if isinstance(part, dict) else part
        for number, part in enumerate(parts)
    ]


def serve_items(page, parts: list, **thread) -> None:
    """Show a thread with these items as a server sends them that checks nothing."""
    answer = {
        "id": "thr",
        "created_at": "2026-01-01T00:00:00Z",
        "status": {"type": "active"},
        "title": "A thread",
        "items": {"data": _items(parts), "has_more": False},
        **thread,
    }
    answers = {"threads.list": {"data": [answer], "has_more": False}, "threads.get_by_id": answer}

    def fulfill(route, request):
        kind = json.loads(request.post_data)["type"]
        route.fulfill(body=json.dumps(answers[kind]), content_type="application/json")

    page.route("**/chatkit", fulfill)
    page.route("**/chatkit/threads?*", lambda route: route.fulfill(status=404, body="no"))
    page.route("**/turn", lambda route: route.fulfill(status=204))
    page.goto(f"{page.url.partition('#')[0]}?again#/t/thr")
    all_is_drawn(page)


def stream_items(page, parts: list, updates: list) -> None:
    """Send a message that a server answers with these items, and with updates of them."""
    items = _items(parts)
    thread = {"id": "thr", "created_at": "2026-01-01T00:00:00Z", "status": {"type": "active"}}
    events = [
        {"type": "thread.created", "thread": {**thread, "items": {"data": []}}},
        *({"type": "thread.item.added", "item": item} for item in items),
        *({"type": "thread.item.updated", **update} for update in updates),
        *({"type": "thread.item.done", "item": item} for item in items),
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    page.route(
        "**/chatkit", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    page.get_by_test_id("composer").fill("Go")
    page.get_by_test_id("send").click()
    expect(page.locator("body")).to_have_attribute("data-state", "idle")
    all_is_drawn(page)


BROKEN = {
    "2000 nested quotes": (assistant(">" * 2000 + " the innermost"), "the innermost"),
    "2000 nested emphases": (assistant("*" * 2000 + "the core" + "*" * 2000), "the core"),
    "deep widget": (widget(nested(250)), "the innermost"),
    "no content": ({"type": "assistant_message", "content": None}, ""),
    "content that is a text": ({"type": "assistant_message", "content": "some words"}, "some"),
    "part that is null": ({"type": "assistant_message", "content": [None]}, ""),
    "text that is null": (assistant(None), ""),
    "text that is a number": (assistant(17), ""),
    "annotation without a source": (
        {
            "type": "assistant_message",
            "content": [{"text": "some words", "annotations": [{"index": 1}]}],
        },
        "some words",
    ),
    "annotations that are null": (
        {"type": "assistant_message", "content": [{"text": "some words", "annotations": [None]}]},
        "some words",
    ),
    "user message with a null part": ({"type": "user_message", "content": [None]}, ""),
    "attachment that is null": (
        {"type": "user_message", "content": [{"text": "my words"}], "attachments": [None]},
        "my words",
    ),
    "no widget": (widget(None), ""),
    "widget that is a text": (widget("some words"), "some words"),
    "child that is null": (widget({"type": "Card", "children": [None]}), ""),
    "unknown component": (
        widget({"type": "Card", "children": [{"type": "constructor", "value": "v"}]}),
        "",
    ),
    "chart without data": (
        widget({"type": "Card", "children": [{"type": "Chart"}, {"type": "Text", "value": "ok"}]}),
        "ok",
    ),
    "chart with wild data": (
        widget(
            {
                "type": "Card",
                "children": [
                    {
                        "type": "Chart",
                        "data": [None, 1, {"x": {"toString": 1}}],
                        "series": [{"type": "bar", "dataKey": "x"}, None],
                    },
                    {"type": "Text", "value": "beside it"},
                ],
            }
        ),
        "beside it",
    ),
    "select with wild options": (
        widget({"type": "Card", "children": [{"type": "Select", "name": "s", "options": [None]}]}),
        "",
    ),
    "border of the wrong kind": (
        widget(
            {"type": "Card", "children": [{"type": "Box", "border": "1px", "children": []}]},
        ),
        "",
    ),
    "pattern that is no expression": (
        widget({"type": "Card", "children": [{"type": "Input", "name": "i", "pattern": "(["}]}),
        "",
    ),
    "huge table": (
        widget(
            {
                "type": "Card",
                "children": [
                    {
                        "type": "Table",
                        "children": [
                            {
                                "type": "Table.Row",
                                "children": [{"type": "Table.Cell", "value": "cell"}] * 50,
                            }
                        ]
                        * 3000,
                    }
                ],
            }
        ),
        "cell",
    ),
    "no workflow": ({"type": "workflow"}, ""),
    "task that is null": ({"type": "workflow", "workflow": {"tasks": [None]}}, ""),
    "tasks that are a text": ({"type": "workflow", "workflow": {"tasks": "some words"}}, ""),
    "task item without a task": ({"type": "task"}, ""),
    "duration that is a text": (
        {"type": "workflow", "workflow": {"tasks": [], "summary": {"duration": "x"}}},
        "",
    ),
    "image that is a text": ({"type": "generated_image", "image": "x"}, ""),
    "image address that is an object": ({"type": "generated_image", "image": {"url": {}}}, ""),
    "no inputs": ({"type": "structured_input", "status": "pending"}, ""),
    "inputs that are null": (
        {"type": "structured_input", "status": "answered", "inputs": [None]},
        "",
    ),
    "tool arguments that are wild": (
        {"type": "client_tool_call", "name": None, "arguments": {"toString": 1}, "status": 7},
        "",
    ),
    "unknown kind": ({"type": "constructor"}, ""),
    "kind that is null": ({"type": None}, ""),
    "date that is none": ({**assistant("some words"), "created_at": "yesterday"}, "some words"),
}

BEFORE, AFTER = "The item before it", "The item after it"


def among_others() -> list:
    """All that can't be drawn, each with an item before it."""
    pairs = ([assistant(f"Before: {name}"), item] for name, (item, _) in BROKEN.items())
    return [*(item for pair in pairs for item in pair), assistant(AFTER)]


def expect_all_others(page) -> None:
    shown = page.locator(".items")
    expect(shown).to_contain_text(AFTER)
    text = shown.inner_text()
    assert [name for name in BROKEN if f"Before: {name}" not in text] == []
    assert [name for name, (_, words) in BROKEN.items() if words not in text] == []
    expect(page.get_by_test_id("error")).to_have_count(0)
    expect(page.get_by_test_id("composer")).to_be_enabled()


def test_an_item_that_can_not_be_drawn_hurts_no_other(page):
    serve_items(page, among_others())

    expect_all_others(page)


def test_an_item_that_can_not_be_drawn_hurts_no_other_while_it_streams(page):
    delta = {"type": "assistant_message.content_part.text_delta", "content_index": 0, "delta": "!"}
    task = {"type": "workflow.task.added", "task_index": 0}
    items = among_others()
    updates = [
        {"item_id": f"item-{number}", "update": update}
        for number in range(len(items))
        for update in (delta, task, None, {"type": "constructor"})
    ]
    stream_items(page, items, updates)

    expect_all_others(page)


def test_what_can_not_be_drawn_is_shown_as_text_with_a_note(page):
    serve_items(page, [BROKEN["2000 nested quotes"][0], BROKEN["deep widget"][0]])

    expect(page.get_by_test_id("undrawable")).to_have_count(2)
    note = page.get_by_test_id("undrawable").last
    expect(note).to_contain_text("be shown as it was meant")
    expect(note).to_contain_text("the innermost")


def test_a_block_that_is_nested_too_deep_hurts_no_other_block(page):
    serve_items(page, [assistant(f"Some *words*.\n\n{'>' * 150} quoted\n\nAnd *more*.")])

    expect(page.get_by_test_id("undrawable")).to_have_count(1)
    expect(page.locator("em")).to_have_text(["words", "more"])


def test_items_that_are_none_are_left_out(page):
    serve_items(page, [assistant(BEFORE), None, 7, "x", {"id": None}, assistant(AFTER)])

    expect(page.get_by_text(BEFORE)).to_be_visible()
    expect(page.get_by_text(AFTER)).to_be_visible()


ENDLESS = {
    "quotes": ">" * 2_000 + " x",
    "lists": "\n".join("  " * depth + "- x" for depth in range(300)),
    "paragraphs": "[a](https://example.com/)\n\n" * 10_000,
    "rows": "|a|b|\n|-|-|\n" + "|1|2|\n" * 10_000,
    "columns": "|" + "a|" * 5_000 + "\n|" + "-|" * 5_000 + "\n" + ("|" + "a|" * 5_000 + "\n") * 5,
    "tags": "<b>a</b>" * 40_000,
    "open tags": "<div>" + "".join(f"<b title={n}>" for n in range(1_000)) + "<p>x" * 1_000,
    "nested tags": "<div>" * 60_000,
    "lines": "- a\n" * 90_000,
    "characters": "a" * 1_000_000,
}


def test_what_would_take_long_to_draw_is_plain_text(page):
    serve_items(page, [*map(assistant, ENDLESS.values()), assistant(AFTER)])

    expect(page.get_by_text(AFTER)).to_be_visible()
    expect(page.get_by_test_id("undrawable")).to_have_count(len(ENDLESS), timeout=20_000)
    assert page.locator(".items *").count() < 6_000


def test_many_emphases_are_drawn_without_looking_for_their_ends(page):
    serve_items(page, [assistant("_a_" * 20_000 + "\n\n*These are few.*")])

    expect(page.locator("em")).to_have_text(["These are few."])


@pytest.mark.parametrize(
    "many", ["[a](https://example.com/) " * 15_000, "![a](https://evil.test/x.png) " * 2_000]
)
def test_many_links_and_images_are_drawn_without_looking_for_their_ends(page, many):
    serve_items(page, [assistant(f"{many}\n\n[one](https://example.com/)"), assistant(AFTER)])

    expect(page.get_by_text(AFTER)).to_be_visible()
    expect(page.locator(".md a")).to_have_text(["one"])
    expect(page.locator(".md img")).to_have_count(0)
    assert page.locator(".items *").count() < 6_000


def test_a_long_report_is_drawn_as_what_it_is(page):
    section = "## Title\n\n" + "Some **bold** words and a [link](https://example.com/). " * 8
    table = "\n\n|a|b|c|\n|-|-|-|\n" + "|1|`2`|*3*|\n" * 20
    code = "\n\n```py\n" + "print(1)\n" * 40 + "```\n\n- one\n- two\n  - three\n\n> quoted\n\n"
    serve_items(page, [assistant((section + table + code) * 60)])

    expect(page.locator(".md h4")).to_have_count(60)
    expect(page.locator(".md table")).to_have_count(60)
    expect(page.get_by_test_id("undrawable")).to_have_count(0)


WILD = [
    {"title": {"toString": 1}},
    {"title": 17},
    {"title": "x" * 1_000_000},
    {"title": "\u202e<img src=x onerror=tried()>"},
    {"created_at": "yesterday"},
    {"created_at": None},
    {"created_at": {"toString": 1}},
    {"status": None},
    {"status": {"type": {"toString": 1}}},
    {"status": {"type": "locked", "reason": {"toString": 1}}},
    {"allowed_image_domains": "evil.test"},
    {"allowed_image_domains": {"toString": 1}},
]


@pytest.mark.parametrize("thread", WILD, ids=range(len(WILD)))
def test_a_thread_with_wild_fields_is_shown(page, thread):
    serve_items(page, [assistant(BEFORE)], **thread)

    expect(page.get_by_text(BEFORE)).to_be_visible()
    expect(page.get_by_test_id("thread-item")).to_have_count(1)
    expect(page.get_by_test_id("composer")).to_be_visible()


# --- The page's own code -------------------------------------------------------------------------

SCRIPTS = SOURCES / "js"
# Modules that may put an address or HTML into the document, and what is allowed to them.
WRITERS = {
    "picture.js": {"src="},
    "app.js": {"href="},  # of the option signInUrl
    "theme.js": {"url("},  # of the fonts that the theme's option names
    "code_colors.js": {".innerHTML"},  # of a template, of which words and colours are copied
    "link.js": {"href=", ".href = "},
    # The inner HTML is of a template, of what was sanitised.
    "markdown.js": {"dangerouslySetInnerHTML", ".innerHTML", 'setAttribute("href"'},
}
WRITING = re.compile(
    r"\b(?:src|srcset|href|action|formaction|poster|background|data)=(?!\$\{`?#)(?=\$|[\"'](?!#))"
    r"|dangerouslySetInnerHTML|\.(?:inner|outer)HTML\b|insertAdjacentHTML|document\.write"
    r"|\.(?:src|srcset|href)\s*=[^=]|setAttribute\(\"(?:src|srcset|href|xlink:href|style)\""
    r"|url\(|new Image\b|window\.open|location\.(?:assign|replace)|location\s*="
    r"|\beval\(|new Function"
)


def test_only_these_modules_write_addresses_or_html():
    found: dict[str, set[str]] = {}
    for script in sorted(SCRIPTS.glob("*.js")):
        code = re.sub(r"^\s*(?://|\*|/\*).*$", "", script.read_text(encoding="utf-8"), flags=re.M)
        if written := {match[0] for match in WRITING.finditer(code)}:
            found[script.name] = written

    assert found == WRITERS
