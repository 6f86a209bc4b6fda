"""How much is logged and in which form: options of the whole command line, and of what serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

from chatkit_trio.logs import set_up_logs

_Command = TypeVar("_Command", bound=Callable[..., Any])

_META = "chatkit_trio.log_options"


def _take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    given: dict[str, Any] = context.meta.setdefault(_META, {})
    if value and parameter.name is not None:
        given[parameter.name] = value
    if given.get("quiet") and given.get("verbose"):
        raise click.UsageError("--quiet and --verbose exclude each other")
    if given.get("quiet"):
        level = logging.WARNING
    else:
        level = logging.DEBUG if given.get("verbose") else logging.INFO
    set_up_logs(given.get("log_format", "text"), level=level)
    # It tells each address that it listens on, which we do ourselves.
    of_hypercorn = logging.NOTSET if given.get("verbose") else logging.WARNING
    logging.getLogger("hypercorn.error").setLevel(of_hypercorn)


_OPTIONS = [
    click.option(
        "--quiet",
        is_flag=True,
        callback=_take,
        expose_value=False,
        help="Log warnings and errors only: no requests, no turns.",
    ),
    click.option(
        "--verbose", is_flag=True, callback=_take, expose_value=False, help="Log more than usual."
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        callback=_take,
        expose_value=False,
        help="Log lines for people, or JSON objects for machines.  [default: text]",
    ),
]


def log_options(command: _Command) -> _Command:
    """Give a command the options `--quiet`, `--verbose` and `--log-format`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def as_arguments(context: click.Context) -> list[str]:
    """Return the options that were given, for another process."""
    given = context.meta.get(_META, {})
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in given.items()
    ]
