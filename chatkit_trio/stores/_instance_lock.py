"""A file lock that says: this store is open in a process that lives. POSIX only.

The operating system lets go of the lock when its process ends, whatever ended it, so there is no
lease to wait for and no clock to trust. Each open store has a lock file of its own beside the
database, named after the instance.

Whoever looks takes a shared lock for a moment, so that those who look don't see each other.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from ._forks import keep_from_forks
from ._private_files import mode_of, open_private


class InstanceLock:
    """The held lock of one open store. `instance` is its name, new each time."""

    def __init__(self, database: Path) -> None:
        """Make the lock file and lock it. Raises `OSError`."""
        self._fd: int | None = None
        keep_from_forks(self)
        # Another process may look at the new file before it is locked, and remove it as stale.
        while not self._made(database):
            pass

    def fileno(self) -> int:
        """Return the descriptor that has the lock. Raises `ValueError` if there is none."""
        if self._fd is None:
            raise ValueError(f"{self.path} isn't locked")
        return self._fd

    def _made(self, database: Path) -> bool:
        self.instance = secrets.token_hex(16)
        self.path = _lock_path(database, self.instance)
        # Who may use the database must be able to ask whether its users live.
        self._mode = mode_of(database)
        self._fd = open_private(self.path, os.O_EXCL | os.O_RDWR, self._mode)
        if _locked(self._fd, fcntl.LOCK_EX) and self.is_in_place:
            return True
        self.release()
        return False

    @property
    def is_in_place(self) -> bool:
        """Whether others can still see the lock: its file may have been removed or replaced."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fileno()))
        except FileNotFoundError:
            return False

    def put_back(self) -> None:
        """Make the lock file again under the same name, after it was removed. Raises `OSError`."""
        while not self.is_in_place:
            fd = open_private(self.path, os.O_RDWR, self._mode)
            if _locked(fd, fcntl.LOCK_EX):
                self._fd, fd = fd, self.fileno()
            os.close(fd)

    def release(self) -> None:
        """Remove the lock file and unlock it."""
        _remove(self.path)
        fd, self._fd = self.fileno(), None
        os.close(fd)


def live_instances(database: Path) -> set[str]:
    """Return the names of the stores that are open, in any process. Changes nothing.

    Raises `OSError` if the directory can't be listed: whoever isn't named is taken for dead.
    """
    return {name for name, path in _lock_files(database) if _is_held(path)}


def is_live(database: Path, instance: str) -> bool:
    """Say whether the store of this name is open, in any process. Changes nothing."""
    return _is_held(_lock_path(database, instance))


def remove_dead_locks(database: Path) -> None:
    """Remove the lock files that dead processes left behind. Raises `OSError`."""
    for _, path in _lock_files(database):
        _is_held(path, remove_unless_held=True)


def _lock_path(database: Path, instance: str) -> Path:
    return database.with_name(f"{database.name}-instance-{instance}")


def _lock_files(database: Path) -> list[tuple[str, Path]]:
    prefix = _lock_path(database, "").name
    # Not Path.glob: where a directory can't be listed, with all descriptors in use for one, it
    # finds nothing and says nothing.
    names = [name for name in os.listdir(database.parent) if name.startswith(prefix)]
    return [(name.removeprefix(prefix), database.with_name(name)) for name in names]


def _is_held(path: Path, *, remove_unless_held: bool = False) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        is_held = not _locked(fd, fcntl.LOCK_SH)
        if remove_unless_held and not is_held:
            _remove(path)  # while it is locked, so that its maker can't begin to hold it unseen
        return is_held
    finally:
        os.close(fd)


def _locked(fd: int, kind: int) -> bool:
    # flock and not lockf: two stores in one process must see each other's locks.
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
