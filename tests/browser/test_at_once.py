"""Things that happen at the same time: nothing that was typed is lost, or said twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from .kept_site import (
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
    unsent,
    wait_for_word,
)
from .test_tabs_and_words import tab

__all__ = ["page", "site"]

# Lets a test cut a stream, hold it back, and refuse requests, as networks do.
NETWORK = """
  const real = window.fetch;
  window.refused = null; // what a request has to hold to be refused
  window.broken = null; // what one has to hold to find no network
  window.held = null; // resolved when a stream may tell something
  window.cut = () => {};
  window.fetch = async (url, init) => {
    const words = `${url} ${init?.body ?? ""}`;
    if (window.broken && words.includes(window.broken)) throw new TypeError("broken");
    const isRefused = window.refused && words.includes(window.refused);
    if (isRefused) return new Response("{}", { status: 500 });
    const response = await real(url, init);
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
    const reader = response.body.getReader();
    const body = new ReadableStream({
      start(controller) {
        window.cut = () => { controller.error(new TypeError("cut")); reader.cancel(); };
      },
      async pull(controller) {
        await window.held?.promise;
        const { value, done } = await reader.read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    });
    init?.signal?.addEventListener("abort", () => reader.cancel());
    return new Response(body, { headers: response.headers });
  };
"""


def open_with_a_network(page: Any) -> None:
    page.add_init_script(NETWORK)
    page.reload()
    expect(page.get_by_test_id("composer")).to_be_visible()


def holding(page: Any, words: str, hold: Callable[[Any], Any] = lambda route: route) -> list[Any]:
    """Hold back the requests with these words; they are put into the list that is returned."""
    held: list[Any] = []

    def look(route: Any) -> None:
        if words in f"{route.request.url} {route.request.post_data or ''}":
            held.append(hold(route))
        else:
            route.fallback()

    page.route("**/chatkit**", look)
    return held


def holding_answers(page: Any, words: str) -> list[Any]:
    """Have requests with these words answered now; the list has what lets each answer come."""
    return holding(page, words, lambda route: partial(route.fulfill, response=route.fetch()))


def wait_for_one(page: Any, held: list[Any]) -> Any:
    for _ in range(200):
        if held:
            return held[0]
        page.wait_for_timeout(50)
    raise AssertionError("no such request was made")


def look_again(page: Any) -> None:
    """Have the page look for what has happened elsewhere, as when its reader comes back to it."""
    page.evaluate("void document.querySelector('chatkit-trio').fetchUpdates()")


def composer(page: Any) -> Any:
    return page.get_by_test_id("composer")


# --- What was typed -------------------------------------------------------------------------------


def test_a_starter_prompt_leaves_what_was_typed(page: Any) -> None:
    composer(page).fill("My own words")
    page.get_by_test_id("prompt").first.click()

    expect(answers(page)).to_contain_text("You said: Say something")
    expect(composer(page)).to_have_value("My own words")


def test_a_message_that_was_deleted_is_not_sent_when_the_network_is_back(
    page: Any, site: Site
) -> None:
    page.context.set_offline(True)
    for text in ("count 4 every 1 ms, held at 3", "second", "third"):
        send(page, text)
    expect(unsent(page)).to_have_count(3)
    page.context.set_offline(False)
    wait_for_word(page, "3")
    unsent(page).filter(has_text="second").get_by_role("button", name="Delete").click()
    unsent(page).filter(has_text="third").get_by_role("button", name="Edit").click()
    let_go(page, site)
    wait_for_word(page, "4")
    expect(page.get_by_test_id("send")).to_be_visible()
    expect(composer(page)).to_have_value("third")
    page.wait_for_timeout(300)

    expect(asked(page)).to_have_count(1)
    page.reload()
    expect(asked(page)).to_have_count(1)
    expect(composer(page)).to_have_value("third")


def test_a_new_chat_has_nothing_of_the_message_that_is_on_its_way(page: Any) -> None:
    held = holding(page, "threads.create")
    send(page, "Hello")
    wait_for_one(page, held)
    composer(page).fill("And more")
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(composer(page)).to_have_value("And more")
    composer(page).fill("Something else")
    held[0].continue_()
    expect(page.get_by_test_id("thread-item").first).to_contain_text("Hello")
    page.reload()

    expect(composer(page)).to_have_value("Something else")
    page.get_by_test_id("thread-item").first.click()
    expect(answers(page)).to_contain_text("You said: Hello")
    expect(composer(page)).to_have_value("")


def test_a_first_message_that_fails_behind_a_new_chat_is_shown_there(page: Any) -> None:
    held = holding(page, "threads.create")
    send(page, "Hello")
    wait_for_one(page, held)
    page.get_by_test_id("new-thread").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    held[0].abort()

    expect(unsent(page)).to_contain_text("Hello")
    page.unroute_all()
    unsent(page).get_by_role("button", name="Try again").click()
    expect(answers(page)).to_contain_text("You said: Hello")
    expect(unsent(page)).to_have_count(0)


def test_what_could_not_be_sent_belongs_to_the_thread_that_came_of_the_next(page: Any) -> None:
    page.route("**/chatkit", lambda route: route.abort())
    send(page, "first")
    expect(unsent(page)).to_have_count(1)
    page.unroute_all()
    ask(page, "second")
    page.get_by_test_id("new-thread").click()

    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(unsent(page)).to_have_count(0)
    page.reload()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.get_by_test_id("thread-item").first.click()
    expect(unsent(page)).to_contain_text("first")


def test_files_stay_in_a_draft_while_another_tab_writes_to_the_thread(page: Any) -> None:
    ask(page, "Hello")
    other = tab(page)
    file = {"name": "list.txt", "mimeType": "text/plain", "buffer": b"oranges"}
    page.get_by_test_id("attach-input").set_input_files(file)
    composer(page).fill("The list")
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    page.get_by_test_id("new-thread").click()
    ask(other, "And you?")
    page.get_by_test_id("thread-item").first.click()

    expect(asked(page)).to_have_count(2)
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    expect(composer(page)).to_have_value("The list")


def test_one_message_is_edited_at_a_time_and_nothing_of_it_is_lost(page: Any) -> None:
    ask(page, "first")
    ask(page, "second")
    page.get_by_test_id("edit").last.click()
    field = page.get_by_test_id("editor-field")
    expect(field).to_be_focused()
    field.fill("second, at length")
    composer(page).focus()
    composer(page).press("ArrowUp")

    expect(field).to_be_focused()
    expect(field).to_have_value("second, at length")
    expect(page.get_by_test_id("edit")).to_have_count(0)
    field.press("Escape")
    expect(page.get_by_test_id("edit")).to_have_count(2)


# --- Looking for what is new ----------------------------------------------------------------------


def test_a_message_is_sent_while_the_page_looks_for_what_is_new(page: Any) -> None:
    ask(page, "first")
    held = holding(page, "/turn")
    look_again(page)
    wait_for_one(page, held)
    composer(page).fill("second")
    composer(page).press("Enter")
    expect(answers(page)).to_have_count(2)
    held[0].continue_()
    page.unroute_all()
    page.wait_for_timeout(300)

    expect(asked(page)).to_have_text(["first", "second"])
    expect(answers(page).last).to_contain_text("You said: second")


def test_what_was_looked_for_takes_nothing_from_an_answer_that_has_begun(
    page: Any, site: Site
) -> None:
    ask(page, "first")
    held = holding_answers(page, "threads.get_by_id")
    look_again(page)
    answer = wait_for_one(page, held)
    composer(page).fill("count 4 every 1 ms, held at 3")
    composer(page).press("Enter")
    wait_for_word(page, "3")
    with page.expect_response(lambda told: "get_by_id" in (told.request.post_data or "")):
        answer()
    page.unroute_all()
    let_go(page, site)

    wait_for_word(page, "4")
    expect(asked(page)).to_have_count(2)
    expect(answers(page)).to_have_count(2)


def test_an_answer_that_ended_while_the_page_was_away_is_loaded_and_not_asked_for_again(
    page: Any, site: Site
) -> None:
    open_with_a_network(page)
    send(page, "count 8 every 1 ms, held at 2")
    wait_for_word(page, "2")
    page.evaluate("broken = '/turn'; cut()")
    expect(page.get_by_test_id("progress")).to_contain_text("Reconnecting")
    let_go(page, site)
    origin, _, thread_id = page.url.partition("/#/t/")
    # This ends when the answer does.
    page.request.get(f"{origin}/chatkit/threads/{thread_id}/turn")
    page.evaluate("broken = null; refused = 'threads.get_by_id'")
    retry = page.get_by_test_id("error").get_by_role("button")
    expect(retry).to_have_text("Reload the conversation")
    page.evaluate("refused = null")
    retry.click()

    wait_for_word(page, "8")
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_test_id("versions")).to_have_count(0)


# --- Stop -----------------------------------------------------------------------------------------


def test_a_stop_of_a_new_chat_that_fails_leaves_the_answer(page: Any) -> None:
    page.clock.install()
    open_with_a_network(page)
    page.evaluate("held = Promise.withResolvers(); refused = '/stop'")
    with page.expect_response("**/chatkit"):
        send(page, LONG)
    page.get_by_test_id("stop").click()
    page.wait_for_timeout(200)
    page.evaluate("held.resolve()")
    expect(page.get_by_test_id("toast")).to_contain_text("could not be stopped")
    page.clock.fast_forward(7000)
    page.wait_for_timeout(300)

    expect(page.get_by_test_id("stop")).to_be_enabled()
    expect(marks(page)).to_have_count(0)


# --- Escape ---------------------------------------------------------------------------------------


def test_escape_closes_a_dialog_and_stops_no_answer(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    composer(page).press("Alt+Shift+K")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.wait_for_timeout(300)

    expect(page.get_by_test_id("stop")).to_be_enabled()
    expect(marks(page)).to_have_count(0)


@pytest.mark.parametrize("question", ["/threads?", "threads.get_by_id"])
def test_what_was_asked_for_before_a_rename_does_not_take_it_back(page: Any, question: str) -> None:
    ask(page, "Hello")
    newest = page.get_by_test_id("thread-item").first
    held = holding_answers(page, question)
    look_again(page)
    answer = wait_for_one(page, held)
    rename(page, "Renamed")
    expect(newest).to_have_text("Renamed")
    answer()
    page.wait_for_timeout(300)

    expect(newest).to_have_text("Renamed")


@pytest.mark.parametrize("comes", ["before its end", "after its end"])
def test_what_was_asked_for_during_a_rename_does_not_take_it_back(page: Any, comes: str) -> None:
    ask(page, "Hello")
    newest = page.get_by_test_id("thread-item").first
    lists = holding_answers(page, "/threads?")
    renames = holding(page, "threads.update")
    rename(page, "Renamed")
    request = wait_for_one(page, renames)
    look_again(page)
    answer = wait_for_one(page, lists)
    if comes == "before its end":
        answer()
        page.wait_for_timeout(300)
    with page.expect_response(lambda response: response.request == request.request):
        request.continue_()
    if comes == "after its end":
        answer()
    page.wait_for_timeout(300)

    expect(newest).to_have_text("Renamed")


def test_what_was_asked_for_before_a_deletion_does_not_bring_the_thread_back(page: Any) -> None:
    ask(page, "To be deleted")
    held = holding_answers(page, "/threads?")
    look_again(page)
    answer = wait_for_one(page, held)
    page.get_by_test_id("delete").first.click()
    page.get_by_test_id("dialog-confirm").click()
    expect(page.get_by_test_id("thread-item").filter(has_text="To be deleted")).to_have_count(0)
    answer()
    page.wait_for_timeout(300)

    expect(page.get_by_test_id("thread-item").filter(has_text="To be deleted")).to_have_count(0)


def rename(page: Any, title: str) -> None:
    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").fill(title)
    page.get_by_test_id("rename-field").press("Enter")


COMPOSING = """(field, keys) => field.dispatchEvent(new KeyboardEvent("keydown",
  { ...keys, bubbles: true, cancelable: true, composed: true }))"""
CHROME = {"isComposing": True}
SAFARI = {"keyCode": 229}  # which ends a composition before the key that ends it


def test_escape_and_enter_of_a_composition_are_not_the_pages(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "3")
    for how in (CHROME, SAFARI):
        composer(page).evaluate(COMPOSING, {"key": "Escape", **how})
        search = page.get_by_test_id("search")
        search.fill("orange")
        search.evaluate(COMPOSING, {"key": "Escape", **how})
        expect(search).to_have_value("orange")
        search.fill("")
        page.get_by_test_id("rename").first.click()
        field = page.get_by_test_id("rename-field")
        for key in ("Escape", "Enter"):
            field.evaluate(COMPOSING, {"key": key, **how})
            expect(field).to_be_visible()
        field.press("Escape")
    page.wait_for_timeout(300)

    expect(page.get_by_test_id("stop")).to_be_enabled()
    expect(marks(page)).to_have_count(0)


def test_a_screen_reader_is_told_how_an_answer_ended(page: Any) -> None:
    status = page.get_by_test_id("status")
    ask(page, "Hello")
    expect(status).to_have_text("Answer finished.")
    send(page, "count 3 every 10 ms, then fail")
    expect(status).to_have_text("An error cut the answer off")
    page.context.set_offline(True)
    send(page, "lost")
    expect(unsent(page)).to_have_count(1)
    expect(status).to_have_text("")
