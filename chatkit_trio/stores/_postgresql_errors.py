"""The errors of PostgreSQL and of the way to it, in the words of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors

from chatkit_trio.errors import StoreError, TurnFencedError

from ._postgresql_calls import GivenUp

_WAYS_OUT = {
    "25006": "it takes no writes: name the primary server, or add target_session_attrs=read-write",
    "3F000": "run `chatkit-trio migrate`",
    "42501": "this user needs all rights on the schema of the store, and CREATE on the database to"
    " make it",
    "42P01": "run `chatkit-trio migrate`",
    "53100": "free some space on the server; nothing of this write was stored",
    "55P03": "another process has kept it locked for longer than lock_timeout; nothing was stored",
    "57014": "it took longer than statement_timeout; nothing of it was stored",
    "57P01": "the server is going down; whether this write was stored isn't known",
}

_NO_ANSWER = "the connection was lost; whether a write was stored isn't known"
_NO_SERVER = "is the server running, and are host, port, user and password right?"


class UnstorableTextError(ValueError):
    """Text that PostgreSQL can't hold: with a NUL character or half a surrogate pair."""


class CannotConnectError(psycopg.OperationalError):
    """There is no connection, so nothing can have happened."""


@contextmanager
def as_connection_errors() -> Iterator[None]:
    """Tell the errors of connecting from those of a connection."""
    try:
        yield
    except psycopg.Error as error:
        raise CannotConnectError(str(error)) from error


@contextmanager
def as_store_errors(name: str) -> Iterator[None]:
    """Turn errors of psycopg into ours; `name` says which database it is."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"can't use {name}: {error}") from None
    except GivenUp:
        raise StoreError(f"can't use {name}: no connection was to be had in time") from None
    except errors.ProgramLimitExceeded as error:
        raise ValueError(
            f"an id or the name of an owner is too long to be stored: {error}"
        ) from error
    except UnicodeEncodeError as error:
        raise _unstorable() from error
    except psycopg.DataError as error:
        if error.sqlstate is None:  # psycopg itself has refused it
            raise _unstorable() from error
        raise _store_error(name, error) from error
    except psycopg.Error as error:
        raise _store_error(name, error) from error


def fenced(turn_id: str) -> TurnFencedError:
    return TurnFencedError(
        f"turn {turn_id} isn't live on this node: another has settled it, or its thread is gone"
    )


def _unstorable() -> UnstorableTextError:
    return UnstorableTextError(
        "PostgreSQL can't hold an id, a key or the name of an owner with a NUL character or half a"
        " surrogate pair in it"
    )


def _store_error(name: str, error: psycopg.Error) -> StoreError:
    message = " ".join(str(error).split())
    way_out = _WAYS_OUT.get(error.sqlstate or "", "")
    if isinstance(error, CannotConnectError):
        way_out = _NO_SERVER
    elif not way_out and isinstance(error, psycopg.OperationalError):
        way_out = _NO_ANSWER
    return StoreError(f"can't use {name}: {message}{f' ({way_out})' if way_out else ''}")
