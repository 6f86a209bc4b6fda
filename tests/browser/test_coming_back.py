"""Pages that come back: to an answer that goes on or was followed by another, to no thread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .kept_site import (
    LONG,
    Site,
    answers,
    ask,
    asked,
    expect,
    marks,
    page,
    send,
    send_past_the_page,
    site,
    unsent,
    wait_for_word,
)
from .test_at_once import composer, look_again, open_with_a_network
from .test_left_behind import failure, is_idle
from .test_tabs_and_words import elsewhere, tab

__all__ = ["page", "site"]

DELETE = """async () => {
  const params = { thread_id: location.hash.slice(4) };
  const body = JSON.stringify({ type: "threads.delete", params });
  const headers = { "Content-Type": "application/json" };
  await fetch("/chatkit", { method: "POST", headers, body });
}"""
"""JavaScript: deletes the thread that a page shows, as another client does."""


# --- To an answer ---------------------------------------------------------------------------------


def test_an_answer_that_followed_while_the_page_was_away_is_read(page: Any, browser: Any) -> None:
    open_with_a_network(page)
    send(page, "count 8 every 250 ms")
    wait_for_word(page, "2")
    other = elsewhere(browser, page)
    page.evaluate("broken = '/turn'; cut()")
    expect(page.get_by_test_id("progress")).to_contain_text("Reconnecting")
    wait_for_word(other, "8")
    is_idle(other)
    send(other, LONG)
    expect(answers(other)).to_have_count(2)
    page.evaluate("broken = null")

    expect(answers(page)).to_have_count(2)
    wait_for_word(page, "30")
    page.get_by_test_id("stop").click()
    is_idle(page)
    other.context.close()


@pytest.mark.parametrize("times", [1, 2])
def test_an_answer_that_grows_never_looks_finished(page: Any, times: int) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    refused: list[Any] = []

    def refuse(route: Any) -> None:
        refused.append(route)
        if len(refused) > times:
            route.fallback()
        else:
            route.fulfill(status=503, body="busy")

    page.route("**/turn", refuse)
    page.reload()
    if times == 2:
        failure(page).get_by_role("button", name="Try again").click()

    expect(page.get_by_test_id("stop")).to_be_visible()
    wait_for_word(page, "60")
    page.get_by_test_id("stop").click()
    is_idle(page)


def test_a_page_looks_again_as_soon_as_the_network_is_back(page: Any, browser: Any) -> None:
    ask(page, "first")
    other = elsewhere(browser, page)
    page.route(re.compile("/chatkit"), lambda route: route.abort())
    ask(other, "second")
    page.wait_for_timeout(2000)  # a look may have been taken just now
    with page.expect_event("requestfailed"):
        page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.wait_for_timeout(300)
    page.unroute_all()
    page.evaluate("window.dispatchEvent(new Event('online'))")

    expect(asked(page)).to_have_text(["first", "second"])
    other.context.close()


def test_a_thread_that_could_not_be_loaded_is_when_the_network_is_back(page: Any) -> None:
    ask(page, "first")
    page.get_by_test_id("new-thread").click()
    page.reload()
    expect(page.get_by_test_id("thread-item").first).to_be_visible()
    page.context.set_offline(True)
    page.get_by_test_id("thread-item").first.click()
    expect(failure(page)).to_be_visible()
    page.context.set_offline(False)

    expect(answers(page)).to_have_text(re.compile("You said: first"))


# --- To no thread ---------------------------------------------------------------------------------


def test_what_was_typed_in_a_deleted_thread_is_in_the_new_chat(page: Any) -> None:
    ask(page, "first")
    page.evaluate(DELETE)
    send(page, "sent too late")
    expect(unsent(page)).to_contain_text("sent too late")
    composer(page).fill("half typed")
    look_again(page)
    expect(failure(page)).to_contain_text("there any more")
    expect(composer(page)).to_be_disabled()
    failure(page).get_by_role("button").click()

    for _ in range(2):
        expect(composer(page)).to_have_value("half typed")
        expect(unsent(page)).to_contain_text("sent too late")
        page.reload()
    unsent(page).get_by_role("button", name="Try again").click()
    expect(answers(page)).to_contain_text("You said: sent too late")
    expect(composer(page)).to_have_value("half typed")


def test_a_deletion_in_another_tab_leaves_what_is_typed_in_this_one(page: Any) -> None:
    ask(page, "first")
    other = tab(page)
    expect(answers(other)).to_have_count(1)
    page.bring_to_front()
    composer(page).fill("half typed")
    other.bring_to_front()
    other.get_by_test_id("thread-item").first.hover()
    other.get_by_test_id("delete").first.click()
    other.get_by_test_id("dialog-confirm").click()
    page.bring_to_front()

    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(composer(page)).to_have_value("half typed")
    page.reload()
    expect(composer(page)).to_have_value("half typed")


def test_a_thread_that_was_locked_meanwhile_is_sent_nothing(page: Any) -> None:
    ask(page, "first")
    composer(page).fill("half typed")
    send_past_the_page(page, "lock this")
    look_again(page)
    expect(page.get_by_test_id("blocked")).to_be_visible()

    expect(page.get_by_test_id("send")).to_be_disabled()
    expect(composer(page)).to_have_value("half typed")


# --- To what another tab has done -----------------------------------------------------------------


def test_a_draft_outlives_what_another_tab_sends(page: Any) -> None:
    composer(page).fill("typed in the first tab")
    other = page.context.new_page()
    other.goto(page.url)
    ask(other, "short")
    page.reload()

    expect(composer(page)).to_have_value("typed in the first tab")


def test_a_draft_that_another_tab_has_sent_is_not_kept(page: Any) -> None:
    ask(page, "first")
    composer(page).fill("second")
    other = tab(page)
    expect(composer(other)).to_have_value("second")
    page.bring_to_front()
    page.get_by_test_id("send").click()
    expect(answers(page)).to_have_count(2)
    page.reload()

    expect(answers(page)).to_have_count(2)
    expect(composer(page)).to_have_value("")


def test_earlier_answers_of_two_tabs_are_all_kept(page: Any) -> None:
    ask(page, "first")
    other = tab(page)
    expect(answers(other)).to_have_count(1)
    page.bring_to_front()
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("versions")).to_contain_text("2")
    is_idle(page)
    other.bring_to_front()
    is_idle(other)
    with other.expect_response("**/chatkit"):
        other.get_by_test_id("retry").click()
    is_idle(other)
    other.reload()

    expect(other.get_by_test_id("versions")).to_contain_text("3")


# --- In the queue ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queueing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("queueing") / "chat.sqlite3", on_busy="queue")
    site.start()
    yield site
    site.close()


def test_a_stop_in_the_queue_stops_ones_own_answer(page: Any, browser: Any, queueing: Site) -> None:
    page.goto(queueing.url)
    ask(page, "first")
    other = elsewhere(browser, page)
    send(page, "count 40 every 100 ms")
    wait_for_word(page, "3")
    with other.expect_response("**/chatkit"):
        send(other, LONG)
    other.get_by_test_id("stop").click()

    wait_for_word(page, "40")
    expect(marks(other)).to_have_text(re.compile("You stopped this answer"))
    expect(marks(other)).to_have_count(1)
    is_idle(other)
    other.reload()
    expect(asked(other)).to_have_text(["first", "count 40 every 100 ms", LONG])
    other.context.close()


# --- To what was read -----------------------------------------------------------------------------

ASK = """async (texts) => {
  const headers = { "Content-Type": "application/json" };
  for (const text of texts) {
    const content = [{ type: "input_text", text }];
    const input = { content, attachments: [], inference_options: {} };
    const params = { thread_id: location.hash.slice(4), input };
    const body = JSON.stringify({ type: "threads.add_user_message", params });
    await (await fetch("/chatkit", { method: "POST", headers, body })).text();
  }
}"""
"""JavaScript: sends messages to the thread that a page shows, one when the other is answered."""


def test_older_answers_that_are_drawn_late_leave_the_reader_in_place(page: Any) -> None:
    ask(page, "first")
    long = "4000 times: word\n\n"
    page.evaluate(ASK, [long if number in (12, 14) else f"say {number}" for number in range(30)])
    page.reload()
    expect(asked(page)).to_have_count(15)
    newest = asked(page).filter(has_text="say 16")
    log = page.locator(".log")
    log.evaluate("(log) => void (log.scrollTop = 150)")
    page.evaluate("new Promise(requestAnimationFrame)")
    before = newest.bounding_box()["y"]
    log.evaluate("(log) => void (log.scrollTop = 50)")
    expect(asked(page)).to_have_count(30)
    expect(page.locator(".log .shimmer")).to_have_count(0)
    page.evaluate("new Promise((done) => setTimeout(done, 200))")

    assert abs(newest.bounding_box()["y"] - (before + 100)) < 2


def test_an_effect_happens_once_however_often_its_answer_is_read(page: Any) -> None:
    page.evaluate("effects = []; addEventListener('chatkit.effect', () => effects.push(1))")
    send(page, f"effect, {LONG}")
    wait_for_word(page, "5")
    with page.expect_request("**/turn"):
        page.evaluate("chat = document.querySelector('chatkit-trio'); chat.remove()")
        page.wait_for_timeout(100)
        page.evaluate("document.body.append(chat)")
    wait_for_word(page, "60")
    page.get_by_test_id("stop").click()
    is_idle(page)

    assert page.evaluate("effects.length") == 1
