"""`doctor`: check what a server needs, and say what is missing."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from chatkit_trio.stores._sqlite_schema import MIGRATIONS

from ._database_file import DatabaseFile, database_file

_PACKAGES = ["chatkit-trio", "trio", "hypercorn", "quart-trio", "pydantic", "openai"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    is_well: bool
    text: str


@click.command()
@click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The SQLite file that the server is going to use.",
)
@click.option("--port", type=int, help="The port that it is going to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address.")
def doctor(database: Path | None, port: int | None, host: str) -> None:
    """Check this installation, a database, and a port; fail if something is wrong."""
    findings = [*_installation()]
    if database is not None:
        findings += _database(database)
    if port is not None:
        findings.append(_port(host, port))
    for finding in findings:
        click.echo(f"{'ok  ' if finding.is_well else 'BAD '} {finding.text}")
    if not all(finding.is_well for finding in findings):
        raise click.exceptions.Exit(1)


def _installation() -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}")
    for package in _PACKAGES:
        try:
            yield Finding(True, f"{package} {version(package)}")
        except PackageNotFoundError:
            # The openai package is an extra; the others are dependencies.
            yield Finding(package == "openai", f"{package} is not installed")


def _database(path: Path) -> Iterator[Finding]:
    directory = path.resolve().parent
    yield Finding(
        os.access(directory, os.W_OK),
        f"{directory} can be written to: SQLite keeps its log beside the file",
    )
    if not path.exists():
        yield Finding(True, f"{path} isn't there yet; the server will make it")
        return
    yield Finding(os.access(path, os.W_OK), f"{path} can be written to")
    try:
        with database_file(path) as file:
            yield from _contents(path, file)
    except click.ClickException as error:
        yield Finding(False, error.message)


def _contents(path: Path, file: DatabaseFile) -> Iterator[Finding]:
    if not file.is_ours:
        yield Finding(False, f"{path} is the file of another program")
        return
    found, known = file.schema_version, len(MIGRATIONS)
    older = "; the server will upgrade it" if found < known else ""
    yield Finding(found <= known, f"its tables have version {found}, known is {known}{older}")
    if found == known:
        abandoned = file.abandoned_turns()
        yield Finding(
            True, f"{abandoned} answers were left by a crash; the next start settles them"
        )
        unstorable = file.unstorable_items()
        yield Finding(
            unstorable == 0,
            f"{unstorable} items couldn't be stored; their text is in the table `unstorable`",
        )


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # The server sets this too; a port with connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(False, f"port {port} of {host} can't be listened on: {error.strerror}")
    return Finding(True, f"port {port} of {host} is free")
