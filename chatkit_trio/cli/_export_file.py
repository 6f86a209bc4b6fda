"""Where an export goes: to standard output, or into a file that has it whole or stays as it was."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from chatkit_trio.stores._private_files import mode_of, open_private

STDOUT = "-"


@contextmanager
def export_file(output: str) -> Iterator[IO[str]]:
    """Open what an export goes to. A new file is for its owner only.

    The file has the lines when the block is left. If that is by an exception, an older file of that
    name is as it was. Raises `click.ClickException` if the file can't be made.
    """
    path = Path(output)
    if output == STDOUT or (path.exists() and not path.is_file()):
        # Nothing can take the place of a pipe or a device.
        with click.open_file(output, "w", "utf-8") as file:
            yield file
        return
    place = Path(os.path.realpath(path))
    unfinished = place.with_name(f".export-{secrets.token_hex(8)}")
    try:
        with _told(output):
            with suppress(FileNotFoundError):
                os.close(os.open(place, os.O_WRONLY))  # what may not be written isn't replaced
            fd = open_private(unfinished, os.O_WRONLY | os.O_EXCL, mode_of(place))
        with open(fd, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(fd)  # else a power cut may leave an empty file in the place of the older one
        with _told(output):
            unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _told(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{output} can't be written: {error.strerror}") from error
