from string import ascii_letters
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from chatkit_trio._engine.widget_diff import WidgetUpdate, apply_widget_update, diff_widget
from chatkit_trio.types import (
    WidgetComponentUpdated,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
)
from chatkit_trio.widgets import (
    Card,
    DynamicWidgetComponent,
    DynamicWidgetRoot,
    ListView,
    WidgetRoot,
)

ROOT = TypeAdapter[WidgetRoot](WidgetRoot)
UPDATE = TypeAdapter[WidgetUpdate](WidgetUpdate)
Json = dict[str, Any]


def named(data: Json) -> WidgetRoot:
    """Read a widget as a store does: in named classes where they fit."""
    return ROOT.validate_python(data)


def dynamic(data: Json) -> WidgetRoot:
    """Read a widget as a template does."""
    return DynamicWidgetRoot.model_validate(data)


ACTION_DEFAULTS = {"handler": "server", "loadingBehavior": "auto", "streaming": True}


def wire(widget: WidgetRoot) -> Json:
    """Return a widget as JSON, without the props of an action that say what is so anyway.

    A component that is read alone becomes a model that fills them in, a whole widget doesn't.
    """
    dumped: Json = widget.model_dump(mode="json", exclude_none=True)
    queue: list[Any] = [dumped]
    for part in queue:
        if isinstance(part, dict):
            queue += part.values()
            for name, action in part.items():
                if name.endswith("Action") and isinstance(action, dict):
                    kept = {k: v for k, v in action.items() if ACTION_DEFAULTS.get(k) != v}
                    part[name] = kept
        elif isinstance(part, list):
            queue += part
    return dumped


def card(*children: Json, **props: Any) -> Json:
    return {"type": "Card", "children": list(children), **props}


def text(value: str, **props: Any) -> Json:
    return {"type": "Text", "value": value, **props}


def row(*children: Json, **props: Any) -> Json:
    return {"type": "Row", "children": list(children), **props}


def delta(component_id: str, delta: str, done: bool) -> Json:
    return {
        "type": "widget.streaming_text.value_delta",
        "component_id": component_id,
        "delta": delta,
        "done": done,
    }


def component(component_id: str, component: Json) -> Json:
    return {
        "type": "widget.component.updated",
        "component_id": component_id,
        "component": component,
    }


def root(widget: Json) -> Json:
    return {"type": "widget.root.updated", "widget": widget}


CASES: dict[str, tuple[Json, Json, list[Json]]] = {
    "nothing changed": (card(text("a", id="t")), card(text("a", id="t")), []),
    "a prop that is None is a prop that is absent": (
        card(text("a", size=None)),
        card(text("a")),
        [],
    ),
    "text appended": (
        card(text("a", id="t")),
        card(text("ab", id="t")),
        [delta("t", "b", True)],
    ),
    "text appended while it streams": (
        card(text("", id="t", streaming=True)),
        card(text("ab", id="t", streaming=True)),
        [delta("t", "ab", False)],
    ),
    "text appended in two places": (
        card(row(text("a", id="t")), {"type": "Markdown", "value": "c", "id": "m"}),
        card(row(text("ab", id="t")), {"type": "Markdown", "value": "cd", "id": "m"}),
        [delta("t", "b", True), delta("m", "d", True)],
    ),
    "text appended under an only child": (
        {"type": "Basic", "children": {"type": "Text", "value": "a", "id": "t"}},
        {"type": "Basic", "children": {"type": "Text", "value": "ab", "id": "t"}},
        [delta("t", "b", True)],
    ),
    "text rewritten": (
        card(text("ab", id="t"), text("x")),
        card(text("b", id="t"), text("x")),
        [component("t", text("b", id="t"))],
    ),
    "text appended, and streaming ends": (
        card(text("a", id="t", streaming=True)),
        card(text("ab", id="t", streaming=False)),
        [component("t", text("ab", id="t", streaming=False))],
    ),
    "text without an id": (card(text("a")), card(text("ab")), [root(card(text("ab")))]),
    "text with a key only": (
        card(text("a", key="t")),
        card(text("ab", key="t")),
        [root(card(text("ab", key="t")))],
    ),
    "text without an id inside a component with one": (
        card(row(row(text("a")), id="r"), text("x")),
        card(row(row(text("ab")), id="r"), text("x")),
        [component("r", row(row(text("ab")), id="r"))],
    ),
    "text without an id under an only child": (
        {"type": "Basic", "children": text("a")},
        {"type": "Basic", "children": text("ab")},
        [root({"type": "Basic", "children": text("ab")})],
    ),
    "the deepest component with an id is replaced": (
        card(row(row(text("a", size="sm"), id="in"), text("x"), id="out")),
        card(row(row(text("a", size="lg"), id="in"), text("x"), id="out")),
        [component("in", row(text("a", size="lg"), id="in"))],
    ),
    "a prop gained by a component of any type": (
        card({"type": "Table", "id": "t"}),
        card({"type": "Table", "id": "t", "rows": [1]}),
        [component("t", {"type": "Table", "id": "t", "rows": [1]})],
    ),
    "a prop lost without an id": (
        card({"type": "Table", "rows": [1]}),
        card({"type": "Table"}),
        [root(card({"type": "Table"}))],
    ),
    "a child with an id is new": (
        card(row(id="r")),
        card(row(text("a", id="t"), id="r")),
        [component("r", row(text("a", id="t"), id="r"))],
    ),
    "a child is gone": (
        card(text("a", id="t"), text("b")),
        card(text("a", id="t")),
        [root(card(text("a", id="t")))],
    ),
    "a key changed": (
        card(row(text("a", key="k"), id="r")),
        card(row(text("a", key="l"), id="r")),
        [component("r", row(text("a", key="l"), id="r"))],
    ),
    "an id that occurred twice names nothing yet": (
        card(row(text("x", id="t"), id="r"), text("a", id="t")),
        card(row(text("x", id="u"), id="r"), text("ab", id="t")),
        [root(card(row(text("x", id="u"), id="r"), text("ab", id="t")))],
    ),
    "an id changed": (
        card(row(text("a", id="t"), id="r")),
        card(row(text("a", id="u"), id="r")),
        [component("r", row(text("a", id="u"), id="r"))],
    ),
    "a type changed": (
        card(text("a", id="t")),
        card({"type": "Title", "value": "a", "id": "t"}),
        [root(card({"type": "Title", "value": "a", "id": "t"}))],
    ),
    "a prop of the root": (card(size="sm"), card(size="lg"), [root(card(size="lg"))]),
    "the root is never a component": (
        card(size="sm", id="c"),
        card(size="lg", id="c"),
        [root(card(size="lg", id="c"))],
    ),
    "an id that occurs twice names nothing": (
        card(text("a", id="t"), text("x", id="t")),
        card(text("ab", id="t"), text("x", id="t")),
        [root(card(text("ab", id="t"), text("x", id="t")))],
    ),
    "two components changed": (
        card(row(text("a"), id="r"), text("x", id="t")),
        card(row(text("b"), id="r"), text("xy", id="t")),
        [component("r", row(text("b"), id="r")), delta("t", "y", True)],
    ),
    "a list became an only child": (
        card(text("a")),
        {"type": "Card", "children": text("a")},
        [root({"type": "Card", "children": text("a")})],
    ),
}


@pytest.mark.parametrize("read", [named, dynamic])
@pytest.mark.parametrize("case", CASES)
def test_the_smallest_updates_are_found(case: str, read: Any) -> None:
    before, after, expected = CASES[case]

    updates = diff_widget(read(before), read(after), component_updates=True)

    assert [update.model_dump(mode="json", exclude_none=True) for update in updates] == expected


@pytest.mark.parametrize("read", [named, dynamic])
@pytest.mark.parametrize("case", CASES)
def test_without_updates_of_components_the_whole_widget_is_sent_instead(
    case: str, read: Any
) -> None:
    before, after, smallest = CASES[case]
    has_component = any(update["type"] == "widget.component.updated" for update in smallest)

    updates = diff_widget(read(before), read(after))

    dumped = [update.model_dump(mode="json", exclude_none=True) for update in updates]
    whole = WidgetRootUpdated(widget=read(after)).model_dump(mode="json", exclude_none=True)
    assert dumped == ([whole] if has_component else smallest)


def components(depth: int = 3) -> st.SearchStrategy[Json]:
    props = st.fixed_dictionaries(
        {"id": st.sampled_from([None, *ascii_letters])},
        optional={
            "key": st.sampled_from("kl"),
            "size": st.sampled_from(["sm", "lg", None]),
            "streaming": st.booleans(),
            "glow": st.none() | st.integers(2, 4) | st.lists(st.integers(2, 3), max_size=2),
            "onClickAction": st.fixed_dictionaries({"type": st.sampled_from("xy")}),
        },
    )
    leaf = st.builds(
        lambda kind, value, rest: {"type": kind, "value": value, **rest},
        st.sampled_from(["Text", "Markdown", "Title", "Table"]),
        st.text("ab", max_size=3),
        props,
    )
    if depth == 0:
        return leaf
    inner = components(depth - 1)
    branch = st.builds(
        lambda kind, children, rest: {"type": kind, "children": children, **rest},
        st.sampled_from(["Row", "Form", "Transition", "Text", "ListViewItem"]),
        st.lists(inner, max_size=3) | inner,
        props,
    )
    return leaf | branch


roots = st.builds(
    lambda kind, children, rest: {"type": kind, "children": children, **rest},
    st.sampled_from(["Card", "ListView", "Basic"]),
    st.lists(components(), max_size=4),
    st.fixed_dictionaries({}, optional={"id": st.just("a"), "size": st.sampled_from("sl")}),
)


@st.composite
def next_states(draw: st.DrawFn, before: Json) -> Json:
    """Change a few components of a widget, and leave the rest as it is."""
    after = dict(before)
    if "value" in after and draw(st.integers(0, 2)) == 0:
        after["value"] += draw(st.text("ab", max_size=2))
    if isinstance(after.get("children"), list):
        after["children"] = [draw(next_states(child)) for child in after["children"]]
    elif "children" in after:
        after["children"] = draw(next_states(after["children"]))
    if draw(st.integers(0, 9)) == 0:
        return {**draw(components(1)), "id": after["id"]}
    return after


@st.composite
def two_states(draw: st.DrawFn) -> tuple[Json, Json]:
    before = draw(roots)
    if draw(st.integers(0, 9)) == 0:
        return before, draw(roots)
    return before, {
        **before,
        "children": [draw(next_states(child)) for child in before["children"]],
    }


readers = st.sampled_from([named, dynamic])


@settings(deadline=None)
@given(two_states(), readers, readers, st.booleans(), st.booleans())
def test_applying_the_difference_to_before_makes_after(
    states: tuple[Json, Json],
    read_before: Any,
    read_after: Any,
    over_the_wire: bool,
    component_updates: bool,
) -> None:
    before, after = read_before(states[0]), read_after(states[1])
    untouched = wire(before)

    widget = before
    for update in diff_widget(before, after, component_updates=component_updates):
        sent = UPDATE.validate_json(update.model_dump_json()) if over_the_wire else update
        widget = apply_widget_update(widget, sent)

    expected = ROOT.validate_json(after.model_dump_json()) if over_the_wire else after
    assert [wire(widget), wire(before)] == [wire(expected), untouched]


@settings(deadline=None)
@given(two_states())
def test_what_did_not_change_makes_no_update(states: tuple[Json, Json]) -> None:
    for state in states:
        assert diff_widget(named(state), named(state)) == []


def test_text_is_appended_without_touching_the_widget_given() -> None:
    before = named(card(row(text("a", id="t")), text("x")))
    update = WidgetStreamingTextValueDelta(component_id="t", delta="bc", done=False)

    after = apply_widget_update(before, update)

    assert wire(after) == card(row(text("abc", id="t")), text("x"))
    assert wire(before) == card(row(text("a", id="t")), text("x"))


def test_a_named_component_takes_its_place_in_a_dynamic_widget() -> None:
    update = UPDATE.validate_python(component("r", row(text("new", glow=1), id="r")))

    after = apply_widget_update(dynamic(card(row(id="r"), size="sm")), update)

    assert wire(after) == card(row(text("new", glow=1), id="r"), size="sm")
    assert isinstance(after, DynamicWidgetRoot)
    assert after == dynamic(card(row(text("new", glow=1), id="r"), size="sm"))


def test_a_component_is_replaced_in_a_list_that_takes_rows_only() -> None:
    before = ListView.model_validate(
        {"type": "ListView", "children": [{"type": "ListViewItem", "id": "i", "children": []}]}
    )
    banner = DynamicWidgetComponent(type="Banner", id="i")

    after = apply_widget_update(before, WidgetComponentUpdated(component_id="i", component=banner))

    assert isinstance(after, DynamicWidgetRoot)
    assert wire(after) == {"type": "ListView", "children": [{"type": "Banner", "id": "i"}]}


def test_an_update_of_the_root_by_its_id_replaces_it() -> None:
    after = apply_widget_update(
        named(card(id="c")),
        WidgetComponentUpdated(
            component_id="c",
            component=DynamicWidgetComponent.model_validate(card(id="c", size="lg")),
        ),
    )

    assert wire(after) == card(id="c", size="lg")


def test_a_root_update_is_the_new_widget() -> None:
    new = Card.model_validate(card(text("new")))

    assert apply_widget_update(named(card()), WidgetRootUpdated(widget=new)) is new


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (WidgetStreamingTextValueDelta(component_id="z", delta="", done=True), "no component"),
        (WidgetStreamingTextValueDelta(component_id="r", delta="", done=True), "has no text"),
    ],
)
def test_an_update_that_fits_nothing_names_the_component(
    update: WidgetUpdate, message: str
) -> None:
    with pytest.raises(LookupError, match=f"{message}.*|.*{message}") as caught:
        apply_widget_update(named(card(row(id="r"))), update)

    assert update.component_id in str(caught.value)  # type: ignore[union-attr]
