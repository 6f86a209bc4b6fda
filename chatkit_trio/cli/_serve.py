"""`serve` and `demo`: run an app in this process until a signal says to stop."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import trio
from quart import Quart

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio._settings import check_seconds
from chatkit_trio.observe import OWNER_KEY_VARIABLE
from chatkit_trio.recording import TurnRecorder
from chatkit_trio.web._asgi_app import chat_servers_in
from chatkit_trio.web._delivery import ASGIApp
from chatkit_trio.web._hosts import AllowedHosts
from chatkit_trio.web._reloading import Reloader
from chatkit_trio.web._serving import serve_to_the_end
from chatkit_trio.web._worker import NotSharedError, Worker
from chatkit_trio.web._workers import Workers

from ._database_file import check_name
from ._loading import load_app
from ._log_options import as_arguments, log_options
from ._start_errors import one_line, told_once


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


def _named(context: click.Context, parameter: click.Parameter, database: str) -> str:
    check_name(database)
    return database


_port_option = click.option(
    "--port",
    default=8000,
    envvar="PORT",
    show_envvar=True,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="Port to listen on; 0: a free one.",
)

_open_option = click.option(
    "--open", "opens_browser", is_flag=True, help="Open the page in a browser when it is served."
)

_record_option = click.option(
    "--record",
    "recordings",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the events of each turn to a file in this directory, for `replay`. The files hold"
    " what users and models say.",
)

_DRAINED_AT_RELOAD = 0.3  # seconds that live answers get to finish


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
@click.option(
    "--reload",
    is_flag=True,
    help="For development: begin anew when a .py file in or below the working directory changes."
    " Live answers are cut and stored first.",
)
@_open_option
@_record_option
@click.option("--worker", callback=_parsed, hidden=True)
@click.option("--spare", is_flag=True, hidden=True)
@log_options
@click.pass_context
def serve_app(
    click_context: click.Context,
    target: str,
    host: str,
    port: int,
    drain_timeout: float | None,
    allowed_hosts: tuple[str, ...],
    workers: int,
    reload: bool,
    opens_browser: bool,
    recordings: Path | None,
    worker: Worker | None,
    spare: bool,
) -> None:
    """Serve a ChatKit server or an ASGI app.

    It ends at SIGTERM, SIGHUP or Ctrl-C. app:server is what app.py calls server. NAME may also be
    a class or a function that makes one of the two without arguments.

    A ChatKit server gets an app with the chat page, in which all visitors share the threads. To
    tell users apart, make the app yourself with chatkit_trio.web.create_app, and name that app.
    """
    _checked(host, allowed_hosts)
    if reload and workers > 1:
        raise click.UsageError("--reload is for one worker: leave --workers out")
    tell = partial(_tell, opens_browser=opens_browser, recordings=recordings)
    if workers == 1 and not reload:
        if spare and (worker is None or not worker.wait_until_needed()):
            return
        on_ready = tell if worker is None else None
        app = load_app(target)
        if recordings is not None:
            _record(app, target, recordings)
        _run(app, host, port, drain_timeout, allowed_hosts, on_ready, worker)
        return
    # All workers have the same names for owners in their logs, also those that come later.
    os.environ.setdefault(OWNER_KEY_VARIABLE, secrets.token_hex())
    options = [f"--allowed-host={name}" for name in allowed_hosts]
    if recordings is not None:
        options.append(f"--record={recordings}")
    if reload:
        options.append("--spare")
        drain_timeout = _DRAINED_AT_RELOAD if drain_timeout is None else drain_timeout
    if drain_timeout is not None:
        options.append(f"--drain-timeout={drain_timeout}")

    # Without files of bytecode: two changes within a second may look like one to Python.
    python = [*_python(), "-B"] if reload else _python()

    def command(places: str) -> list[str]:
        # A port that isn't given would be $PORT's, whatever the parent was told.
        own = [*options, f"--host={host}", f"--port={port}", f"--worker={places}", "--", target]
        return [*python, "-m", "chatkit_trio", *as_arguments(click_context), "serve", *own]

    if reload:
        parent: Workers = Reloader(host, port, command, Path.cwd())
    else:
        parent = Workers(workers, host, port, command)
    _end_with(partial(parent.run, tell), host, port)


@click.command()
@_port_option
@click.option(
    "--database",
    default="chatkit-demo.sqlite3",
    show_default=True,
    type=click.Path(dir_okay=False),
    callback=_named,
    help="Where the conversations are kept.",
)
@click.option(
    "--slow-writes",
    default=0.0,
    callback=_finite,
    metavar="SECONDS",
    help="Let each write wait, to see that a stop is safe even then.",
)
@click.option("--admin", is_flag=True, help="Show at /admin what the server is doing.")
@_open_option
@_record_option
@log_options
def demo(
    port: int,
    database: str,
    slow_writes: float,
    admin: bool,
    opens_browser: bool,
    recordings: Path | None,
) -> None:
    """Serve a chat to try on this machine.

    It is offline, or with a model if OPENAI_API_KEY is set.
    """
    from chatkit_trio.demo import demo_app, who_answers

    token = secrets.token_urlsafe(16) if admin else None
    try:
        app = demo_app(database, slow_writes=slow_writes, admin_token=token)
    except ImportError as error:
        raise click.ClickException(
            "OPENAI_API_KEY is set, but the openai package is missing: install"
            " chatkit-trio[openai], or unset the key to see the offline demo"
        ) from error

    if recordings is not None:
        _record(app, "the demo", recordings)

    def tell(urls: Sequence[str]) -> None:
        _tell(urls, opens_browser=opens_browser, recordings=recordings)
        click.echo(f"{who_answers()}\nConversations are kept in {Path(database).resolve()}")
        if token is not None:
            click.echo(f"What it is doing is at {urls[0]}/admin; the token is {token}")
        click.echo("Stop with Ctrl-C")

    _run(app, "127.0.0.1", port, None, (), tell, None)


def _checked(host: str, allowed_hosts: Sequence[str]) -> None:
    option = "--allowed-host"
    try:
        AllowedHosts.of(allowed_hosts)
        option = "--host"
        AllowedHosts.served(host, ())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _python() -> list[str]:
    """Return the command of this interpreter, with the path that it has itself."""
    # An installed command doesn't have the working directory on its path; -m would put it there.
    return [sys.executable] if os.getcwd() in sys.path else [sys.executable, "-P"]


def _run(
    app: ASGIApp | Quart,
    host: str,
    port: int,
    drain_timeout: float | None,
    allowed_hosts: Sequence[str],
    on_ready: Callable[[Sequence[str]], None] | None,
    worker: Worker | None,
) -> None:
    serving = partial(
        serve_to_the_end,
        app,
        host=host,
        port=port,
        drain_timeout=drain_timeout,
        allowed_hosts=allowed_hosts,
        on_ready=on_ready,
        worker=worker,
    )
    _end_with(serving, host, port)


def _end_with(serving: Callable[[], Awaitable[int]], host: str, port: int) -> None:
    """Serve, and end the process with the exit code of that."""
    try:
        with told_once():
            code = trio.run(serving)
    except (BaseExceptionGroup, OSError, NotSharedError) as error:
        raise one_line(unwrapped(error), host, port) from error
    sys.exit(code)


def _record(app: ASGIApp | Quart, target: str, directory: Path) -> None:
    """Have the turns of all ChatKit servers of an app recorded."""
    servers = chat_servers_in(app)
    if not servers:
        raise click.ClickException(
            f"{target} has no ChatKit server to record that can be found from outside: use"
            " server.observe(TurnRecorder(DIR)) in the module instead of --record"
        )
    try:
        recorder = TurnRecorder(directory)
    except OSError as error:
        raise click.ClickException(f"can't record in {directory}: {error.strerror}") from error
    for server in servers:
        server.observe(recorder)


def _tell(urls: Sequence[str], *, opens_browser: bool, recordings: Path | None) -> None:
    for url in urls:
        click.echo(f"Serving on {url}")
    if recordings is not None:
        click.echo(f"Recording turns in {recordings}, with what users and models say")
    if opens_browser:
        # Not waited for: one in the terminal runs until its user leaves it.
        threading.Thread(target=_open, args=(urls[0],), daemon=True).start()


def _open(url: str) -> None:
    """Open an address in the user's browser, which can't go to a wildcard."""
    place = urlsplit(url)
    if place.hostname in _WILDCARDS:
        url = f"http://127.0.0.1:{place.port}"
    if not webbrowser.open(url):
        click.echo(f"No browser has been found here; open {url} in yours", err=True)


_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (nothing listens there because of this)
