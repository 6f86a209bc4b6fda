"""Templates and differences of widgets, next to the original's.

What both can do comes out equal. Where the original loses a change or breaks, the table says so,
and each entry is proven to be needed still.
"""

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import chatkit_trio._engine.widget_diff as our_diff
import chatkit_trio.widgets as our_widgets
from chatkit_trio._engine.widget_diff import WidgetUpdate, apply_widget_update

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    their_widgets = pytest.importorskip(
        "chatkit.widgets", reason="the original isn't installed (extra: parity)"
    )
    their_diff = pytest.importorskip("chatkit.server")

Json = dict[str, Any]
UPDATE: TypeAdapter[WidgetUpdate] = TypeAdapter(WidgetUpdate)
DATA = Path(__file__).parent.parent / "data"

# --- Templates

SEATS = [{"label": 'A"4', "taken": True}, {"label": "</b>&", "taken": False}]
TRAINS = [{"number": 5, "text": "late\n\u2028", "live": True}]
FILES: list[tuple[str, Json]] = [
    ("ticket", {"film": "M & <W>", "note": None, "price": 7.5, "seats": SEATS}),
    ("ticket", {"film": "", "note": 'it\'s "good"', "price": 0, "seats": []}),
    ("trains", {"limit": 3, "trains": TRAINS * 3}),
    ("trains", {"limit": 0, "trains": []}),
    ("greeting", {"name": "Zoë", "again": False}),
    ("greeting", {"name": "'Tom' <t>", "again": True}),
]


@pytest.mark.parametrize(("file", "data"), FILES)
def test_a_template_builds_the_same_widget_byte_by_byte(file: str, data: Json) -> None:
    path = str(DATA / f"{file}.widget")
    here = our_widgets.WidgetTemplate.from_file(path)
    there = their_widgets.WidgetTemplate.from_file(path)

    assert here.build(data).model_dump_json() == there.build(data).model_dump_json()
    assert (here.name, here.version, here.data_schema) == (
        there.name,
        there.version,
        there.data_schema,
    )


@settings(deadline=None)
@given(st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_values_through_tojson_render_the_same_text(film: str, note: str, price: float) -> None:
    path = str(DATA / "ticket.widget")
    data = {"film": film, "note": note, "price": price, "seats": [{"label": film, "taken": False}]}

    here = our_widgets.WidgetTemplate.from_file(path).template.render(data)

    assert here == their_widgets.WidgetTemplate.from_file(path).template.render(data)


# --- Differences of widgets


def card(*children: Json, **props: Any) -> Json:
    return {"type": "Card", "children": list(children), **props}


def text(value: str, **props: Any) -> Json:
    return {"type": "Text", "value": value, **props}


def row(*children: Json, **props: Any) -> Json:
    return {"type": "Row", "children": list(children), **props}


def diff(widgets: Any, differ: Any, before: Json, after: Json) -> list[Json] | str:
    """Return the updates as sent, or the name of the error."""
    read = widgets.DynamicWidgetRoot.model_validate
    try:
        updates = differ.diff_widget(read(before), read(after))
    except Exception as error:
        return type(error).__name__
    return [update.model_dump(mode="json", exclude_none=True) for update in updates]


def our_updates(before: Json, after: Json) -> list[Json] | str:
    return diff(our_widgets, our_diff, before, after)


def their_updates(before: Json, after: Json) -> list[Json] | str:
    return diff(their_widgets, their_diff, before, after)


def leads_to(before: Json, after: Json, updates: list[Json] | str) -> bool:
    """Tell whether a client that applies the updates shows the widget after."""
    if isinstance(updates, str):
        return False
    read = our_widgets.DynamicWidgetRoot.model_validate
    widget: our_widgets.WidgetRoot = read(before)
    for update in updates:
        widget = apply_widget_update(widget, UPDATE.validate_python(update))
    dumped = widget.model_dump(mode="json", exclude_none=True)
    return dumped == read(after).model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (card(text("a", id="t")), card(text("a", id="t"))),
        (card(text("a", id="t")), card(text("ab", id="t"))),
        (card(text("", id="t", streaming=True)), card(text("b", id="t", streaming=True))),
        (
            card(row(text("a", id="t")), {"type": "Markdown", "value": "c", "id": "m"}),
            card(row(text("ab", id="t")), {"type": "Markdown", "value": "cd", "id": "m"}),
        ),
        (card(size="sm"), card(size="lg")),
        (card(text("a")), card(text("b"))),
        (card(text("a", key="k")), card(text("a", key="l"))),
        (card(text("a")), card(text("a"), text("b"))),
        (card(text("a", size=None)), card({"type": "Title", "value": "a", "size": None})),
        (card(status={"text": "a"}), card(status={"text": "b"})),
        (card(row(text("a"), id="r"), text("x")), card(row(text("b"), id="r"), text("x"))),
        (card(text("ab", id="t"), text("x")), card(text("b", id="t"), text("x"))),
    ],
)
def test_what_the_original_finds_right_we_find_too(before: Json, after: Json) -> None:
    updates = their_updates(before, after)

    assert leads_to(before, after, updates)
    assert our_updates(before, after) == updates


@dataclass(frozen=True)
class Fix:
    """A change of a widget that the original gets wrong."""

    what: str
    why: str
    before: Json
    after: Json
    theirs: list[str] | str
    ours: list[str]


ROOT = "widget.root.updated"
DELTA = "widget.streaming_text.value_delta"

FIXES = (
    Fix(
        "text without an id",
        "no update reached the client until the widget was done",
        card(text("a")),
        card(text("ab")),
        theirs=[],
        ours=[ROOT],
    ),
    Fix(
        "text under an only child",
        "children that aren't a list were not looked at (iterating a model gives its fields)",
        {"type": "Basic", "children": text("a", id="t")},
        {"type": "Basic", "children": text("ab", id="t")},
        theirs=[],
        ours=[DELTA],
    ),
    Fix(
        "a prop gained",
        "a prop that only one of the states has can't be read from the other",
        card({"type": "Table", "id": "t"}),
        card({"type": "Table", "id": "t", "rows": 1}),
        theirs="AttributeError",
        ours=[ROOT],
    ),
    Fix(
        "a prop lost",
        "as above",
        card({"type": "Table", "rows": 1}),
        card({"type": "Table"}),
        theirs="AttributeError",
        ours=[ROOT],
    ),
    Fix(
        "text appended where an id occurs twice",
        "the client can't tell which of the two is meant",
        card(text("a", id="t"), text("b", id="t")),
        card(text("aa", id="t"), text("b", id="t")),
        theirs=[],
        ours=[ROOT],
    ),
)


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: fix.what)
def test_each_fix_is_as_described_and_still_one(fix: Fix) -> None:
    theirs, ours = their_updates(fix.before, fix.after), our_updates(fix.before, fix.after)

    assert kinds(theirs) == fix.theirs
    assert kinds(ours) == fix.ours
    assert leads_to(fix.before, fix.after, ours)
    assert not leads_to(fix.before, fix.after, theirs)


def kinds(updates: list[Json] | str) -> list[str] | str:
    return updates if isinstance(updates, str) else [update["type"] for update in updates]


components = st.recursive(
    st.builds(
        lambda kind, value, props: {"type": kind, "value": value, **props},
        st.sampled_from(["Text", "Markdown", "Title"]),
        st.text("ab", max_size=2),
        st.fixed_dictionaries(
            {"streaming": st.booleans()}, optional={"id": st.sampled_from("abcdefgh")}
        ),
    ),
    lambda inner: st.builds(
        lambda children, props: {"type": "Row", "children": children, **props},
        st.lists(inner, max_size=3),
        st.fixed_dictionaries({}, optional={"id": st.sampled_from("klmnop")}),
    ),
    max_leaves=6,
)


def drop_repeated_ids(widget: Json) -> None:
    seen: set[str] = set()
    queue = [widget]
    for component in queue:
        queue += component.get("children", [])
        if component.get("id") in seen:
            del component["id"]
        seen.add(component.get("id", ""))


@st.composite
def streams(draw: st.DrawFn) -> tuple[Json, Json]:
    """Draw a widget, and the same widget with text appended or rewritten in places.

    No id occurs twice: what is sent then is told by the test below.
    """
    before: Json = card(*draw(st.lists(components, min_size=1, max_size=3)))
    drop_repeated_ids(before)
    after = copy.deepcopy(before)
    queue = [after]
    for component in queue:
        queue += component.get("children", [])
        if "value" in component and draw(st.integers(0, 2)) == 0:
            keep = component["value"] if draw(st.integers(0, 4)) else ""
            component["value"] = keep + draw(st.text("ab", max_size=2))
    return before, after


@settings(deadline=None)
@given(streams())
def test_we_send_what_the_original_sends_unless_it_is_wrong(
    states: tuple[Json, Json],
) -> None:
    theirs, ours = their_updates(*states), our_updates(*states)

    assert leads_to(*states, ours)
    if ours != theirs:
        assert not leads_to(*states, theirs)


def test_the_whole_widget_is_sent_for_an_id_that_occurs_twice_also_where_a_delta_would_do() -> None:
    other = {"type": "Title", "value": "x", "id": "t"}
    before, after = card(text("a", id="t"), other), card(text("ab", id="t"), other)

    # The original names an id that two components have. A client that looks for the first one
    # happens to find the right one here.
    assert kinds(their_updates(before, after)) == [DELTA]
    assert leads_to(before, after, their_updates(before, after))
    assert kinds(our_updates(before, after)) == [ROOT]


# --- What templates refuse or escape here

CARD: Callable[[str], str] = '{{"type":"Card","x":{}}}'.format


def build(widgets: Any, source: str, data: Json, schema: Json) -> object:
    try:
        definition = {"version": "1.0", "name": "T", "template": source, "jsonSchema": schema}
        built = widgets.WidgetTemplate(definition).build(data)
        return json.loads(built.model_dump_json(exclude_none=True))
    except Exception as error:
        return type(error).__name__


def test_data_that_the_schema_refuses_builds_the_same_widget() -> None:
    schema = {"properties": {"v": {"type": "integer"}}, "required": ["w"]}
    source, data = CARD("{{ v | tojson }}"), {"v": "three"}

    built = build(our_widgets, source, data, schema)

    assert built == {"type": "Card", "x": "three"}
    assert built == build(their_widgets, source, data, schema)


@dataclass(frozen=True)
class Strictness:
    """Something a template of the original lets through, or reports as another error."""

    what: str
    why: str
    source: str
    data: Json
    theirs: object
    ours: object
    schema: Json


def strictness(
    what: str, why: str, source: str, data: Json, *, theirs: object, ours: object, **schema: Any
) -> Strictness:
    return Strictness(what, why, source, data, theirs, ours, schema)


STRICTER = (
    strictness(
        "a value can't close its string",
        "users choose values, authors choose structure",
        CARD('"{{ v }}"'),
        {"v": '","asForm":"'},
        theirs={"type": "Card", "x": "", "asForm": ""},
        ours={"type": "Card", "x": '","asForm":"'},
    ),
    strictness(
        "text outside quotes is an error",
        "as above",
        CARD("{{ v }}"),
        {"v": '1,"asForm":true'},
        theirs={"type": "Card", "x": 1, "asForm": True},
        ours="WidgetTemplateError",
    ),
    strictness(
        "a line break inside quotes is text",
        "as above",
        CARD('"{{ v }}"'),
        {"v": "a\nb"},
        theirs="JSONDecodeError",
        ours={"type": "Card", "x": "a\nb"},
    ),
    strictness(
        "NaN isn't JSON",
        "the original takes it, and the prop is gone when the widget is sent",
        CARD("{{ v | tojson }}"),
        {"v": float("nan")},
        theirs={"type": "Card"},
        ours="WidgetTemplateError",
    ),
    strictness(
        "a missing variable is our error",
        "it names the template, as all errors of templates do",
        CARD("{{ v }}"),
        {},
        theirs="UndefinedError",
        ours="WidgetTemplateError",
    ),
    strictness(
        "what is no widget is our error",
        "as above",
        '{"type":"Cart"}',
        {},
        theirs="ValidationError",
        ours="WidgetTemplateError",
    ),
)


@pytest.mark.parametrize("case", STRICTER, ids=lambda case: case.what)
def test_each_strictness_is_as_described_and_still_one(case: Strictness) -> None:
    theirs = build(their_widgets, case.source, case.data, case.schema)
    ours = build(our_widgets, case.source, case.data, case.schema)

    assert (repr(theirs), repr(ours)) == (repr(case.theirs), repr(case.ours))
    assert repr(theirs) != repr(ours)


def test_a_template_of_an_own_environment_behaves_as_with_the_original() -> None:
    compiled = jinja2.Environment().from_string(CARD('"{{ v }}"'))
    definition = {"version": "1.0", "name": "T", "template": compiled}

    here, there = (
        widgets.WidgetTemplate(definition).build({"v": '","asForm":"'}).model_dump_json()
        for widgets in (our_widgets, their_widgets)
    )

    assert here == there
