"""`migrate`: bring the tables of a PostgreSQL store up to date."""

from __future__ import annotations

import json
import sys

import click

from chatkit_trio.errors import StoreError

_TO_DO, _CANT = 1, 3  # click's own is 2, for a wrong call


@click.command()
@click.argument("url", default="")
@click.option("--schema", default="chatkit_trio", show_default=True, help="Where the tables are.")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if there is work to do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def migrate(url: str, schema: str, check: bool, as_json: bool) -> None:
    """Make or upgrade the tables of a PostgreSQL store.

    URL is as for PostgreSQLStore; what it leaves out comes from PGHOST, PGPASSWORD and the like, so
    that a password needn't be on the command line. Servers that run may go on meanwhile. Of several
    calls at once each waits for the one before.

    Exits with 0 if the tables are up to date, with 1 if --check finds that they aren't, with 2 for
    a wrong call, and with 3 if the database can't be reached or used.
    """
    try:
        from chatkit_trio.stores._postgresql_upgrade import upgrade, version
    except ImportError as error:
        raise click.ClickException(
            f"psycopg is needed ({error}): pip install 'chatkit-trio[postgres]'"
        ) from error
    try:
        found, known = version(url, schema) if check else upgrade(url, schema)
    except StoreError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_CANT)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    after = found if check else known
    if as_json:
        told = {
            "schema": schema,
            "before": found or None,
            "after": after or None,
            "newest": known,
            "applied": list(range(found + 1, after + 1)),
        }
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(_told(schema, found, after, known))
    if after != known:
        sys.exit(_TO_DO)


def _told(schema: str, before: int, after: int, newest: int) -> str:
    """Return in a sentence what was done, or is to be done."""
    what = f"version {before}" if before else "no tables"
    if before == newest:
        return f"schema {schema} has {what}, which is the newest: nothing to do"
    if after != newest:
        return f"schema {schema} has {what}; the newest is {newest}"
    return f"schema {schema} had {what}; it has version {after} now"
