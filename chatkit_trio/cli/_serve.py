"""`serve` and `demo`: run an app in this process until a signal says to stop."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import click
import trio
from hypercorn.utils import LifespanFailureError
from quart import Quart
from quart_trio import QuartTrio

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio._settings import check_seconds
from chatkit_trio.server import ChatKitServer
from chatkit_trio.web import create_app
from chatkit_trio.web._delivery import ASGIApp
from chatkit_trio.web._hosts import AllowedHosts
from chatkit_trio.web._serving import serve_to_the_end
from chatkit_trio.web._worker import StoreNotSharedError, Worker
from chatkit_trio.web._workers import Workers


def _finite(
    context: click.Context, parameter: click.Parameter, seconds: float | None
) -> float | None:
    try:
        if seconds is not None:
            check_seconds("it", seconds, or_zero=True)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return seconds


def _parsed(
    context: click.Context, parameter: click.Parameter, places: str | None
) -> Worker | None:
    try:
        return None if places is None else Worker.parse(places)
    except (ValueError, OSError) as error:
        raise click.BadParameter("it is for workers only, which serve --workers starts") from error


_port_option = click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="Port to listen on; 0: a free one.",
)


@click.command("serve")
@click.argument("target", metavar="MODULE:NAME")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@_port_option
@click.option(
    "--drain-timeout",
    type=float,
    callback=_finite,
    help="Seconds that live answers get to finish when the server is told to stop."
    "  [default: 10, and 0 after Ctrl-C]",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers come, besides localhost and --host; with a dot before it also"
    " all names below it; * for any. Can be given more than once.",
)
@click.option(
    "--workers",
    default=1,
    type=click.IntRange(1, 1000),
    show_default=True,
    help="How many processes answer on the port. More than one need a store for several processes:"
    " SQLiteStore or PostgreSQLStore.",
)
@click.option("--worker", callback=_parsed, hidden=True)
@click.pass_context
def serve_app(
    click_context: click.Context,
    target: str,
    host: str,
    port: int,
    drain_timeout: float | None,
    allowed_hosts: tuple[str, ...],
    workers: int,
    worker: Worker | None,
) -> None:
    """Serve MODULE:NAME, a ChatKit server or an ASGI app, until SIGTERM, SIGHUP or Ctrl-C.

    NAME may also be a class or a function that makes one of them without arguments.

    A ChatKit server gets an app with the chat page, in which all visitors share the threads. To
    tell users apart, make the app yourself with chatkit_trio.web.create_app, and name that app.
    """
    _checked(host, allowed_hosts)
    if workers == 1:
        _run(load_app(target), host, port, drain_timeout, allowed_hosts, worker)
        return
    options = [f"--allowed-host={name}" for name in allowed_hosts]
    if drain_timeout is not None:
        options.append(f"--drain-timeout={drain_timeout}")
    is_verbose = click_context.find_root().params["verbose"]

    def command(places: str) -> list[str]:
        verbose = ["--verbose"] if is_verbose else []
        own = [*options, f"--host={host}", f"--worker={places}", "--", target]
        return [*_python(), "-m", "chatkit_trio", *verbose, "serve", *own]

    _end_with(partial(Workers(workers, host, port, command).run, _tell_urls))


@click.command()
@_port_option
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
    callback=_finite,
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
    """Return the app that `MODULE:NAME` names, or one around the ChatKit server it names.

    The name may also be of a class or function that makes one of these when it is called without
    arguments. Raises `click.ClickException` for anything else.
    """
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
    if inspect.isclass(found) or _is_factory(found):
        found = _made(found, target)
    if isinstance(found, ChatKitServer):
        return create_app(found)
    if isinstance(found, Quart) and not isinstance(found, QuartTrio):
        raise click.ClickException(
            f"{target} is an app for asyncio: make it with quart_trio.QuartTrio instead of Quart"
        )
    if not callable(found) or not _can_be_called(found, "scope", "receive", "send"):
        raise click.ClickException(f"{target} is neither a ChatKit server nor an ASGI app")
    return cast(ASGIApp, found)


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


def _checked(host: str, allowed_hosts: Sequence[str]) -> None:
    try:
        AllowedHosts.served(host, allowed_hosts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--allowed-host") from error


def _python() -> list[str]:
    """Return the command of this interpreter, with the path that it has itself."""
    # An installed command doesn't have the working directory on its path; -m would put it there.
    return [sys.executable] if os.getcwd() in sys.path else [sys.executable, "-P"]


def _run(
    app: ASGIApp | Quart,
    host: str,
    port: int,
    drain_timeout: float | None,
    allowed_hosts: Sequence[str] = (),
    worker: Worker | None = None,
) -> None:
    _end_with(
        partial(
            serve_to_the_end,
            app,
            host=host,
            port=port,
            drain_timeout=drain_timeout,
            allowed_hosts=allowed_hosts,
            on_ready=_tell_urls if worker is None else _freeze,
            worker=worker,
        )
    )


def _end_with(serving: Callable[[], Awaitable[int]]) -> None:
    """Serve, and end the process with the exit code of that."""
    try:
        code = trio.run(serving)
    except (BaseExceptionGroup, OSError, StoreNotSharedError) as error:
        raise _without_traceback(unwrapped(error)) from error
    sys.exit(code)


def _tell_urls(urls: Sequence[str]) -> None:
    _freeze(urls)
    for url in urls:
        click.echo(f"Serving on {url}")


def _freeze(urls: Sequence[str]) -> None:
    # All is loaded, and stays: a collection that goes through it again takes some 40 ms, in which
    # every stream stands still, and a request with many values sets one off.
    gc.collect()
    gc.freeze()


def _without_traceback(error: BaseException) -> BaseException:
    """Return a `ClickException` for an error that the user can mend, else the error itself."""
    if isinstance(error, OSError):
        return click.ClickException(f"the server can't listen: {error}")
    if isinstance(error, LifespanFailureError | StoreNotSharedError):
        return click.ClickException(str(error))
    return error
