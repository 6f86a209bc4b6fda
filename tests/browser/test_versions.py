"""Asking again and editing: nothing that was there is lost, whatever becomes of the new answer."""

from __future__ import annotations

import re
from typing import Any

from .kept_site import (
    LONG,
    answers,
    ask,
    asked,
    expect,
    marks,
    page,
    site,
    stop,
    wait_for_word,
)

__all__ = ["page", "site"]


def versions(page: Any) -> Any:
    return page.get_by_test_id("versions")


def earlier(page: Any) -> None:
    asked(page).last.hover()
    versions(page).get_by_role("button", name="Earlier version").click()


def regenerate(page: Any) -> None:
    answers(page).last.hover()
    page.get_by_role("button", name="Try again with a new answer").click()


def begin_editing(page: Any) -> Any:
    asked(page).last.hover()
    page.get_by_test_id("edit").last.click()
    field = page.get_by_test_id("editor-field")
    expect(field).to_be_focused()
    return field


def stored(page: Any) -> list[str]:
    """Return the texts of what the server has of the thread."""
    return page.evaluate(
        """async () => {
          const params = { thread_id: location.hash.slice(4), limit: 50, order: "asc" };
          const body = JSON.stringify({ type: "items.list", params });
          const headers = { "Content-Type": "application/json" };
          const answer = await fetch("/chatkit", { method: "POST", headers, body });
          return (await answer.json()).data.map(({ content }) => content[0].text);
        }"""
    )


def test_an_answer_that_was_asked_for_again_can_be_gone_back_to(page: Any) -> None:
    ask(page, "One")
    first = answers(page).inner_text()
    regenerate(page)
    expect(page.get_by_test_id("send")).to_be_visible()
    expect(versions(page)).to_contain_text("2/2")

    for _ in range(2):
        earlier(page)
        expect(versions(page)).to_contain_text("1/2")
        expect(page.get_by_test_id("version-note")).to_be_visible()
        expect(answers(page)).to_have_count(1)
        assert answers(page).inner_text() == first
        page.get_by_role("button", name="Show the latest").click()
        expect(page.get_by_test_id("version-note")).to_have_count(0)
        page.reload()
        expect(answers(page)).to_have_count(1)


def test_stopping_the_new_answer_doesn_t_take_the_old_one(page: Any) -> None:
    ask(page, "What must not be lost")
    first = answers(page).inner_text()
    field = begin_editing(page)
    field.fill(LONG)
    field.press("Enter")
    wait_for_word(page, "3")
    stop(page)
    expect(marks(page)).to_have_count(1)
    earlier(page)

    expect(asked(page)).to_have_text("What must not be lost")
    assert answers(page).inner_text() == first
    expect(marks(page)).to_have_count(0)


def test_an_answer_stays_while_the_server_can_t_be_asked_again(page: Any) -> None:
    ask(page, "Hello")
    page.route("**/chatkit", lambda route: route.abort())
    regenerate(page)
    expect(page.get_by_test_id("error")).to_contain_text("be reached")
    expect(answers(page)).to_contain_text("You said: Hello")
    expect(versions(page)).to_have_count(0)

    page.unroute("**/chatkit")
    page.get_by_test_id("error").get_by_role("button").click()
    expect(versions(page)).to_contain_text("2/2")
    expect(answers(page)).to_contain_text("You said: Hello")


def test_an_edited_message_takes_the_place_of_the_old_one(page: Any) -> None:
    ask(page, "First")
    ask(page, "Secnod")
    field = begin_editing(page)
    assert field.input_value() == "Secnod"
    field.fill("Second")
    field.press("Enter")
    expect(answers(page).last).to_contain_text("You said: Second")
    expect(page.get_by_test_id("send")).to_be_visible()
    page.reload()

    expect(asked(page)).to_have_text(["First", "Second"])
    expect(answers(page)).to_have_count(2)
    assert stored(page) == ["First", "You said: First", "Second", "You said: Second"]
    earlier(page)
    expect(asked(page)).to_have_text(["First", "Secnod"])
    # Who writes on goes on from what there is.
    ask(page, "Third")
    expect(asked(page)).to_have_text(["First", "Second", "Third"])


def test_an_edited_first_message_takes_all_that_followed_with_it(page: Any) -> None:
    ask(page, "One")
    ask(page, "Two")
    asked(page).first.hover()
    page.get_by_test_id("edit").first.click()
    page.get_by_test_id("editor-field").fill("Uno")
    page.get_by_role("button", name="Send again").click()
    expect(answers(page)).to_have_count(1)
    expect(answers(page)).to_contain_text("You said: Uno")
    earlier(page)

    expect(asked(page)).to_have_text(["One", "Two"])
    expect(answers(page)).to_have_count(2)
    assert stored(page) == ["Uno", "You said: Uno"]


def test_what_is_being_edited_is_kept_until_it_is_sent(page: Any) -> None:
    ask(page, "Hello")
    page.get_by_test_id("composer").press("ArrowUp")
    field = page.get_by_test_id("editor-field")
    field.fill("Hello there")
    page.reload()
    expect(field).to_have_value("Hello there")
    page.route("**/chatkit", lambda route: route.abort())
    field.press("Enter")
    expect(page.get_by_test_id("error")).to_be_visible()
    expect(field).to_have_value("Hello there")
    page.unroute("**/chatkit")
    field.press("Enter")
    expect(answers(page)).to_contain_text("You said: Hello there")
    expect(field).to_have_count(0)

    begin_editing(page).fill("Never mind")
    page.keyboard.press("Escape")
    expect(field).to_have_count(0)
    expect(asked(page)).to_have_text("Hello there")
    expect(page.get_by_test_id("composer")).to_be_focused()


def test_a_message_can_be_edited_after_a_reload(page: Any) -> None:
    ask(page, "Hello")
    page.reload()
    asked(page).hover()
    page.get_by_test_id("edit").click()
    expect(page.get_by_test_id("editor-field")).to_have_value("Hello")


def test_a_question_can_be_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "Copy me")
    asked(page).hover()
    page.get_by_role("button", name="Copy message").click()

    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "Copy me"


def test_a_server_without_editing_is_not_asked_for_it(page: Any) -> None:
    def as_another(route: Any) -> None:
        response = route.fetch()
        text = re.sub(r"^id: .*\n|^event: turn\.end\ndata: .*\n\n", "", response.text(), flags=re.M)
        text = re.sub(r',"endings":\[.*?\]', "", text)
        route.fulfill(response=response, body=text)

    page.route("**/chatkit", as_another)
    page.route("**/turn", lambda route: route.fulfill(status=204))
    ask(page, "Hello")
    asked(page).hover()

    expect(page.get_by_test_id("copy").first).to_be_visible()
    expect(page.get_by_test_id("edit")).to_have_count(0)
