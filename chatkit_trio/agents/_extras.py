"""The optional packages: importing them when they are needed, and saying how to install them."""

from __future__ import annotations

import importlib
from typing import Any

_EXTRAS = {"openai": "openai", "agents": "agents", "pydantic_ai": "pydantic-ai"}
"""The extra that installs a package, by the package's name."""


def require(module: str) -> Any:
    """Return a module of an optional package.

    Raises `ImportError` that names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = _EXTRAS[module.partition(".")[0]]
        raise ImportError(
            f"this needs the package of {module!r}: pip install 'chatkit-trio[{extra}]'"
        ) from error
