"""What stands in a form is there again when its conversation is."""

from __future__ import annotations

from typing import Any

from . import test_element
from .kept_site import answers, ask, expect, send, site
from .kept_site import page as kept_page
from .test_element import answer, host, show

__all__ = ["host", "kept_page", "site"]

page = test_element.page


def thread_of(page: Any) -> str:
    found: str = page.evaluate("events.findLast(([name]) => name === 'thread.change')[1].threadId")
    return found


def turn_away_and_back(page: Any) -> None:
    thread = thread_of(page)
    page.evaluate("chat().setThreadId(null)")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.evaluate("(id) => chat().setThreadId(id)", thread)
    expect(page.get_by_test_id("widget").first).to_be_visible()


def test_fields_of_a_widget_keep_what_is_in_them_while_another_thread_is_shown(
    page: Any, host: Any
) -> None:
    show(page, host)
    test_element.send(page, "all the fields")
    page.get_by_placeholder("Who", exact=True).fill("Ann")
    page.get_by_placeholder("Who else").fill("Bo")
    page.get_by_placeholder("Why").fill("Because.")
    page.get_by_role("combobox", name="Which").select_option("Blue")
    page.get_by_label("Blue").nth(1).check()
    page.get_by_label("Sure").check()
    page.locator(".w-editable").fill("Another title")
    turn_away_and_back(page)

    expect(page.get_by_placeholder("Who", exact=True)).to_have_value("Ann")
    expect(page.get_by_placeholder("Who else")).to_have_value("Bo")
    page.get_by_role("button", name="Hand it in").click()
    for part in (
        '"who": "Ann"',
        '"why": "Because."',
        '"which": "Blue"',
        '"form": {"colour": "Blue"}',
        '"sure": true',
        '"title": "Another title"',
    ):
        expect(answer(page)).to_contain_text(part)


WITH_A_FIELD = """{ entities: {
  onTagSearch: async () => [{ id: 'p1', title: 'Ada' }],
  onRequestPreview: async () =>
    ({ preview: { type: 'Basic', children: [{ type: 'Input', name: 'nick' }] } }),
} }"""


def test_a_preview_with_a_field_is_drawn(page: Any, host: Any) -> None:
    show(page, host, WITH_A_FIELD)
    page.get_by_test_id("composer").press_sequentially("@ada")

    expect(page.get_by_test_id("entity-preview").locator("input")).to_have_count(1)


def test_choices_of_the_same_name_in_two_widgets_are_two_choices(page: Any, host: Any) -> None:
    show(page, host)
    test_element.send(page, "all the fields")
    page.get_by_label("Red").first.check()
    test_element.send(page, "the fields again")
    expect(page.get_by_test_id("widget")).to_have_count(2)
    last = page.get_by_test_id("widget").last
    last.get_by_label("Blue").first.check()

    expect(page.get_by_label("Red").first).to_be_checked()
    expect(last.get_by_label("Blue").first).to_be_checked()


def test_an_icon_that_the_chat_does_not_use_itself_is_drawn(page: Any, host: Any) -> None:
    show(page, host)
    test_element.send(page, "all the fields")

    expect(page.locator(".w-icon path")).to_have_attribute("d", "M13 3L5 13.500h6L10 21l8.5-11h-6z")


def test_answers_to_questions_are_kept_until_they_are_sent(kept_page: Any) -> None:
    page = kept_page
    send(page, "3 questions")
    form = page.get_by_test_id("structured-input")
    form.get_by_label("Yes").first.check()
    form.get_by_label("Something else").nth(1).check()
    form.get_by_placeholder("Your own answer").fill("Perhaps")
    form.get_by_label("Anything else?").fill("Half a thou")
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.get_by_test_id("thread-item").first.click()
    expect(form.get_by_placeholder("Your own answer")).to_have_value("Perhaps")
    page.reload()
    expect(form.get_by_label("Anything else?")).to_have_value("Half a thou")
    form.get_by_label("Anything else?").fill("No")
    page.get_by_test_id("structured-submit").click()

    expect(answers(page)).to_contain_text("[['Yes'], ['Perhaps'], ['No']]")
    assert page.evaluate("Object.keys(localStorage).filter((key) => /answers/.test(key))") == []


def test_answers_to_questions_of_a_deleted_thread_are_forgotten(kept_page: Any) -> None:
    page = kept_page
    ask(page, "Hello")
    send(page, "3 questions")
    page.get_by_test_id("structured-input").get_by_label("Yes").first.check()
    kept = "Object.keys(localStorage).filter((key) => /answers/.test(key)).length"
    assert page.evaluate(kept) == 1
    page.get_by_test_id("delete").first.click()
    page.get_by_test_id("dialog-confirm").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()

    assert page.evaluate(kept) == 0
