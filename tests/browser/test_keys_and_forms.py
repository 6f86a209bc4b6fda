"""Keys that lead somewhere, dictation, forms, and what is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .kept_site import (
    CHAT,
    LONG,
    answers,
    ask,
    asked,
    expect,
    marks,
    page,
    send,
    site,
    wait_for_word,
)

__all__ = ["page", "site"]

# --- Keys ----------------------------------------------------------------------------------------


def test_keys_lead_to_a_new_chat_the_list_and_the_box(page: Any) -> None:
    ask(page, "Hello")
    composer = page.get_by_test_id("composer")
    composer.fill("Half a thought")
    page.keyboard.press("Alt+Shift+L")
    expect(page.get_by_test_id("thread-item").first).to_be_focused()
    page.keyboard.press("Alt+Shift+M")
    expect(composer).to_be_focused()
    page.keyboard.press("Alt+Shift+N")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(composer).to_be_focused()
    expect(composer).to_have_value("")
    page.keyboard.type("N, l and m? Typed.")
    expect(composer).to_have_value("N, l and m? Typed.")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Alt+Shift+M")
    expect(composer).to_be_focused()

    page.set_viewport_size({"width": 390, "height": 700})
    expect(page.get_by_test_id("menu")).to_be_visible()
    page.keyboard.press("Alt+Shift+L")
    expect(page.get_by_test_id("new-thread")).to_be_focused()
    page.keyboard.press("Alt+Shift+M")
    expect(composer).to_be_focused()
    expect(page.locator(".sidebar.is-open")).to_have_count(0)


@pytest.mark.parametrize(
    "event",
    [
        {"key": "n"},
        {"key": "N", "shiftKey": True},
        {"key": "n", "altKey": True},
        {"key": "N", "shiftKey": True, "ctrlKey": True, "altKey": True},
        {"key": "N", "shiftKey": True, "ctrlKey": True},
        {"key": "N", "shiftKey": True, "metaKey": True},
        {"key": "N", "shiftKey": True, "altKey": True, "isComposing": True},
    ],
)
def test_other_keys_are_left_to_the_browser_and_to_typing(page: Any, event: Any) -> None:
    ask(page, "Hello")
    taken = page.get_by_test_id("composer").evaluate(
        """(box, keys) => !box.dispatchEvent(new KeyboardEvent("keydown",
          { ...keys, code: "KeyN", bubbles: true, cancelable: true, composed: true }))""",
        event,
    )
    assert not taken
    expect(asked(page)).to_have_count(1)


def test_the_keys_are_told_on_the_page(page: Any) -> None:
    new = page.get_by_test_id("new-thread")
    expect(new).to_have_attribute("aria-keyshortcuts", "Alt+Shift+N")
    expect(new).to_have_attribute("title", re.compile(r"Alt\+Shift\+N"))
    page.get_by_test_id("composer").press("Alt+Shift+K")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    for words in ("New chat", "Alt+Shift+N", "Alt+Shift+L", "Alt+Shift+M", "Shift+Enter", "Esc"):
        expect(dialog).to_contain_text(words)
    page.keyboard.press("Alt+Shift+N")  # not behind the dialog
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_test_id("composer")).to_be_focused()
    button = page.get_by_role("button", name="Keyboard shortcuts")
    button.click()
    dialog.get_by_role("button", name="Close").click()
    expect(button).to_be_focused()


def test_escape_in_a_dialog_does_not_stop_the_answer(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    page.keyboard.press("Alt+Shift+K")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.evaluate(f"{CHAT}.activeElement.blur()")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_test_id("stop")).to_be_visible()


def test_a_new_title_is_typed_while_an_answer_is_written(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    page.get_by_test_id("rename").first.click()
    field = page.get_by_test_id("rename-field")
    field.press_sequentially("A new title", delay=30)
    expect(field).to_have_value("A new title")
    field.press("Enter")
    expect(page.get_by_test_id("thread-item").first).to_contain_text("A new title")


# --- Dictation -----------------------------------------------------------------------------------

MICROPHONE = """
  navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext();
    const { stream } = context.createMediaStreamDestination();
    const [track] = stream.getTracks();
    const stop = track.stop.bind(track);
    track.stop = () => {
      stop();
      document.documentElement.dataset.microphone = "let go";
    };
    window.track = track;
    return stream;
  };
"""


def is_listening(page: Any) -> bool:
    return page.evaluate("track.readyState === 'live'")


@pytest.mark.parametrize("how", ["escape in the box", "escape", "button"])
def test_a_dictation_is_called_off(page: Any, how: str) -> None:
    page.evaluate(MICROPHONE)
    composer = page.get_by_test_id("composer")
    composer.fill("Please ")
    page.get_by_test_id("dictate").click()
    time = page.get_by_role("timer")
    expect(time).to_have_text("0:00")
    expect(time).to_have_text("0:01")
    assert is_listening(page)
    if how == "escape in the box":
        composer.press("Escape")
    elif how == "escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Cancel dictation").click()

    expect(time).to_have_count(0)
    expect(composer).to_be_focused()
    expect(composer).to_have_value("Please ")
    expect(page.locator("html")).to_have_attribute("data-microphone", "let go")


def test_escape_ends_the_dictation_and_not_the_answer(page: Any) -> None:
    page.evaluate(MICROPHONE)
    send(page, LONG)
    wait_for_word(page, "3")
    page.get_by_test_id("dictate").click()
    expect(page.get_by_role("timer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("timer")).to_have_count(0)
    expect(page.get_by_test_id("stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(marks(page)).to_have_count(1)


def test_what_was_dictated_is_put_into_the_box(page: Any) -> None:
    page.evaluate(MICROPHONE)
    page.get_by_test_id("composer").fill("Please")
    page.get_by_test_id("dictate").click()
    page.get_by_role("button", name="Finish dictation").click()
    expect(page.get_by_test_id("composer")).to_have_value("Please buy oranges")


def dictate(page: Any) -> None:
    page.get_by_test_id("dictate").click()
    expect(page.get_by_role("timer")).to_be_visible()
    page.get_by_role("button", name="Finish dictation").click()


def test_what_was_dictated_is_kept_until_it_is_written_down(page: Any) -> None:
    page.evaluate(MICROPHONE)
    page.get_by_test_id("composer").fill("Please")
    page.route("**/chatkit", lambda route: route.abort())
    dictate(page)
    again = page.get_by_role("button", name="Try again to write down what you said")
    expect(again).to_be_visible()
    again.click()
    expect(page.get_by_test_id("toast")).to_have_count(2)
    page.unroute("**/chatkit")
    again.click()

    expect(page.get_by_test_id("composer")).to_have_value("Please buy oranges")
    expect(page.get_by_test_id("dictate")).to_be_visible()


def test_a_recording_that_is_too_long_can_be_saved(page: Any) -> None:
    page.evaluate(MICROPHONE)
    page.route("**/chatkit", lambda route: route.fulfill(status=413, json={}))
    dictate(page)
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save the recording").click()
    assert saving.value.suggested_filename == "dictation.webm"
    assert Path(saving.value.path()).stat().st_size > 0
    page.get_by_role("button", name="Cancel dictation").click()

    expect(page.get_by_test_id("dictate")).to_have_accessible_name("Dictate")


def test_a_dictation_is_finished_when_the_microphone_was_unplugged(page: Any) -> None:
    page.evaluate(MICROPHONE)
    page.get_by_test_id("dictate").click()
    expect(page.get_by_role("timer")).to_have_text("0:01")
    page.evaluate("track.stop()")
    expect(page.locator("html")).to_have_attribute("data-microphone", "let go")
    page.get_by_role("button", name="Finish dictation").click()

    expect(page.get_by_test_id("composer")).to_have_value("buy oranges")


def test_the_microphone_is_let_go_with_the_chat(page: Any) -> None:
    page.evaluate(MICROPHONE)
    page.get_by_test_id("dictate").click()
    expect(page.get_by_role("timer")).to_be_visible()
    page.evaluate("document.querySelector('chatkit-trio').remove()")
    expect(page.locator("html")).to_have_attribute("data-microphone", "let go")


PHONE = {"width": 390, "height": 740}

# --- Forms ---------------------------------------------------------------------------------------


def test_a_form_taller_than_the_window_begins_at_its_first_question(page: Any) -> None:
    for _ in range(3):
        ask(page, "Hello")
    send(page, "8 questions")
    form = page.get_by_test_id("structured-input")
    expect(form.get_by_text("Question 1?")).to_be_in_viewport()
    expect(page.get_by_test_id("send")).to_be_visible()
    expect(form.get_by_text("Question 1?")).to_be_in_viewport()
    page.reload()
    expect(form.get_by_text("Question 1?")).to_be_in_viewport()
    expect(form.get_by_text("Anything else?")).not_to_be_in_viewport()


def test_questions_without_an_answer_are_told_before_they_are_skipped(page: Any) -> None:
    send(page, "4 questions")
    form = page.get_by_test_id("structured-input")
    submit = page.get_by_test_id("structured-submit")
    expect(submit).to_be_disabled()
    form.get_by_label("Yes").first.check()
    submit.click()
    told = form.get_by_role("alert")
    expect(told).to_contain_text("2 questions have no answer")
    expect(form.get_by_label("Yes").nth(1)).to_be_focused()
    expect(form.get_by_text("No answer yet", exact=True)).to_have_count(2)
    page.keyboard.press("Space")
    expect(told).to_contain_text("1 question has no answer")
    expect(form.get_by_text("No answer yet", exact=True)).to_have_count(1)
    expect(answers(page)).to_have_count(0)
    submit.click()
    expect(answers(page)).to_have_text(re.compile(re.escape("[['Yes'], ['Yes'], [], []]")))


@pytest.mark.parametrize(("words", "given"), [("Yes, that", "['Yes, that']"), ("", "[]")])
def test_a_form_is_sent_at_once_when_its_choices_are_made(
    page: Any, words: str, given: str
) -> None:
    send(page, "2 questions")
    form = page.get_by_test_id("structured-input")
    form.get_by_label("No").check()
    form.get_by_label("Anything else?").fill(words)
    page.get_by_test_id("structured-submit").click()
    expect(answers(page)).to_contain_text(f"[['No'], {given}]")


def test_a_form_that_was_talked_past_cant_be_answered_any_more(page: Any) -> None:
    send(page, "2 questions")
    form = page.get_by_test_id("structured-input")
    expect(page.get_by_test_id("structured-submit")).to_be_visible()
    ask(page, "Hello")
    for _ in range(2):
        expect(form).to_contain_text("Anything else?")
        expect(form.locator("input, textarea, button")).to_have_count(0)
        page.reload()


@pytest.fixture
def phone(browser: Any, site: Any) -> Iterator[Any]:
    if site.process is None:
        site.start()
    context = browser.new_context(has_touch=True, is_mobile=True, viewport=PHONE)
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    yield page
    context.close()


def test_enter_breaks_the_line_on_a_phone(phone: Any) -> None:
    composer = phone.get_by_test_id("composer")
    composer.fill("Dear Ann,")
    composer.press("Enter")
    composer.press_sequentially("hello")
    expect(composer).to_have_value("Dear Ann,\nhello")
    expect(composer).to_have_attribute("enterkeyhint", "enter")
    expect(phone.locator(".composer-hint")).to_have_text("")
    phone.get_by_test_id("send").tap()
    expect(answers(phone)).to_contain_text("You said: Dear Ann,")
    composer.fill("By a keyboard")
    composer.press("Control+Enter")
    expect(answers(phone).last).to_contain_text("You said: By a keyboard")

    phone.get_by_test_id("edit").first.tap()
    phone.get_by_test_id("editor-field").press("End")
    phone.get_by_test_id("editor-field").press("Enter")
    expect(phone.get_by_test_id("editor-field")).to_have_value(re.compile("\n"))


def writes(page: Any) -> bool:
    """Whether the focus is where a touch screen shows its keyboard."""
    return page.evaluate(f"{CHAT}.activeElement?.matches('input, textarea') ?? false")


def test_taps_do_not_raise_the_keyboard_over_the_answer(phone: Any) -> None:
    phone.get_by_test_id("prompt").first.tap()
    expect(answers(phone)).to_contain_text("You said")
    expect(phone.get_by_test_id("send")).to_be_visible()
    assert not writes(phone)
    phone.get_by_test_id("message-assistant").get_by_test_id("retry").tap()
    expect(phone.get_by_test_id("versions")).to_be_visible()
    assert not writes(phone)
    send(phone, LONG)
    wait_for_word(phone, "3")
    phone.get_by_test_id("stop").tap()
    expect(marks(phone)).to_have_count(1)
    assert not writes(phone)
    phone.get_by_test_id("header-new").tap()
    expect(phone.get_by_test_id("welcome")).to_be_visible()
    assert not writes(phone)
    phone.get_by_test_id("menu").tap()
    phone.get_by_test_id("new-thread").tap()

    expect(phone.get_by_test_id("menu")).to_be_focused()


def test_buttons_of_the_list_are_large_enough_for_fingers(phone: Any) -> None:
    page = phone
    ask(page, "Hello")
    page.get_by_test_id("menu").click()
    delete = page.get_by_test_id("delete").first
    expect(delete).to_be_visible()
    box = delete.bounding_box()
    assert min(box["width"], box["height"]) >= 40


def test_the_focus_stays_in_the_drawer_when_a_thread_is_deleted(page: Any) -> None:
    for text in ("First", "Second", "Third"):
        page.keyboard.press("Alt+Shift+N")
        expect(page.get_by_test_id("welcome")).to_be_visible()
        ask(page, text)
    send(page, LONG)
    wait_for_word(page, "3")
    page.set_viewport_size(PHONE)
    page.get_by_test_id("menu").click()
    rows = page.get_by_test_id("thread-item")
    expect(rows.nth(1)).to_contain_text("Second")
    count = rows.count()
    page.get_by_test_id("delete").nth(1).click()
    page.get_by_test_id("dialog-confirm").click()
    expect(rows).to_have_count(count - 1)
    expect(rows.nth(1)).to_contain_text("First")
    expect(rows.nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".sidebar.is-open")).to_have_count(0)
    expect(page.get_by_test_id("stop")).to_be_visible()  # the answer goes on

    page.get_by_test_id("menu").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    expect(page.locator(".sidebar.is-open")).to_have_count(0)
    expect(page.get_by_test_id("stop")).to_be_visible()


# --- The list and the paper ----------------------------------------------------------------------

MANY = """async () => {
  for (let number = 0; number < 45; number += 1) {
    const content = [{ type: "input_text", text: `say:number ${number}` }];
    const params = { input: { content, attachments: [], inference_options: {} } };
    const body = JSON.stringify({ type: "threads.create", params });
    const headers = { "Content-Type": "application/json" };
    await (await fetch("/chatkit", { method: "POST", headers, body })).text();
  }
}"""


def test_a_link_to_an_old_conversation_brings_its_row_into_view(page: Any) -> None:
    ask(page, "say:You said the oldest of all")
    address = page.url
    page.evaluate(MANY)
    page.goto("about:blank")
    held: list[Any] = []
    page.route("**/chatkit/threads?*", lambda route: held.append(route))
    page.goto(address)
    expect(page.locator(".thread.is-current")).to_be_in_viewport()  # it is alone
    held[0].continue_()
    page.unroute("**/chatkit/threads?*")
    expect(page.get_by_test_id("thread-item")).to_have_count(31)
    expect(page.locator(".thread.is-current")).to_be_in_viewport()

    page.locator(".threads").evaluate("(list) => list.scrollTop = 0")
    page.get_by_role("button", name="Show older conversations").evaluate("(more) => more.click()")
    expect(page.get_by_test_id("thread-item").nth(40)).to_be_attached()
    assert page.locator(".threads").evaluate("(list) => list.scrollTop") == 0  # the reader's place


def test_the_whole_conversation_is_printed(page: Any) -> None:
    for number in range(4):
        send(page, f"say:Answer {number}\n\n" + "Some words.\n\n" * 25)
        expect(page.get_by_test_id("send")).to_be_visible()
    code = "\n".join(f"line_{number}" for number in range(60))
    send(page, f"say:```python\n{code}\n```\n\nthe end")
    expect(answers(page).last).to_contain_text("the end")
    expect(page.get_by_test_id("send")).to_be_visible()
    page.emulate_media(media="print", color_scheme="dark")
    height = page.evaluate("document.documentElement.scrollHeight")
    shown = page.evaluate(
        f"""(() => {{
          const all = [...{CHAT}.querySelectorAll(".items *")];
          return Math.max(...all.map((each) => each.getBoundingClientRect().bottom));
        }})()"""
    )
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))

    assert height > 5_000
    assert shown <= height
    assert pages >= 5
    expect(page.locator(".code pre")).to_have_css("max-height", "none")
    expect(page.locator(".bubble").last).to_have_css("max-height", "none")
    expect(page.locator(".app")).to_have_css("background-color", "rgb(255, 255, 255)")
    for hidden in (".sidebar", ".composer", ".message-buttons >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
