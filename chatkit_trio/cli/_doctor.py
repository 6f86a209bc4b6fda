"""`doctor`: check what a server needs, and say what is missing.

A finding's sentence says what is so, not what was looked for: it is true whatever stands before it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from chatkit_trio.errors import StoreError
from chatkit_trio.stores._sqlite_schema import MIGRATIONS

from ._database_file import DatabaseFile, check_name, database_file
from ._plain import plural
from ._stored import is_url, require_psycopg

_PACKAGES = ["chatkit-trio", "trio", "hypercorn", "quart-trio", "pydantic"]
_EXTRAS = {"openai": "openai", "openai-agents": "agents", "psycopg": "postgres"}
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    """What was looked at, in one word."""
    is_well: bool
    text: str
    """What is so, and if it isn't well, what to do."""


@click.command()
@click.option(
    "--database",
    help="The SQLite file that the server is going to use, or the URL of its PostgreSQL database.",
)
@click.option(
    "--schema", default="chatkit_trio", show_default=True, help="PostgreSQL: where the tables are."
)
@click.option("--port", type=click.IntRange(1, 65535), help="The port that it is to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def doctor(database: str | None, schema: str, port: int | None, host: str, as_json: bool) -> None:
    """Find out what is wrong with this installation.

    Looks also at a database and a port, if they are named. Changes nothing. Exits with 0 if all is
    well, and with 1 if something is not.
    """
    findings = [*_installation()]
    if database is not None:
        if is_url(database):
            findings += _postgresql(database, schema)
        else:
            check_name(database)
            findings += _file(Path(database))
    if port is not None:
        findings.append(_port(host, port))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = click.style("ok  ", "green") if finding.is_well else click.style("BAD ", "red")
            click.echo(f"{mark} {finding.text}")
    if not all(finding.is_well for finding in findings):
        raise click.exceptions.Exit(1)


def _installation() -> Iterator[Finding]:
    found = sys.version.split()[0]
    if sys.version_info >= _OLDEST_PYTHON:
        yield Finding("python", True, f"this is Python {found}")
    else:
        yield Finding("python", False, f"this is Python {found}; 3.11 or newer is needed")
    for package in _PACKAGES:
        try:
            yield Finding("package", True, f"{package} {version(package)} is installed")
        except PackageNotFoundError:
            text = f"{package} is missing: install chatkit-trio again, with what it needs"
            yield Finding("package", False, text)
    for package, extra in _EXTRAS.items():
        try:
            yield Finding("extra", True, f"{package} {version(package)} is installed")
        except PackageNotFoundError:
            text = f"{package} is not installed; who needs it installs chatkit-trio[{extra}]"
            yield Finding("extra", True, text)


def _file(path: Path) -> Iterator[Finding]:
    directory = Path(os.path.realpath(path)).parent  # a link to itself is told further down
    if not directory.is_dir():
        yield Finding("directory", False, f"there is no directory {directory}: make it first")
        return
    if os.access(directory, os.W_OK):
        yield Finding("directory", True, f"this user may write to {directory}")
    else:
        text = f"this user may not write to {directory}, where SQLite keeps its log beside the file"
        yield Finding("directory", False, text)
    try:
        path.stat()
    except FileNotFoundError:
        yield Finding("database", True, f"{path} isn't there yet; the server will make it")
        return
    except OSError as error:
        yield Finding("database", False, f"{path} can't be looked at: {error.strerror}")
        return
    if path.is_dir():
        text = f"{path} is a directory, and a file is needed: name one in it"
        yield Finding("database", False, text)
        return
    if os.access(path, os.W_OK):
        yield Finding("database", True, f"this user may write to {path}")
    else:
        text = f"this user may not write to {path}: have the server run as its owner"
        yield Finding("database", False, text)
    try:
        with database_file(path) as file:
            yield from _contents(path, file)
    except click.ClickException as error:
        yield Finding("database", False, error.message)


def _contents(path: Path, file: DatabaseFile) -> Iterator[Finding]:
    if not file.is_ours:
        # That of another program can't be opened.
        yield Finding("tables", True, f"{path} is empty; the server will make its tables")
        return
    found, known = file.schema_version, len(MIGRATIONS)
    if found < known:
        text = f"its tables have version {found}; the server will upgrade them to {known}"
        yield Finding("tables", True, text)
        return
    yield Finding("tables", True, f"its tables have version {found}, which is the newest")
    abandoned = file.abandoned_turns()
    text = "a crash has left no answer unfinished"
    if abandoned:
        what = plural(abandoned, "unfinished answer")
        text = f"a crash has left {what}, which the next start settles"
    yield Finding("journal", True, text)
    unstorable = file.unstorable_items()
    if unstorable:
        what = plural(unstorable, "item")
        text = f"the store refused {what}; the text is in the table `unstorable`"
        yield Finding("unstorable", False, text)
    else:
        yield Finding("unstorable", True, "every item could be stored")


def _postgresql(url: str, schema: str) -> Iterator[Finding]:
    try:
        require_psycopg()
        from chatkit_trio.stores._postgresql_upgrade import version as versions

        found, known = versions(url, schema)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except (StoreError, click.ClickException) as error:
        yield Finding("database", False, str(error))
        return
    yield Finding("database", True, "the database answers")
    if found == known:
        text = f"the tables in schema {schema} have version {found}, which is the newest"
    elif found:
        text = f"the tables in schema {schema} have version {found}, and {known} is needed"
    else:
        text = f"schema {schema} has no tables"
    what_to_do = "" if found == known else ": run chatkit-trio migrate"
    yield Finding("tables", found == known, text + what_to_do)


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # The server sets this too; a port with connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, TypeError) as error:
            text = f"port {port} of {host} can't be listened on: {_why_not(error)}"
            return Finding("port", False, text)
    return Finding("port", True, f"port {port} of {host} is free")


def _why_not(error: OSError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "no machine can have that name"
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there"
        case errno.EACCES:
            return "this user may take ports from 1024 on only"
        case errno.EADDRNOTAVAIL:
            return "that is no address of this machine"
    return error.strerror or str(error)
