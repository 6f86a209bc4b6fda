"""Widget templates as files: where one is looked for, and what its definition has to have.

`TemplateFile` gets as far as the JSON that a template makes from data. `WidgetTemplate`, which
turns that into a widget, is in `widgets` with the models. Jinja and jsonschema are imported with
the first template and not before, because they take longer to import than all of the models.
"""

from __future__ import annotations

import errno
import inspect
import json
import logging
from collections.abc import Coroutine, Hashable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

from .errors import WidgetTemplateError

if TYPE_CHECKING:
    from jinja2 import Template

    from ._widget_rendering import SchemaFlaw

logger = logging.getLogger(__name__)

_PACKAGE = __name__.partition(".")[0]
_VERSION = "1.0"


class TemplateFile:
    """A template and the schema of its data, both checked."""

    version: str
    name: str
    template: Template
    data_schema: dict[str, Any]

    def __init__(self, definition: Mapping[str, Any], *, strict: bool = False) -> None:
        from . import _widget_rendering as rendering

        self.strict = strict
        """Whether data that the schema refuses is an error."""
        self._render = rendering.render
        self.name = _entry(definition, "name")
        self.version = _entry(definition, "version")
        if self.version != _VERSION:
            raise WidgetTemplateError(
                f"widget template {self.name!r} has version {self.version!r};"
                f" only {_VERSION!r} is known"
            )
        template = _entry(definition, "template")
        self.template = (
            rendering.compile_template(self.name, template)
            if isinstance(template, str)
            else template
        )
        self.data_schema = definition.get("jsonSchema", {})
        self._schema = rendering.DataSchema(self.data_schema)
        self._told_of: set[Hashable] = set()
        if self._schema.flaw is not None:
            self._object(self._schema.flaw, strict)

    @classmethod
    def from_file(
        cls,
        file_path: str | PathLike[str],
        *,
        base: str | PathLike[str] | None = None,
        strict: bool = False,
    ) -> Self:
        """Read a template from a `.widget` file, blocking: for import time, not for a request.

        A relative path is looked for in the directory `base`, or beside it if it is a file
        (`base=__file__`). Without `base` it is looked for beside the calling module, and then in
        the working directory. If the call passes through a wrapper in another module, that module
        is the calling one: pass `base`. `strict` makes the schema binding, as for the class.

        Raises `FileNotFoundError`, and `WidgetTemplateError` for a file that can't be used.
        """
        return cls._from_bases(Path(file_path), _bases(base), strict)

    @classmethod
    def load(
        cls,
        file_path: str | PathLike[str],
        *,
        base: str | PathLike[str] | None = None,
        strict: bool = False,
    ) -> Coroutine[Any, Any, Self]:
        """Read a template as `from_file` does, but in a worker thread: `await` what it returns.

        A checkpoint. A cancellation waits for the read to end.
        """
        # Not an async function: the caller is on the stack now, and perhaps not at the await.
        return cls._load(Path(file_path), _bases(base), strict)

    @classmethod
    async def _load(cls, path: Path, bases: Iterable[Path], strict: bool) -> Self:
        import trio

        # A limiter of its own, for user code may take all threads of the default one.
        limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(cls._from_bases, path, bases, strict, limiter=limiter)

    @classmethod
    def _from_bases(cls, path: Path, bases: Iterable[Path], strict: bool) -> Self:
        found = _find(path, bases)
        try:
            return cls(json.loads(found.read_text(encoding="utf-8")), strict=strict)
        except json.JSONDecodeError as error:
            raise WidgetTemplateError(f"widget template {str(found)!r}: {error}") from error

    def _json(self, data: Mapping[str, Any] | BaseModel | None, strict: bool | None) -> Any:
        """Return the JSON value that the template makes from data."""
        strict = self.strict if strict is None else strict
        values = data.model_dump() if isinstance(data, BaseModel) else data or {}
        flaw = self._schema.flaw_of(values)
        if flaw is not None:
            self._object(flaw, strict)
        return self._render(self.name, self.template, values)

    def _object(self, flaw: SchemaFlaw, strict: bool) -> None:
        """Say that the schema, or data for it, isn't right: raise, or log it the first time."""
        text = f"widget template {self.name!r} {flaw.text}"
        if strict:
            raise WidgetTemplateError(text)
        if flaw.key not in self._told_of:
            self._told_of.add(flaw.key)
            logger.warning("%s (strict=True makes this an error)", text)


def _entry(definition: Mapping[str, Any], key: str) -> Any:
    if not isinstance(definition, Mapping) or key not in definition:
        raise WidgetTemplateError(f"a widget template needs a {key!r}")
    return definition[key]


def _bases(base: str | PathLike[str] | None) -> list[Path]:
    """Return the places to look in: directories, or files beside which the template may be."""
    if base is not None:
        return [Path(base)]
    module = _calling_module()
    return [Path.cwd()] if module is None else [module, Path.cwd()]


def _calling_module() -> Path | None:
    """Return the file of the nearest module on the call stack that isn't of this package.

    No module further up is asked: a library that called the application may have a template of the
    same name. None if the code that calls was not read from a file.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    file = None if frame is None else frame.f_globals.get("__file__")
    return None if file is None else Path(file)


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] == _PACKAGE


def _find(path: Path, bases: Iterable[Path]) -> Path:
    for base in bases:
        candidate = (base if base.is_dir() else base.parent) / path
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        errno.ENOENT,
        "no widget template beside the calling module; pass base=__file__",
        str(path),
    )
