"""The command line: from a new project to serving it, and looking after what it stores."""

from __future__ import annotations

import click

from ._doctor import doctor
from ._log_options import log_options
from ._migrate import migrate
from ._new import new
from ._replay import replay
from ._serve import demo, serve_app
from ._threads import threads

__all__ = ["main"]


@click.group()
@click.version_option(package_name="chatkit-trio")
@log_options
def main() -> None:
    """A ChatKit server on Trio that keeps what a cancelled answer had said."""


for command in (new, serve_app, demo, threads, replay, doctor, migrate):
    main.add_command(command)
