"""What the page keeps: what was typed, why an answer ended, and the reader's place in it."""

from __future__ import annotations

import base64
import re
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
    marks,
    page,
    send,
    send_past_the_page,
    site,
    stop,
    unsent,
    wait_for_word,
)

__all__ = ["page", "site"]

CRASHED = "The server failed; the answer was cut off"
STOPPED = "You stopped this answer"


# --- Nothing cut looks finished ----------------------------------------------------------------


def test_a_killed_server_is_told_in_every_tab_and_after_every_reload(page: Any, site: Site) -> None:
    send(page, LONG)
    wait_for_word(page, "20")
    site.end()
    site.start()

    expect(marks(page)).to_have_text(re.compile(CRASHED))
    page.reload()
    expect(marks(page)).to_have_text(re.compile(CRASHED))
    other = page.context.new_page()
    other.goto(page.url)
    expect(marks(other)).to_have_text(re.compile(CRASHED))


def test_each_cut_answer_has_its_own_mark(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    stop(page)
    send(page, "count 3 every 1 ms, then fail")
    wait_for_word(page, "3")
    expect(marks(page)).to_have_count(2)
    ask(page, "and now")

    for _ in range(2):
        expect(marks(page)).to_have_text([re.compile(STOPPED), re.compile("An error cut")])
        order = page.evaluate(
            f"[...{CHAT}.querySelectorAll('[data-testid=end-mark], .message.is-assistant')]"
            ".map((each) => each.dataset.testid)"
        )
        assert order == ["message-assistant", "end-mark"] * 2 + ["message-assistant"]
        page.reload()
        expect(answers(page)).to_have_count(3)


def test_an_answer_that_was_stopped_before_its_first_word_can_be_asked_for_again(
    page: Any,
) -> None:
    send(page, "be silent")
    expect(page.get_by_test_id("thread-item").first).to_be_visible()
    stop(page)
    page.reload()

    expect(marks(page)).to_have_text(re.compile(STOPPED))
    expect(marks(page).get_by_role("button", name="Try again")).to_be_visible()


def test_a_cut_answer_is_continued(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    stop(page)
    page.route("**/chatkit", lambda route: route.abort())
    send(page, "and this")
    unsent(page).get_by_role("button", name="Delete").click()
    page.unroute("**/chatkit")
    marks(page).get_by_role("button", name="Continue").click()

    expect(answers(page)).to_have_count(2)
    expect(marks(page)).to_have_count(1)
    expect(marks(page).get_by_role("button")).to_have_count(0)


def test_an_answer_that_another_tab_replaced_says_so_after_a_reload(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    other = page.context.new_page()
    other.goto(page.url)
    wait_for_word(other, "6")
    send_past_the_page(other, "instead")
    page.reload()

    expect(answers(page)).to_have_count(2)
    expect(marks(page)).to_have_text(re.compile("A newer message replaced"))


# --- Stop says what the server said ------------------------------------------------------------


def test_a_stop_that_fails_is_told_and_can_be_tried_again(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    page.route("**/stop", lambda route: route.abort())
    page.get_by_test_id("stop").click()

    expect(page.get_by_test_id("toast")).to_contain_text("could not be stopped")
    expect(marks(page)).to_have_count(0)
    last = int(answers(page).last.inner_text().split()[-1])
    wait_for_word(page, str(last + 20))
    page.unroute("**/stop")
    stop(page)
    expect(marks(page)).to_have_text(re.compile(STOPPED))


def test_a_stop_that_is_refused_is_told(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    page.route("**/stop", lambda route: route.fulfill(status=401, json={"error": {"code": "x"}}))
    page.get_by_test_id("stop").click()

    expect(page.get_by_test_id("toast")).to_contain_text("could not be stopped")
    page.unroute("**/stop")
    stop(page)


# --- Scrolling belongs to the reader -----------------------------------------------------------


def gap(page: Any) -> float:
    return page.evaluate(
        f"(() => {{ const box = {CHAT}.querySelector('.log');"
        " return box.scrollHeight - box.scrollTop - box.clientHeight })()"
    )


def place(page: Any) -> float:
    return page.evaluate(f"{CHAT}.querySelector('.log').scrollTop")


def place_at_rest(page: Any) -> float:
    """Return where the reader is when the last step of the wheel has been carried out."""
    for _ in range(50):
        before = place(page)
        page.wait_for_timeout(200)
        if place(page) == before:
            return before
    raise AssertionError("the place never stays the same")


@pytest.mark.parametrize("step", [-12, -30])
def test_small_steps_upwards_let_go_of_the_end(step: int, page: Any) -> None:
    send(page, "count 3000 every 10 ms")
    wait_for_word(page, "80")
    page.mouse.move(600, 300)
    for _ in range(12):
        page.mouse.wheel(0, step)
        page.wait_for_timeout(40)

    before = place_at_rest(page)
    page.wait_for_timeout(500)
    assert place(page) == before
    assert gap(page) > 100
    page.get_by_role("button", name="Jump to the latest message").click()
    page.wait_for_timeout(1500)
    assert gap(page) < 60
    stop(page)


def test_the_arrow_key_lets_go_of_the_end(page: Any) -> None:
    send(page, "count 3000 every 10 ms")
    wait_for_word(page, "80")
    page.get_by_role("region", name="Conversation").focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)

    assert gap(page) > 60
    stop(page)


# --- Nothing typed is lost ---------------------------------------------------------------------


def test_messages_that_could_not_be_sent_stay_each_with_its_own_buttons(
    page: Any, site: Site
) -> None:
    ask(page, "first")
    site.end()
    for text in ("second", "third", "fourth"):
        send(page, text)
        expect(unsent(page).last).to_contain_text(text)
    expect(unsent(page)).to_have_count(3)
    site.start()
    unsent(page).nth(0).get_by_role("button", name="Try again").click()
    expect(answers(page).last).to_contain_text("You said: second")
    expect(unsent(page)).to_have_count(2)
    unsent(page).nth(0).get_by_role("button", name="Edit").click()
    expect(page.get_by_test_id("composer")).to_have_value("third")
    unsent(page).nth(0).get_by_role("button", name="Delete").click()

    expect(unsent(page)).to_have_count(0)
    page.reload()
    expect(asked(page)).to_have_text(["first", "second"])
    expect(page.get_by_test_id("composer")).to_have_value("third")


def test_a_first_message_that_failed_is_there_when_one_comes_back(page: Any, site: Site) -> None:
    ask(page, "something")
    page.get_by_test_id("new-thread").click()
    site.end()
    send(page, "the first words")
    expect(unsent(page)).to_contain_text("the first words")
    site.start()
    page.get_by_test_id("thread-item").first.click()
    expect(answers(page)).to_have_count(1)
    page.get_by_test_id("new-thread").click()

    expect(unsent(page)).to_contain_text("the first words")
    page.reload()
    expect(unsent(page)).to_contain_text("the first words")
    unsent(page).get_by_role("button", name="Try again").click()
    expect(answers(page).last).to_contain_text("You said: the first words")
    expect(unsent(page)).to_have_count(0)


def test_a_message_that_is_too_large_can_be_edited(page: Any) -> None:
    send(page, "x" * 20_001)
    expect(unsent(page)).to_contain_text("too long")
    expect(unsent(page).get_by_role("button", name="Try again")).to_have_count(0)
    unsent(page).get_by_role("button", name="Edit").click()

    expect(page.get_by_test_id("composer")).to_have_value("x" * 20_001)
    expect(unsent(page)).to_have_count(0)


def test_a_message_is_sent_once_when_the_browser_is_online_again(page: Any) -> None:
    ask(page, "first")
    page.context.set_offline(True)
    send(page, "second")
    expect(unsent(page)).to_contain_text("second")
    page.context.set_offline(False)

    expect(answers(page).last).to_contain_text("You said: second")
    page.reload()
    expect(asked(page)).to_have_text(["first", "second"])


def test_a_message_whose_answer_was_lost_is_sent_once(page: Any) -> None:
    """The server has it; the browser can't know, and sends it again with the same key."""
    ask(page, "first")
    page.route("**/chatkit", lambda route: (route.fetch(), route.abort()))
    send(page, "second")
    expect(unsent(page)).to_contain_text("second")
    page.unroute("**/chatkit")
    unsent(page).get_by_role("button", name="Try again").click()

    expect(answers(page).last).to_contain_text("You said: second")
    page.reload()
    expect(asked(page)).to_have_text(["first", "second"])


def test_drafts_are_kept_for_each_thread(page: Any) -> None:
    ask(page, "one")
    page.get_by_test_id("composer").fill("about one")
    page.get_by_test_id("new-thread").click()
    page.get_by_test_id("composer").fill("about something new")
    page.get_by_test_id("thread-item").first.click()
    expect(page.get_by_test_id("composer")).to_have_value("about one")
    page.reload()
    expect(page.get_by_test_id("composer")).to_have_value("about one")
    page.get_by_test_id("new-thread").click()

    expect(page.get_by_test_id("composer")).to_have_value("about something new")
    send(page, "count 2 every 1 ms")
    expect(page.get_by_test_id("composer")).to_have_value("")
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("composer")).to_have_value("")


def test_enter_that_confirms_a_candidate_in_safari_sends_nothing(page: Any) -> None:
    page.get_by_test_id("composer").fill("half a wo")
    page.get_by_test_id("composer").evaluate(
        "(area) => area.dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"
    )

    expect(page.get_by_test_id("composer")).to_have_value("half a wo")
    expect(asked(page)).to_have_count(0)


# --- Files -------------------------------------------------------------------------------------


DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def choose(page: Any, name: str, kind: str, data: bytes) -> None:
    files = {"name": name, "mimeType": kind, "buffer": data}
    page.get_by_test_id("attach-input").set_input_files(files)


def entries(page: Any) -> Any:
    return page.get_by_test_id("attachment-entry")


def test_a_file_that_would_not_be_taken_is_refused_with_a_reason_before_it_is_sent(
    page: Any,
) -> None:
    toasts = page.get_by_test_id("toast")
    choose(page, "a.zip", "application/zip", b"PK")
    expect(toasts.last).to_contain_text("a.zip: files of this kind")
    choose(page, "big.txt", "text/plain", b"x" * 30_000)
    expect(toasts.last).to_contain_text("big.txt is too large: a file may have 19.5 kB")
    for name in ("a.txt", "b.txt", "c.txt"):
        choose(page, name, "text/plain", b"some text")
    expect(toasts.last).to_contain_text("2 files at most")

    expect(entries(page)).to_have_count(2)
    assert page.get_by_test_id("attach-input").get_attribute("accept") == "image/*,text/plain"
    send(page, "look")
    expect(answers(page)).to_contain_text("You said: look")


def test_a_failed_upload_says_why_nothing_can_be_sent(page: Any) -> None:
    page.route("**/chatkit", lambda route: route.abort())
    choose(page, "a.txt", "text/plain", b"some text")
    page.get_by_test_id("composer").fill("look")
    expect(page.get_by_text("A file could not be uploaded")).to_be_visible()
    expect(page.get_by_test_id("send")).to_be_disabled()
    page.unroute("**/chatkit")
    page.get_by_role("button", name="Upload a.txt again").click()

    expect(page.get_by_text("A file could not be uploaded")).to_be_hidden()
    send(page, "look")
    expect(answers(page)).to_contain_text("You said: look")


@pytest.mark.parametrize("reason", ["its answer was lost", "its address had expired"])
def test_a_file_can_be_uploaded_again_when(page: Any, reason: str) -> None:
    first: list[str] = []

    def put(route: Any) -> None:
        first.append(route.request.url)
        if route.request.url != first[0]:
            route.continue_()
        elif reason == "its address had expired":
            route.fulfill(status=410, json={})
        elif len(first) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/attachments/**", put)
    choose(page, "a.txt", "text/plain", b"some text")
    again = page.get_by_role("button", name="Upload a.txt again")
    again.click()
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")

    expect(answers(page)).to_contain_text("You said: look")
    expect(asked(page).locator("..").get_by_test_id("attachment")).to_contain_text("a.txt")


ANY_NUMBER = """document.querySelector("chatkit-trio").setOptions(
  { api: { url: "/chatkit" }, alone: true, composer: { attachments: { enabled: true } } })"""


@pytest.mark.parametrize("size", [{"width": 390, "height": 740}, {"width": 667, "height": 320}])
def test_many_files_leave_room_for_what_is_written(page: Any, size: Any) -> None:
    page.set_viewport_size(size)
    page.evaluate(ANY_NUMBER)
    for number in range(12):
        choose(page, f"A report with a long name {number}.txt", "text/plain", b"some text")
    expect(page.locator(".entry.is-ready")).to_have_count(12)
    page.get_by_test_id("composer").fill("Please\nread\nthem\nall")

    expect(page.get_by_test_id("composer")).to_be_in_viewport(ratio=0.99)
    expect(page.get_by_test_id("send")).to_be_in_viewport(ratio=0.99)
    last = entries(page).last.get_by_test_id("attachment-remove")
    last.click()
    expect(entries(page)).to_have_count(11)


def test_a_file_of_a_message_is_downloaded_with_its_name(page: Any) -> None:
    choose(page, "notes für Ann.txt", "text/plain", b"buy oranges")
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")
    expect(answers(page)).to_contain_text("You said: look")
    for _ in range(2):
        with page.expect_download() as started:
            page.get_by_title("Download notes für Ann.txt").click()
        assert started.value.suggested_filename == "notes für Ann.txt"
        assert Path(started.value.path()).read_bytes() == b"buy oranges"
        page.reload()
        expect(answers(page)).to_have_count(1)
    expect(page.get_by_test_id("composer")).to_be_visible()


def test_a_file_that_can_t_be_had_any_more_is_said_to_be_gone(page: Any) -> None:
    choose(page, "notes.txt", "text/plain", b"buy oranges")
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")
    expect(answers(page)).to_contain_text("You said: look")
    page.route("**/attachments/*/url", lambda route: route.fulfill(status=200, json={"url": None}))
    page.get_by_test_id("download").click()
    expect(page.get_by_test_id("toast").last).to_contain_text("be had from here")
    page.unroute("**/attachments/*/url")
    page.evaluate(
        f"""async () => {{
          const id = {CHAT}.querySelector("[data-attachment-id]").dataset.attachmentId;
          const body = JSON.stringify({{
            type: "attachments.delete", params: {{ attachment_id: id }} }});
          const headers = {{ "Content-Type": "application/json" }};
          await fetch("/chatkit", {{ method: "POST", headers, body }});
        }}"""
    )
    page.get_by_test_id("download").click()
    expect(page.get_by_test_id("toast").last).to_contain_text("there any more")


def test_an_image_of_a_message_opens_large(page: Any) -> None:
    choose(page, "dot.png", "image/png", DOT)
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")
    expect(answers(page)).to_contain_text("You said: look")
    page.reload()
    page.get_by_test_id("enlarge").press("Enter")
    viewer = page.get_by_test_id("viewer")
    assert viewer.locator("img").evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 1
    with page.expect_download() as started:
        viewer.get_by_role("link", name="Download").click()
    assert Path(started.value.path()).read_bytes() == DOT
    page.keyboard.press("Escape")
    expect(viewer).to_have_count(0)
    expect(page.get_by_test_id("enlarge")).to_be_focused()


# --- The address -------------------------------------------------------------------------------


def test_a_malformed_address_opens_a_new_chat(page: Any, site: Site) -> None:
    page.goto(f"{site.url}/#/t/%E0%A4%A")
    page.reload()

    expect(page.get_by_test_id("welcome")).to_be_visible()
    ask(page, "hello")


def test_a_card_comes_with_its_styles(page: Any) -> None:
    send(page, "a card")

    expect(page.get_by_role("button", name="Press")).to_have_css("font-weight", "550")


# --- Where things stand --------------------------------------------------------------------------


def test_the_list_stands_beside_the_chat_or_over_it(page: Any) -> None:
    def box(selector: str) -> dict[str, float]:
        found: dict[str, float] = page.locator(selector).bounding_box()
        return found

    assert box(".sidebar") == {"x": 0, "y": 0, "width": 272, "height": 700}
    assert box(".main") == {"x": 272, "y": 0, "width": 728, "height": 700}
    page.set_viewport_size({"width": 390, "height": 700})
    expect(page.get_by_test_id("menu")).to_be_visible()
    assert box(".main") == {"x": 0, "y": 0, "width": 390, "height": 700}
    page.get_by_test_id("menu").click()
    expect(page.locator(".sidebar")).to_be_in_viewport(ratio=1)
    assert box(".sidebar")["width"] == 304
