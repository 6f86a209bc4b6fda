"""`migrate`: bring the tables of a PostgreSQL store up to date."""

from __future__ import annotations

import sys

import click

from chatkit_trio.errors import StoreError

_TO_DO, _CANT = 1, 3  # click's own is 2, for a wrong call


@click.command()
@click.argument("url", default="")
@click.option("--schema", default="chatkit_trio", show_default=True, help="Where the tables are.")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if there is work to do.")
def migrate(url: str, schema: str, check: bool) -> None:
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
    state = f"schema {schema} has version {found}" if found else f"schema {schema} has no tables"
    if found == known:
        click.echo(f"{state}, which is the newest: nothing to do")
    elif check:
        click.echo(f"{state}; the newest is {known}")
        sys.exit(_TO_DO)
    else:
        click.echo(f"{state.replace('has', 'had')}; it has version {known} now")
