"""The examples in a real browser, as far as their own scripts are part of what they show."""

from __future__ import annotations

import pytest

from .process import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect


@pytest.fixture
def page(browser, request, tmp_path):
    """The page of the example that the test names; nothing on it may be logged as an error."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    with serving(request.param, tmp_path) as url:
        page.goto(url)
        expect(page.get_by_test_id("composer")).to_be_visible()
        yield page
        page.close()
    assert problems == []


def send(page, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("send").click()


def wait_for_answer(page, text: str) -> None:
    """Wait until the answer says this and has ended: until then, streaming actions are refused."""
    expect(last_answer(page)).to_contain_text(text, timeout=15_000)
    expect(page.get_by_test_id("stop")).to_be_hidden(timeout=15_000)


def last_answer(page):
    return page.get_by_test_id("message-assistant").last


@pytest.mark.parametrize("page", ["metro_map"], indirect=True)
def test_the_map_answers_the_client_tool_and_shows_the_route(page):
    for name in ("Glassworks", "Garden"):
        page.get_by_role("button", name=name, exact=True).click()
    send(page, "How do I get between these?")

    expect(last_answer(page)).to_contain_text("→ Garden", timeout=15_000)
    expect(page.locator(".metro p")).to_have_text("The way from Glassworks to Garden")
    expect(page.locator(".metro .route")).to_have_attribute(
        "d", "M40,60L95,100L190,170L190,90L190,30"
    )
    page.locator(".source", has_text="Library").click()
    expect(page.locator(".metro p")).to_contain_text("Library: Open until midnight")


@pytest.mark.parametrize("page", ["cat_lounge"], indirect=True)
def test_a_cat_is_stroked_and_fed(page):
    send(page, "I'd like to meet Saffron")
    wait_for_answer(page, "Gently")
    page.get_by_role("button", name="Stroke").click()
    expect(page.get_by_text("Strokes: 1")).to_be_visible()
    page.get_by_role("button", name="Feed").click()

    expect(page.get_by_text("Meals: 1 · Strokes: 1")).to_be_visible()
    expect(page.locator(".tag-strip")).to_have_text("Saffron is happy")
    page.reload()
    expect(page.get_by_text("Meals: 1 · Strokes: 1")).to_be_visible()


@pytest.mark.parametrize("page", ["cat_lounge"], indirect=True)
def test_a_name_is_tried_on_in_the_page_and_kept_by_the_server(page):
    send(page, "What shall we call the kitten?")
    wait_for_answer(page, "Try some on")
    page.get_by_role("button", name="Try on").first.click()
    expect(page.locator(".tag-strip")).to_have_text("“Biscuit!” … one ear turns.")
    page.get_by_role("button", name="Keep").first.click()

    expect(page.get_by_test_id("thread-title")).to_have_text("A kitten called Biscuit")


@pytest.mark.parametrize("page", ["ask_first"], indirect=True)
def test_a_person_is_asked_and_may_reload_before_answering(page):
    send(page, "Refund A1 and B2")
    expect(page.get_by_test_id("structured-input")).to_be_visible(timeout=15_000)
    page.reload()
    card = page.get_by_test_id("structured-input")
    card.get_by_role("group").nth(0).get_by_text("No", exact=True).click()
    card.get_by_role("group").nth(1).get_by_text("Yes, pay it back").click()
    # A double click: the second one does nothing.
    page.get_by_test_id("structured-submit").dblclick()

    expect(last_answer(page)).to_contain_text("B2: 120.00 € are on their way", timeout=15_000)
    expect(page.locator(".structured.is-answered")).to_contain_text("Yes, pay it back")


@pytest.mark.parametrize("page", ["cancel_lab"], indirect=True)
def test_a_page_that_reads_nothing_has_stalled(page):
    page.get_by_role("button", name="Flood, and don't read").click()
    expect(page.get_by_text("It has stalled. Ask what happened.")).to_be_visible(timeout=30_000)
    send(page, "What happened to your last answer?")

    expect(last_answer(page)).to_contain_text("You were connected, and read nothing")
