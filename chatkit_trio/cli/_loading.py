"""Finding what `MODULE:NAME` names, and making an app of it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import click
from quart import Quart
from quart_trio import QuartTrio

from chatkit_trio.server import ChatKitServer
from chatkit_trio.web import create_app
from chatkit_trio.web._delivery import ASGIApp

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_MOST_FRAMES = 8


def load_app(target: str) -> ASGIApp | Quart:
    """Return the app that `MODULE:NAME` names, or one around the ChatKit server it names.

    The name may also be of a class or function that makes one of these when it is called without
    arguments. Raises `click.ClickException` for anything else.
    """
    module_name, name = _parts(target)
    # As python -m does; an installed command doesn't have the working directory on its path.
    sys.path.insert(0, os.getcwd())
    module = found = _module(target, module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            what = f"{target} can't be loaded: {_kind(found)} has no attribute {part!r}"
            raise click.ClickException(what + _instead(module, module_name))
        found = getattr(found, part)
    if inspect.isclass(found) or _is_factory(found):
        found = _made(found, target)
    if isinstance(found, ChatKitServer):
        return create_app(found)
    if isinstance(found, Quart) and not isinstance(found, QuartTrio):
        raise click.ClickException(
            f"{target} is an app for asyncio: make it with quart_trio.QuartTrio instead of Quart"
        )
    if not callable(found) or not _can_be_called(found, "scope", "receive", "send"):
        raise click.ClickException(
            f"{target} is neither a ChatKit server nor an ASGI app, but {_kind(found)}"
            + _instead(module, module_name)
        )
    return cast(ASGIApp, found)


def _parts(target: str) -> tuple[str, str]:
    """Return module and name. Raises `click.BadParameter` that says what to write instead."""
    place, colon, name = target.rpartition(":") if ":" in target else (target, "", "")
    module = ".".join(Path(place).with_suffix("").parts) if _is_path(place) else place
    if _is_path(place) and _NAME.fullmatch(module):
        wanted = f"{module}:{name or 'app'}"
        problem = f"{place} is a file, and a module is wanted: write {wanted}"
    elif _is_path(place) and _NAME.fullmatch(Path(place).stem):
        file = Path(place)
        problem = (
            f"{place} is a file, and a module is wanted: go to {file.parent}, and write"
            f" {file.stem}:{name or 'app'}"
        )
    elif not colon and _NAME.fullmatch(module):
        problem = (
            f"{target} is not of the form MODULE:NAME: say what of the module is to be served, as"
            f" in {module}:app"
        )
    elif _NAME.fullmatch(module) and _NAME.fullmatch(name):
        return module, name
    else:
        problem = f"{target} is not of the form MODULE:NAME, such as app:app for app.py"
    raise click.BadParameter(problem, param_hint="target")


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _module(target: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        click.echo(_own_frames(error), err=True, nl=False)
        raise click.ClickException(
            f"{target} can't be loaded: the module ends the process when it is imported; put what"
            " runs it below if __name__ == '__main__':"
        ) from error
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise click.ClickException(
                f"{target} can't be loaded: {error}: it is neither in {os.getcwd()} nor on Python's"
                " path"
            ) from error
        raise _unloadable(target, error) from error
    except Exception as error:
        raise _unloadable(target, error) from error


def _unloadable(target: str, error: Exception) -> click.ClickException:
    """Print where the user's own code has failed; return what is said then."""
    click.echo(_own_frames(error), err=True, nl=False)
    what = traceback.format_exception_only(error)[-1].strip()
    return click.ClickException(f"{target} can't be loaded: {what}")


def _own_frames(error: BaseException) -> str:
    """Return a traceback without the frames of those who import: Python, click and this package."""
    told = traceback.TracebackException.from_exception(error)
    for one in _chain(told):
        frames = [each for each in one.stack if not each.filename.startswith("<frozen importlib")]
        imported = [place for place, each in enumerate(frames) if each.filename in _IMPORTERS]
        own = frames[imported[-1] + 1 if imported else 0 :]
        one.stack = traceback.StackSummary.from_list(own[-_MOST_FRAMES:])
    return "".join(told.format())


_IMPORTERS = (__file__, importlib.__file__)


def _chain(told: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    while told is not None:
        yield told
        told = told.__cause__ or told.__context__


def _kind(found: object) -> str:
    if inspect.ismodule(found):
        return f"module {found.__name__!r}"
    article = "an" if type(found).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(found).__name__}"


def _instead(module: object, name: str) -> str:
    """Return what of the module could be served, as the end of a sentence."""
    servable = [f"{name}:{each}" for each, value in vars(module).items() if _is_servable(value)]
    return f"; try {' or '.join(servable)}" if servable else ""


def _is_servable(value: object) -> bool:
    return isinstance(value, ChatKitServer | QuartTrio) or (
        not isinstance(value, type) and type(value).__name__ in ("FastAPI", "Starlette")
    )


def _is_factory(found: object) -> bool:
    is_plain = inspect.isfunction(found) and not inspect.iscoroutinefunction(found)
    return is_plain and _can_be_called(cast(Callable[..., Any], found))


def _can_be_called(function: Callable[..., Any], *arguments: object) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # it is written in C and doesn't say
    return True


def _made(make: Callable[..., Any], target: str) -> Any:
    """Return what a class or a function makes without arguments."""
    name = make.__name__
    if not _can_be_called(make):
        parameters = inspect.signature(make).parameters.values()
        needed = [each.name for each in parameters if each.default is each.empty]
        is_server = issubclass(cast(type, make), ChatKitServer)
        example = f"{name}(SQLiteStore('chat.sqlite3'))" if is_server else f"{name}(...)"
        raise click.ClickException(
            f"{target} is a class that can't be made without {', '.join(needed)}: make an object of"
            f" it in the module, as in server = {example}, and serve"
            f" {target.partition(':')[0]}:server"
        )
    try:
        return make()
    except Exception as error:
        raise click.ClickException(
            f"{target} can't be made: {name}() raised {type(error).__name__}: {error}"
        ) from error
