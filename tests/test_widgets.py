import json
import textwrap
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from enum import IntEnum
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jinja2
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from chatkit_trio import widgets
from chatkit_trio.errors import WidgetTemplateError
from chatkit_trio.widgets import (
    BasicRoot,
    Box,
    Button,
    Card,
    Divider,
    DynamicWidgetComponent,
    DynamicWidgetRoot,
    Text,
    WidgetRoot,
    WidgetTemplate,
)

DATA = Path(__file__).parent / "data"
ROOT = TypeAdapter[WidgetRoot](WidgetRoot)
ANYTHING = (
    st.text()
    | st.text("\"\\,:[]{}<>&'01truefalsn ", max_size=12)
    | st.sampled_from(['","x":"', '"}]}', "1,2", "null", "{}", "[]", "\\", "</script>", "\u2028"])
)


def template(source: str, *, strict: bool = False, **definition: Any) -> WidgetTemplate:
    whole = {"version": "1.0", "name": "Test", "template": source, **definition}
    return WidgetTemplate(whole, strict=strict)


def built(source: str, **data: Any) -> dict[str, Any]:
    return template(source).build(data).model_dump(exclude_none=True)


# --- Models


NAMED = [value for value in vars(widgets).values() if hasattr(value, "__deprecated__")]


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.__name__)
def test_no_class_warns_of_being_used(named: Any) -> None:
    """Warnings are errors here. The original's guide builds its widgets with these classes."""
    fields = getattr(named, "model_fields", {})
    props = {name: [] for name, field in fields.items() if field.is_required()}
    construct = getattr(named, "model_construct", dict)

    construct(**props)
    with suppress(ValidationError):
        named(**props)


def test_a_widget_can_be_built_of_named_classes() -> None:
    card = Card(children=[Text(value="Hi"), Button(label="Go")], size="sm")

    assert card.model_dump(exclude_none=True) == {
        "type": "Card",
        "size": "sm",
        "children": [
            {"type": "Text", "value": "Hi"},
            {"type": "Button", "label": "Go"},
        ],
    }


def test_reading_a_widget_never_warns() -> None:
    root = ROOT.validate_python({"type": "Card", "children": [{"type": "Text", "value": "Hi"}]})

    assert isinstance(root, Card)
    assert isinstance(root.children[0], Text)
    assert isinstance(root.model_copy(deep=True).children[0], Text)


def test_a_class_derived_from_a_named_one_does_not_warn() -> None:
    class Headline(Text):
        pass

    assert Headline(value="Hi").value == "Hi"


def test_dynamic_widgets_do_not_warn() -> None:
    root = DynamicWidgetRoot(
        type="Card", children=[DynamicWidgetComponent.model_validate({"type": "Map", "zoom": 3})]
    )

    assert root.model_dump() == {
        "type": "Card",
        "children": [{"type": "Map", "children": None, "zoom": 3}],
    }


def test_a_dump_leaves_out_none_at_any_depth_but_not_children_or_type() -> None:
    box = Box.model_validate(
        {
            "children": None,
            "padding": {"x": 1},
            "border": {"size": 1, "glow": {"a": None, "b": [None, 2]}},
        }
    )

    assert box.model_dump() == {
        "children": None,
        "padding": {"x": 1},
        "border": {"size": 1, "glow": {"b": [2]}},
        "type": "Box",
    }
    line = Divider.model_validate({})
    assert line.model_dump(exclude_defaults=True) == {"type": "Divider"}


def test_what_a_named_class_refuses_is_read_as_a_dynamic_component() -> None:
    root = ROOT.validate_python(
        {"type": "Card", "children": [{"type": "Text", "value": "Hi", "size": "huge"}]}
    )

    assert isinstance(root, Card)
    assert isinstance(root.children[0], DynamicWidgetComponent)


# --- Templates: what they build


def test_a_template_builds_a_widget_of_its_data() -> None:
    ticket = WidgetTemplate.from_file(DATA / "ticket.widget")

    widget = ticket.build(
        {
            "film": 'The "Third" Man & <Co>',
            "note": None,
            "price": 7.5,
            "seats": [{"label": "4A", "taken": False}, {"label": "4B", "taken": True}],
        }
    )

    assert (ticket.name, ticket.version) == ("Ticket", "1.0")
    assert widget.model_dump(exclude_none=True) == {
        "type": "Card",
        "size": "sm",
        "children": [
            {"type": "Title", "value": 'The "Third" Man & <Co>'},
            {
                "type": "Row",
                "gap": 2,
                "children": [
                    {"type": "Badge", "label": "4A", "pill": False},
                    {"type": "Badge", "label": "4B", "pill": True},
                ],
            },
        ],
        "confirm": {
            "label": "Pay",
            "action": {"type": "ticket.buy", "payload": {"price": 7.5}},
        },
    }


def test_macros_loops_and_literals_write_json_of_their_own() -> None:
    trains = [
        {"number": 5, "text": "late", "live": True},
        {"number": 7, "text": 'on "time"', "live": False},
    ]

    widget = WidgetTemplate.from_file(DATA / "trains.widget").build({"limit": 2, "trains": trains})

    assert widget.model_dump(exclude_none=True) == {
        "type": "ListView",
        "limit": 2,
        "children": [
            {
                "type": "ListViewItem",
                "key": f"train-{train['number']}",
                "children": [
                    {
                        "type": "Text",
                        "id": f"delay-{train['number']}",
                        "value": train["text"],
                        "streaming": train["live"],
                    }
                ],
            }
            for train in trains
        ],
    }


class Guest(BaseModel):
    name: str
    again: bool = False


def test_a_model_is_data_too_and_a_basic_root_can_be_asked_for() -> None:
    greeting = WidgetTemplate.from_file(DATA / "greeting.widget")

    with pytest.warns(DeprecationWarning, match="build_basic"):
        widget = greeting.build_basic(Guest(name="Zoë", again=True))

    assert type(widget) is BasicRoot
    assert widget.model_dump(exclude_none=True) == {
        "type": "Basic",
        "children": {
            "type": "Markdown",
            "id": "hello",
            "value": "Hello **Zoë**, welcome back!",
        },
    }


@pytest.mark.parametrize(
    "source",
    [
        '{"type":"Card","children":[{% for r in rows recursive %}{{ "," if not loop.first }}'
        '{"type":"Row","children":[{{ loop(r) }}]}{% endfor %}]}',
        '{"type":"Card","children":[{% set row %}{"type":"Row","children":[]}{% endset %}'
        '{"type":"Row","children":[{{ row }},{{ row }}]},{{ row }}]}',
        "{% macro rows() %}[{{ caller() }}]{% endmacro %}"
        '{"type":"Card","children":{% call rows() %}'
        '{"type":"Row","children":[{"type":"Row","children":[]},{"type":"Row","children":[]}]},'
        '{"type":"Row","children":[]}{% endcall %}}',
    ],
)
def test_what_the_template_rendered_itself_is_not_escaped(source: str) -> None:
    leaf = {"type": "Row", "children": []}

    assert built(source, rows=[[[], []], []]) == {
        "type": "Card",
        "children": [{"type": "Row", "children": [leaf, leaf]}, leaf],
    }


def test_a_literal_is_the_templates_own_json() -> None:
    source = """{"type":"Card","x":{{ '"Tom & <Co>"' }},"y":{{ '"a"' if v else '"b"' }}}"""

    assert built(source, v=0) == {"type": "Card", "x": "Tom & <Co>", "y": "b"}


class Level(IntEnum):
    HIGH = 3


class Seat(int):
    def __str__(self) -> str:
        return f'seat "{int(self)}"'


@pytest.mark.parametrize(
    ("value", "printed"),
    [(3, 3), (-1.5, -1.5), (1e30, 1e30), (Level.HIGH, 3)],
)
def test_a_number_needs_no_quotes(value: Any, printed: Any) -> None:
    assert built('{"type":"Card","size":{{ size }}}', size=value)["size"] == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (True, "True"),
        (Seat(4), 'seat "4"'),
        (date(2024, 5, 1), "2024-05-01"),
        (["a"], "['a']"),
        ("", ""),
    ],
)
def test_any_value_can_be_printed_inside_quotes(value: Any, printed: str) -> None:
    assert built('{"type":"Card","name":"{{ value }}"}', value=value)["name"] == printed


@settings(deadline=None)
@given(ANYTHING, ANYTHING)
def test_no_value_inside_quotes_changes_the_structure(a: str, b: str) -> None:
    source = '{"type":"Card","x":"{{ a }}","y":"{{ a ~ \'"\' ~ b }}: {{ b | upper }}"}'

    assert built(source, a=a, b=b) == {"type": "Card", "x": a, "y": f'{a}"{b}: {b.upper()}'}


@settings(deadline=None)
@given(ANYTHING.filter(bool))
def test_text_outside_quotes_is_an_error_whatever_it_says(value: str) -> None:
    for source in ('{"type":"Card","x":{{ v }}}', '{"type":"Card","x":[{{ v }}]{{ v }}}'):
        with pytest.raises(WidgetTemplateError, match="'Test' doesn't make JSON"):
            template(source).build({"v": value})


@settings(deadline=None)
@given(ANYTHING)
def test_tojson_prints_any_value_anywhere(value: str) -> None:
    assert built('{"type":"Card","x":{{ [v] | tojson }}}', v=value)["x"] == [value]


def test_a_compiled_template_keeps_its_own_environment() -> None:
    compiled = jinja2.Environment().from_string('{"type":"Card","x":{{ x }}}')

    widget = WidgetTemplate({"version": "1.0", "name": "Own", "template": compiled}).build(
        {"x": '"raw"'}
    )

    assert widget.model_dump(exclude_none=True) == {"type": "Card", "x": "raw"}


# --- Templates: what they refuse


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({}, "needs a 'name'"),
        ([], "needs a 'name'"),
        ({"name": "A"}, "needs a 'version'"),
        ({"name": "A", "version": "1.0"}, "needs a 'template'"),
        ({"name": "A", "version": "2.0", "template": ""}, "'A' has version '2.0'"),
        ({"name": "A", "version": "1.0", "template": "a\n{% if %}"}, "'A', line 2"),
        (
            {
                "name": "A",
                "version": "1.0",
                "template": "",
                "jsonSchema": {"properties": {"x": {"type": "text"}}},
            },
            r"'A' has an invalid jsonSchema at \$\.properties\.x\.type",
        ),
    ],
)
def test_a_definition_that_cannot_be_used_is_refused_at_once(definition: Any, message: str) -> None:
    with pytest.raises(WidgetTemplateError, match=message):
        WidgetTemplate(definition, strict=True)


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ('{"type":"Card","x":{{ title }}}', {}, "can't be rendered: 'title' is undefined"),
        ('{"type":"Card","x":{{ x | tojson }}}', {"x": date(2024, 5, 1)}, "not JSON serializable"),
        # Since Python 3.13 it is the comma that is pointed at.
        ('{"type":"Card",}', {}, r'column 1[56]: \.\.\.\{"type":"Card"(,⟨here⟩|⟨here⟩,)\}'),
        ('{"type":"Card","x":{{ x }}}', {"x": True}, "doesn't make JSON"),
        ('{"type":"Card","x":{{ x | tojson }}}', {"x": float("nan")}, "NaN is no JSON number"),
        ('{"type":"Crd"}', {}, "makes no widget: at type"),
        ("[]", {}, "makes no widget: at the root"),
        (
            '{"type":"Card","children":[{"type":"Text"},{"tpye":"Text"}]}',
            {},
            r"makes no widget: at children\.1\.type: Field required",
        ),
    ],
)
def test_a_widget_that_cannot_be_built_says_where_it_went_wrong(
    source: str, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(WidgetTemplateError, match=f"widget template 'Test'.*{message}"):
        template(source).build(data)


SEATS = {
    "type": "object",
    "properties": {"seats": {"type": "array", "items": {"type": "integer", "minimum": 1}}},
    "required": ["seats"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (None, r"\$: 'seats' is a required property"),
        ({"seats": [1, 0]}, r"\$\.seats\[1\]: 0 is less than the minimum of 1"),
        ({"seats": [], "row": 3}, r"\$: Additional properties are not allowed \('row'"),
    ],
)
def test_data_must_be_what_the_schema_asks_for(data: dict[str, Any] | None, place: str) -> None:
    message = f"'Test' doesn't take this data: at {place}"
    strict = template('{"type":"Card"}', strict=True, jsonSchema=SEATS)
    lax = template('{"type":"Card"}', jsonSchema=SEATS)

    for build in (strict.build, partial(lax.build, strict=True)):
        with pytest.raises(WidgetTemplateError, match=message):
            build(data)
    assert strict.build(data, strict=False).type == "Card"


@pytest.mark.parametrize("ask", ["file", "load"])
async def test_a_template_that_is_read_can_be_strict(ask: str, tmp_path: Path) -> None:
    file = tmp_path / "seats.widget"
    definition = {
        "version": "1.0",
        "name": "Seats",
        "template": '{"type":"Card"}',
        "jsonSchema": SEATS,
    }
    file.write_text(json.dumps(definition), encoding="utf-8")

    if ask == "file":
        found = WidgetTemplate.from_file(file, strict=True)
    else:
        found = await WidgetTemplate.load(file, strict=True)

    with pytest.raises(WidgetTemplateError, match="'Seats' doesn't take this data"):
        found.build({})


def nullable(name: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a schema with one property that must be text, and data that has something else."""
    properties = {"title": {"type": "string"}, name: {"type": "string"}}
    return {"properties": properties, "required": [name]}, {"title": "T", name: value}


@pytest.mark.parametrize(
    ("source", "schema", "data", "shown"),
    [
        # As in public samples: None where the schema has text, and another name for a field.
        ('"x":{{ reason | tojson }}', *nullable("reason", None), {}),
        (
            '"x":[{% for s in seats %}"{{ s.name }}"{% endfor %}]',
            {"properties": {"seats": {"items": {"required": ["label"]}}}},
            {"seats": [{"name": "A"}]},
            {"x": ["A"]},
        ),
        ('"x":{{ n }}', {"properties": {"n": {"type": "string"}}}, {"n": 3}, {"x": 3}),
        ('"x":1', {"additionalProperties": False}, {"more": 1}, {"x": 1}),
        ('"x":1', False, {}, {"x": 1}),
        ('"x":1', "no schema", {}, {"x": 1}),
        ('"x":1', {"properties": {"x": {"type": "text"}}}, {}, {"x": 1}),
        ('"x":1', {"properties": {"x": {"pattern": "("}}}, {"x": "a"}, {"x": 1}),
        ('"x":1', {"$ref": "#/$defs/none"}, {}, {"x": 1}),
        ('"x":1', {"$schema": "https://example.com/none", "type": "array"}, {}, {"x": 1}),
    ],
)
def test_what_the_schema_refuses_is_built_all_the_same_and_logged_once(
    source: str,
    schema: Any,
    data: dict[str, Any],
    shown: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = template(f'{{"type":"Card",{source}}}', jsonSchema=schema)

    for _ in range(3):
        assert made.build(data).model_dump(exclude_none=True) == {"type": "Card", **shown}

    [record] = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "chatkit_trio._widget_templates")
    assert "widget template 'Test'" in record.getMessage()
    assert "strict=True" in record.getMessage()
    with pytest.raises(WidgetTemplateError, match="'Test'"):
        made.build(data, strict=True)


def test_each_part_of_a_schema_that_refuses_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = template('{"type":"Card"}', jsonSchema=SEATS)

    for data in [{}, {"seats": [0]}, {"seats": [1, 0]}, {"seats": []}, {"seats": "no"}, {}]:
        made.build(data)

    assert [record.getMessage().partition(": at ")[2][:12] for record in caplog.records] == [
        "$: 'seats' i",
        "$.seats[0]: ",
        "$.seats: 'no",
    ]


def test_data_that_fits_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    template('{"type":"Card"}', jsonSchema=SEATS).build({"seats": [1]})

    assert caplog.records == []


class Booking(BaseModel):
    seats: tuple[int, ...]


@pytest.mark.parametrize("data", [{"seats": (1, 2)}, Booking(seats=(1, 2))])
def test_a_tuple_is_an_array_to_the_schema(data: Any) -> None:
    widget = template('{"type":"Card","n":{{ seats | tojson }}}', jsonSchema=SEATS).build(data)

    assert widget.model_dump(exclude_none=True) == {"type": "Card", "n": [1, 2]}


class AnySchema(BaseHTTPRequestHandler):
    """Serves a schema that takes everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


# jsonschema would warn, and then fetch: as an error the warning would hide the fetching.
@pytest.mark.filterwarnings("ignore:Automatically retrieving:DeprecationWarning")
def test_a_schema_is_never_fetched_from_the_network() -> None:
    with HTTPServer(("127.0.0.1", 0), AnySchema) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        schema = {"properties": {"x": {"$ref": f"http://127.0.0.1:{server.server_port}/x.json"}}}
        try:
            with pytest.raises(WidgetTemplateError, match=r"refers to 'http://127.*/x\.json'"):
                template('{"type":"Card"}', strict=True, jsonSchema=schema).build({"x": 1})
        finally:
            server.shutdown()


# --- Templates: where they are read from

MINIMAL = json.dumps({"version": "1.0", "name": "Found", "template": '{"type":"Card"}'})


def module(path: Path, source: str) -> dict[str, Any]:
    """Run a module's source as if it were imported from that path."""
    path.parent.mkdir(exist_ok=True)
    namespace: dict[str, Any] = {"__file__": str(path), "WidgetTemplate": WidgetTemplate}
    exec(compile(textwrap.dedent(source), str(path), "exec"), namespace)
    return namespace


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., WidgetTemplate]:
    """Return a function that calls its first argument in a module with a template beside it."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "found.widget").write_text(MINIMAL, encoding="utf-8")
    source = """
    def run(load, *args, **kwargs):
        return load(*args, **kwargs)
    """
    run: Callable[..., WidgetTemplate] = module(tmp_path / "app" / "main.py", source)["run"]
    return run


def test_a_template_is_found_beside_the_calling_module(app: Any) -> None:
    assert app(WidgetTemplate.from_file, "found.widget").name == "Found"


def test_a_template_beside_a_caller_further_up_is_not_taken(app: Any, tmp_path: Path) -> None:
    # The app's own file is missing; the library that called the app has one of the same name.
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "card.widget").write_text(MINIMAL, encoding="utf-8")
    source = "def call(app, *args):\n    return app(*args)"
    call = module(tmp_path / "library" / "main.py", source)["call"]

    with pytest.raises(FileNotFoundError, match=r"base=__file__.*card\.widget"):
        call(app, WidgetTemplate.from_file, "card.widget")


def test_a_caller_without_a_file_has_only_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found.widget").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {"load": WidgetTemplate.from_file}

    assert eval("load('found.widget')", names).name == "Found"


def test_a_base_is_a_directory_or_a_file_beside_the_template(app: Any, tmp_path: Path) -> None:
    for base in (tmp_path / "app", str(tmp_path / "app" / "main.py")):
        assert app(WidgetTemplate.from_file, "found.widget", base=base).name == "Found"


def test_the_working_directory_is_the_last_resort(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "app")

    assert WidgetTemplate.from_file("found.widget").name == "Found"


def test_a_base_given_is_the_only_place_looked_at(app: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"base=__file__.*found\.widget"):
        app(WidgetTemplate.from_file, "found.widget", base=tmp_path)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.widget").write_text("{", encoding="utf-8")

    with pytest.raises(WidgetTemplateError, match=r"broken\.widget.*line 1 column 2"):
        WidgetTemplate.from_file(tmp_path / "broken.widget")


async def test_a_template_can_be_loaded_without_blocking_trio(app: Any) -> None:
    loaded = await app(WidgetTemplate.load, "found.widget")

    assert loaded.build() == DynamicWidgetRoot(type="Card")


async def test_a_cancelled_load_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await WidgetTemplate.load(DATA / "ticket.widget")

    assert scope.cancelled_caught
