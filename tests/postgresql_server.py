"""A PostgreSQL server of the tests' own: a temporary cluster on a Unix socket, for one session.

Needs the server's programs (Debian's package `postgresql`); nothing of the system's clusters is
touched. PostgreSQL refuses to run as root, so tests that do run it as another user.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

NEEDED = "CHATKIT_TRIO_NEEDS_POSTGRESQL"
"""Set where a missing server is a failure and no reason to skip."""

SUPERUSER = "chatkit"

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "panic",
}

_END_OTHER_SESSIONS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_HAS_ALL = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
_TABLES = """
    SELECT schemaname, tablename FROM pg_tables
    WHERE schemaname = 'chatkit_trio' AND tablename <> 'migrations'
"""


def programs() -> Path | None:
    """Return the directory of the newest server's programs."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found.sort(key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    on_path = shutil.which("initdb")
    candidates = [*reversed(found), *([Path(on_path).parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").exists()), None)


class Server:
    """A running server; `restart`, `stop` and `start` it as a test needs.

    With `primary` it is a standby of that server.
    """

    def __init__(self, directory: Path, binaries: Path, primary: Server | None = None) -> None:
        self.directory = directory
        self._binaries = binaries
        self._user: str | None = None
        if os.getuid() == 0:
            names = {user.pw_name for user in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            os.chown(directory, pwd.getpwnam(self._user).pw_uid, -1)
        self._numbers = itertools.count(1)
        self._emptied: str | None = None
        if primary is None:
            self._run("initdb", "-D", str(self._data), "-U", SUPERUSER, "-A", "trust", "--no-sync")
        else:
            source = ["-h", str(primary.directory), "-U", SUPERUSER]
            options = ["--checkpoint=fast", "--write-recovery-conf", "--no-sync"]
            self._run("pg_basebackup", "-D", str(self._data), *source, *options)
        with (self._data / "postgresql.conf").open("a") as settings:
            for name, value in (_SETTINGS | {"unix_socket_directories": str(directory)}).items():
                settings.write(f"{name} = '{value}'\n")
        self.start()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        return f"postgresql://{user}@/{database}?host={self.directory}"

    @property
    def socket(self) -> Path:
        return self.directory / ".s.PGSQL.5432"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self._data],
            user=self._user,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for tries_left in reversed(range(600)):
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if not tries_left or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """End all sessions and the server; `at_once` is as in a crash."""
        self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        self._process.wait(60)

    def restart(self, *, at_once: bool = False) -> None:
        self.stop(at_once=at_once)
        self.start()

    @contextmanager
    def standby(self) -> Iterator[Server]:
        """Make a server that follows this one; `replace` has it take its place."""
        with _short_directory() as directory:
            server = Server(directory, self._binaries, self)
            try:
                yield server
            finally:
                server.stop(at_once=True)

    def replace(self, primary: Server) -> None:
        """Take the place of the server that this one follows, which is stopped."""
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        with psycopg.connect(self.url(), autocommit=True) as connection:
            while connection.execute(_HAS_ALL, row).fetchone() != (True,):
                time.sleep(0.05)
            primary.stop(at_once=True)
            connection.execute("SELECT pg_promote()")

    @contextmanager
    def asking_for_passwords(self, user: str) -> Iterator[None]:
        """Let a user in with a password only."""
        rules = self._data / "pg_hba.conf"
        before = rules.read_text()
        rules.write_text(f"local all {user} scram-sha-256\n{before}")
        self._read_settings()
        try:
            yield
        finally:
            rules.write_text(before)
            self._read_settings()

    def _read_settings(self) -> None:
        """Have the server read its files again; return when new sessions are let in by them."""
        last = self._read_at()
        self._process.send_signal(signal.SIGHUP)
        while self._read_at() == last:
            time.sleep(0.01)

    def _read_at(self) -> object:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            return connection.execute("SELECT pg_conf_load_time()").fetchone()

    @contextmanager
    def database(self, *, encoding: str = "UTF8") -> Iterator[str]:
        """Make an empty database, and drop it at the end; its URL."""
        name = f"test_{next(self._numbers)}"
        make = sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0")
        self.execute(make.format(sql.Identifier(name), sql.Literal(encoding)))
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def emptied_database(self) -> str:
        """Return the URL of a database with empty tables of the store, or none; made once.

        Emptying takes a tenth of the time that making a database does.
        """
        if self._emptied is None:
            self.execute(sql.SQL("CREATE DATABASE emptied").format())
            self._emptied = self.url("emptied")
        with psycopg.connect(self._emptied, autocommit=True) as connection:
            connection.execute(_END_OTHER_SESSIONS)
            tables = [sql.Identifier(*names) for names in connection.execute(_TABLES)]
            if tables:
                truncate = sql.SQL("TRUNCATE {} RESTART IDENTITY")
                connection.execute(truncate.format(sql.SQL(", ").join(tables)))
        return self._emptied

    def execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            user=self._user,
            cwd=self.directory,
            check=True,
            capture_output=True,
        )


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server, or skip if there is none."""
    binaries = programs()
    if binaries is None:
        reason = "no PostgreSQL server is installed (on Debian: apt-get install postgresql)"
        if os.environ.get(NEEDED):
            pytest.fail(reason)
        pytest.skip(reason)
    with _short_directory() as directory:
        server = Server(directory, binaries)
        try:
            yield server
        finally:
            server.stop(at_once=True)


@contextmanager
def _short_directory() -> Iterator[Path]:
    """Make a directory with a short path: that of a socket has at most some hundred characters."""
    directory = Path(tempfile.mkdtemp(prefix="chatkit-pg-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
