"""Files and directories that nobody but their owner can read, whatever the umask.

Only what is made here gets its mode here: what an operator has made keeps its own.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700


def make_private(path: Path) -> None:
    """Make the file, readable and writable by its owner only; leave one that is there alone.

    SQLite gives its log, and the log's index, the mode of the file.
    """
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_RDWR | os.O_EXCL))


def open_private(path: Path, flags: int, mode: int = PRIVATE) -> int:
    """Open a file, making it with exactly this mode, whatever the umask; return its descriptor.

    With `os.O_EXCL` the file must be new, otherwise the mode of one that is there stays.
    """
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags | os.O_CREAT, mode)
    try:
        os.fchmod(fd, mode)  # the umask may have taken even the owner's bits
    except OSError:
        os.close(fd)
        raise
    return fd


def mode_of(path: Path) -> int:
    """Return who may read and write a file; private if it isn't there."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o666
    except FileNotFoundError:
        return PRIVATE


def make_private_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing; leave one that is there alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(PRIVATE_DIRECTORY)
        path.chmod(PRIVATE_DIRECTORY)
        return
    path.mkdir(exist_ok=True)  # raises if it is no directory
