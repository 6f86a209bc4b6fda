"""The command line: from a new project to serving it, and looking after what it stores."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

import click

from ._doctor import doctor
from ._log_options import log_options
from ._migrate import migrate
from ._new import new
from ._replay import replay
from ._serve import demo, serve_app
from ._threads import threads

__all__ = ["main"]

_OF_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class _CommandLine(click.Group):
    """Tells in one line what the system refuses to any command."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # An encoding that lacks a letter is no reason to fail.
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is not None:
                what = f"{error.filename} can't be used: {error.strerror}"
            elif error.errno in _OF_OUTPUT:
                what = f"the output can't be written: {error.strerror}"
            elif isinstance(error, FileNotFoundError):
                # Only the working directory is asked for without a name.
                what = "the working directory is gone: go to one that is there"
            else:
                raise  # click ends the process if it is a pipe that nobody reads any more
            raise click.ClickException(what) from error


@click.group(cls=_CommandLine)
@click.version_option(package_name="chatkit-trio")
@log_options
def main() -> None:
    """A ChatKit server on Trio that keeps what a cancelled answer had said."""


for command in (new, serve_app, demo, threads, replay, doctor, migrate):
    main.add_command(command)
