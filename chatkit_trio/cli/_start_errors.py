"""What is said when a server can't start: one line, with what to do, and no traceback."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import click
from hypercorn.utils import LifespanFailureError

from chatkit_trio.errors import StoreError
from chatkit_trio.web._worker import NotSharedError


def one_line(error: BaseException, host: str, port: int) -> BaseException:
    """Return a `ClickException` for an error that the user can mend, else the error itself."""
    if isinstance(error, OSError):
        return click.ClickException(f"the server can't listen: {_problem(error, host, port)}")
    if isinstance(error, LifespanFailureError):
        # Hypercorn puts its own words around those of the app.
        words = str(error).partition("'")[2].removesuffix("'")
        return click.ClickException(f"the app can't start: {words}")
    if isinstance(error, NotSharedError):
        return click.ClickException(str(error))
    return error


def _problem(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken: another program listens there. End that one, or take"
            " another port with --port (0: a free one)"
        )
    if error.errno == errno.EACCES:
        return (
            f"port {port} of {host} may not be used by this user: take one from 1024 on with --port"
        )
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{host} is not an address of this machine: --host takes one of its own, such as"
            " 127.0.0.1, or 0.0.0.0 for all"
        )
    return f"port {port} of {host}: {error}"


class _ToldAlready(logging.Filter):
    """Leaves out the traceback of an error whose one sentence is printed when the process ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_startup = record.getMessage() == "Exception"  # Quart's word for it
        return not (is_startup and isinstance(error, StoreError | NotSharedError))


@contextmanager
def told_once() -> Iterator[None]:
    """Keep tracebacks of what `one_line` tells out of the log, unless it is a verbose one."""
    root = logging.getLogger()
    handlers = [] if root.level <= logging.DEBUG else root.handlers[:]
    told = _ToldAlready()
    for handler in handlers:
        handler.addFilter(told)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(told)
