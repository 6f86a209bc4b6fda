"""Requests whose answers get lost, and pages that don't know yet what has become of a thread."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .kept_site import (
    CHAT,
    LONG,
    answers,
    ask,
    asked,
    expect,
    page,
    send,
    site,
    unsent,
    wait_for_word,
)
from .test_at_once import (
    composer,
    holding,
    look_again,
    open_with_a_network,
    wait_for_one,
)
from .test_tabs_and_words import elsewhere, tab

__all__ = ["page", "site"]

FAILING = "count 3 every 1 ms, then fail"


def failure(page: Any) -> Any:
    return page.get_by_test_id("error")


def lose_answers(page: Any, words: str) -> None:
    """Have the next request with these words carried out, and its answer lost."""

    lost: list[Any] = []

    def lose(route: Any) -> None:
        if lost or words not in (route.request.post_data or ""):
            route.fallback()
            return
        lost.append(route.fetch())
        route.abort()

    page.route("**/chatkit", lose)


def is_idle(page: Any) -> None:
    expect(page.locator("chatkit-trio")).to_have_attribute("data-state", "idle")


# --- What others have written ---------------------------------------------------------------------


def fail_in_two_browsers(page: Any, browser: Any) -> Any:
    """Ask for an answer that fails; return a page of another browser that asked for it too."""
    ask(page, "first")
    other = elsewhere(browser, page)
    send(page, FAILING)
    expect(failure(page)).to_be_visible()
    return other


def test_a_page_that_is_behind_deletes_nothing_by_trying_again(page: Any, browser: Any) -> None:
    other = fail_in_two_browsers(page, browser)
    send(other, "and more")
    expect(answers(other).last).to_contain_text("You said: and more")
    failure(page).get_by_role("button", name="Try again").click()

    expect(asked(page)).to_have_text(["first", FAILING, "and more"])
    expect(failure(page)).to_have_count(0)
    is_idle(page)
    other.reload()
    expect(asked(other)).to_have_text(["first", FAILING, "and more"])
    other.context.close()


def test_an_edited_message_deletes_nothing_that_was_not_seen(page: Any, browser: Any) -> None:
    ask(page, "first")
    other = elsewhere(browser, page)
    page.get_by_test_id("edit").click()
    page.get_by_test_id("editor-field").fill("first, again")
    send(other, "and more")
    expect(answers(other).last).to_contain_text("You said: and more")
    page.get_by_test_id("editor-field").press("Enter")

    expect(asked(page).last).to_have_text("and more")
    expect(page.get_by_test_id("editor-field")).to_have_value("first, again")
    other.context.close()


def test_a_failure_goes_when_the_answer_is_there(page: Any) -> None:
    send(page, FAILING)
    expect(failure(page)).to_be_visible()
    other = tab(page)
    expect(asked(other)).to_have_count(1)
    send(other, "and more")

    expect(answers(page).last).to_contain_text("You said: and more")
    expect(failure(page)).to_have_count(0)


def test_a_failure_stays_as_long_as_nothing_is_new(page: Any) -> None:
    ask(page, "first")
    send(page, FAILING)
    expect(failure(page)).to_be_visible()
    with page.expect_response(lambda response: response.url.endswith("/turn")):
        look_again(page)
    page.wait_for_load_state("networkidle")

    expect(failure(page)).to_be_visible()


# --- The same request twice -----------------------------------------------------------------------


def test_an_action_whose_answer_was_lost_is_carried_out_once(page: Any) -> None:
    send(page, "a card")
    tell = page.get_by_role("button", name="Tell")
    expect(tell).to_be_enabled()
    lose_answers(page, "threads.custom_action")
    tell.click()
    failure(page).get_by_role("button", name="Try again").click()

    expect(answers(page)).to_have_text(re.compile("Told 1 times"))
    tell.click()
    expect(answers(page).last).to_have_text(re.compile("Told 2 times"))


def test_an_action_at_once_whose_answer_was_lost_is_carried_out_once(page: Any) -> None:
    send(page, "a card")
    press = page.get_by_role("button", name="Press")
    lose_answers(page, "threads.sync_custom_action")
    press.click()
    expect(page.get_by_test_id("toast")).to_be_visible()
    press.click()

    expect(page.get_by_text("Pressed 1 times")).to_be_visible()
    press.click()
    expect(page.get_by_text("Pressed 2 times")).to_be_visible()


def test_an_answered_form_whose_answer_was_lost_can_be_sent_again(page: Any) -> None:
    send(page, "1 questions")
    page.get_by_label("Anything else?").fill("No")
    lose_answers(page, "threads.add_structured_input")
    page.get_by_test_id("structured-submit").click()
    failure(page).get_by_role("button", name="Try again").click()

    expect(answers(page)).to_contain_text("No")
    expect(failure(page)).to_have_count(0)


def test_a_message_that_was_taken_as_the_connection_broke_is_not_called_unsent(page: Any) -> None:
    open_with_a_network(page)
    ask(page, "first")
    page.evaluate("held = Promise.withResolvers()")
    with page.expect_response("**/chatkit"):
        send(page, "second")
    page.evaluate("broken = '/chatkit'; cut()")
    expect(page.get_by_test_id("progress")).to_contain_text("Reconnecting")
    origin, _, thread_id = page.url.partition("/#/t/")
    # This ends when the answer does.
    page.request.get(f"{origin}/chatkit/threads/{thread_id}/turn")
    page.evaluate("held.resolve(); broken = null")

    expect(answers(page).last).to_contain_text("You said: second")
    is_idle(page)
    expect(unsent(page)).to_have_count(0)
    expect(asked(page)).to_have_text(["first", "second"])


# --- On its way -----------------------------------------------------------------------------------


def test_a_message_on_its_way_outlives_its_page(page: Any) -> None:
    ask(page, "first")
    held = holding(page, "threads.add_user_message")
    send(page, "second")
    request = wait_for_one(page, held).request
    composer(page).fill("third")
    other = tab(page)
    page.close()

    expect(unsent(other)).to_contain_text("second")
    expect(composer(other)).to_have_value("third")
    with other.expect_request("**/chatkit") as again:
        unsent(other).get_by_role("button", name="Try again").click()
    key = again.value.headers["idempotency-key"]
    assert key == request.headers["idempotency-key"]
    expect(answers(other).last).to_contain_text("You said: second")
    expect(unsent(other)).to_have_count(0)
    other.reload()
    expect(asked(other)).to_have_text(["first", "second"])
    expect(composer(other)).to_have_value("third")


def test_a_message_on_its_way_is_in_one_place_only(page: Any) -> None:
    held = holding(page, "threads.create")
    send(page, "first")
    wait_for_one(page, held)
    other = tab(page)
    page.get_by_test_id("new-thread").click()

    expect(unsent(other)).to_contain_text("first")
    expect(composer(other)).to_have_value("")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(unsent(page)).to_have_count(0)
    held[0].continue_()
    expect(unsent(other)).to_have_count(0)


def test_a_message_that_hangs_can_be_called_back(page: Any) -> None:
    ask(page, "first")
    held = holding(page, "threads.add_user_message")
    page.route("**/stop", lambda route: route.abort())
    send(page, "second")
    wait_for_one(page, held)
    page.get_by_test_id("stop").click()

    expect(unsent(page)).to_contain_text("second")
    expect(page.get_by_test_id("toast")).to_have_count(0)
    page.unroute_all()
    unsent(page).get_by_role("button", name="Try again").click()
    expect(answers(page).last).to_contain_text("You said: second")


def test_a_look_that_hangs_before_a_retry_can_be_called_back(page: Any) -> None:
    ask(page, "first")
    held = holding(page, "items.list")
    page.get_by_test_id("retry").click()
    wait_for_one(page, held)
    page.get_by_test_id("stop").click()

    is_idle(page)
    page.unroute_all()
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("versions")).to_be_visible()
    expect(answers(page)).to_have_count(1)


def test_two_clicks_on_a_prompt_are_one_message(page: Any) -> None:
    page.get_by_test_id("prompt").first.evaluate("(prompt) => { prompt.click(); prompt.click(); }")

    expect(answers(page)).to_contain_text("You said: Say something")
    is_idle(page)
    expect(asked(page)).to_have_count(1)


def test_what_is_unsent_cannot_be_tried_again_during_an_answer(page: Any) -> None:
    ask(page, "first")
    page.route("**/chatkit", lambda route: route.abort())
    send(page, "second")
    again = unsent(page).get_by_role("button", name="Try again")
    expect(again).to_be_enabled()
    page.unroute_all()
    send(page, "be silent")

    expect(again).to_be_disabled()
    page.get_by_test_id("stop").click()
    expect(again).to_be_enabled()


def test_what_was_sent_or_deleted_in_one_tab_is_unsent_in_no_other(page: Any) -> None:
    ask(page, "first")
    page.route("**/chatkit", lambda route: route.abort())
    for text in ("second", "third"):
        send(page, text)
        expect(unsent(page).last).to_contain_text(text)
    page.unroute_all()
    other = tab(page)
    expect(unsent(other)).to_have_count(2)
    unsent(page).first.get_by_role("button", name="Delete").click()
    expect(unsent(other)).to_have_count(1)
    unsent(page).get_by_role("button", name="Try again").click()

    expect(answers(page).last).to_contain_text("You said: third")
    expect(unsent(other)).to_have_count(0)


# --- What is shown ------------------------------------------------------------------------------


def test_a_notice_stays_behind_what_it_followed(page: Any) -> None:
    send(page, "notice")
    expect(page.get_by_text("Mind the gap")).to_be_visible()
    ask(page, "and more")
    with page.expect_request(lambda request: "threads.get_by_id" in (request.post_data or "")):
        look_again(page)
    page.wait_for_load_state("networkidle")

    expect(page.get_by_text("Mind the gap")).to_be_visible()
    kinds = page.evaluate(
        f"[...{CHAT}.querySelectorAll('.bubble, .notice, .md')].map((each) => each.innerText)"
    )
    words = [each.strip() for each in kinds]
    assert words.index("Mind the gap") < words.index("and more")


# --- Networks, and what stands between ------------------------------------------------------------


def test_a_stream_that_died_without_a_word_is_read_anew(page: Any) -> None:
    page.clock.install()
    send(page, "be silent")
    expect(page.get_by_test_id("thread-item").first).to_be_visible()
    with page.expect_request("**/turn"):
        page.clock.fast_forward(61_000)

    expect(page.get_by_test_id("stop")).to_be_visible()
    page.get_by_test_id("stop").click()
    is_idle(page)


def test_a_stream_is_read_anew_when_the_network_is_back(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    with page.expect_request("**/turn"):
        page.evaluate("window.dispatchEvent(new Event('online'))")

    wait_for_word(page, "40")
    page.get_by_test_id("stop").click()
    is_idle(page)


NOT_FOUND_PAGE = {"status": 404, "content_type": "text/html", "body": "<h1>404</h1>"}


def test_a_page_of_a_proxy_deletes_no_thread(page: Any) -> None:
    ask(page, "first")
    row = page.locator(f"[data-thread-id={page.url.rpartition('/')[2]}]")
    page.route("**/chatkit", lambda route: route.fulfill(**NOT_FOUND_PAGE))
    page.reload()
    expect(failure(page)).to_contain_text("could not be loaded")
    expect(row).to_be_visible()
    page.unroute_all()
    failure(page).get_by_role("button", name="Try again").click()

    expect(answers(page)).to_contain_text("You said: first")


def test_a_page_of_a_proxy_stops_no_answer(page: Any) -> None:
    send(page, LONG)
    wait_for_word(page, "5")
    page.route("**/stop", lambda route: route.fulfill(**NOT_FOUND_PAGE))
    page.get_by_test_id("stop").click()

    expect(page.get_by_test_id("toast")).to_contain_text("could not be stopped")
    page.unroute_all()
    page.get_by_test_id("stop").click()
    is_idle(page)


def test_a_thread_that_is_found_again_is_shown(page: Any) -> None:
    ask(page, "first")
    gone = {"error": {"code": "not_found", "message": "there is no such thread"}}
    page.route("**/chatkit", lambda route: route.fulfill(status=404, json=gone))
    look_again(page)
    expect(failure(page)).to_contain_text("there any more")
    page.unroute_all()
    look_again(page)

    expect(answers(page)).to_contain_text("You said: first")
    expect(failure(page)).to_have_count(0)


@pytest.mark.parametrize(("status", "code"), [(409, "conflict"), (404, "not_found")])
def test_what_does_not_fit_the_thread_is_mended_by_loading_it(
    page: Any, status: int, code: str
) -> None:
    send(page, "a card")
    expect(page.get_by_role("button", name="Tell")).to_be_enabled()
    refusal = {"error": {"code": code, "message": "that can't be"}}
    page.route("**/chatkit", lambda route: route.fulfill(status=status, json=refusal))
    page.get_by_role("button", name="Tell").click()
    button = failure(page).get_by_role("button")
    expect(button).to_have_text("Reload the conversation")
    page.unroute_all()
    button.click()

    expect(failure(page)).to_have_count(0)
    expect(page.get_by_role("button", name="Tell")).to_be_enabled()


def test_earlier_messages_that_cannot_be_loaded_say_why(page: Any) -> None:
    for number in range(16):
        ask(page, f"message {number}")
    page.reload()
    expect(asked(page)).to_have_count(15)
    page.route("**/chatkit", lambda route: route.fulfill(status=500, json={}))
    page.get_by_role("button", name="Show earlier messages").click()

    expect(page.locator(".older [role=alert]")).to_be_visible()
    page.unroute_all()
    page.get_by_role("button", name="Show earlier messages").click()
    expect(asked(page)).to_have_count(16)
    expect(page.locator(".older [role=alert]")).to_have_count(0)


# --- What is pasted -------------------------------------------------------------------------------

PASTE = """(area, kinds) => {
  const data = new DataTransfer();
  for (const [kind, text] of Object.entries(kinds)) data.setData(kind, text);
  data.items.add(new File(["x"], "image.png", { type: "image/png" }));
  area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ({"text/plain": "a\tb", "text/html": "<td>a<td>b"}, 0),
        ({"text/html": "<img src=x>"}, 1),
        ({"text/plain": "image.png"}, 1),
        ({}, 1),
    ],
    ids=["cells of Excel", "an image of a page", "a file of Finder", "a screenshot"],
)
def test_cells_and_paragraphs_are_pasted_as_text(
    page: Any, kinds: dict[str, str], count: int
) -> None:
    composer(page).evaluate(PASTE, kinds)
    page.evaluate("new Promise(requestAnimationFrame)")

    expect(page.get_by_test_id("attachment-entry")).to_have_count(count)


# --- What is dropped, and what is cut -------------------------------------------------------------

DRAG = """([kind, to]) => {
  const app = document.querySelector("chatkit-trio").shadowRoot.querySelector(".app");
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["x"], "x.txt"));
  const relatedTarget = to ? document.body : null;
  app.dispatchEvent(new DragEvent(kind, { dataTransfer, relatedTarget, cancelable: true }));
}"""


def test_a_file_that_is_dragged_out_of_the_chat_again_is_waited_for_no_more(page: Any) -> None:
    page.evaluate(DRAG, ["dragover", False])
    expect(page.locator(".drop-note")).to_be_visible()
    page.evaluate(DRAG, ["dragleave", True])

    expect(page.locator(".drop-note")).to_have_count(0)


def test_a_locked_thread_takes_no_files(page: Any) -> None:
    send(page, "lock this")
    expect(page.get_by_test_id("blocked")).to_be_visible()
    page.evaluate(DRAG, ["dragover", False])
    page.evaluate(DRAG, ["drop", False])
    page.evaluate("new Promise(requestAnimationFrame)")

    expect(page.locator(".drop-note")).to_have_count(0)
    expect(page.get_by_test_id("attachment-entry")).to_have_count(0)


def test_a_quote_cuts_no_character_in_two(page: Any) -> None:
    send(page, "say:a" + "😀" * 400)
    is_idle(page)
    answers(page).get_by_test_id("quote").click()
    expect(page.locator(".composer-quote p")).to_have_text("a" + "😀" * 299 + "…")
    ask(page, "what?")

    expect(unsent(page)).to_have_count(0)


def test_half_of_a_character_is_sent_as_one_that_is_missing(page: Any) -> None:
    page.evaluate(
        """() => void document.querySelector("chatkit-trio")
          .sendUserMessage({ text: "half \\ud83d" })"""
    )

    expect(answers(page)).to_have_text(re.compile("You said: half \ufffd"))


def test_what_the_server_cannot_read_is_told_in_words_for_readers(page: Any) -> None:
    refusal = {"error": {"code": "invalid_request", "message": "params.input: Field required"}}
    page.route("**/chatkit", lambda route: route.fulfill(status=400, json=refusal))
    send(page, "first")

    expect(unsent(page)).to_contain_text(re.compile("can.t take this as it is"))


# --- Mentions -------------------------------------------------------------------------------------

PEOPLE = """async () => {
  window.search = Promise.withResolvers();
  const people = Array.from({ length: 40 }, (_, at) => ({ id: `p${at}`, title: `Person ${at}` }));
  await document.querySelector("chatkit-trio").setOptions({
    api: { url: "/chatkit" },
    entities: {
      async onTagSearch(query) {
        if (query) await search.promise;
        return people.filter(({ title }) => title.includes(query));
      },
    },
  });
  // Until it is drawn, and what is drawn has had its effects: another conversation closes the list.
  for (let frame = 0; frame < 4; frame += 1) await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done, 50));
}"""
"""JavaScript: lets people be mentioned; looking for a name waits for `search`."""


def test_the_list_of_mentions_shows_the_one_that_the_keys_have_reached(page: Any) -> None:
    page.evaluate(PEOPLE)
    composer(page).press_sequentially("@")
    expect(page.get_by_test_id("mention-option")).to_have_count(40)
    for _ in range(20):
        composer(page).press("ArrowDown")

    expect(page.locator(".mention.is-active")).to_have_text("Person 20")
    expect(page.locator(".mention.is-active")).to_be_in_viewport(ratio=0.9)


def test_nobody_is_mentioned_who_was_found_for_fewer_letters(page: Any) -> None:
    page.evaluate(PEOPLE)
    composer(page).press_sequentially("@")
    expect(page.get_by_test_id("mention-option")).to_have_count(40)
    composer(page).press_sequentially("Person 3")
    composer(page).press("Enter")
    expect(composer(page)).to_have_value("@Person 3")
    page.evaluate("search.resolve()")
    expect(page.get_by_test_id("mention-option")).to_have_count(11)
    composer(page).press("Enter")

    expect(composer(page)).to_have_value("@Person 3 ")


# --- The list -------------------------------------------------------------------------------------


def test_a_new_title_of_another_tab_is_in_the_header_and_the_window_too(page: Any) -> None:
    ask(page, "first")
    other = tab(page)
    page.bring_to_front()
    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").fill("Renamed")
    page.get_by_test_id("rename-field").press("Enter")

    expect(other.get_by_test_id("thread-title")).to_have_text("Renamed")
    expect(other).to_have_title(re.compile("Renamed"))


def test_hits_stay_when_more_of_them_cannot_be_loaded(page: Any) -> None:
    page.evaluate(
        """async () => {
          const headers = { "Content-Type": "application/json" };
          for (let count = 0; count < 25; count += 1) {
            const content = [{ type: "input_text", text: `zebra ${count}` }];
            const params = { input: { content, attachments: [], inference_options: {} } };
            const body = JSON.stringify({ type: "threads.create", params });
            await (await fetch("/chatkit", { method: "POST", headers, body })).text();
          }
        }"""
    )
    page.get_by_test_id("search").fill("zebra")
    expect(page.get_by_test_id("hit")).to_have_count(20)
    page.route("**/search?**", lambda route: route.abort())
    page.locator(".more-threads").click()
    expect(page.get_by_role("alert")).to_be_visible()

    expect(page.get_by_test_id("hit")).to_have_count(20)
    page.unroute_all()
    page.locator(".more-threads").click()
    expect(page.get_by_test_id("hit")).to_have_count(25)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_chat_that_was_just_written_to_is_at_the_top_by_a_clock_that_is_behind(
    page: Any,
) -> None:
    ask(page, "older")
    page.evaluate(
        """() => {
          const now = Date;
          window.Date = class extends now {
            constructor(...given) { super(...(given.length ? given : [now.now() - 3 * 3600_000])); }
          };
        }"""
    )
    page.get_by_test_id("new-thread").click()
    ask(page, "newer")

    expect(page.get_by_test_id("thread-item").first).to_contain_text("newer")
