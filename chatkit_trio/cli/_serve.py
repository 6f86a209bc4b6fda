"""`serve` and `demo`: run an app in this process until a signal says to stop."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

import click
import trio
from hypercorn.utils import LifespanFailureError
from quart import Quart

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio.server import ChatKitServer
from chatkit_trio.web import create_app
from chatkit_trio.web._delivery import ASGIApp
from chatkit_trio.web._serving import serve_to_the_end


@click.command("serve")
@click.argument("target", metavar="MODULE:NAME")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0: a free one.")
@click.option(
    "--drain-timeout",
    type=float,
    help="Seconds that live answers get to finish when the server is told to stop."
    "  [default: 10, and 0 after Ctrl-C]",
)
def serve_app(target: str, host: str, port: int, drain_timeout: float | None) -> None:
    """Serve MODULE:NAME, a ChatKit server or an ASGI app, until SIGTERM, SIGHUP or Ctrl-C.

    A ChatKit server gets an app with the chat page, in which all visitors share the threads. To
    tell users apart, make the app yourself with chatkit_trio.web.create_app, and name that app.
    """
    _run(load_app(target), host, port, drain_timeout)


@click.command()
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0: a free one.")
@click.option(
    "--database",
    default="chatkit-demo.sqlite3",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="Where the conversations are kept.",
)
@click.option(
    "--slow-writes",
    default=0.0,
    metavar="SECONDS",
    help="Let each write wait, to see that a stop is safe even then.",
)
def demo(port: int, database: str, slow_writes: float) -> None:
    """Serve a chat to try on this machine: offline, or with a model if OPENAI_API_KEY is set."""
    from chatkit_trio.demo import demo_app

    try:
        app = demo_app(database, slow_writes=slow_writes)
    except ImportError as error:
        raise click.ClickException(
            "OPENAI_API_KEY is set, but the openai package is missing: install"
            " chatkit-trio[openai], or unset the key to see the offline demo"
        ) from error
    _run(app, "127.0.0.1", port, drain_timeout=None)


def load_app(target: str) -> ASGIApp | Quart:
    """Return the app that `MODULE:NAME` names, or one around the ChatKit server it names."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise click.BadParameter(f"{target} is not of the form MODULE:NAME", param_hint="target")
    # As python -m does; an installed command doesn't have the working directory on its path.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(f"{target} can't be loaded: {error}") from error
    if isinstance(found, ChatKitServer):
        return create_app(found)
    if not callable(found):
        raise click.ClickException(f"{target} is neither a ChatKit server nor an ASGI app")
    return cast(ASGIApp, found)


def _run(app: ASGIApp | Quart, host: str, port: int, drain_timeout: float | None) -> None:
    try:
        code = trio.run(serve_to_the_end, app, host, port, drain_timeout, _tell_urls)
    except (BaseExceptionGroup, OSError) as error:
        raise _without_traceback(unwrapped(error)) from error
    sys.exit(code)


def _tell_urls(urls: Sequence[str]) -> None:
    for url in urls:
        click.echo(f"Serving on {url}")


def _without_traceback(error: BaseException) -> BaseException:
    """Return a `ClickException` for an error that the user can mend, else the error itself."""
    if isinstance(error, OSError):
        return click.ClickException(f"the server can't listen: {error}")
    if isinstance(error, LifespanFailureError):
        return click.ClickException(str(error))
    return error
