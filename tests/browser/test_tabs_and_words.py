"""All tabs agree, words are for people, text runs as it should, and the focus is somewhere."""

from __future__ import annotations

import re
import time
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
    send_past_the_page,
    site,
    wait_for_word,
)

__all__ = ["page", "site"]


def tab(page: Any) -> Any:
    """Open the same address in another tab of the browser."""
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_test_id("composer")).to_be_visible()
    return other


def elsewhere(browser: Any, page: Any) -> Any:
    """Open the same address in another browser."""
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(asked(other).first).to_be_visible()
    return other


def rows(page: Any) -> Any:
    return page.get_by_test_id("thread-item")


# --- Tabs --------------------------------------------------------------------------------------


def test_another_tab_shows_the_question_and_the_answer_as_it_grows(page: Any, site: Site) -> None:
    ask(page, "first")
    other = tab(page)
    expect(answers(other)).to_have_count(1)
    send(page, "count 60 every 1 ms, held at 5")

    expect(asked(other)).to_have_count(2)
    expect(answers(other).last).to_contain_text(re.compile(r"\b5\b"))
    expect(other.get_by_test_id("stop")).to_be_visible()
    let_go(page, site)
    for each in (other, page):
        wait_for_word(each, "60")
        expect(each.get_by_test_id("send")).to_be_visible()
    assert answers(other).last.inner_text() == answers(page).last.inner_text()


def test_another_tab_lists_new_renamed_and_deleted_threads(page: Any) -> None:
    other = tab(page)
    expect(other.locator(".skeleton")).to_have_count(0)  # the list is loaded
    before = rows(other).count()
    ask(page, "something new")
    expect(rows(other)).to_have_count(before + 1)
    page.bring_to_front()  # a hidden page is slow to be clicked
    rows(page).first.hover()
    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").fill("A new name")
    page.get_by_test_id("rename-field").press("Enter")
    expect(rows(other).first).to_contain_text("A new name")
    other.bring_to_front()
    rows(other).first.click()
    expect(answers(other)).to_have_count(1)
    page.bring_to_front()
    page.get_by_test_id("delete").first.click()
    page.get_by_test_id("dialog-confirm").click()

    expect(rows(other)).to_have_count(before)
    expect(other.get_by_test_id("welcome")).to_be_visible()


def test_a_superseded_answer_is_followed_by_the_newer_message(page: Any, browser: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    other = browser.new_context().new_page()
    other.goto(page.url)
    wait_for_word(other, "6")
    send_past_the_page(other, "instead")

    expect(marks(page)).to_have_text(re.compile("A newer message replaced"))
    expect(asked(page)).to_have_text([LONG, "instead"])
    expect(answers(page).last).to_contain_text("You said: instead")
    other.context.close()


def test_an_answer_that_ends_while_the_page_loads_is_shown_whole(page: Any) -> None:
    def answer_late(route: Any) -> None:
        time.sleep(2.5)
        route.continue_()

    send(page, "count 40 every 30 ms")
    wait_for_word(page, "5")
    other = page.context.new_page()
    other.route("**/turn", answer_late)
    other.goto(page.url)

    wait_for_word(other, "40")


def test_an_answer_that_begins_while_the_page_loads_is_followed(page: Any) -> None:
    send(page, "silent, for now")
    expect(page).to_have_url(re.compile("#/t/"))
    other = page.context.new_page()
    # As it is told before the turn of a new message has begun.
    other.route("**/turn", lambda route: route.fulfill(status=204), times=1)
    other.goto(page.url)

    expect(asked(other)).to_have_text("silent, for now")
    expect(other.get_by_test_id("stop")).to_be_visible()


def test_what_happened_in_another_browser_is_seen_on_coming_back(page: Any, browser: Any) -> None:
    ask(page, "first")
    other = elsewhere(browser, page)
    ask(other, "second")
    page.wait_for_timeout(2100)
    page.evaluate("window.dispatchEvent(new Event('focus'))")

    expect(asked(page)).to_have_text(["first", "second"])
    other.context.close()


def test_looking_again_takes_nothing_from_a_page_whose_server_is_away(
    page: Any, site: Site
) -> None:
    ask(page, "first")
    site.end()
    page.wait_for_timeout(2100)
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.wait_for_timeout(500)

    expect(answers(page)).to_have_count(1)
    expect(page.get_by_test_id("error")).to_have_count(0)


# --- Words -------------------------------------------------------------------------------------


def test_a_thread_that_was_deleted_elsewhere_says_so_in_plain_words(
    page: Any, browser: Any
) -> None:
    ask(page, "first")
    thread_id = page.url.rpartition("/")[2]
    other = elsewhere(browser, page)
    other.get_by_test_id("delete").first.click()
    other.get_by_test_id("dialog-confirm").click()
    expect(other.get_by_test_id("welcome")).to_be_visible()
    page.reload()

    expect(page.get_by_test_id("error")).to_contain_text("there any more")
    assert "thr_" not in page.get_by_test_id("error").inner_text()
    expect(page.locator(f"[data-thread-id={thread_id}]")).to_have_count(0)
    page.get_by_test_id("error").get_by_role("button", name="Start a new chat").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    other.context.close()


def test_loading_again_while_the_server_is_away_takes_nothing_away(page: Any, site: Site) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    page.route("**/turn", lambda route: route.fulfill(status=400))  # so that it gives up at once
    site.end()
    button = page.get_by_role("button", name="Reload the conversation")
    expect(button).to_be_visible()
    button.click()
    page.wait_for_timeout(500)

    wait_for_word(page, "5")
    expect(button).to_be_visible()


# --- Text --------------------------------------------------------------------------------------


def test_text_runs_as_its_own_letters_say(page: Any) -> None:
    send(page, "say:שלום עולם\n\n- פריט\n\nEnglish again")
    expect(answers(page)).to_contain_text("English again")
    directions = page.evaluate(
        "((chat) => [chat.querySelector('.bubble'), ...chat.querySelectorAll('.md p, .md ul')])"
        f"({CHAT})"
        ".map((each) => getComputedStyle(each).direction)"
    )
    page.get_by_test_id("composer").fill("שלום")

    assert directions == ["ltr", "rtl", "rtl", "ltr"]
    assert (
        page.evaluate(f"getComputedStyle({CHAT}.querySelector('#composer-input')).direction")
        == "rtl"
    )


@pytest.mark.parametrize(
    ("languages", "spoken", "date"),
    [
        (["en-GB"], "en-GB", r"^\w+, \d+ \w+ \d+ at"),
        (["tlh", "de-AT", "en"], "de-AT", r"^\w+, \d+\. \w+ \d+ um"),
    ],
)
def test_the_first_known_language_of_the_browser_is_spoken_as_its_region_does(
    browser: Any, site: Site, languages: list[str], spoken: str, date: str
) -> None:
    if site.process is None:
        site.start()
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        f"Object.defineProperty(navigator, 'languages', {{ get: () => {languages} }})"
    )
    page.goto(site.url)
    expect(page.locator(".app")).to_have_attribute("lang", spoken)
    send(page, "Hello")
    time = page.get_by_test_id("message-assistant").locator("time")
    expect(time).to_have_attribute("title", re.compile(date))
    context.close()


def test_what_points_back_does_so_to_the_right_in_arabic(browser: Any, site: Site) -> None:
    if site.process is None:
        site.start()
    context = browser.new_context(locale="ar")
    page = context.new_page()
    page.goto(site.url)
    ask(page, "Hello")
    page.get_by_test_id("message-assistant").get_by_test_id("retry").click()
    expect(page.get_by_test_id("versions").locator(".icon").first).to_have_css("scale", "-1 1")
    context.close()


def test_columns_of_a_table_are_aligned_as_they_say(page: Any) -> None:
    send(page, "say:| a | b | c |\n|---|:-:|--:|\n| 1 | 2 | 3 |\n")
    expect(answers(page).locator("td")).to_have_count(3)
    aligned = page.evaluate(
        f"[...{CHAT}.querySelectorAll('.md td')].map((cell) => getComputedStyle(cell).textAlign)"
    )

    assert [each.removeprefix("-webkit-") for each in aligned] == ["start", "center", "right"]


# --- The focus ---------------------------------------------------------------------------------


def test_the_focus_is_never_lost(page: Any) -> None:
    page.get_by_test_id("prompt").first.click()
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_test_id("composer")).to_be_focused()
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.get_by_test_id("send")).to_be_visible()

    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").press("Escape")
    expect(rows(page).first).to_be_focused()
    page.get_by_test_id("delete").first.click()
    page.get_by_test_id("dialog-cancel").click()
    expect(page.get_by_test_id("delete").first).to_be_focused()
    page.get_by_test_id("delete").first.click()
    page.get_by_test_id("dialog-confirm").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("composer")).to_be_focused()


# --- Names -------------------------------------------------------------------------------------


def test_a_thread_without_a_title_is_called_by_its_first_words(page: Any) -> None:
    ask(page, "What is a nursery?")
    expect(page.get_by_test_id("thread-title")).to_have_text("What is a nursery?")
    ask(page, "And a cancel scope?")
    expect(rows(page).first).to_contain_text("What is a nursery?")
    page.reload()

    expect(rows(page).first).to_contain_text("What is a nursery?")
    expect(page.get_by_test_id("thread-title")).to_have_text("What is a nursery?")


# --- Formulas and code -------------------------------------------------------------------------


def test_formulas_are_drawn_and_what_draws_them_comes_with_the_first_one(page: Any) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    ask(page, "It costs $5 or $10.")
    assert not any("katex" in url for url in loaded)
    send(page, "say:So \\(a^2\\), $\\frac{1}{2}$ and\n\n$$\n\\sum_{i=0}^n i\n$$\n\nfor $5 or $10.")

    expect(answers(page).last.locator("math")).to_have_count(3)
    expect(answers(page).last.locator("math[display=block]")).to_have_count(1)
    expect(answers(page).last).to_contain_text("for $5 or $10.")
    assert any("katex" in url for url in loaded)
    page.reload()
    expect(answers(page).last.locator("math")).to_have_count(3)


def test_formulas_and_colours_come_later_if_they_could_not_be_loaded_at_first(page: Any) -> None:
    for name in ("katex", "highlight"):
        page.route(f"**/{name}-*.js", lambda route: route.abort())
    text = "say:So \\(a^2\\)\n\n```python\nimport trio\n```\n"
    with page.expect_console_message(lambda said: "Code isn't coloured" in said.text):
        send(page, text)
    expect(answers(page).last.locator("code.math")).to_have_count(1)
    page.unroute_all()
    expect(page.get_by_test_id("send")).to_be_visible()
    send(page, text)

    expect(answers(page).last.locator("math")).to_have_count(1)
    expect(answers(page).last.locator(".hljs-keyword")).to_have_count(1)


def test_a_formula_leads_nowhere_and_one_that_cannot_be_read_is_shown(page: Any) -> None:
    send(
        page,
        "say:$\\href{javascript:alert(1)}{x}$ and $\\url{https://a.example}$ and $\\frac{1$ and "
        "$\\def\\a{\\a\\a}\\a$ and the end",
    )

    expect(answers(page).last).to_contain_text("the end")
    expect(answers(page).last.locator(".formula").first).to_be_visible()
    expect(answers(page).last).to_contain_text("\\frac{1")
    assert answers(page).last.locator("a, [href]").count() == 0


def test_code_is_coloured_and_what_colours_it_comes_with_the_first_one(page: Any) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    ask(page, "plain `code`")
    code = 'def f() -> str:\n    return "<b>&amp;</b>"  # nothing\n'
    assert not any("highlight" in url for url in loaded)
    send(page, f"say:```python\n{code}```\n\n```nosuchlanguage\ndef f()\n```\n\nthe end")

    blocks = answers(page).last.locator("pre code")
    expect(blocks.first.locator(".hljs-keyword")).to_have_text(["def", "return"])
    expect(blocks.first.locator(".hljs-string")).to_have_text('"<b>&amp;</b>"')
    assert blocks.first.inner_text().rstrip() == code.rstrip()
    expect(blocks.last.locator("span")).to_have_count(0)


def test_long_code_folds_and_is_downloaded_whole(page: Any) -> None:
    code = "\n".join(f"line_{number} = {number}" for number in range(60))
    send(page, f"say:```python\n{code}\n```")
    expect(page.get_by_test_id("send")).to_be_visible()
    pre = page.locator(".md pre")
    expect(page.locator(".hljs-number").first).to_be_visible()
    folded = pre.bounding_box()["height"]
    page.get_by_role("button", name="Show all 60 lines").click()
    assert pre.bounding_box()["height"] > 2 * folded
    page.get_by_role("button", name="Show fewer lines").click()
    assert pre.bounding_box()["height"] == folded

    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "code.py"
    assert download.value.path().read_text() == code


def test_feedback_is_shown_as_it_was_given(page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    ask(page, "Hello")
    good = page.get_by_test_id("feedback-positive")
    for _ in range(2):
        good.click()
        expect(good).to_have_attribute("aria-pressed", "true")
    page.reload()

    expect(good).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_test_id("feedback-negative")).to_have_attribute("aria-pressed", "false")
    assert len([each for each in asked if "items.feedback" in each]) == 1


def test_a_message_that_must_wait_is_said_to(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    page.get_by_test_id("composer").fill("And then?")
    expect(page.locator(".composer-hint")).to_contain_text("Wait until the answer has ended")
    page.get_by_test_id("composer").press("Enter")
    expect(page.get_by_test_id("composer")).to_have_value("And then?")


def test_enter_does_not_delete_a_conversation(page: Any) -> None:
    ask(page, "Keep me")
    page.get_by_test_id("thread-item").first.hover()
    page.get_by_test_id("delete").first.click()
    expect(page.get_by_role("dialog").locator(":focus")).to_have_count(1)
    page.keyboard.press("Enter")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_test_id("thread-item").first).to_contain_text("Keep me")


def test_the_greeting_of_a_short_window_is_in_view(page: Any) -> None:
    page.set_viewport_size({"width": 500, "height": 330})
    page.reload()

    expect(page.get_by_role("heading", name="How can I help?")).to_be_in_viewport()
