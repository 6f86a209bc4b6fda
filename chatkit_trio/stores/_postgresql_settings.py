"""How the server is reached: the URL and the environment, and the limits of a session."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ._forks import keep_from_forks
from ._postgresql_calls import Call, Connection
from ._postgresql_errors import CannotConnectError, as_connection_errors

_LOOK_FOR_CLIENT = sql.SQL("""
    DO $$ BEGIN
        PERFORM set_config('client_connection_check_interval', '2000', false);
    EXCEPTION WHEN invalid_parameter_value THEN
        -- This server's platform can't see whether a client is there.
    END $$
""")
_NO_SESSION = (
    "a new connection gives no answer (if that is a pooler: it needs a session for each connection"
    " of each process)"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the server, and how long it may take; in seconds."""

    url: str
    schema: str
    connect_timeout: float
    statement_timeout: float
    lock_timeout: float
    lease_timeout: float
    conninfo: str = field(init=False, repr=False)
    name: str = field(init=False)
    """The database without its password, for messages."""

    def __post_init__(self) -> None:
        if re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", self.schema) is None:
            raise ValueError(
                f"schema must be a name of lower-case letters, digits and underscores, not"
                f" {self.schema!r}"
            )
        try:
            given = conninfo_to_dict(self.url)
        except psycopg.ProgrammingError:
            # Without the error, which quotes the URL and so the password.
            raise ValueError(
                "the URL isn't one of PostgreSQL: write postgresql://user@host:5432/database, with"
                " what is special in a password percent-encoded"
            ) from None
        usual: dict[str, str | int] = {
            "connect_timeout": max(2, round(self.connect_timeout)),
            "fallback_application_name": "chatkit-trio",
            # So that a host which has vanished is noticed within some ten seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }
        usual |= {key: value for key, value in given.items() if value is not None}
        conninfo = make_conninfo("", **usual | {"client_encoding": "UTF8"})
        host = given.get("host") or os.environ.get("PGHOST", "")
        port = given.get("port") or os.environ.get("PGPORT", "5432")
        database = given.get("dbname") or os.environ.get("PGDATABASE", "")
        object.__setattr__(self, "conninfo", conninfo)
        object.__setattr__(self, "name", f"postgresql://{host}:{port}/{database}")

    def session(self) -> sql.Composed:
        """Return the statement that tells a session its limits, and where the tables are.

        Not in the greeting: a pooler refuses them there, or leaves them out.
        """
        # Who stops half way through a transaction must not keep a thread locked until it is dead.
        idle = min(self.lock_timeout, self.lease_timeout / 3)
        settings = {
            "search_path": self.schema,
            "statement_timeout": _milliseconds(self.statement_timeout),
            "lock_timeout": _milliseconds(self.lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle),
            "idle_session_timeout": "0",
            "default_transaction_isolation": "read committed",
        }
        calls = [
            sql.SQL("set_config({}, {}, false)").format(name, value)
            for name, value in settings.items()
        ]
        return sql.SQL("SELECT {}; {}").format(sql.SQL(", ").join(calls), _LOOK_FOR_CLIENT)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def connect(settings: Settings) -> Connection:
    """Connect, in the caller's thread. Raises `CannotConnectError`."""
    with as_connection_errors():
        connection = psycopg.connect(settings.conninfo, autocommit=True)
        begin_session(connection, settings)
        return connection


def begin_session(connection: Connection, settings: Settings) -> None:
    """Tell a new session its limits, in one round trip; the connection is closed if that fails.

    Takes `connect_timeout` at most: a pooler greets those too for whom it has no session.
    """
    keep_from_forks(connection)
    call = Call()
    timer = threading.Timer(settings.connect_timeout, call.cut)
    try:
        with call.using(connection):
            timer.start()
            connection.execute(settings.session())
    except psycopg.Error as error:
        connection.close()
        if call.is_given_up:
            raise CannotConnectError(_NO_SESSION) from error
        raise
    finally:
        timer.cancel()
