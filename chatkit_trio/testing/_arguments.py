"""What a test gives to the explorer and the simulator: refused if it would try nothing, unseen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["check_makes", "failure_of"]

_T = TypeVar("_T")


def check_makes(name: str, value: Any, what: str) -> None:
    """Raise `TypeError` unless `value` can be called for `what`."""
    if not callable(value):
        raise TypeError(
            f"{name} must be a function that returns {what}, such as its class, not {value!r}"
        )


def failure_of(check: Callable[[_T], object] | None, given: _T) -> AssertionError | None:
    """Return what a test's own check has found wrong, None if it is content or there is none.

    Raises what else it raises, and `TypeError` if it returns something: a coroutine would never
    run, and a verdict would be lost.
    """
    if check is None:
        return None
    try:
        returned = check(given)
    except AssertionError as error:
        return error
    if inspect.iscoroutine(returned):
        returned.close()  # Python would warn of it
    if returned is not None:
        raise TypeError(
            f"check has returned {returned!r}, which would be lost: it is a plain function that"
            " returns nothing and raises AssertionError"
        )
    return None
