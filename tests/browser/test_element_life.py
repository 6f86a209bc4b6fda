"""<chatkit-trio> that is taken out and put back, set up anew, refused things, and read by keys."""

from __future__ import annotations

from typing import Any

import pytest

from .test_at_once import holding, wait_for_one
from .test_element import answer, answered, events, expect, host, page, send, show

__all__ = ["host", "page"]

ROOT = "chat().shadowRoot"


def thread_of(page: Any) -> str:
    thread: str = events(page, "thread.change")[-1][1]["threadId"]
    return thread


def failure_of(page: Any, call: str) -> str | None:
    """Return the words with which a method fails."""
    words: str | None = page.evaluate(f"chat().{call}.then(() => null, (error) => error.message)")
    return words


# --- Taken out and put back ----------------------------------------------------------------------


def test_an_element_that_is_back_in_the_middle_of_an_answer_does_what_it_is_told(
    page: Any, host: Any
) -> None:
    show(page, host)
    send(page, "slowly")
    expect(answer(page)).to_contain_text("5")
    page.evaluate("window.kept = chat(); kept.remove()")
    page.wait_for_timeout(300)
    page.evaluate("document.querySelector('#frame').append(kept)")
    expect(answer(page)).to_contain_text("30")
    page.evaluate(f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, locale: 'de' }})")

    expect(page.get_by_test_id("composer")).to_have_attribute("aria-label", "Nachricht")
    assert len(events(page, "ready")) == 2
    page.evaluate("kept.remove()")
    page.wait_for_function("kept.shadowRoot.childElementCount === 0")


def test_an_element_that_is_taken_out_while_it_loads_loads_when_it_is_back(
    page: Any, host: Any
) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    thread = thread_of(page)
    page.reload()
    held = holding(page, "threads.get_by_id")
    show(page, host, f"{{ initialThread: '{thread}' }}")
    wait_for_one(page, held)
    page.evaluate("window.kept = chat(); kept.remove()")
    page.wait_for_timeout(300)
    page.unroute_all()
    page.evaluate("document.querySelector('#frame').append(kept)")

    expect(page.get_by_test_id("message-user")).to_contain_text("Hello")


# --- Set up anew ---------------------------------------------------------------------------------


def test_a_history_that_is_switched_on_later_is_loaded(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    show(page, host, "{ history: { enabled: false } }")
    assert "history.enabled is false" in str(failure_of(page, "showHistory()"))
    assert page.locator(".main").get_attribute("inert") is None
    api = f"api: {{ url: '{host.chat}/chatkit' }}"
    page.evaluate(f"chat().setOptions({{ {api}, history: {{ sidebar: true }} }})")

    expect(page.get_by_test_id("thread-item")).not_to_have_count(0)
    assert failure_of(page, "showHistory()") is None
    page.wait_for_timeout(200)
    assert page.locator(".main").get_attribute("inert") is None


def test_a_history_that_is_switched_off_while_it_is_shown_leaves_the_chat(
    page: Any, host: Any
) -> None:
    show(page, host)
    page.evaluate("chat().showHistory()")
    expect(page.locator(".sidebar.is-open")).to_be_visible()
    page.evaluate(
        f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }},"
        " history: { enabled: false } })"
    )
    expect(page.locator(".sidebar")).to_have_count(0)
    page.wait_for_timeout(200)

    assert page.locator(".main").get_attribute("inert") is None


def test_the_language_that_was_asked_for_last_is_spoken(page: Any, host: Any) -> None:
    show(page, host)
    held: list[Any] = []
    page.route("**/de-*.js", lambda route: held.append(route))
    for language in ("de", "fr"):
        page.evaluate(
            f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, locale: '{language}' }})"
        )
    composer = page.get_by_test_id("composer")
    expect(composer).to_have_attribute("aria-label", "Message")
    expect(page.locator(".app")).to_have_attribute("lang", "fr")
    held[0].continue_()
    page.wait_for_timeout(500)

    expect(page.locator(".app")).to_have_attribute("lang", "fr")


def test_what_is_on_its_way_to_a_server_does_not_get_to_another(page: Any, host: Any) -> None:
    show(page, host)
    held = holding(page, "threads.create")
    send(page, "A secret")
    wait_for_one(page, held)
    other = host.chat.replace("127.0.0.1", "localhost")
    show_other = f"chat().setOptions({{ api: {{ url: '{other}/chatkit' }} }})"
    page.evaluate(show_other)
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.wait_for_timeout(300)
    kept = page.evaluate("Object.keys(localStorage).filter((key) => key.includes('unsent'))")

    assert [key for key in kept if other in key] == []
    assert [key for key in kept if host.chat in key] != []


def test_what_one_user_has_typed_is_not_there_for_the_next(page: Any, host: Any) -> None:
    show(page, host, "{ user: 'ann' }")
    held = holding(page, "threads.create")
    send(page, "A secret of Ann")
    wait_for_one(page, held)
    page.get_by_test_id("composer").fill("A draft of Ann")
    become_ben = f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, user: 'ben' }})"
    page.evaluate(become_ben)
    expect(page.get_by_test_id("composer")).to_have_value("")
    expect(page.get_by_test_id("welcome")).to_be_visible()
    page.get_by_test_id("composer").fill("A draft of Ben")
    show(page, host, "{ user: 'ben' }")

    expect(page.get_by_test_id("composer")).to_have_value("A draft of Ben")
    expect(page.get_by_test_id("unsent")).to_have_count(0)
    assert "Ann" not in page.evaluate("JSON.stringify(localStorage)")


def test_an_element_that_comes_back_for_another_user_shows_nothing_of_the_first(
    page: Any, host: Any
) -> None:
    show(page, host, "{ user: 'ann' }")
    send(page, "Of Ann")
    answered(page)
    page.evaluate("window.kept = chat(); kept.remove()")
    page.wait_for_function("kept.shadowRoot.childElementCount === 0")
    page.evaluate(f"kept.setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, user: 'ben' }})")
    page.evaluate("document.querySelector('#frame').append(kept)")

    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("message-user")).to_have_count(0)


@pytest.mark.parametrize("call", ["setThreadId('')", "setThreadId(7)", "setThreadId({})"])
def test_a_thread_that_can_not_be_is_said_to_be_so(page: Any, host: Any, call: str) -> None:
    show(page, host)

    assert "wants the id of a thread, or null" in str(failure_of(page, call))
    page.evaluate("chat().setThreadId()")
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_a_message_that_is_sent_while_its_thread_loads_waits_for_it(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    thread = thread_of(page)
    show(page, host)
    held = holding(page, "threads.get_by_id")
    page.evaluate(f"void chat().setThreadId('{thread}')")
    wait_for_one(page, held)
    sending = "chat().sendUserMessage({ text: 'And you?' }).then(() => 'sent')"
    page.evaluate(f"void (window.sent = {sending})")
    held[0].continue_()

    assert page.evaluate("sent") == "sent"
    expect(page.get_by_test_id("message-user")).to_have_count(2)


# --- Client tools --------------------------------------------------------------------------------


def let_go(page: Any, host: Any) -> None:
    """Let an answer go on that is held."""
    page.request.get(f"{host.chat}/let-go")


COUNTING = """{ onClientTool: () => {
  window.calls = (window.calls ?? 0) + 1;
  return new Promise((resolve) => setTimeout(() => resolve({ x: 1 }), 300));
} }"""


def test_a_client_tool_runs_in_the_tab_that_asked(page: Any, host: Any) -> None:
    show(page, host, COUNTING)
    send(page, "Hello")
    answered(page)
    other = page.context.new_page()
    initial = f"initialThread: '{thread_of(page)}', "
    show(other, host, COUNTING.replace("{ ", f"{{ {initial}", 1))
    expect(other.get_by_test_id("message-user")).to_have_count(1)
    send(page, "a tool, but held")
    expect(other.get_by_test_id("message-user")).to_have_count(2)
    expect(other.get_by_test_id("stop")).to_be_visible()
    let_go(page, host)
    for each in (page, other):
        expect(answer(each)).to_contain_text("The tool said")
        expect(each.get_by_test_id("send")).to_be_visible()

    assert page.evaluate("calls") == 1
    assert other.evaluate("window.calls") is None
    expect(other.get_by_test_id("error")).to_have_count(0)


def test_a_client_tool_runs_in_another_tab_if_the_one_that_asked_is_gone(
    page: Any, host: Any
) -> None:
    show(page, host, COUNTING)
    send(page, "Hello")
    answered(page)
    other = page.context.new_page()
    show(other, host, COUNTING)
    send(other, "Hello")
    answered(other)
    thread = thread_of(other)
    page.evaluate(f"chat().setThreadId('{thread}')")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    send(other, "a tool, but held")
    expect(page.get_by_test_id("message-user")).to_have_count(2)
    expect(page.get_by_test_id("stop")).to_be_visible()
    other.close()
    let_go(page, host)
    expect(answer(page)).to_contain_text("The tool said")

    assert page.evaluate("calls") == 1


def test_a_client_tool_that_does_not_come_back_can_be_stopped(page: Any, host: Any) -> None:
    show(page, host, "{ onClientTool: () => new Promise(() => {}) }")
    send(page, "a tool")
    expect(page.get_by_test_id("tool")).to_contain_text("Running")
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("send")).to_be_visible()
    expect(page.get_by_test_id("tool").get_by_role("button")).to_have_text("Run it now")
    send(page, "Something else")

    assert answered(page)["content"] == [{"text": "Something else"}]


# --- Refused -------------------------------------------------------------------------------------

NO_CLIPBOARD = """
  void (navigator.clipboard.writeText =
    () => Promise.reject(new DOMException("no", "NotAllowedError")));
"""


def test_text_is_copied_where_the_clipboard_is_refused(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    page.evaluate(NO_CLIPBOARD)
    page.evaluate(
        "document.addEventListener('copy', (event) => {"
        " window.copied = event.composedPath()[0].value; })"
    )
    copy = page.get_by_test_id("copy").first
    copy.click()
    expect(copy).to_have_accessible_name("Copied")

    assert page.evaluate("copied") == "Hello"
    expect(copy).to_be_focused()
    assert page.locator("body > textarea").count() == 0


def test_text_that_can_not_be_copied_is_said_not_to_be(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    page.evaluate(NO_CLIPBOARD)
    page.evaluate("void (document.execCommand = () => false)")
    page.get_by_test_id("copy").first.click()

    expect(page.get_by_test_id("toast")).to_contain_text("could not be copied")


def test_an_answer_is_drawn_when_its_parser_comes_late(page: Any, host: Any) -> None:
    page.route("**/markdown-*.js", lambda route: route.abort())
    show(page, host)
    send(page, "Hello")
    expect(answer(page)).to_contain_text('"attachments"')
    expect(page.get_by_test_id("send")).to_be_visible()
    page.wait_for_timeout(500)
    expect(answer(page).locator("code")).to_have_count(0)
    page.unroute_all()

    expect(answer(page).locator("code")).to_have_count(1)


def test_what_is_no_stream_is_no_answer(page: Any, host: Any) -> None:
    show(page, host, "{ threadItemActions: { retry: true } }")
    send(page, "Hello")
    answered(page)
    page.route(
        f"{host.chat}/chatkit",
        lambda route: route.fulfill(
            body="<h1>Sign in</h1>",
            content_type="text/html",
            headers={"Access-Control-Allow-Origin": "*"},
        ),
    )
    page.get_by_test_id("retry").click()

    expect(page.get_by_test_id("error")).to_contain_text("could not be read")
    expect(answer(page)).to_contain_text("Hello")
    expect(page.get_by_test_id("versions")).to_have_count(0)


# --- The page around -----------------------------------------------------------------------------

FAR_DOWN = "<div style='height: 3000px'></div><chatkit-trio></chatkit-trio>"


def test_the_host_is_neither_scrolled_nor_left_without_its_focus(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    page.get_by_test_id("edit").click()
    page.get_by_test_id("editor-field").fill("Hello, edited")
    options = f"{{ initialThread: '{thread_of(page)}', history: {{ sidebar: true }} }}"
    show(page, host, options, FAR_DOWN)
    expect(page.get_by_test_id("editor-field")).to_have_value("Hello, edited")
    expect(page.locator("[data-testid=thread-item][aria-current]")).to_have_count(1)
    page.wait_for_timeout(300)

    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.activeElement === document.body")


# --- Widgets and the focus -----------------------------------------------------------------------


def test_fields_may_have_any_name(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "a form")
    page.get_by_placeholder("Elements").fill("Iron")
    page.get_by_test_id("card-confirm").click()

    expect(answer(page)).to_contain_text('"elements": "Iron"')
    expect(answer(page)).to_contain_text('{"a": ""}')


def focused(page: Any) -> str:
    words: str = page.evaluate(
        "(({ activeElement: e }) => e ? e.innerText || e.dataset.testid || e.className : '')"
        f"({ROOT})"
    )
    return words


def test_the_focus_stays_in_a_widget(page: Any, host: Any) -> None:
    show(
        page,
        host,
        "{ widgets: { onAction: () => new Promise((resolve) => setTimeout(resolve, 300)) } }",
    )
    send(page, "a widget")
    page.get_by_role("button", name="Here", exact=True).press("Enter")
    page.wait_for_timeout(600)
    assert focused(page) == "Here"
    send(page, "a list")
    page.locator(".w-list-more").press("Enter")
    expect(page.locator(".w-row")).to_have_count(2)
    page.wait_for_timeout(100)
    assert "w-row-button" in focused(page)


def test_the_focus_goes_to_the_box_when_a_button_has_done_its_work(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "slowly")
    expect(answer(page)).to_contain_text("3")
    page.get_by_test_id("composer").press("Escape")
    page.get_by_test_id("end-mark").get_by_role("button", name="Try again").press("Enter")
    expect(page.get_by_test_id("stop")).to_be_visible()
    page.wait_for_timeout(100)
    assert focused(page) == "composer"
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("end-mark")).to_be_visible()
    page.get_by_role("button", name="Earlier version").press("Enter")
    page.wait_for_timeout(100)
    expect(page.get_by_role("button", name="Earlier version")).to_be_focused()

    page.context.set_offline(True)
    send(page, "unsent")
    page.get_by_test_id("unsent").get_by_role("button", name="Delete").press("Enter")
    expect(page.get_by_test_id("unsent")).to_have_count(0)
    page.wait_for_timeout(100)
    assert focused(page) == "composer"


def test_the_focus_of_the_drawer_goes_back_to_its_button(page: Any, host: Any) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    page.get_by_test_id("menu").press("Enter")
    expect(page.get_by_test_id("new-thread")).to_be_focused()
    page.get_by_test_id("thread-item").first.press("Enter")
    expect(page.get_by_test_id("menu")).to_be_focused()
    page.get_by_test_id("menu").press("Enter")
    expect(page.get_by_test_id("new-thread")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.get_by_test_id("composer")).to_be_focused()


IN_A_DIALOG = """<dialog id="outer"><div style="width: 600px; height: 600px">
  <chatkit-trio></chatkit-trio></div></dialog>"""


def test_escape_is_the_hosts_only_where_the_chat_has_nothing_to_do_with_it(
    page: Any, host: Any
) -> None:
    host.body = IN_A_DIALOG
    page.goto(host.origin)
    page.evaluate("document.querySelector('#outer').showModal()")
    page.evaluate(f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }} }})")
    outer = page.locator("#outer")
    composer = page.get_by_test_id("composer")
    send(page, "slowly")
    expect(answer(page)).to_contain_text("3")
    composer.press("Escape")
    expect(page.get_by_test_id("end-mark")).to_be_visible()
    assert outer.get_attribute("open") is not None

    page.get_by_test_id("menu").click()
    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").press("Escape")
    expect(page.get_by_test_id("rename-field")).to_have_count(0)
    assert outer.get_attribute("open") is not None
    expect(page.get_by_test_id("thread-item").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".sidebar.is-open")).to_have_count(0)
    assert outer.get_attribute("open") is not None

    composer.press("Escape")
    expect(outer).not_to_have_attribute("open", "")


# --- Colours and writing -------------------------------------------------------------------------

MENUS = """{ composer: { models: [{ id: "a", label: "A" }, { id: "b", label: "B" }] },
  entities: { onTagSearch: async () => [{ id: "1", title: "One" }, { id: "2", title: "Two" }] } }"""


def test_what_is_chosen_is_seen_with_forced_colours(page: Any, host: Any) -> None:
    page.emulate_media(forced_colors="active")
    show(page, host, MENUS)
    outlined = "(e) => getComputedStyle(e).outlineStyle"
    page.get_by_test_id("models").click()
    assert page.locator(".menu-choice:focus").evaluate(outlined) == "solid"
    page.keyboard.press("Escape")
    page.get_by_test_id("composer").press_sequentially("@")
    assert page.locator(".mention.is-active").evaluate(outlined) == "solid"
    page.get_by_test_id("composer").fill("")
    send(page, "a tool, but held")
    dots = page.locator(".dots i").first
    colour = dots.evaluate("(e) => getComputedStyle(e).backgroundColor")
    canvas = page.locator("body").evaluate(
        "(e) => { e.style.background = 'Canvas'; return getComputedStyle(e).backgroundColor }"
    )
    assert colour != canvas
    let_go(page, host)


def test_the_way_down_is_not_animated_for_who_wants_no_motion(page: Any, host: Any) -> None:
    page.emulate_media(reduced_motion="reduce")
    show(page, host, body="<chatkit-trio style='height: 300px'></chatkit-trio>")
    send(page, "slowly")
    expect(answer(page)).to_contain_text("150")
    page.locator(".log").evaluate("(log) => log.scrollTo({ top: 0 })")
    page.evaluate(
        "void (Element.prototype.scrollTo = ({ behavior }) => (window.ways ??= []).push(behavior))"
    )
    page.locator(".to-end").click()

    assert "smooth" not in page.evaluate("ways")


def test_what_was_offered_in_one_chat_is_not_put_into_another(page: Any, host: Any) -> None:
    show(page, host, MENUS)
    composer = page.get_by_test_id("composer")
    send(page, "Hello")
    answered(page)
    composer.press_sequentially("@")
    options = page.get_by_test_id("mention-option")
    expect(options).to_have_count(2)
    composer.press("Alt+Shift+N")
    expect(page.get_by_test_id("welcome")).to_be_visible()

    expect(options).to_have_count(0)


def test_the_address_and_the_options_may_come_at_any_time(page: Any, host: Any) -> None:
    page.route("**/chatkit-trio.js", lambda route: route.abort())
    host.body = "<chatkit-trio></chatkit-trio>"
    page.goto(host.origin)
    page.evaluate(f"void (chat().options = {{ api: {{ url: '{host.chat}/chatkit' }} }})")
    page.unroute_all()
    page.evaluate(f"import('{host.chat}/chatkit-trio.js').then(() => null)")
    expect(page.get_by_test_id("composer")).to_be_visible()

    page.evaluate(
        "document.querySelector('#frame').replaceChildren(document.createElement('chatkit-trio'))"
    )
    page.evaluate(f"chat().setAttribute('url', '{host.chat}/chatkit')")
    send(page, "Hello")
    assert answered(page)["content"] == [{"text": "Hello"}]
    assert events(page, "error") == []


NARROW = """<style>#frame { width: 320px !important; height: 480px !important }</style>
  <chatkit-trio></chatkit-trio>"""
CROWDED = """{ startScreen: { greeting: "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk",
    prompts: [{ label: "x".repeat(80), prompt: "y" }] },
  composer: { attachments: { enabled: true }, dictation: { enabled: true },
    models: [{ id: "m", label: "A model with a long name" }],
    tools: [{ id: "t", label: "A tool with a long name", icon: "globe" },
      { id: "p", label: "Pinned", icon: "search", pinned: true }] } }"""
OUTSIDE = f"""() => {{
  const app = {ROOT}.querySelector(".app");
  const {{ left, right }} = app.getBoundingClientRect();
  const isOutside = (each) => {{
    const box = each.getBoundingClientRect();
    return box.width > 0 && (box.left < left - 1 || box.right > right + 1);
  }};
  const all = [...app.querySelectorAll(".main button, .main textarea, .main h2, .main li")];
  return all.filter(isOutside).map(({{ className, tagName }}) => `${{tagName}} ${{className}}`);
}}"""


@pytest.mark.parametrize("locale", ["en", "ar"])
def test_a_narrow_chat_has_room_for_words_and_for_all_buttons(
    page: Any, host: Any, locale: str
) -> None:
    options = CROWDED.replace("{ startScreen", f"{{ locale: '{locale}', startScreen", 1)
    show(page, host, options, NARROW)
    expect(page.locator(".app")).to_have_attribute("lang", locale)
    assert page.evaluate(OUTSIDE) == []
    page.get_by_test_id("tools").click()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("chosen-tool")).to_be_visible()

    assert page.evaluate(OUTSIDE) == []
    assert page.get_by_test_id("composer").bounding_box()["width"] > 200
