"""The file of an SQLite store, as a file: whose it is, and whether it is still there.

SQLite changes files by merely opening them: it plays back journals, empties a write-ahead log, and
leaves a log and its index beside the file. So a file of another program is known by its bytes,
before SQLite sees it.

Reading them has a price. POSIX lets go of all locks that a process has on a file as soon as the
process closes it, through whichever descriptor: also those by which SQLite tells other processes
that the file is in use. They would empty the log and delete it, and what is written here from then
on would go into files without a name. So nothing here opens a file that is in use in this process.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatkit_trio.errors import StoreError

from ._private_files import make_private
from ._sqlite_schema import APPLICATION_ID, check_version

_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_HEAD_SIZE = 112  # bytes: the file's header, and the head of the root page of its schema
_LEAF = 0x0D
_WAL_HEADER_SIZE = 32
_FRAME_HEADER_SIZE = 24

FileId = tuple[int, int]

# Of the whole process, because the locks are.
_taking = threading.Lock()
_in_use: Counter[FileId | None] = Counter()


@contextmanager
def taken_file(path: Path, *, is_made: bool = False) -> Iterator[None]:
    """Check the file as `check_file` does, for who connects to it inside the block.

    With `is_made`, an empty one is made if there is none. All connections must be closed when the
    block is left. Raises `StoreError` and `OSError`.
    """
    with _taking:
        taken = _checked(path, is_made=is_made)
        _in_use[taken] += 1
    try:
        yield
    finally:
        with _taking:
            _in_use[taken] -= 1
            if not _in_use[taken]:
                del _in_use[taken]


def _checked(path: Path, *, is_made: bool) -> FileId | None:
    if not _in_use[_id_if_there(path)]:  # else it was checked before it came into use
        check_file(path)
    if is_made:
        with suppress(FileNotFoundError, PermissionError):  # SQLite says it with a way out
            make_private(path)
    return _id_if_there(path)


def check_file(path: Path) -> None:
    """Raise `StoreError` unless this is a store's file, an empty one, or none at all.

    Changes nothing and leaves nothing beside the file. Only for a file that isn't in use in this
    process. Raises `OSError` if it can't be read.
    """
    head = _head(path)
    if head is None or head == b"":
        return
    if not head.startswith(_MAGIC):
        raise StoreError("file is not a database (check the path given to SQLiteStore)")
    head = _head_in_log(path) or head
    if _number(head, 68) == APPLICATION_ID:
        check_version(_number(head, 60))
    elif not _is_blank(head):
        raise StoreError("it is an SQLite file of another program; give the store its own file")


class OpenFile:
    """The files of an open database, by identity: a path may come to mean another file."""

    def __init__(self, path: Path) -> None:
        """Take note of the file, its log and the log's index. Raises `OSError`."""
        self._ids = {each: _id(each) for each in (path, *_beside(path))}

    def check(self) -> None:
        """Raise `StoreError` if one of them has been removed, moved or replaced."""
        for path, found in self._ids.items():
            try:
                is_same = _id(path) == found
            except (FileNotFoundError, NotADirectoryError):
                is_same = False
            if not is_same:
                raise StoreError(
                    f"{path.name} was removed, moved or replaced while the store has it open; what"
                    " is written now can't be found under that name: put it back, or restart the"
                    " server"
                )


def _id(path: Path) -> FileId:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _id_if_there(path: Path) -> FileId | None:
    with suppress(FileNotFoundError):
        return _id(path)
    return None


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _head(path: Path) -> bytes | None:
    try:
        # Without waiting: a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise StoreError("it is a directory, and a file is needed: name one in it")
        if not stat.S_ISREG(mode):
            raise StoreError("it is no regular file (check the path given to SQLiteStore)")
        return os.read(fd, _HEAD_SIZE)
    finally:
        os.close(fd)


def _head_in_log(path: Path) -> bytes | None:
    """Return the head of the newest first page in the write-ahead log, if it has one.

    A crash may leave a file whose whole contents are in its log.
    """
    log = _beside(path)[0]
    newest = None
    try:
        file = log.open("rb")
    except FileNotFoundError:
        return None
    with file:
        header = file.read(_WAL_HEADER_SIZE)
        if len(header) < _WAL_HEADER_SIZE or _number(header, 0) not in _WAL_MAGIC:
            return None
        page_size, salts = _number(header, 8), header[16:24]
        while len(frame := file.read(_FRAME_HEADER_SIZE)) == _FRAME_HEADER_SIZE:
            if frame[8:16] != salts:
                break  # what follows is from before the log was last begun anew
            if _number(frame, 0) == 1:
                newest = file.read(_HEAD_SIZE)
                file.seek(page_size - _HEAD_SIZE, os.SEEK_CUR)
            else:
                file.seek(page_size, os.SEEK_CUR)
    return newest


def _is_blank(head: bytes) -> bool:
    """Say whether nothing has been made in the file yet: no table, and no program's mark."""
    is_unmarked = _number(head, 60) == 0 and _number(head, 68) == 0
    has_table = head[100:101] != bytes([_LEAF]) or head[103:105] != b"\0\0"
    return is_unmarked and not has_table


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
