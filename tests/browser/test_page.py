"""The chat page in a real browser, on the demo in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect

BREAD, BREADS_END = "How do I bake bread?", "and a better morning"
SEARCH, SEARCHS_END = "Explain binary search", "found by other people"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The demo's URL."""
    database = tmp_path_factory.mktemp("demo") / "demo.sqlite3"
    command = [sys.executable, "-m", "chatkit_trio", "demo", "--port", "0", "--database"]
    offline = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    with subprocess.Popen(
        [*command, str(database)], stdout=subprocess.PIPE, text=True, env=offline
    ) as demo:
        try:
            line = demo.stdout.readline()
            yield re.search(r"http://\S+", line)[0]
        finally:
            demo.terminate()


@pytest.fixture
def page(browser, address):
    """A new user's page; a test fails if anything was logged as an error on it."""
    context = browser.new_context()
    context.set_default_timeout(15_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(address)
    expect(page.get_by_test_id("composer")).to_be_visible()
    yield page
    context.close()
    assert problems == []


def send(page, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("send").click()


def answers(page):
    return page.get_by_test_id("message-assistant")


def wait_until_it_says(page, pattern: str) -> None:
    expect(answers(page).last).to_contain_text(re.compile(pattern), timeout=20_000)


def wait_until_done(page) -> None:
    expect(page.get_by_test_id("stop")).to_be_hidden(timeout=20_000)
    expect(page.get_by_test_id("send")).to_be_visible()


def test_a_stopped_answer_survives_a_reload_and_is_gone_on_with(page):
    send(page, BREAD)
    wait_until_it_says(page, "Mix")
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("end-mark")).to_contain_text("You stopped this answer")
    partial_answer = answers(page).last.inner_text()

    page.reload()
    expect(answers(page)).to_have_count(1)
    reloaded = answers(page).last.inner_text()
    send(page, "Hmm.")
    wait_until_it_says(page, "You stopped me.*Shall I go on")
    wait_until_done(page)
    send(page, "Yes, go on")
    wait_until_it_says(page, BREADS_END)
    wait_until_done(page)

    assert reloaded == partial_answer
    assert BREADS_END not in reloaded
    expect(answers(page)).to_have_count(3)
    expect(answers(page).last).not_to_contain_text("strong flour")


def test_a_reload_in_the_middle_goes_on_with_the_answer(page):
    send(page, SEARCH)
    wait_until_it_says(page, "halving")
    page.reload()
    wait_until_it_says(page, "halving")
    before_its_end = answers(page).last.inner_text()
    wait_until_it_says(page, SEARCHS_END)
    wait_until_done(page)

    assert SEARCHS_END not in before_its_end
    expect(answers(page)).to_have_count(1)
    text = answers(page).last.inner_text()
    assert text.count("halving what is left") == 1
    assert text.count("found by other people") == 1
    page.reload()
    expect(answers(page)).to_have_count(1)
    assert answers(page).last.inner_text() == text


def test_an_answer_goes_on_in_a_second_tab(page):
    send(page, SEARCH)
    wait_until_it_says(page, "halving")
    other = page.context.new_page()
    other.goto(page.url)
    wait_until_it_says(other, SEARCHS_END)
    wait_until_it_says(page, SEARCHS_END)

    assert answers(other).last.inner_text() == answers(page).last.inner_text()


def test_a_thread_is_titled_renamed_and_deleted(page):
    send(page, "Hello there, demo")
    item = page.get_by_test_id("thread-item").filter(has_text="Hello there, demo")
    expect(item).to_be_visible()
    wait_until_it_says(page, "demo assistant")
    page.get_by_test_id("stop").click()
    wait_until_done(page)

    item.hover()
    page.get_by_role("button", name="Rename “Hello there, demo”").click()
    page.get_by_test_id("rename-field").fill("A greeting")
    page.get_by_test_id("rename-field").press("Enter")
    renamed = page.get_by_test_id("thread-item").filter(has_text="A greeting")
    expect(renamed).to_be_visible()
    page.reload()
    expect(renamed).to_be_visible()

    renamed.hover()
    page.get_by_role("button", name="Delete “A greeting”").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(renamed).to_have_count(0)
    page.reload()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(renamed).to_have_count(0)


def test_a_failed_answer_can_be_tried_again(page):
    send(page, "Fail, please")
    expect(page.get_by_test_id("error")).to_be_visible()
    page.get_by_test_id("retry").click()
    wait_until_it_says(page, "That went better")
    wait_until_done(page)

    expect(page.get_by_test_id("error")).to_have_count(0)
    expect(answers(page)).to_have_count(1)


def test_another_tab_can_stop_the_answer_and_ask_something_else(page):
    send(page, BREAD)
    wait_until_it_says(page, "Mix")
    other = page.context.new_page()
    other.goto(page.url)
    wait_until_it_says(other, "Mix")
    other.get_by_test_id("stop").click()
    wait_until_done(other)
    wait_until_done(page)
    send(other, SEARCH)
    wait_until_it_says(other, "You stopped me.*Now to your question")
    other.get_by_test_id("stop").click()
    wait_until_done(other)
