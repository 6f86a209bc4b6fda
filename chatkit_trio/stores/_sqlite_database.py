"""One open SQLite file: a connection that writes, some that read, and who may use them when.

A transaction is one function that runs from beginning to end in one worker thread, so no
cancellation can fall into it. Nothing here knows what is stored.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import trio

from chatkit_trio.errors import StoreError

from ._fair_limiter import FairLimiter
from ._instance_lock import InstanceLock, remove_dead_locks
from ._sqlite_file import OpenFile, taken_file
from ._sqlite_schema import check, migrate
from ._sqlite_search import Upkeep, is_possible, make_index
from ._sqlite_writes import WriteLine, transaction_of

T = TypeVar("T")

logger = logging.getLogger(__name__)

_WAL_RETRY_INTERVAL = 0.01  # seconds
_PROBE_BUSY_TIMEOUT = 1.0  # seconds; other writes wait for the probe meanwhile

_WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another process has kept it locked for longer than busy_timeout",
    sqlite3.SQLITE_CANTOPEN: "may this process write there?",
    sqlite3.SQLITE_CORRUPT: "restore the file from a backup, or try sqlite3's .recover",
    sqlite3.SQLITE_FULL: "free some space; nothing of this write was stored",
    sqlite3.SQLITE_IOERR: "the disk failed; nothing of this write was stored",
    sqlite3.SQLITE_NOTADB: "check the path given to SQLiteStore",
    sqlite3.SQLITE_READONLY: "this process needs write access to the file and its directory",
}


class Database:
    """The connections to one file. All of its methods are for the trio thread."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["NORMAL", "FULL"],
        readers: int,
        busy_timeout: float,
    ) -> None:
        self.can_search = False
        """Whether this SQLite has full text."""
        # Resolved, so that all who open the file look for its locks in the same place. A link to
        # itself stays as it is, and can't be opened; `Path.resolve` would raise a `RuntimeError`.
        self.path = Path(os.path.realpath(path))
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._file: OpenFile | None = None
        self._taken = ExitStack()
        self._lock: InstanceLock | None = None
        self._has_told_of_lock = False
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._watcher: sqlite3.Connection | None = None
        self._watching = trio.CapacityLimiter(1)
        self._limiter = trio.CapacityLimiter(1)
        """Who has its token may use the connection that writes."""
        self._writes = WriteLine(
            self._connection_that_writes, self._in_words, self._limiter, self._keep_up
        )
        self._upkeep = Upkeep()
        # An owner can take all readers, but not the places in front of them.
        self._reading = FairLimiter(readers, each=readers)

    @property
    def instance(self) -> str:
        """The name under which other processes see that this one lives, new at each opening."""
        if self._lock is None:
            raise self._not_open()
        return self._lock.instance

    @property
    def lock_is_in_place(self) -> bool:
        """Whether others can see that this process lives. For the inside of a read."""
        try:
            return self._lock is not None and self._lock.is_in_place
        except OSError:  # a writer puts it back just now
            return False

    def keep_lock(self) -> None:
        """Look whether the lock file is in place and put it back. For the inside of a transaction.

        Without it every other process takes this one for dead, and its live turns for crashed.
        Raises nothing if the file can't be made; the log says so once.
        """
        assert self._lock is not None
        try:
            if self._lock.is_in_place:
                return
            self._lock.put_back()
        except OSError:
            # What is being written matters more than the lock; so the write goes on.
            if not self._has_told_of_lock:
                self._has_told_of_lock = True
                logger.exception(
                    "the lock file %s is gone and can't be made again", self._lock.path
                )
        else:
            logger.error(
                "the lock file %s was removed while the store is open; it is back, but other"
                " processes may have settled live turns of this one as crashed",
                self._lock.path,
            )

    async def open(self) -> None:
        """Open the connections and migrate the file. Raises `StoreError`."""
        await trio.to_thread.run_sync(self._open, limiter=self._limiter)

    async def close(self) -> None:
        """Wait for the running transactions, then close the connections."""
        async with self._no_reads(), self._watching:
            await trio.to_thread.run_sync(self._close, limiter=self._limiter)

    async def write(self, transaction: Callable[[sqlite3.Connection], T], *, owner: str = "") -> T:
        """Run a function in a transaction of its own and commit it; if it raises, undo it.

        A cancellation while it waits for its turn means it never began; once begun it runs to its
        end, and its outcome is what the caller gets. The writes of an owner run in order; owners
        take turns. Those that wait at the same time are committed together: the function may be
        called a second time, when nothing of the first one was stored.
        """
        return await self._writes.write(transaction, owner)

    async def read(self, query: Callable[[sqlite3.Connection], T], *, owner: str = "") -> T:
        """Run a function on one snapshot of the file, beside the writer; owners take turns."""
        async with self._reading.place(owner):
            limiter = self._reading.limiter
            return await trio.to_thread.run_sync(self._read, query, limiter=limiter)

    async def data_version(self) -> int:
        """Return a number that is another one after each commit, of whatever process."""
        return await trio.to_thread.run_sync(self._data_version, limiter=self._watching)

    async def probe(self) -> None:
        """Raise `StoreError` unless a write succeeds now, into the file that was opened.

        Waits for its turn among the writes. Cancelled, it may go on in its thread: a write of
        nothing, of which nobody has to know what became.
        """
        await trio.to_thread.run_sync(self._probe, limiter=self._limiter, abandon_on_cancel=True)

    @asynccontextmanager
    async def _no_reads(self) -> AsyncIterator[None]:
        limiter = self._reading.limiter
        tokens = [object() for _ in range(int(limiter.total_tokens))]
        taken: list[object] = []
        try:
            for token in tokens:
                await limiter.acquire_on_behalf_of(token)
                taken.append(token)
            yield
        finally:
            for token in taken:
                limiter.release_on_behalf_of(token)

    def _keep_up(self, db: sqlite3.Connection) -> None:
        if self.can_search:
            self._upkeep(db)

    def _open(self) -> None:
        try:
            with self._as_store_errors():
                # First, for SQLite changes what it opens.
                self._taken.enter_context(taken_file(self.path, is_made=True))
                self._writer = self._connect()
                with transaction_of(self._writer, "DEFERRED"):
                    check(self._writer)
                self._use_wal(self._writer)
                self.can_search = is_possible(self._writer)
                with transaction_of(self._writer, "IMMEDIATE"):
                    migrate(self._writer)
                    if self.can_search:
                        make_index(self._writer)
                for _ in range(int(self._reading.limiter.total_tokens)):
                    self._readers.append(self._connect())
                self._watcher = self._connect()
                self._file = OpenFile(self.path)
                self._lock = InstanceLock(self.path)
                remove_dead_locks(self.path)
        except BaseException:
            self._close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,  # transactions begin and end where this module says so
            check_same_thread=False,  # a limiter lets one thread in at a time
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        # SQLite's own busy timeout doesn't hold here: beside another writer, such as a process
        # that opens the same new file, this pragma fails at once.
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= deadline:
                    raise
            time.sleep(_WAL_RETRY_INTERVAL)

    def _close(self) -> None:
        while self._readers:
            self._readers.pop().close()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._writer is not None:
            self._writer.close()  # the last to go: it empties the write-ahead log into the file
            self._writer = None
        self._taken.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _connection_that_writes(self) -> sqlite3.Connection:
        if self._writer is None:
            raise self._not_open()
        return self._writer

    def _in_words(self, error: BaseException) -> BaseException:
        try:
            with self._as_store_errors():
                raise error
        except Exception as told:
            return told

    def _probe(self) -> None:
        if self._writer is None or self._file is None:
            raise self._not_open()
        with self._as_store_errors():
            self._file.check()
            self._wait_for_others(min(self._busy_timeout, _PROBE_BUSY_TIMEOUT))
            try:
                with transaction_of(self._writer, "IMMEDIATE"):
                    (version,) = self._writer.execute("PRAGMA user_version").fetchone()
                    # It changes nothing, and yet a page is written: a full disk shows.
                    self._writer.execute(f"PRAGMA user_version = {version}")
            finally:
                self._wait_for_others(self._busy_timeout)

    def _wait_for_others(self, seconds: float) -> None:
        assert self._writer is not None
        self._writer.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise self._not_open()
        reader = self._readers.pop()  # the limiter has as many tokens as there are readers
        try:
            with self._as_store_errors(), transaction_of(reader, "DEFERRED"):
                return query(reader)
        finally:
            self._readers.append(reader)

    def _data_version(self) -> int:
        # A connection of its own: the number counts what other connections have committed.
        if self._watcher is None:
            raise self._not_open()
        with self._as_store_errors():
            version: int = self._watcher.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _not_open(self) -> RuntimeError:
        return RuntimeError(
            f"the store {self.path} isn't open: use it inside 'async with store:'"
            " (ChatKitServer does that for its own store)"
        )

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into one that names the file and a way out."""
        try:
            yield
        except StoreError as error:
            raise StoreError(f"can't use {self.path}: {error}") from None
        except OSError as error:
            raise StoreError(f"can't use {self.path}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            # The low byte is the primary code; SQLite puts the kind of failure above it.
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            way_out = f" ({_WAYS_OUT[code]})" if code in _WAYS_OUT else ""
            if code == sqlite3.SQLITE_CANTOPEN and not self.path.parent.is_dir():
                way_out = f" (there is no directory {self.path.parent}: make it first)"
            raise StoreError(f"can't use {self.path}: {error}{way_out}") from error
