"""A file lock that says: this store is open in a process that lives.

The operating system lets go of the lock when its process ends, whatever ended it, so there is no
lease to wait for and no clock to trust. Each open store has a lock file of its own beside the
database, named after the instance.
"""

from __future__ import annotations

import glob
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        # flock and not lockf: two stores in one process must see each other's locks.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(fd: int) -> bool:
    try:
        _lock(fd)
    except (BlockingIOError, PermissionError):  # what flock and msvcrt say of a lock that is held
        return False
    return True


class InstanceLock:
    """The held lock of one open store. `instance` is its name, new each time."""

    def __init__(self, database: Path) -> None:
        """Make the lock file and lock it. Raises `OSError`."""
        # Another process may take the new file for a stale one before it is locked, and remove it.
        while not self._made(database):
            pass

    def _made(self, database: Path) -> bool:
        self.instance = secrets.token_hex(16)
        self._path = _lock_path(database, self.instance)
        self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _locked(self._fd) and self._path.exists():
            return True
        os.close(self._fd)
        return False

    def release(self) -> None:
        """Remove the lock file and unlock it."""
        _remove(self._path)
        os.close(self._fd)
        _remove(self._path)  # where an open file can't be removed


def live_instances(database: Path) -> set[str]:
    """Return the names of the stores that are open, in any process; remove the files of the dead.

    One caller at a time, or each may take the other's look for a held lock.
    """
    prefix = _lock_path(database, "").name
    files = database.parent.glob(f"{glob.escape(prefix)}*")
    return {file.name.removeprefix(prefix) for file in files if _is_held(file)}


def _lock_path(database: Path, instance: str) -> Path:
    return database.with_name(f"{database.name}-instance-{instance}")


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        if not _locked(fd):
            return True
        _remove(path)  # while it is locked, so that its maker can't begin to hold it unseen
    finally:
        os.close(fd)
    _remove(path)  # where an open file can't be removed
    return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
