"""Finding a conversation again: by its last activity, by its words, and when it was."""

from __future__ import annotations

import re
from typing import Any

from .kept_site import CHAT, Site, answers, ask, asked, expect, let_go, page, send, site

__all__ = ["page", "site"]


def new_chat(page: Any) -> None:
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()


def hits(page: Any) -> Any:
    return page.get_by_test_id("hit")


def test_what_was_written_to_last_is_on_top(page: Any) -> None:
    for text in ("Older unlike", "Newer unlike"):
        new_chat(page)
        ask(page, text)
    rows = page.get_by_test_id("thread-item")
    expect(rows.first).to_contain_text("Newer unlike")
    rows.filter(has_text="Older unlike").first.click()
    ask(page, "Once more")
    expect(rows.first).to_contain_text("Older unlike")
    page.reload()

    expect(rows.first).to_contain_text("Older unlike")


def test_words_are_found_in_titles_and_messages_and_lead_there(page: Any) -> None:
    ask(page, "Where is the zanzibar ferry?")
    for number in range(4):
        ask(page, f"say: {'filler ' * 400}. You said {number}")
    new_chat(page)
    page.get_by_test_id("search").fill("zanz")
    expect(hits(page)).to_have_count(1)
    expect(hits(page).locator("mark")).to_have_text(re.compile("^zanz", re.I))
    hits(page).click()

    expect(asked(page).first).to_be_in_viewport()
    expect(page.locator(".is-revealed")).to_have_count(1)
    page.get_by_test_id("search").press("Escape")
    expect(hits(page)).to_have_count(0)
    expect(page.get_by_test_id("thread-item").first).to_be_visible()


def test_what_is_not_there_is_said_not_to_be(page: Any) -> None:
    ask(page, "Hello")
    page.get_by_test_id("search").fill("nosuchword <b>%_*")
    expect(page.get_by_test_id("nothing-found")).to_contain_text("nosuchword <b>%_*")
    page.route("**/search*", lambda route: route.abort())
    page.get_by_test_id("search").fill("another")

    expect(page.get_by_role("alert")).to_contain_text("The search didn")


def test_a_server_that_can_t_search_has_the_list_by_age(page: Any) -> None:
    ask(page, "Hello old server")
    page.route("**/chatkit/threads?*", lambda route: route.fulfill(status=404, body="no"))
    page.reload()

    expect(page.get_by_test_id("thread-item").first).to_contain_text("Hello old server")
    expect(page.get_by_test_id("search")).to_have_count(0)


def test_each_message_says_when_it_was(page: Any) -> None:
    ask(page, "Hello")
    asked(page).hover()

    times = page.locator(".items time")
    expect(times).to_have_count(2)
    expect(times.first).to_have_text(re.compile(r"^\d{1,2}:\d\d"))
    assert times.first.get_attribute("datetime")
    assert "20" in times.first.get_attribute("title")


def test_an_answer_elsewhere_is_marked_until_it_is_seen(page: Any, site: Site) -> None:
    ask(page, "The one")
    new_chat(page)
    send(page, "count 3 every 1 ms, held at 2")
    expect(answers(page)).to_contain_text("2")
    page.get_by_test_id("thread-item").filter(has_text="The one").first.click()
    expect(answers(page)).to_contain_text("The one")
    let_go(page, site)
    mark = page.get_by_role("img", name="New answer")
    expect(mark).to_have_count(1)
    page.get_by_test_id("thread-item").filter(has_text="count 3 ").first.click()

    expect(mark).to_have_count(0)


def test_old_conversations_are_grouped_by_month(page: Any) -> None:
    def aged(route: Any) -> None:
        response = route.fetch()
        data = response.json()
        for number, thread in enumerate(data["data"][:3]):
            thread["last_activity_at"] = f"2024-0{3 + number}-15T12:00:00Z"
        route.fulfill(response=response, json=data)

    for text in ("a", "b", "c"):
        new_chat(page)
        ask(page, f"Old {text}")
    page.route("**/chatkit/threads?*", aged)
    page.reload()

    expect(page.locator(".threads h3").last).to_have_text(re.compile("2024"))
    headings = page.evaluate(f"[...{CHAT}.querySelectorAll('.threads h3')].map((h) => h.innerText)")
    assert headings[-3:] == ["May 2024", "April 2024", "March 2024"]
