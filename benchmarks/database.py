"""The database that both servers keep their threads in."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from chatkit_trio.stores._sqlite_schema import migrate


def make_database(path: Path) -> None:
    """Make the tables, so that both servers find the same ones."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    migrate(db)
    db.commit()
    db.close()


def items_in(path: Path, thread_id: str) -> list[dict[str, Any]]:
    """Return a thread's items, in order."""
    db = sqlite3.connect(path)
    rows = db.execute(
        "SELECT items.data FROM items JOIN threads ON items.thread = threads.seq"
        " WHERE threads.id = ? ORDER BY items.seq",
        (thread_id,),
    ).fetchall()
    db.close()
    return [json.loads(row[0]) for row in rows]


def threads_in(path: Path) -> list[str]:
    """Return the ids of all threads."""
    db = sqlite3.connect(path)
    rows = db.execute("SELECT id FROM threads ORDER BY seq").fetchall()
    db.close()
    return [row[0] for row in rows]
