"""The coordination of the SQLite store: how the processes of one machine share a file.

A node is an instance: an open store, with a lock that dies with its process. That lock alone says
who lives, so no clock is trusted and a process that is stopped keeps its turns.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from chatkit_trio.store import (
    Coordination,
    Hint,
    JournalEntry,
    News,
    Opening,
    TContext,
    TurnRecord,
)

from . import _sqlite_admission as admission
from ._instance_lock import is_live, live_instances
from ._records import check_opening, owner_of
from ._sqlite_database import Database
from ._sqlite_journal import SQLiteJournal
from ._sqlite_usage import SQLiteUsage, write_changes

LOOK_INTERVAL = 0.05  # seconds
_TALK_TIME = 5.0
"""Seconds for which a node that has posted or heard a message expects the next one soon."""


class SQLiteCoordination(Coordination[TContext]):
    """One node of those that share the file; see `Coordination`.

    `lease_timeout` is only how long the node of a turn may be asked: a process is dead when it has
    ended, and never because it is slow.
    """

    def __init__(
        self,
        database: Database,
        journal: SQLiteJournal[TContext],
        owner: Callable[[TContext], str],
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.node = ""
        self._usage = SQLiteUsage(database, clock, lambda: self.tell(self.node))
        self._database = database
        self._journal = journal
        self._owner = owner
        self._has_turns = False
        self._talked_at = -math.inf
        self._wanted = trio.Event()

    @property
    def usage(self) -> SQLiteUsage:
        return self._usage

    async def begin(self, opening: Opening, context: TContext) -> TurnRecord | None:
        """Carry out a turn's first writes and record it, in one transaction."""
        check_opening(opening)
        owner, instance, path = (
            owner_of(self._owner, context),
            self._database.instance,
            self._database.path,
        )

        def transaction(db: sqlite3.Connection) -> TurnRecord | None:
            self._database.keep_lock()
            return admission.begin(db, owner, opening, instance, partial(is_live, path))

        blocking = await self._database.write(transaction)
        if blocking is None:
            self._has_turns = True
            self._wanted.set()
            self.tell(opening.thread_id)
        return blocking

    async def line_up(self, turn_id: str, thread_id: str, context: TContext) -> None:
        owner, instance = owner_of(self._owner, context), self._database.instance

        def transaction(db: sqlite3.Connection) -> None:
            self._database.keep_lock()
            admission.line_up(db, owner, turn_id, thread_id, instance)

        await self._database.write(transaction)

    async def withdraw(self, turn_id: str) -> None:
        instance = self._database.instance
        thread_id = await self._database.write(lambda db: admission.withdraw(db, turn_id, instance))
        if thread_id is not None:
            self.tell(thread_id)

    async def abandon(self, turn_id: str) -> None:
        instance = self._database.instance
        await self._database.write(lambda db: admission.abandon(db, turn_id, instance))

    async def record(self, thread_id: str) -> TurnRecord | None:
        with suppress(UnicodeEncodeError):  # there is no such thread
            return await self._database.read(lambda db: admission.record(db, thread_id))
        return None

    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        row = await self._database.read(lambda db: admission.checkpointed(db, turn_id))
        return None if row is None else self._journal.texts.entry(row)

    async def post(self, node: str, message: bytes) -> None:
        instance, path = self._database.instance, self._database.path

        def transaction(db: sqlite3.Connection) -> None:
            if node == instance or is_live(path, node):
                admission.post(db, node, message)

        await self._database.write(transaction)
        self._talk()
        if node == instance:
            self.tell(node)

    async def news(self) -> News:
        """Return what is new for this node. One read, if there is no message."""
        instance = self._database.instance

        def look(db: sqlite3.Connection) -> News | None:
            if admission.has_messages(db, instance) or not self._database.lock_is_in_place:
                return None
            return News((), admission.live_turns(db, instance))

        def take(db: sqlite3.Connection) -> News:
            self._database.keep_lock()
            write_changes(db, changes, instance)
            return News(admission.take_messages(db, instance), admission.live_turns(db, instance))

        with self._usage.writing() as changes:
            news = None if changes else await self._database.read(look)
            if news is None:
                news = await self._database.write(take)
                self._talk()
        self._has_turns = bool(news.live)
        return news

    async def nodes(self) -> list[str]:
        path = self._database.path
        return await self._database.read(lambda _: list(live_instances(path)))

    async def listen(self) -> None:
        """Look for commits of other processes while something is expected, until cancelled.

        That is while somebody waits for a thread, while a turn is live here, and for a while after
        a message. A node at rest does nothing.
        """
        version = None
        seen: dict[str, tuple[object, ...]] = {}
        while True:
            if not self._expects_something:
                self._wanted = trio.Event()
                await self._wanted.wait()
            before, version = version, await self._database.data_version()
            if version != before or not self._hints.keys() <= seen.keys():
                abouts = tuple(self._hints)
                found = await self._database.read(partial(admission.states, abouts=abouts))
                for about in abouts:
                    # Who has begun to wait since may have missed something.
                    if found[about] != seen.get(about):
                        self.tell(about)
                seen = found
            await trio.sleep(LOOK_INTERVAL)

    @contextmanager
    def hint(self, about: str) -> Iterator[Hint]:
        with super().hint(about) as hint:
            if about != self.node:
                self._wanted.set()
            yield hint

    @property
    def _expects_something(self) -> bool:
        return (
            self._has_turns
            or trio.current_time() - self._talked_at < _TALK_TIME
            or any(about != self.node for about in self._hints)
        )

    def _talk(self) -> None:
        self._talked_at = trio.current_time()
        self._wanted.set()
