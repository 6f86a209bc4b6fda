import abc
import datetime as dt
import enum
import importlib
import inspect
import pathlib
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jinja2
import pydantic
import pytest
import typing_extensions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import PydanticJsonSchemaWarning

Json = Any
# The original warns when it reads a widget.
pytestmark = pytest.mark.filterwarnings("ignore:Direct usage of named widget:DeprecationWarning")

MODULES = ("icons", "actions", "errors", "widgets", "types")
FOREIGN = (abc, dt, enum, jinja2, pathlib, pydantic, typing, typing_extensions)


def original(module: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: ModuleType = pytest.importorskip(
            f"chatkit.{module}", reason="the original isn't installed (extra: parity)"
        )
        return loaded


def ours(module: str) -> ModuleType:
    return importlib.import_module(f"chatkit_trio.{module}")


ORIGINAL = {module: original(module) for module in MODULES}
OURS = {module: ours(module) for module in MODULES}


def public_names(module: str) -> Iterator[str]:
    """Give the names a module of the original offers, not those it merely uses."""
    for name, value in vars(ORIGINAL[module]).items():
        foreign = any(getattr(other, name, None) is value for other in FOREIGN)
        if not (
            name.startswith("_") or foreign or inspect.ismodule(value) or name == "annotations"
        ):
            yield name


# --- What is different, and why


@dataclass(frozen=True)
class Difference:
    """A deliberate difference: seen in the JSON schema, or by trying something out.

    `undo` turns a definition of our schema into the original's. `probe` does the same thing with
    either side; it gives `here` with ours, and anything else with the original.
    """

    what: str
    why: str
    undo: Callable[[Json], None] | None = None
    probe: Callable[[dict[str, ModuleType]], object] | None = None
    here: object = None


def forget_unknown_props(definition: Json) -> None:
    kept_here = definition.get("title") in {"ActionConfig", "WidgetComponentBase"}
    if definition.get("additionalProperties") is True and (
        kept_here or definition.get("deprecated")
    ):
        del definition["additionalProperties"]


def forget_required_action_type(definition: Json) -> None:
    if (
        str(definition.get("title", "")).startswith("Action[")
        or definition.get("title") == "Action"
    ):
        definition.pop("required", None)


def forget_update_discriminator(definition: Json) -> None:
    update = definition.get("properties", {}).get("update", {})
    if "discriminator" in update:
        del update["discriminator"]
        update["anyOf"] = update.pop("oneOf")


def reader(value: Any) -> TypeAdapter[Any]:
    return TypeAdapter(value)


def outcome(attempt: Callable[[], object]) -> object:
    try:
        return attempt()
    except Exception as error:
        return type(error).__name__


def thread_at(modules: dict[str, ModuleType], moment: str) -> object:
    thread = modules["types"].ThreadMetadata(id="thr_1", created_at=moment)
    return thread.model_dump(mode="json")["created_at"]


def audio(modules: dict[str, ModuleType]) -> object:
    return modules["types"].AudioInput(data=b"", mime_type="Audio/WebM ;codecs=opus").media_type


def untyped_action(modules: dict[str, ModuleType]) -> object:
    action = modules["actions"].Action[str, Any]
    return outcome(lambda: action.model_validate({}).model_dump_json())


def untyped_update(modules: dict[str, ModuleType]) -> object:
    event = modules["types"].ThreadItemUpdatedEvent
    update = {"content_index": 0, "delta": "x"}
    return outcome(lambda: event(item_id="i", update=update).update.type)


def reloaded_props(modules: dict[str, ModuleType]) -> object:
    card = {
        "type": "Card",
        "border": 1,
        "status": {"text": "Open", "tone": "calm"},
        "children": [
            {"type": "Button", "glow": True, "onClickAction": {"type": "go", "undoable": True}},
        ],
    }
    root = reader(modules["widgets"].WidgetRoot).validate_python(card)
    (button,) = root.children
    action = button.model_dump()["onClickAction"]
    names = {*root.model_dump(), *root.status, *button.model_dump(), *action}
    return sorted(names & {"border", "tone", "glow", "undoable"})


def warnings_of(attempt: Callable[[], object]) -> list[type[Warning]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attempt()
    return [warning.category for warning in caught]


def warnings_of_reading(modules: dict[str, ModuleType]) -> object:
    root = reader(modules["widgets"].WidgetRoot)
    return warnings_of(lambda: root.validate_python({"type": "Card", "children": []}))


def texts_of_errors(modules: dict[str, ModuleType]) -> object:
    errors = modules["errors"]
    custom = errors.CustomStreamError(message="No seats left.")
    return str(custom), str(errors.StreamError(errors.ErrorCode.STREAM_ERROR))


DIFFERENCES = (
    Difference(
        "widgets and actions keep props they don't know",
        "clients are newer than servers: a prop that was streamed must still be there when the"
        " widget is read back from the store",
        undo=forget_unknown_props,
        probe=reloaded_props,
        here=["border", "glow", "tone", "undoable"],
    ),
    Difference(
        "an Action must have a type",
        "the original's default is a TypeVar object, which no JSON can hold",
        undo=forget_required_action_type,
        probe=untyped_action,
        here="ValidationError",
    ),
    Difference(
        "the update of ThreadItemUpdatedEvent is told by its type",
        "reading and writing is a look-up instead of a trial of ten, and what has no type is"
        " refused rather than guessed",
        undo=forget_update_discriminator,
        probe=untyped_update,
        here="ValidationError",
    ),
    Difference(
        "a time without a zone is UTC",
        "the wire carries the zone, so clients don't read it as their own local time",
        probe=lambda modules: thread_at(modules, "2024-05-01T12:00:00"),
        here="2024-05-01T12:00:00Z",
    ),
    Difference(
        "a time with another zone is turned into UTC",
        "times of one thread compare and sort as text",
        probe=lambda modules: thread_at(modules, "2024-05-01T12:00:00+02:00"),
        here="2024-05-01T10:00:00Z",
    ),
    Difference(
        "AudioInput.media_type is stripped and in lower case",
        "media types are case-insensitive, and hooks compare them",
        probe=audio,
        here="audio/webm",
    ),
    Difference(
        "reading a named widget doesn't warn",
        "a server that reads its store isn't using a deprecated class; with warnings as errors it"
        " couldn't read it at all",
        probe=warnings_of_reading,
        here=[],
    ),
    Difference(
        "stream errors have a text",
        "logs and tracebacks say what was raised, also with keyword arguments",
        probe=texts_of_errors,
        here=("No seats left.", "stream.error"),
    ),
)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what)
def test_each_difference_is_as_described_and_still_one(difference: Difference) -> None:
    assert difference.probe is not None
    assert difference.probe(OURS) == difference.here
    assert difference.probe(ORIGINAL) != difference.here


# --- Names


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_the_original_is_here(module: str) -> None:
    names = set(public_names(module))

    assert names
    assert {name for name in names if not hasattr(OURS[module], name)} == set()


def test_names_are_imported_again_where_the_original_does() -> None:
    types, actions, widgets = OURS["types"], OURS["actions"], OURS["widgets"]

    assert types.Action is actions.Action
    assert types.ThreadItemUpdated is types.ThreadItemUpdatedEvent
    assert types.WidgetRoot == widgets.WidgetRoot
    assert widgets.ActionConfig is actions.ActionConfig


def plain_constants() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name in public_names(module):
            if isinstance(getattr(ORIGINAL[module], name), str | int | dict):
                yield module, name


@pytest.mark.parametrize(("module", "name"), tuple(plain_constants()))
def test_constants_have_the_same_values(module: str, name: str) -> None:
    assert getattr(OURS[module], name) == getattr(ORIGINAL[module], name)


def functions(owner: object) -> dict[str, list[str]]:
    """Return the parameters of the public functions a class or module of the original has."""
    return {
        name: [*inspect.signature(getattr(owner, name)).parameters]
        for name, value in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, classmethod))
        and getattr(getattr(owner, name), "__module__", "").startswith("chatkit")
    }


@pytest.mark.parametrize(
    ("module", "owner"),
    [
        ("types", None),
        ("actions", "Action"),
        ("widgets", "WidgetTemplate"),
        ("widgets", "WidgetComponentBase"),
    ],
)
def test_functions_take_the_same_parameters_first(module: str, owner: str | None) -> None:
    expected_in, found_in = ORIGINAL[module], OURS[module]
    if owner is not None:
        expected_in, found_in = getattr(expected_in, owner), getattr(found_in, owner)
    expected = functions(expected_in)

    assert expected
    for name, parameters in expected.items():
        found = [*inspect.signature(getattr(found_in, name)).parameters]
        assert found[: len(parameters)] == parameters


# --- Schemas


def schema(value: Any, mode: Any) -> Json | None:
    if isinstance(value, str | int | dict) or inspect.isfunction(value):
        return None
    with warnings.catch_warnings():
        # The original's Action has a default that no JSON can hold.
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        try:
            return without_descriptions(TypeAdapter(value).json_schema(mode=mode))
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
            return None


def without_descriptions(schema: Json) -> Json:
    """Drop the docstrings, which are our own; a prop called `description` stays."""
    if isinstance(schema, dict):
        return {
            name: without_descriptions(entry)
            for name, entry in schema.items()
            if not (name == "description" and isinstance(entry, str))
        }
    if isinstance(schema, list):
        return [without_descriptions(entry) for entry in schema]
    return schema


def undone(schema: Json, differences: tuple[Difference, ...]) -> Json:
    for difference in differences:
        for definition in (schema, *schema.get("$defs", {}).values()):
            if difference.undo is not None:
                difference.undo(definition)
    return schema


def schema_cases() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name in public_names(module):
            if schema(getattr(ORIGINAL[module], name), "validation"):
                yield module, name


SCHEMA_CASES = tuple(schema_cases())


def test_schemas_are_compared_for_all_models() -> None:
    models = {
        (module, name)
        for module in MODULES
        for name in public_names(module)
        if inspect.isclass(value := getattr(ORIGINAL[module], name))
        and issubclass(value, pydantic.BaseModel)
    }

    assert len(models) > 140
    assert models <= set(SCHEMA_CASES)


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize(("module", "name"), SCHEMA_CASES)
def test_schemas_are_equal_but_for_the_differences(module: str, name: str, mode: str) -> None:
    expected = schema(getattr(ORIGINAL[module], name), mode)
    found = schema(getattr(OURS[module], name), mode)

    assert undone(found, DIFFERENCES) == expected


@pytest.mark.parametrize(
    "difference",
    [difference for difference in DIFFERENCES if difference.undo is not None],
    ids=lambda difference: difference.what,
)
def test_each_difference_of_schemas_is_still_one(difference: Difference) -> None:
    others = tuple(other for other in DIFFERENCES if other is not difference)

    assert any(
        undone(schema(getattr(OURS[module], name), "validation"), others)
        != schema(getattr(ORIGINAL[module], name), "validation")
        for module, name in SCHEMA_CASES
    )


# --- Wire


class Writer:
    """Writes documents that a JSON schema, as pydantic makes them, accepts."""

    def __init__(self, data: st.DataObject, definitions: dict[str, Json]) -> None:
        self.draw = data.draw
        self.definitions = definitions

    def write(self, schema: Json, depth: int = 0) -> Json:
        match schema:
            case {"$ref": reference}:
                return self.write(self.definitions[reference.rpartition("/")[2]], depth)
            case {"const": value}:
                return value
            case {"enum": values}:
                return self.draw(st.sampled_from(values))
            case {"anyOf": branches} | {"oneOf": branches}:
                return self.write(self.draw(st.sampled_from(affordable(branches, depth))), depth)
            case {"type": "object"}:
                return self.write_object(schema, depth)
            case {"type": "array"}:
                length = self.draw(st.integers(0, 2 if depth < 5 else 0))
                return [self.write(schema.get("items", {}), depth + 1) for _ in range(length)]
            case _:
                return self.draw(scalars(schema))

    def write_object(self, schema: Json, depth: int) -> Json:
        if "properties" not in schema:
            names = self.draw(st.lists(st.sampled_from(["k", "metadata"]), unique=True))
            values = schema.get("additionalProperties", {})
            return {name: self.write(values if values is not True else {}) for name in names}
        required = set(schema.get("required", ()))
        return {
            name: self.write(prop, depth + 1)
            for name, prop in schema["properties"].items()
            if name in required or "const" in prop or self.draw(st.integers(0, 3)) == 0
        }


def affordable(branches: list[Json], depth: int) -> list[Json]:
    flat = [branch for branch in branches if branch.get("type") in {"null", "string"}]
    return flat if flat and depth > 5 else branches


def scalars(schema: Json) -> st.SearchStrategy[Json]:
    match schema:
        case {"type": "null"}:
            return st.none()
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            return st.integers(0, 9)
        case {"type": "number"}:
            return st.floats(0, 9, width=16)
        case {"format": "date-time"}:
            return st.just("2024-05-01T12:00:00Z")
        case {"format": "uri"}:
            return st.just("https://example.org/a")
        case {"pattern": pattern}:
            return st.just(f"{pattern[1:]}x")
        case {"type": "string"}:
            return st.text('a"\u2028 é', max_size=3)
        case _:
            return st.none() | st.booleans() | st.text("ab", max_size=2)


WIRE_CASES = (
    ("widgets", "WidgetRoot"),
    ("types", "ChatKitReq"),
    ("types", "ThreadStreamEvent"),
)


@pytest.mark.parametrize(("module", "name"), WIRE_CASES)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_both_read_both_write_byte_by_byte(
    module: str, name: str, data: st.DataObject
) -> None:
    read_here = reader(getattr(OURS[module], name))
    read_there = reader(getattr(ORIGINAL[module], name))
    schema = read_here.json_schema()
    document = Writer(data, schema.get("$defs", {})).write(schema)
    here = read_here.validate_python(document)
    there = read_there.validate_python(document)

    for options in ({}, {"exclude_none": True, "by_alias": True}):
        dump: dict[str, Any] = {"context": {"exclude_metadata": True}, **options}
        assert read_here.dump_json(here, **dump) == read_there.dump_json(there, **dump)
