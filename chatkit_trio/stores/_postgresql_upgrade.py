"""Looking at a schema and upgrading it, without a store."""

from __future__ import annotations

from collections.abc import Callable

from ._postgresql_calls import Connection
from ._postgresql_errors import as_store_errors
from ._postgresql_schema import check, migrate, newest_version
from ._postgresql_settings import Settings, connect


def version(url: str, schema: str) -> tuple[int, int]:
    """Return the version that a schema has, 0 if it has no tables, and the newest.

    Blocks. Raises `StoreError`, and `ValueError` for a wrong URL or name.
    """
    return _ask(url, schema, check), newest_version()


def upgrade(url: str, schema: str) -> tuple[int, int]:
    """Make or upgrade the tables; return the version that they had, and the newest.

    Blocks, as long as it takes. Raises as `version`.
    """
    return _ask(url, schema, migrate), newest_version()


def _ask(url: str, schema: str, what: Callable[[Connection, str], int]) -> int:
    settings = Settings(
        url,
        schema,
        connect_timeout=10,
        statement_timeout=10,
        lock_timeout=10,
        lease_timeout=15,
    )
    with as_store_errors(settings.name), connect(settings) as connection:
        return what(connection, schema)
