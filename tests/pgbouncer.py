"""A PgBouncer of the tests' own, in front of their PostgreSQL server: a session for each client.

Needs Debian's package `pgbouncer`. It refuses to run as root, as PostgreSQL does.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.postgresql_server import NEEDED, SUPERUSER, Server

_PORT = 6432
"""Of the Unix socket; no port of the machine is used."""


def program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def running_pgbouncer(
    server: Server, *, sessions: int = 100, **settings: str
) -> Iterator[Callable[[str], str]]:
    """Start PgBouncer, or skip; what it gives turns the URL of a database into one through it."""
    binary = program()
    if binary is None:
        reason = "PgBouncer isn't installed (on Debian: apt-get install pgbouncer)"
        if os.environ.get(NEEDED):
            pytest.fail(reason)
        pytest.skip(reason)
    lines = {
        "listen_port": str(_PORT),
        "unix_socket_dir": str(server.directory),
        "auth_type": "any",
        "pool_mode": "session",
        "default_pool_size": str(sessions),
    } | settings
    file = server.directory / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = host={server.directory} user={SUPERUSER}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    with subprocess.Popen(
        [binary, file],
        user=pwd.getpwuid(server.directory.stat().st_uid).pw_name,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(process, f"{server.url()}&port={_PORT}")
            yield lambda url: f"{url}&port={_PORT}"
        finally:
            process.terminate()


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    for tries_left in reversed(range(600)):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if not tries_left or process.poll() is not None:
                raise
            time.sleep(0.05)
        else:
            return
