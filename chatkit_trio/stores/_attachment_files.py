"""The directory of a `DiskAttachmentStore`: what lies in it and under which names.

For each attachment a record (`ID.json`) and, once they have arrived, its bytes (`ID.bin`). Bytes
arrive in a `.part` file of another name, and get theirs when all are on the disk: who can see
`ID.bin` sees all of it, whatever crashed. A record is there before its bytes and goes before them.

Everything here blocks, is for worker threads, and needs POSIX. Names are made of ids that have been
checked, never of anything a client chose.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatkit_trio.errors import ConflictError, StoreError

from ._attachment_record import Record, is_id, not_found
from ._instance_lock import InstanceLock, live_instances, remove_dead_locks
from ._private_files import make_private, make_private_directory, open_private

_PART = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\.part")


class PartFile:
    """A file that is being received. Ends with `AttachmentFiles.publish` or `discard`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.fdopen(open_private(path, os.O_WRONLY | os.O_EXCL), "wb")

    def write(self, chunk: bytes) -> None:
        with as_store_errors(self.path.parent):
            self._file.write(chunk)

    def flush(self) -> None:
        with as_store_errors(self.path.parent):
            self._file.flush()

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file; harmless when it is gone."""
        with suppress(OSError):  # what a full disk didn't take is not needed any more
            self._file.close()
        self.path.unlink(missing_ok=True)


class AttachmentFiles:
    """The files of one directory; methods may run in several threads at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Says that a store made this directory, and names the locks that say who is alive.
        self._base = directory / "store"
        self._lock: InstanceLock | None = None
        self._id: tuple[int, int] | None = None
        self._naming = threading.Lock()

    def open(self) -> None:
        """Make the directory, and remove what uploads of dead processes left in it."""
        with as_store_errors(self.directory):
            make_private_directory(self.directory)
            if not any(self.directory.iterdir()):
                make_private(self._base)
            self._id = _id(self.directory)
            self._lock = InstanceLock(self._base)
            self._remove_stale_parts()
            self._remove_strays()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self) -> None:
        """Raise `StoreError` unless bytes can be written now, into the directory that was opened.

        For one thread at a time.
        """
        with as_store_errors(self.directory):
            if _id(self.directory) != self._id:
                raise StoreError(f"{self.directory} was replaced while the store has it open")
            part = self._new_part()
            try:
                part.write(b"probe")
                part.flush()
            finally:
                part.discard()

    def bytes_path(self, attachment_id: str) -> Path:
        return self.directory / f"{attachment_id}.bin"

    def save_record(self, record: Record) -> None:
        """Write the record of a new attachment. Raises `ConflictError` if its id is taken."""
        with as_store_errors(self.directory):
            part = self._new_part()
            try:
                part.write(record.to_json())
                part.finish()
                self._name(part, self._record_path(record.id))
            finally:
                part.discard()

    def load_record(self, attachment_id: str) -> Record:
        """Return the record of an attachment. Raises `NotFoundError`."""
        if not is_id(attachment_id):
            raise not_found(attachment_id)
        with as_store_errors(self.directory):
            try:
                text = self._record_path(attachment_id).read_bytes()
            except FileNotFoundError:
                raise not_found(attachment_id) from None
        record = Record.from_json(text)
        if record is None:
            raise not_found(attachment_id)
        return record

    def record_ids(self) -> list[str]:
        with as_store_errors(self.directory):
            return sorted(path.stem for path in self._listed(".json") if is_id(path.stem))

    def size(self, attachment_id: str) -> int | None:
        """Return how many bytes of an attachment are here, or None if they haven't arrived."""
        with as_store_errors(self.directory):
            try:
                return self.bytes_path(attachment_id).stat().st_size
            except FileNotFoundError:
                return None

    def begin(self) -> PartFile:
        """Return a new file to receive bytes into."""
        with as_store_errors(self.directory):
            return self._new_part()

    def publish(self, part: PartFile, attachment_id: str) -> None:
        """Make what was received the bytes of an attachment, whole and on the disk.

        Raises `NotFoundError` if the attachment has been deleted meanwhile, and `ConflictError` if
        it has its bytes already.
        """
        with as_store_errors(self.directory):
            part.finish()
            with self._naming:  # or a delete falls between the question and the name
                if not self._record_path(attachment_id).exists():
                    raise not_found(attachment_id)
                self._name(part, self.bytes_path(attachment_id))
            part.discard()

    def remove(self, attachment_id: str) -> None:
        """Remove the record and the bytes of an attachment; what isn't there is no error."""
        with as_store_errors(self.directory), self._naming:
            self._record_path(attachment_id).unlink(missing_ok=True)
            self.bytes_path(attachment_id).unlink(missing_ok=True)

    def _record_path(self, attachment_id: str) -> Path:
        return self.directory / f"{attachment_id}.json"

    def _listed(self, suffix: str) -> list[Path]:
        # Not Path.glob, which finds nothing in a directory that can't be listed just now.
        names = [name for name in os.listdir(self.directory) if name.endswith(suffix)]
        return [self.directory / name for name in names]

    def _new_part(self) -> PartFile:
        if self._lock is None:
            raise RuntimeError(
                f"the attachment store {self.directory} isn't open: use it inside 'async with"
                " store:' (ChatKitServer does that for its own attachment_store)"
            )
        name = f"{self._lock.instance}-{secrets.token_hex(8)}.part"
        return PartFile(self.directory / name)

    def _name(self, part: PartFile, path: Path) -> None:
        # A link and not a rename: of two processes that got the same upload only one succeeds.
        try:
            os.link(part.path, path)
        except FileExistsError:
            raise ConflictError(f"attachment {path.stem} has been uploaded already") from None
        _sync_directory(self.directory)

    def _remove_stale_parts(self) -> None:
        # The files first: an instance that begins meanwhile isn't among the living.
        parts = self._listed(".part")
        living = live_instances(self._base)
        for path in parts:
            if _PART.fullmatch(path.name) and path.name.partition("-")[0] not in living:
                path.unlink(missing_ok=True)
        remove_dead_locks(self._base)

    def _remove_strays(self) -> None:
        """Remove bytes without a record: a crash, or another process, fell into a deletion.

        In a directory that was there before the store, they may be somebody else's.
        """
        if not self._base.exists():
            return
        for path in self._listed(".bin"):
            if not self._record_path(path.stem).exists():
                path.unlink(missing_ok=True)


@contextmanager
def as_store_errors(directory: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError` that names the directory."""
    try:
        yield
    except OSError as error:
        way_out = " (free some space)" if error.errno == errno.ENOSPC else ""
        raise StoreError(f"can't use {directory}: {error.strerror or error}{way_out}") from error


def _id(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
