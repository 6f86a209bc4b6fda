"""Names that a module lends from others, because the original's can be imported from it.

`from chatkit.server import ThreadItemDoneEvent` works there, by accident, and is in use. Here it
works at run time; a type checker sees only where a name lives.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


def names_of(borrower: str, *homes: ModuleType) -> Callable[[str], Any]:
    """Return a `__getattr__` for the module `borrower` that finds the public names of homes."""

    def find(name: str) -> Any:
        for home in homes:
            if not name.startswith("_") and hasattr(home, name):
                return getattr(home, name)
        raise AttributeError(f"module {borrower!r} has no attribute {name!r}")

    return find
