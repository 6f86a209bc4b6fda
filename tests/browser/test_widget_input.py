"""What is put into a widget comes to the server: once, whole, by the names of its fields."""

from __future__ import annotations

import json
from typing import Any

from .kept_site import CHAT, expect, page, send, site
from .test_at_once import holding

__all__ = ["page", "site"]

ACTION = {"type": "told", "streaming": False}


def show(page: Any, *children: Any, **card: Any) -> Any:
    """Have the server answer with a card; return the list of the actions that are held back."""
    held = holding(page, "threads.sync_custom_action")
    send(page, "widget:" + json.dumps({"type": "Card", "children": children, **card}))
    expect(page.get_by_test_id("widget").locator(".w-card")).to_be_visible()
    expect(page.get_by_test_id("send")).to_be_visible()
    return held


def payloads(held: list[Any]) -> list[Any]:
    return [route.request.post_data_json["params"]["action"]["payload"] for route in held]


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => setTimeout(done, 150))")


def test_a_day_is_told_when_its_year_is_whole(page: Any) -> None:
    held = show(page, {"type": "DatePicker", "name": "day", "onChangeAction": ACTION})
    field = page.locator("input[type=date]")
    field.focus()
    for key in "05172025":
        page.keyboard.press(key)
        settle(page)

    assert payloads(held) == [{"day": "2025-05-17"}]
    expect(field).to_have_value("2025-05-17")


def test_a_choice_waits_for_the_one_before_it(page: Any) -> None:
    options = [{"label": each, "value": each} for each in ("Red", "Blue")]
    held = show(
        page,
        {"type": "RadioGroup", "name": "colour", "options": options, "onChangeAction": ACTION},
    )
    page.get_by_label("Red").check()

    expect(page.get_by_label("Blue")).to_be_disabled()
    held[0].fulfill(json={})
    page.get_by_label("Blue").check()
    settle(page)
    assert payloads(held) == [{"colour": "Red"}, {"colour": "Blue"}]


def test_a_card_that_is_a_form_shows_that_it_is_being_sent(page: Any) -> None:
    held = show(
        page,
        {"type": "Input", "name": "who", "defaultValue": "Ann"},
        asForm=True,
        confirm={"label": "Yes", "action": ACTION},
        cancel={"label": "No", "action": ACTION},
    )
    confirm = page.get_by_test_id("card-confirm")
    confirm.click()

    expect(confirm.locator(".spinner")).to_be_visible()
    expect(confirm).to_be_disabled()
    expect(page.get_by_test_id("card-cancel")).to_be_disabled()
    assert payloads(held) == [{"who": "Ann"}]
    held[0].fulfill(json={})
    expect(confirm).to_be_enabled()


def test_a_name_with_dots_is_nested_for_a_change_too(page: Any) -> None:
    options = [{"label": each, "value": each} for each in ("Red", "Blue")]
    held = show(
        page,
        {"type": "Input", "name": "form.who", "defaultValue": "Ann"},
        {"type": "Select", "name": "form.colour", "options": options, "onChangeAction": ACTION},
        asForm=True,
    )
    page.locator("select").select_option("Blue")
    settle(page)

    assert payloads(held) == [{"form": {"who": "Ann", "colour": "Blue"}}]


def test_a_label_names_choices_and_boxes(page: Any) -> None:
    show(
        page,
        {"type": "Label", "value": "Favourite colour", "fieldName": "colour"},
        {"type": "RadioGroup", "name": "colour", "options": [{"label": "Red", "value": "r"}]},
        {"type": "Label", "value": "I am sure", "fieldName": "sure"},
        {"type": "Checkbox", "name": "sure"},
        {"type": "Checkbox", "name": "more", "label": "And more"},
    )

    expect(page.get_by_role("radiogroup", name="Favourite colour")).to_be_visible()
    expect(page.get_by_role("checkbox", name="I am sure", exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name="And more", exact=True)).to_be_visible()


OVERFLOWING = f"""(() => {{
  const card = {CHAT}.querySelector(".w-card");
  const edge = card.getBoundingClientRect().right;
  const parts = [...card.querySelectorAll("button, .w-badge")];
  const isCut = (each) => each.scrollWidth > each.clientWidth + 1;
  return parts.filter((each) => each.getBoundingClientRect().right > edge || isCut(each))
    .map((each) => each.textContent);
}})()"""


def test_long_buttons_and_badges_fit_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    long = "Show all that is known about this order, and what comes next"
    show(
        page,
        {
            "type": "Row",
            "children": [{"type": "Text", "value": "x"}, {"type": "Badge", "label": long}],
        },
        {
            "type": "Row",
            "children": [{"type": "Button", "label": long}, {"type": "Button", "label": long}],
        },
        {"type": "Button", "label": long},
        confirm={"label": long, "action": ACTION},
        cancel={"label": "No", "action": ACTION},
    )

    assert page.evaluate(OVERFLOWING) == []


def test_a_button_beside_a_long_text_stays_on_one_line(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    text = {"type": "Text", "value": "A text that takes some lines beside its button. " * 2}
    button = {"type": "Button", "label": "Add to the cart"}
    show(page, *({"type": "Row", "children": each} for each in ([text, button], [button])))
    alone, beside = (page.locator(".w-button").nth(at).bounding_box() for at in (1, 0))

    assert (beside["width"], beside["height"]) == (alone["width"], alone["height"])
