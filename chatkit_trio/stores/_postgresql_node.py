"""This open store as other processes see it: a node with a lease and a lock.

The lease is a row that says when the node has asked for its news last. The lock is an advisory lock
of a session that the node keeps for it; the server lets go of it when the process or the connection
dies, which is noticed long before the lease runs out. `IS_DEAD` puts both together. Only the
server's clock counts.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import LiteralString

import psycopg

from ._postgresql_calls import Call, Connection, GivenUp
from ._postgresql_settings import Settings, connect
from ._postgresql_statements import Statement, in_one_trip, is_alive, undone

logger = logging.getLogger(__name__)

THREADS_CHANNEL: LiteralString = "chatkit_trio_threads"
"""Where is told that the record of a thread may have changed. A node's id is its own channel."""

# After the server was restarted, or away as far as this node could see, all nodes have lost their
# locks, and nobody could renew a lease: then each has a whole lease to come back. A standby that
# was made the server has no locks either; it knows when the last write of the server before was.
# What lies in the future was noted before the clock went back, or by a server with another clock.
_AWAY_UNTIL: LiteralString = """
    (
        SELECT max(known.at) FROM (
            VALUES (pg_postmaster_start_time()), (pg_last_xact_replay_timestamp()),
                ((SELECT returned_at FROM nodes WHERE id = %(node)s))
        ) AS known (at)
        WHERE known.at <= clock_timestamp()
    )
"""

# A node that has been silent for a lease itself judges nobody: all processes may have been stopped.
# A node whose lock is free may have lost its connection only, so it has some seconds to take it
# again. When one was seen whose time lies in the future, nobody knows; then its lock decides.
_LOOKS_DEAD: LiteralString = f"""
    (node.id IS NULL OR CASE
        WHEN (SELECT seen_at + lease <= clock_timestamp() FROM nodes WHERE id = %(node)s) THEN false
        WHEN node.seen_at > clock_timestamp() THEN
            coalesce(clock_timestamp() >= node.lease + {_AWAY_UNTIL}, true)
            AND pg_try_advisory_xact_lock_shared(node.lock)
        WHEN clock_timestamp() >= node.lease + greatest(node.seen_at, {_AWAY_UNTIL}) THEN true
        WHEN node.seen_at <= {_AWAY_UNTIL} THEN false
        WHEN clock_timestamp() < node.seen_at + least(node.lease, interval '2 s') THEN false
        ELSE pg_try_advisory_xact_lock_shared(node.lock)
    END)
"""

# The pool's connections may be the first to be back. So a node whose own lock isn't held takes
# nobody for dead: either it was away, or this is another server than the one that has its lock.
IS_DEAD: LiteralString = f"""
    CASE WHEN {_LOOKS_DEAD} THEN NOT (
        %(is_away)s::boolean OR coalesce(
            pg_try_advisory_xact_lock_shared((SELECT lock FROM nodes WHERE id = %(node)s)), true
        )
    ) ELSE false END
"""
"""Whether the row `node` is missing or a dead node's, as the node `%(node)s` sees it.

`%(is_away)s` says whether that node couldn't renew its own lease; see `Node.as_judge`. Not for the
connection that has its lock.
"""

LIVING_NODES: LiteralString = f"""
    SELECT id FROM nodes AS node WHERE id = %(node)s OR NOT {IS_DEAD}
"""

# A node that was silent for a lease returns, as one that was away does: what it knows of the others
# is as old. One that has its lock and no row was silent for so long that others have buried it. Who
# is the first to come to a standby that was made the server finds the others silent.
_RENEW: LiteralString = """
    INSERT INTO nodes (id, lock, lease, returned_at)
    VALUES (
        %(node)s, %(lock)s, make_interval(secs => %(lease)s),
        CASE WHEN %(is_away)s::boolean OR %(has_lock)s::boolean OR (
            pg_last_xact_replay_timestamp() IS NOT NULL
            AND NOT EXISTS (SELECT FROM nodes WHERE seen_at > pg_last_xact_replay_timestamp())
        ) THEN clock_timestamp() END
    )
    ON CONFLICT (id) DO UPDATE SET
        seen_at = clock_timestamp(),
        lease = excluded.lease,
        returned_at = CASE
            WHEN %(is_away)s::boolean OR nodes.seen_at + nodes.lease <= clock_timestamp()
            THEN clock_timestamp() ELSE nodes.returned_at
        END
"""
# A node at rest renews its lease seldom, so it may have lost its lock without knowing it, and even
# its row. Nobody may take it for dead, and its first turn for crashed, before it has looked.
_IS_AWAKE: LiteralString = """
    INSERT INTO nodes (id, lock, lease, returned_at)
    SELECT %(node)s, %(lock)s, make_interval(secs => %(lease)s), clock_timestamp()
    WHERE NOT EXISTS (
        SELECT FROM nodes
        WHERE id = %(node)s AND seen_at >= clock_timestamp() - interval '1 s'
    )
    ON CONFLICT (id) DO UPDATE SET
        seen_at = clock_timestamp(),
        returned_at = CASE
            WHEN nodes.seen_at + nodes.lease <= clock_timestamp()
            THEN clock_timestamp() ELSE nodes.returned_at
        END
"""
_DROP_READ_MESSAGES: LiteralString = """
    DELETE FROM messages WHERE node = %(node)s AND seq = ANY(%(seqs)s::bigint[])
"""
_MESSAGES: LiteralString = "SELECT seq, message FROM messages WHERE node = %(node)s ORDER BY seq"
_LIVE_TURNS: LiteralString = "SELECT id FROM turns WHERE node = %(node)s AND NOT abandoned"
_LOCK: LiteralString = "SELECT pg_try_advisory_lock(%(lock)s)"

_BURY: LiteralString = f"DELETE FROM nodes AS node WHERE id <> %(node)s AND {_LOOKS_DEAD}"
_CLEAR_LINES: LiteralString = """
    DELETE FROM places WHERE NOT EXISTS (SELECT FROM nodes WHERE nodes.id = places.node)
"""
_CLEAR_SLOTS: LiteralString = """
    DELETE FROM slots
    WHERE until < clock_timestamp() OR NOT EXISTS (SELECT FROM nodes WHERE nodes.id = slots.node)
"""
_CLEAR_RATES: LiteralString = "DELETE FROM rates WHERE full_at < clock_timestamp()"
_FORGET: LiteralString = "DELETE FROM settled WHERE settled_at < now() - interval '1 hour'"

_LEAVE: LiteralString = "DELETE FROM nodes WHERE id = %(node)s"
_TELL_OF_LEAVING: LiteralString = f"""
    SELECT pg_notify('{THREADS_CHANNEL}', thread_id) FROM (
        SELECT thread_id FROM turns WHERE node = %(node)s
        UNION
        SELECT thread_id FROM places WHERE node = %(node)s
    ) AS held
    WHERE octet_length(thread_id) < 8000
"""
_LEAVE_SLOTS: LiteralString = "DELETE FROM slots WHERE node = %(node)s"
_LEAVE_LINES: LiteralString = "DELETE FROM places WHERE node = %(node)s"


class Node:
    """The lease and the lock of one open store. Its methods block: they are for a worker thread."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self.id = f"node_{secrets.token_hex(16)}"
        self._settings = settings
        self._lock = secrets.randbits(64) - 2**63
        self._connection = connection
        self._has_lock = False
        self._is_away = False
        """Whether the lease couldn't be renewed when that was tried last."""
        self._read_messages: list[int] = []
        """What the caller has; the next renewal drops it, so that no answer that is lost on the way
        costs a message."""
        self._cleaned_at = time.monotonic()

    @property
    def as_judge(self) -> dict[str, object]:
        """What `IS_DEAD` asks of the node that judges."""
        return {"node": self.id, "is_away": self._is_away}

    @property
    def _lease(self) -> dict[str, object]:
        seconds = self._settings.lease_timeout
        return {"node": self.id, "lock": self._lock, "lease": seconds}

    def is_awake(self) -> Statement:
        """Return what says that this node lives, for the transaction in which a turn begins."""
        return Statement(_IS_AWAKE, self._lease)

    def renew(self, call: Call, *others: Statement) -> tuple[tuple[bytes, ...], frozenset[str]]:
        """Renew the lease; return new messages, and the turns that are live here.

        Other statements are carried out in the same transaction.
        """
        try:
            return self._renew(call, others)
        except BaseException:
            self._is_away = True
            raise

    def _renew(
        self, call: Call, others: Sequence[Statement]
    ) -> tuple[tuple[bytes, ...], frozenset[str]]:
        connection = self._connected()
        mine = {**self.as_judge, **self._lease, "has_lock": self._has_lock}
        with call.using(connection), undone(connection):
            cursors = in_one_trip(
                connection,
                (
                    Statement("BEGIN"),
                    Statement(_DROP_READ_MESSAGES, {**mine, "seqs": self._read_messages}),
                    Statement(_MESSAGES, mine),
                    Statement(_LIVE_TURNS, mine),
                    Statement(_RENEW, mine),
                    *others,
                    Statement("COMMIT"),
                    # The session's, and so kept whatever becomes of the transaction.
                    *(() if self._has_lock else (Statement(_LOCK, mine),)),
                ),
            )
            messages = cursors[2].fetchall()
            live = frozenset(turn_id for (turn_id,) in cursors[3])
            if not self._has_lock:
                # The server may not have noticed yet that our last session is gone.
                self._has_lock = cursors[-1].fetchall() == [(True,)]
            self._is_away = False
            self._clean(connection)
        # Behind all that can fail: the caller has them now.
        self._read_messages = [seq for seq, _ in messages]
        return tuple(message for _, message in messages), live

    def leave(self, call: Call) -> None:
        """Take this node out, with its box and its places in line: its turns are abandoned."""
        mine = {"node": self.id}
        with self._connection:
            try:
                with call.using(self._connection), undone(self._connection):
                    in_one_trip(
                        self._connection,
                        (
                            Statement("BEGIN"),
                            Statement(_TELL_OF_LEAVING, mine),
                            Statement(_LEAVE_LINES, mine),
                            Statement(_LEAVE_SLOTS, mine),
                            Statement(_LEAVE, mine),
                            Statement("COMMIT"),
                        ),
                    )
            except (psycopg.Error, GivenUp) as error:
                logger.warning(
                    "%s couldn't be told that this node leaves (%s); others notice by themselves",
                    self._settings.name,
                    "there was no time" if isinstance(error, GivenUp) else error,
                )

    def _connected(self) -> Connection:
        if not is_alive(self._connection):
            self._connection.close()
            self._has_lock, self._is_away = False, True
            self._connection = connect(self._settings)
        return self._connection

    def _clean(self, connection: Connection) -> None:
        """Remove what dead nodes have left, once a lease."""
        now = time.monotonic()
        if not self._has_lock or now - self._cleaned_at < self._settings.lease_timeout:
            return
        self._cleaned_at = now
        mine = {"node": self.id}
        with suppress(psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
            for sql in (_BURY, _CLEAR_LINES, _CLEAR_SLOTS, _CLEAR_RATES, _FORGET):
                Statement(sql, mine).send(connection)
