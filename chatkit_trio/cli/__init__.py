"""The command line: serve an app, serve the demo, look into a database, find out what is wrong."""

from __future__ import annotations

import logging

import click

from ._doctor import doctor
from ._migrate import migrate
from ._serve import demo, serve_app
from ._threads import threads

__all__ = ["main"]


@click.group()
@click.version_option(package_name="chatkit-trio")
@click.option("--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """A ChatKit server on Trio that never loses a cancelled answer."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        logging.getLogger("hypercorn.error").setLevel(logging.WARNING)


for command in (serve_app, demo, threads, doctor, migrate):
    main.add_command(command)
