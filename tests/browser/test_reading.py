"""How answers, and what people have written themselves, are read."""

from __future__ import annotations

from typing import Any

import pytest

from .kept_site import answers, expect, page, send, site

__all__ = ["page", "site"]


def say(page: Any, text: str) -> Any:
    """Have the server say this text, and return the answer that shows it whole."""
    before = answers(page).count()
    send(page, f"say:{text}")
    expect(answers(page)).to_have_count(before + 1)
    expect(page.get_by_test_id("send")).to_be_visible()
    answer = answers(page).last
    expect(answer.get_by_test_id("copy")).to_be_attached()
    return answer


# --- Code ----------------------------------------------------------------------------------------


def test_long_lines_of_code_can_be_wrapped(page: Any) -> None:
    line = "x = " + " + ".join(f"number_{n}" for n in range(40))
    answer = say(page, f"```python\n{line}\n```\n\n```python\nshort = 1\n```")
    pre = answer.locator("pre").first

    def overflows() -> bool:
        return pre.evaluate("(pre) => pre.scrollWidth > pre.clientWidth")

    assert overflows()
    button = answer.get_by_role("button", name="Wrap lines")
    expect(button).to_have_count(1)
    button.click()
    assert not overflows()
    assert pre.inner_text().strip() == line
    answer.get_by_role("button", name="Don’t wrap lines").click()  # noqa: RUF001
    assert overflows()


def test_a_diagram_in_mermaid_is_shown_as_its_source(page: Any) -> None:
    answer = say(page, "```mermaid\ngraph TD\n  A --> B\n```")
    expect(answer.locator(".code-head span")).to_have_text("mermaid")
    expect(answer.locator("pre code")).to_have_text("graph TD\n  A --> B\n")


def box(locator: Any) -> Any:
    return locator.first.bounding_box()


def overlap(one: Any, other: Any) -> bool:
    across = one["x"] < other["x"] + other["width"] and other["x"] < one["x"] + one["width"]
    down = one["y"] < other["y"] + other["height"] and other["y"] < one["y"] + one["height"]
    return across and down


# --- The frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1000, 390])
def test_toasts_cover_neither_messages_nor_the_box(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 600})
    for _ in range(4):
        say(page, "Some words.\n\n" * 8)
    files = {"name": f"{'a long name ' * 9}.zip", "mimeType": "application/zip", "buffer": b"PK"}
    for _ in range(4):
        page.get_by_test_id("attach-input").set_input_files(files)
    toasts = page.get_by_test_id("toast")
    expect(toasts).to_have_count(4)
    toast = box(page.locator(".toasts"))

    for covered in (".log", ".composer", ".header"):
        assert not overlap(toast, box(page.locator(covered))), covered
    assert box(page.locator(".log"))["height"] > 150
    expect(page.get_by_test_id("message-assistant").last).to_be_in_viewport()
    toasts.last.get_by_role("button", name="Dismiss").click()
    expect(toasts).to_have_count(3)


def test_a_toast_is_seen_beside_the_open_list(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    say(page, "Hello")
    page.get_by_test_id("menu").click()
    page.route("**/chatkit", lambda route: route.abort())
    page.get_by_test_id("rename").first.click()
    page.get_by_test_id("rename-field").fill("Another name")
    page.get_by_test_id("rename-field").press("Enter")
    toast = page.get_by_test_id("toast")
    expect(toast).to_contain_text("can’t be reached")  # noqa: RUF001
    toast.get_by_role("button", name="Dismiss").click()
    expect(toast).to_have_count(0)


@pytest.mark.parametrize(
    ("text", "told", "in_list"),
    [
        ("lock this", "This conversation is locked. Ann is looking at it.", "Locked"),
        ("close this", "This conversation is closed.", "Closed"),
    ],
)
def test_a_conversation_that_takes_no_messages_says_so_and_offers_another(
    page: Any, text: str, told: str, in_list: str
) -> None:
    send(page, text)
    blocked = page.get_by_test_id("blocked")
    expect(blocked.locator("p")).to_have_text(told)
    expect(page.get_by_test_id("thread-item").first.get_by_role("img")).to_have_accessible_name(
        in_list
    )
    expect(page.locator(".composer-hint")).to_have_text("")
    blocked.get_by_role("button", name="Start a new chat").click()
    expect(page.get_by_test_id("welcome")).to_be_visible()
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.locator(".composer-hint")).to_contain_text("Enter to send")


# --- Messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["word " * 3_000, "line\n" * 200])
def test_a_long_message_of_the_user_is_folded(page: Any, text: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, text)
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_test_id("send")).to_be_visible()
    page.reload()
    bubble = page.locator(".bubble")
    assert box(bubble)["height"] < 450
    assert len(bubble.inner_text()) > 900
    page.get_by_test_id("message-user").hover()
    page.get_by_role("button", name="Copy message").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text.strip()

    page.get_by_role("button", name="Show all").click()
    assert box(bubble)["height"] > 800
    page.get_by_role("button", name="Show less").click()
    assert box(bubble)["height"] < 450
    expect(page.get_by_test_id("message-user")).to_be_in_viewport()


def test_a_short_message_is_not_folded(page: Any) -> None:
    send(page, "Just a few words")
    expect(answers(page)).to_contain_text("You said")
    expect(page.get_by_role("button", name="Show all")).to_have_count(0)


def test_headings_of_an_answer_stand_below_those_of_the_page(page: Any) -> None:
    answer = say(page, "# One\n\ntext\n\n## Two\n\n<h1>Three</h1>\n\n###### Six\n\nSetext\n===\n")
    levels = answer.locator(".md :is(h1, h2, h3, h4, h5, h6)").evaluate_all(
        "(all) => all.map((each) => each.tagName)"
    )

    assert levels == ["H3", "H4", "H3", "H6", "H3"]
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_attribute("data-testid", "thread-title")


def test_a_footnote_leads_to_its_note_and_back(page: Any) -> None:
    text = "It is so.[^1] And so![^Two]\n\n" + "More.\n\n" * 30
    answer = say(page, f"{text}[^1]: Said *Ann*.\n[^two]: Said Ted.\n")
    expect(answer.locator(".footnote").first).to_contain_text("Said Ann.")
    ref = answer.get_by_role("button", name="Footnote Two", exact=True)
    back = answer.get_by_role("button", name="Back to the text, footnote two")
    ref.click()
    expect(back).to_be_focused()
    expect(back).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(ref).to_be_focused()
    expect(ref).to_be_in_viewport()
    assert page.locator(".md a").count() == 0


def test_an_alert_says_what_it_is(page: Any) -> None:
    answer = say(page, "> [!WARNING]\n> It is *hot*.\n\n> [!NOTE] no alert")
    alert = answer.locator(".alert.is-warning")
    expect(alert.locator(".alert-title")).to_have_text("Warning")
    expect(alert.locator("em")).to_have_text("hot")
    expect(answer.locator("blockquote")).to_contain_text("[!NOTE] no alert")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("See [the page](https://exam", "See the page"),
        ("Some **bold wo", "Some bold wo"),
        ("- one\n- some `code", "one\nsome code"),
        ("Look ![a](https://exam", "Look"),
    ],
)
def test_what_is_unfinished_is_not_shown_raw(page: Any, text: str, shown: str) -> None:
    send(page, f"begin:{text}")
    expect(page.locator(".md.is-streaming")).to_contain_text(shown.split()[0])
    expect(page.locator(".md .is-plain")).to_have_count(0)
    assert page.locator(".md.is-streaming").inner_text().strip() == shown
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("end-mark")).to_be_visible()
    expect(answers(page).locator(".md")).to_contain_text(text.replace("\n- ", "\n").strip("- ")[:6])


@pytest.mark.parametrize(
    "text",
    [
        "Words",
        "# Head",
        "- one\n- two",
        "- one\n  - inner\n- two",
        "- one\n\n- two",
        "1. one\n   - inner",
        "> quoted",
        "> - quoted",
        "- > quoted",
        "x\n\n" + "- item\n" * 40,
    ],
)
def test_the_cursor_stands_behind_the_last_word(page: Any, text: str) -> None:
    send(page, f"begin:{text}")
    expect(page.locator(".md.is-streaming .md-block")).not_to_have_count(0)
    with_cursor = page.locator(".md.is-streaming *").evaluate_all(
        """(all) => all.filter((each) => getComputedStyle(each, "::after").content !== "none")
          .map((each) => [each.innerText.trim(), each.getBoundingClientRect().height])"""
    )
    page.get_by_test_id("stop").click()
    [(words, height)] = with_cursor
    assert words == text.split()[-1].strip()
    assert height < 45


def test_a_wide_table_scrolls_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    words = "Some words that say more than a number does"
    row = "| 1 | " + f"{words} | " * 3 + "2 |\n"
    answer = say(page, f"| n | a | b | c | m |\n|---|---|---|---|---|\n{row}{row}")
    frame = answer.locator(".table-scroll")
    assert frame.evaluate("(e) => e.scrollWidth > e.clientWidth")
    widths = answer.locator("tbody tr:first-child td").evaluate_all(
        "(all) => all.map((each) => each.getBoundingClientRect().width)"
    )
    assert min(widths[1:4]) >= 120
    assert max(widths[0], widths[4]) < 60
    log = page.locator(".log")
    assert log.evaluate("(e) => e.scrollWidth <= e.clientWidth")

    narrow = say(page, "| a | b |\n|---|---|\n| one | two |\n").locator(".table-scroll")
    assert narrow.evaluate("(e) => e.scrollWidth <= e.clientWidth")


SLOW_EFFECTS = """
  const timeout = window.setTimeout.bind(window);
  window.requestAnimationFrame = (draw) => timeout(draw, 700);
  window.setTimeout = (call, delay, ...rest) => timeout(call, Math.max(delay ?? 0, 700), ...rest);
"""


def test_the_parser_may_come_while_a_message_is_drawn(page: Any) -> None:
    say(page, "Some **words**")
    held: list[Any] = []
    page.route("**/static/markdown-*.js", lambda route: held.append(route))
    page.add_init_script(SLOW_EFFECTS)
    page.reload()
    expect(page.locator(".md.is-plain")).to_be_visible()
    held[0].continue_()
    expect(answers(page).locator("strong")).to_have_text("words")
