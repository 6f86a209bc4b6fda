"""What axe-core finds in the states of the page, and a walk through it with the keyboard alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .kept_site import (
    CHAT,
    LONG,
    Site,
    answers,
    ask,
    asked,
    expect,
    let_go,
    marks,
    page,
    send,
    site,
    stop,
    unsent,
    wait_for_word,
)
from .test_element import ENTITIES, TOOLS, Host, host, show

__all__ = ["host", "page", "site"]

ROOT = Path(__file__).parents[2]
AXE = ROOT / "tests" / "clients" / "node_modules" / "axe-core" / "axe.min.js"

if not AXE.is_file() and "CHATKIT_TRIO_NEEDS_NODE" in os.environ:
    raise RuntimeError("axe-core is missing: npm install --prefix tests/clients")

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="npm install --prefix tests/clients")

RULES = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], runOnly:
    ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] });
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}`));
}"""

ALL = """say:# A head

Some **bold** and `code`, a [link](https://example.com), \\\\(a^2\\\\).

- one
- [x] done

| a | b |
|---|--:|
| 1 | 2 |

> quoted

> [!NOTE]
> A note.[^1]

[^1]: Its source.

```python
print("hello")
```
"""


@pytest.fixture(params=["light", "dark", "narrow", "arabic"])
def look(request: Any, browser: Any, site: Site) -> Iterator[Any]:
    """A page in one of its looks; it shows the server's own page."""
    if site.process is None:
        site.start()
    size = {"width": 390, "height": 740} if request.param == "narrow" else None
    context = browser.new_context(
        viewport=size or {"width": 1000, "height": 700},
        color_scheme="dark" if request.param == "dark" else "light",
        locale="ar" if request.param == "arabic" else "en-US",
        bypass_csp=True,  # for axe
        reduced_motion="reduce",
    )
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    yield page
    context.close()


def violations(page: Any) -> list[str]:
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    return page.evaluate(RULES)


def menu(page: Any) -> None:
    if page.get_by_test_id("menu").is_visible():
        page.get_by_test_id("menu").click()
        expect(page.get_by_test_id("new-thread")).to_be_focused()


def at_welcome(page: Any, site: Site) -> None:
    pass


def with_an_answer(page: Any, site: Site) -> None:
    send(page, ALL)
    expect(page.get_by_test_id("stop")).to_be_hidden()
    expect(page.locator(".hljs-string, .formula").first).to_be_attached()


def while_it_answers(page: Any, site: Site) -> None:
    send(page, LONG)
    wait_for_word(page, "3")


def with_a_cut_answer(page: Any, site: Site) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    page.get_by_test_id("stop").click()
    expect(marks(page)).to_have_count(1)


def with_an_error(page: Any, site: Site) -> None:
    send(page, "count 2 every 1 ms, then fail")
    expect(page.get_by_test_id("error")).to_be_visible()


def with_an_unsent_message(page: Any, site: Site) -> None:
    page.route("**/chatkit", lambda route: route.abort())
    send(page, "Hello")
    expect(unsent(page)).to_be_visible()


def while_editing(page: Any, site: Site) -> None:
    send(page, "Hello")
    expect(page.get_by_test_id("stop")).to_be_hidden()
    expect(answers(page)).to_be_visible()
    page.get_by_test_id("composer").press("ArrowUp")
    expect(page.get_by_test_id("editor-field")).to_be_focused()


def at_an_earlier_version(page: Any, site: Site) -> None:
    while_editing(page, site)
    page.get_by_test_id("editor-field").fill("Hello again")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("Hello again")
    expect(page.get_by_test_id("send")).to_be_visible()
    page.get_by_test_id("versions").get_by_role("button").first.click()
    expect(page.get_by_test_id("version-note")).to_be_visible()


def in_the_list(page: Any, site: Site) -> None:
    send(page, "Hello")
    expect(answers(page)).to_be_visible()
    menu(page)


def while_searching(page: Any, site: Site) -> None:
    in_the_list(page, site)
    page.get_by_test_id("search").fill("hello")
    expect(page.get_by_test_id("hit").first).to_be_visible()


def while_asked_to_delete(page: Any, site: Site) -> None:
    in_the_list(page, site)
    page.get_by_test_id("thread-item").first.hover()
    page.get_by_test_id("delete").first.click()
    expect(page.locator("dialog")).to_be_visible()


def with_the_keys(page: Any, site: Site) -> None:
    page.get_by_test_id("composer").press("Alt+Shift+K")
    expect(page.get_by_role("dialog")).to_be_visible()


def with_a_form(page: Any, site: Site) -> None:
    send(page, "3 questions")
    form = page.get_by_test_id("structured-input")
    expect(page.get_by_test_id("stop")).to_be_hidden()
    form.get_by_role("radio").first.check()
    page.get_by_test_id("structured-submit").click()
    expect(form.get_by_role("alert")).to_be_visible()


def with_a_closed_conversation(page: Any, site: Site) -> None:
    send(page, "close this")
    expect(page.get_by_test_id("blocked")).to_be_visible()


def with_a_long_message(page: Any, site: Site) -> None:
    send(page, "word " * 1000)
    expect(page.get_by_test_id("stop")).to_be_hidden()
    expect(answers(page)).to_be_visible()


def with_files_of_a_message(page: Any, site: Site) -> None:
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"buy oranges"}
    page.get_by_test_id("attach-input").set_input_files(notes)
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")
    expect(page.get_by_test_id("download")).to_be_visible()
    page.get_by_test_id("attach-input").set_input_files(notes | {"mimeType": "application/zip"})
    expect(page.get_by_test_id("toast")).to_be_visible()


def with_a_file(page: Any, site: Site) -> None:
    picture = ROOT / "chatkit_trio" / "web" / "page" / "favicon.svg"
    page.get_by_test_id("attach-input").set_input_files([picture, ROOT / "LICENSE"])
    expect(page.get_by_test_id("attachment-entry")).to_have_count(2)


STATES = [
    at_welcome,
    with_an_answer,
    while_it_answers,
    with_a_cut_answer,
    with_an_error,
    with_an_unsent_message,
    while_editing,
    at_an_earlier_version,
    in_the_list,
    while_searching,
    while_asked_to_delete,
    with_the_keys,
    with_a_form,
    with_a_closed_conversation,
    with_a_long_message,
    with_files_of_a_message,
    with_a_file,
]


@needs_axe
def test_axe_finds_nothing_on_the_page(look: Any, site: Site) -> None:
    found: dict[str, list[str]] = {}
    for state in STATES:
        look.unroute_all()
        look.goto("about:blank")
        look.goto(site.url)
        state(look, site)
        if broken := violations(look):
            found[state.__name__] = broken

    assert found == {}


def tools_open(page: Any) -> None:
    page.get_by_test_id("tools").click()


def models_open(page: Any) -> None:
    page.get_by_test_id("models").click()


def mentioning(page: Any) -> None:
    page.get_by_test_id("composer").press_sequentially("@a")
    expect(page.get_by_test_id("mention-option").first).to_be_visible()


def with_a_widget(page: Any) -> None:
    send(page, "a widget")
    expect(page.get_by_test_id("widget")).to_be_visible()


@needs_axe
@pytest.mark.parametrize(
    ("options", "state"),
    [(TOOLS, tools_open), (TOOLS, models_open), (ENTITIES, mentioning), ("{}", with_a_widget)],
)
def test_axe_finds_nothing_in_an_embedded_chat(
    browser: Any, host: Host, options: str, state: Callable[[Any], None]
) -> None:
    context = browser.new_context(bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    show(page, host, options)
    state(page)
    page.add_script_tag(path=AXE)
    own = [each for each in page.evaluate(RULES) if 'id="own"' not in each]
    context.close()

    # What is wrong with the host's own page isn't the chat's.
    assert [
        each for each in own if not re.match("html-has-lang|landmark-one-main|region", each)
    ] == []


# --- What is read out ----------------------------------------------------------------------------

HEAR = f"""() => {{
  window.heard = [];
  const hear = (changes) => {{
    for (const {{ target, addedNodes }} of changes) {{
      const live = (target.closest ? target : target.parentElement).closest("[aria-live]");
      const isRead = live.ariaLive === "polite" && live.ariaBusy !== "true";
      if (isRead) heard.push([...addedNodes].map((node) => node.textContent).join(" "));
    }}
  }};
  const items = {CHAT}.querySelector(".items");
  new MutationObserver(hear).observe(items, {{ childList: true, subtree: true }});
}}"""
"""JavaScript: notes what a screen reader is given to read of the messages."""

MANY = """async () => {
  for (let number = 0; number < 20; number += 1) {
    const content = [{ type: "input_text", text: `say:number ${number}` }];
    const input = { content, attachments: [], inference_options: {} };
    const params = { thread_id: location.hash.slice(4), input };
    const body = JSON.stringify({ type: "threads.add_user_message", params });
    const headers = { "Content-Type": "application/json" };
    await (await fetch("/chatkit", { method: "POST", headers, body })).text();
  }
}"""


def test_older_messages_are_not_read_out(page: Any) -> None:
    ask(page, "Hello")
    page.evaluate(MANY)
    page.reload()
    expect(answers(page).last).to_contain_text("number 19")
    page.evaluate(HEAR)
    page.get_by_role("button", name="Show earlier messages").click()
    expect(asked(page).first).to_contain_text("Hello")

    assert page.evaluate("heard") == []
    send(page, "count 20 every 100 ms")
    wait_for_word(page, "3")
    page.locator(".log").evaluate("(log) => log.scrollTop = 0")
    expect(page.locator(".items")).to_have_attribute("aria-live", "polite")
    expect(page.get_by_test_id("send")).to_be_visible()
    expect(page.locator(".items")).to_have_attribute("aria-live", "polite")
    expect(page.locator(".items")).to_have_attribute("aria-live", "off")


def test_code_that_is_coloured_is_not_read_out_again(page: Any) -> None:
    send(page, "begin: Look:\n\n```python\nprint('hello')\n```\n\nThere.")
    expect(page.locator(".code")).to_be_visible()
    page.evaluate(HEAR)
    page.locator(".items").evaluate("(items) => items.ariaBusy = 'false'")
    expect(page.locator(".hljs-string")).to_be_visible()

    assert page.evaluate("heard") == []
    stop(page)


def test_an_answer_that_is_not_shown_is_not_said_to_have_finished(page: Any, site: Site) -> None:
    send(page, "count 4 every 1 ms, held at 3")
    wait_for_word(page, "3")
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    let_go(page, site)
    expect(page.get_by_role("img", name="New answer").first).to_be_visible()

    expect(page.get_by_test_id("status")).to_have_text("Answering…")


def test_how_much_was_found_is_said_in_words(page: Any) -> None:
    ask(page, "Where is the aardvark?")
    page.get_by_test_id("search").fill("aardvark")

    expect(page.get_by_role("status").filter(has_text="1 conversation was found.")).to_be_attached()


# --- The keyboard alone --------------------------------------------------------------------------


def focused(page: Any) -> str:
    return page.evaluate(
        """() => {
          const { activeElement: e } = document.querySelector("chatkit-trio").shadowRoot;
          return e ? e.dataset.testid ?? e.getAttribute("aria-label") ?? e.innerText : "nothing";
        }"""
    )


def tab_to(page: Any, name: str, key: str = "Tab", most: int = 40) -> None:
    """Press a key until something has the focus; fail if it never has."""
    seen = []
    for _ in range(most):
        page.keyboard.press(key)
        seen.append(focused(page))
        if seen[-1] == name:
            return
    raise AssertionError(f"{name} never has the focus: {seen}")


def test_the_keyboard_alone_does_everything(browser: Any, site: Site) -> None:
    if site.process is None:
        site.start()
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.mouse.move(0, 0)
    page.goto(site.url)
    expect(page.get_by_test_id("composer")).to_be_focused()

    # A prompt of the welcome, then a message; stopping it; going on.
    tab_to(page, "prompt", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("You said")
    expect(page.get_by_test_id("composer")).to_be_focused()
    page.keyboard.type(LONG)
    page.keyboard.press("Enter")
    wait_for_word(page, "3")
    page.keyboard.press("Escape")
    expect(marks(page)).to_contain_text("You stopped this answer")
    expect(page.get_by_test_id("composer")).to_be_focused()

    # Editing the last message, and looking at the earlier version.
    page.keyboard.press("ArrowUp")
    expect(page.get_by_test_id("editor-field")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("Short")
    page.keyboard.press("Enter")
    expect(answers(page).last).to_contain_text("You said: Short")
    expect(page.get_by_test_id("composer")).to_be_focused()
    tab_to(page, "Earlier version", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("version-note")).to_be_visible()
    page.get_by_test_id("composer").focus()
    tab_to(page, "Show the latest", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("version-note")).to_have_count(0)
    expect(answers(page).last).to_contain_text("You said: Short")

    # The buttons of an answer, with the quote in the box afterwards.
    page.get_by_test_id("composer").focus()
    tab_to(page, "quote", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.locator(".composer-quote")).to_contain_text("You said: Short")

    # The list: search, rename, delete, and a new chat.
    tab_to(page, "search", "Shift+Tab", 60)
    page.keyboard.type("short")
    expect(page.get_by_test_id("hit").first).to_be_visible()
    tab_to(page, "hit")
    page.keyboard.press("Enter")
    expect(asked(page).last).to_contain_text("Short")
    page.get_by_test_id("search").focus()
    page.keyboard.press("Escape")
    tab_to(page, "rename")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("rename-field")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("By keyboard")
    page.keyboard.press("Enter")
    row = page.get_by_test_id("thread-item").first
    expect(row).to_contain_text("By keyboard")
    expect(row).to_be_focused()
    tab_to(page, "delete")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert focused(page) == "delete"
    page.keyboard.press("Enter")
    tab_to(page, "dialog-confirm")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("composer")).to_be_focused()
    context.close()
