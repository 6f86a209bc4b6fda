"""Rendering a widget template to JSON, so that no value in the data can change the structure.

A template is Jinja that writes JSON. An expression prints either text of the template itself (a
string literal, a macro, `tojson`), which is printed unchanged, or data, which is escaped. Escaped
data means itself inside a JSON string and is a syntax error anywhere else. So no value can add a
prop, close a string or end the widget, whether or not the author thought of `tojson`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Never

import jinja2
import jsonschema
from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from markupsafe import Markup
from pydantic_core import to_jsonable_python
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from .errors import WidgetTemplateError

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_EXCERPT = 40  # characters shown on each side of the place where JSON breaks
_MESSAGE = 300  # characters of a schema error, which may quote all of the data


class _Literal(str):
    """A string literal of the template. Anything computed from it is a plain str again."""

    __slots__ = ()


# A function that takes the context isn't called by Jinja at compile time, where it would be given
# a literal after `escape`.
@pass_context
def _print(context: Context, value: Any) -> Any:
    if isinstance(value, _Literal):
        return Markup(str(value))  # noqa: S704  (the template's own text)
    if hasattr(value, "__html__"):
        return value
    text = str(value)
    if isinstance(value, int | float | Decimal) and _NUMBER.fullmatch(text):
        return Markup(text)  # noqa: S704  (a JSON number)
    return Markup(_escape(text))  # noqa: S704  (escaped for JSON)


def _escape(text: str) -> str:
    inner = json.dumps(text)[1:-1]
    # JSON has backslashes in strings only: one in front makes the text an error anywhere else.
    if inner and not inner.startswith("\\"):
        inner = f"\\u{ord(inner[0]):04x}{inner[1:]}"
    return inner


class _MarkLiterals(NodeTransformer):
    def visit_Const(self, node: nodes.Const) -> nodes.Expr:  # noqa: N802  (Jinja's name)
        if not isinstance(node.value, str):
            return node
        return nodes.Filter(node, "_mark", [], [], None, None, lineno=node.lineno)


def _environment() -> jinja2.Environment:
    # Autoescaping is on so that Jinja marks what it rendered itself (macros, blocks). It escapes
    # nothing for HTML: `finalize` has marked every value before.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, finalize=_print
    )
    environment.filters["_mark"] = _Literal
    return environment


_ENVIRONMENT = _environment()


def compile_template(name: str, source: str) -> jinja2.Template:
    """Compile a template. Raises `WidgetTemplateError` if the source isn't Jinja."""
    try:
        tree = _MarkLiterals().visit(_ENVIRONMENT.parse(source))
        tree.set_environment(_ENVIRONMENT)
        code = _ENVIRONMENT.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        raise WidgetTemplateError(
            f"widget template {name!r}, line {error.lineno}: {error.message}"
        ) from error
    return jinja2.Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals(None))


def render(name: str, template: jinja2.Template, data: Mapping[str, Any]) -> Any:
    """Return the JSON value a template makes from its data.

    Raises `WidgetTemplateError` if the template fails, or writes something that isn't JSON.
    """
    try:
        text = template.render(data)
    except Exception as error:
        # Only the template's own code runs here, so any error is an error of the template.
        raise WidgetTemplateError(f"widget template {name!r} can't be rendered: {error}") from error
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise WidgetTemplateError(
            f"widget template {name!r} doesn't make JSON: {error.msg} at line {error.lineno},"
            f" column {error.colno}: ...{_around(text, error.pos)}... (print a value inside"
            " quotes, or through the tojson filter)"
        ) from error
    except ValueError as error:
        raise WidgetTemplateError(f"widget template {name!r} doesn't make JSON: {error}") from error


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON number")


def _around(text: str, place: int) -> str:
    return f"{text[max(0, place - _EXCERPT) : place]}⟨here⟩{text[place : place + _EXCERPT]}"


@dataclass(frozen=True, slots=True)
class SchemaFlaw:
    """What is wrong with a template's schema, or with data for it."""

    text: str
    key: Hashable
    """The part of the schema that says so: there are only so many."""


class DataSchema:
    """The schema of a template's data. References are never fetched from the network."""

    def __init__(self, schema: Any) -> None:
        self._validator: Any = None
        self.flaw: SchemaFlaw | None = None
        """Why the schema can't be used; then it refuses nothing."""
        if schema is None or schema == {}:
            return
        try:
            validator_class = validator_for(schema, default=jsonschema.Draft202012Validator)
            validator_class.check_schema(schema)
        except jsonschema.SchemaError as error:
            text = f"{error.json_path}: {error.message[:_MESSAGE]}"
            self.flaw = SchemaFlaw(f"has an invalid jsonSchema at {text}", "schema")
        except Exception as error:
            self.flaw = SchemaFlaw(f"has a jsonSchema that can't be used: {error}", "schema")
        else:
            self._validator = validator_class(schema, registry=EMPTY_REGISTRY)

    def flaw_of(self, data: Mapping[str, Any]) -> SchemaFlaw | None:
        """Return why the schema refuses the data, None if it doesn't."""
        if self._validator is None:
            return self.flaw
        try:
            as_json = to_jsonable_python(data, by_alias=False, serialize_unknown=True)
            error = best_match(self._validator.iter_errors(as_json))
        except Unresolvable as unresolvable:
            text = f"has a jsonSchema that refers to {unresolvable.ref!r}, which isn't part of it"
            return SchemaFlaw(text, unresolvable.ref)
        except Exception as failure:
            # Such as a pattern that is no regular expression: only the schema and the data, which
            # aren't ours, can be the cause.
            return SchemaFlaw(f"has a jsonSchema that can't be used: {failure}", "schema")
        if error is None:
            return None
        text = f"doesn't take this data: at {error.json_path}: {error.message[:_MESSAGE]}"
        return SchemaFlaw(text, tuple(error.absolute_schema_path))
