"""Checks of settings: a value that can't be meant is refused where it is given, with a way out.

A setting is written once and acts much later, in the middle of somebody's answer. So a wrong type
is a `TypeError`, and a value that makes no sense a `ValueError`, when the object is made. `True` is
no number here, and no time is NaN.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection
from typing import Any, TypeGuard

__all__ = [
    "check_choice",
    "check_choices",
    "check_count",
    "check_plain_function",
    "check_seconds",
    "check_strings",
    "is_path",
    "own_path",
]


def check_seconds(
    name: str, value: Any, *, or_zero: bool = False, unless: Any = ..., instead: str = ""
) -> None:
    """Raise unless `value` is a finite number of seconds above zero.

    `or_zero` allows 0. `unless` is another value that is allowed, such as None; `instead` says in
    words what to give for "never", or for no limit.
    """
    if unless is not ... and value is unless:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds{_or(instead)}, not {value!r}")
    if not (math.isfinite(value) and (value > 0 or (or_zero and value == 0))):
        least = "0 or more" if or_zero else "more than 0"
        raise ValueError(
            f"{name} must be {least} seconds and finite{_or(instead)}, and is {value!r}"
        )


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, and is {value!r}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of these words."""
    if not isinstance(value, str) or value not in choices:
        words = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be {words}, not {value!r}")


def check_strings(name: str, value: Any, *, or_empty: bool = False) -> None:
    """Raise unless `value` is a collection of strings, one or more; one string is none.

    `or_empty` allows it to have none.
    """
    if isinstance(value, str):
        raise TypeError(f"{name} must be a list of strings such as [{value!r}], not {value!r}")
    if not isinstance(value, Collection):
        raise TypeError(f"{name} must be a list of strings, not {value!r}")
    for each in value:
        if not isinstance(each, str):
            raise TypeError(f"{name} must be a list of strings, and has {each!r}")
    if not (value or or_empty):
        raise ValueError(f"{name} is empty, so there is nothing to do")


def check_choices(
    name: str, value: Any, choices: Collection[str], *, or_empty: bool = False
) -> None:
    """Raise unless `value` is as for `check_strings`, and all its strings are of these words."""
    check_strings(name, value, or_empty=or_empty)
    for each in value:
        if each not in choices:
            raise ValueError(f"{name} has {each!r}, which isn't one of {', '.join(choices)}")


def check_plain_function(name: str, value: Any, argument: str) -> None:
    """Raise `TypeError` unless `value` is called with an argument and doesn't wait."""
    called = getattr(value, "__call__", None)  # noqa: B004 (of an object, it may be async)
    waits = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    is_async = any(is_such(each) for is_such in waits for each in (value, called))
    if called is None or isinstance(value, type) or is_async:
        given = f"the async {value!r}" if is_async else repr(value)
        raise TypeError(f"{name} is a plain function of {argument}, not {given}")


def is_path(value: object) -> TypeGuard[str]:
    """Return whether this can be where something is on a site, such as '/chat'."""
    # A client's // is made one / before a view is looked for.
    return isinstance(value, str) and "//" not in value and not set("?#<>") & set(value)


def own_path(value: object) -> str | None:
    """Return '/chat' for a path such as 'chat/'; None for what is no path, or the whole site."""
    return "/" + value.strip("/") if is_path(value) and value.strip("/") else None


def _or(instead: str) -> str:
    return f" ({instead})" if instead else ""
