"""The names of the original's server and store, and how they are called.

Those of the vocabulary are in `test_vocabulary.py`, those of the agents in `tests/agents/`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import chatkit_trio.server
import chatkit_trio.store

pytest.importorskip("chatkit", reason="the extra `parity` isn't installed", exc_type=ImportError)

OURS: dict[str, ModuleType] = {"server": chatkit_trio.server, "store": chatkit_trio.store}

LEFT_OUT = {
    # Unused there too: the page finds words for an error from its code.
    ("server", "DEFAULT_ERROR_MESSAGE"),
    # A hook around the stream of respond; our bridge to the Agents SDK runs it elsewhere.
    ("server", "agents_sdk_user_agent_override"),
    # Its frames come from a generator; ours from a turn, and only the server makes either.
    ("server", "StreamingResult.__init__"),
    ("server", "NonStreamingResult.__init__"),
}


def original(module: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"chatkit.{module}")


def own_names(module: str) -> Iterator[tuple[str, Any]]:
    """Give what a module of the original defines itself, public and by name."""
    loaded = original(module)
    for name, value in vars(loaded).items():
        is_own = getattr(value, "__module__", None) == loaded.__name__
        is_constant = name.isupper() and isinstance(value, int | str)
        if not name.startswith("_") and (is_own or is_constant):
            yield name, value


def callables(module: str) -> Iterator[tuple[str, Any]]:
    """Give the functions and methods that a module of the original defines, by dotted name."""
    for name, value in own_names(module):
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, function in vars(value).items():
                is_public = not method.startswith("_") or method == "__init__"
                if inspect.isfunction(function) and is_public:
                    yield f"{name}.{method}", function


def ours(module: str, dotted: str) -> Any:
    found: Any = OURS[module]
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found


@pytest.mark.parametrize("module", OURS)
def test_every_public_name_is_here_but_for_those_left_out(module: str) -> None:
    missing = {(module, name) for name, _value in own_names(module) if ours(module, name) is None}

    assert missing == {left for left in LEFT_OUT if left[0] == module and "." not in left[1]}


@pytest.mark.parametrize("module", ["server", "store", "agents"])
def test_names_a_module_merely_imports_can_be_imported_from_ours(module: str) -> None:
    """`from chatkit.server import ThreadItemDoneEvent` works by accident, and is in use."""
    loaded, own = original(module), importlib.import_module(f"chatkit_trio.{module}")
    borrowed = {
        name: value
        for name, value in vars(loaded).items()
        if getattr(value, "__module__", "").startswith("chatkit.")
        and value.__module__ != loaded.__name__
    }

    assert borrowed
    assert [name for name in borrowed if not hasattr(own, name)] == []
    assert borrowed.keys() - exported(own) == set()


def exported(module: Any) -> set[str]:
    """Return the names that type checkers let others import: of `__all__` and `x as x`."""
    tree = ast.parse(inspect.getsource(module))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    again = {alias.name for node in imports for alias in node.names if alias.name == alias.asname}
    return again | set(module.__all__)


@pytest.mark.parametrize("module", OURS)
def test_hooks_and_methods_take_the_same_parameters_first(module: str) -> None:
    different = set()
    for name, function in callables(module):
        theirs = list(inspect.signature(function).parameters)
        found = ours(module, name)
        if found is None or list(inspect.signature(found).parameters)[: len(theirs)] != theirs:
            different.add((module, name))

    assert different == {
        left for left in LEFT_OUT if left[0] == module and callable(getattr_of(left))
    }


def getattr_of(left: tuple[str, str]) -> Any:
    module, dotted = left
    found: Any = original(module)
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    "kind",
    ["thread", "message", "tool_call", "task", "workflow", "attachment", "sdk_hidden_context"],
)
def test_ids_have_the_originals_prefix_and_128_bits(kind: Any) -> None:
    prefix, _, theirs = original("store").default_generate_id(kind).partition("_")

    made = chatkit_trio.store.default_generate_id(kind)

    assert len(theirs) == 8
    assert re.fullmatch(rf"{prefix}_[0-9a-f]{{32}}", made)
