"""A file that isn't ours is refused as it was: its bytes, its mode, and nothing beside it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing

import pytest
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.errors import StoreError
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.stores._sqlite_file import check_file
from chatkit_trio.stores._sqlite_schema import APPLICATION_ID
from chatkit_trio.types import ThreadMetadata


def state(directory):
    """Return what a directory has: names, kinds, modes, sizes, times and bytes."""
    found = {}
    for path in sorted(directory.iterdir()):
        status = path.stat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[path.name] = (status.st_mode, status.st_mtime_ns, content)
    return found


def other_program(path, *statements):
    with closing(sqlite3.connect(path)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()


def text(path):
    path.write_text("Dear diary, " * 1000)


def short_text(path):
    path.write_text("x")


def another_programs_file(path):
    other_program(path, "CREATE TABLE customers (name TEXT)")


def another_programs_mark_without_tables(path):
    other_program(path, "PRAGMA application_id = 77", "PRAGMA user_version = 1")


def another_programs_version_without_tables(path):
    other_program(path, "PRAGMA user_version = 1")


def another_programs_many_tables(path):
    other_program(path, *(f"CREATE TABLE t{n} (x TEXT, y TEXT)" for n in range(300)))


def another_programs_log(path):
    other_program(path, "PRAGMA journal_mode = WAL", "CREATE TABLE customers (name TEXT)")


def another_programs_log_after_a_crash(path):
    """All that the program has written is still in its log."""
    there = path.with_name("there.db")
    with closing(sqlite3.connect(there)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE customers (name TEXT)")
        other.commit()
        shutil.copy(there, path)
        shutil.copy(f"{there}-wal", f"{path}-wal")
    there.unlink()


def another_programs_hot_journal(path):
    """The program died in a transaction: whoever opens the file next rolls it back."""
    there = path.with_name("there.db")
    other_program(there, "CREATE TABLE customers (name TEXT)", "INSERT INTO customers VALUES ('a')")
    with closing(sqlite3.connect(there, isolation_level=None)) as other:
        other.execute("PRAGMA cache_spill = 1")
        other.execute("PRAGMA cache_size = 1")
        other.execute("BEGIN EXCLUSIVE")
        for number in range(2000):
            other.execute("INSERT INTO customers VALUES (?)", (f"name {number}" * 20,))
        shutil.copy(there, path)
        shutil.copy(f"{there}-journal", f"{path}-journal")
    there.unlink()
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0


def newer_version(path):
    other_program(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 99")


def newer_version_with_a_log(path):
    other_program(
        path,
        "PRAGMA journal_mode = WAL",
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 99",
    )


def directory(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


FOREIGN = [
    text,
    short_text,
    another_programs_file,
    another_programs_mark_without_tables,
    another_programs_version_without_tables,
    another_programs_many_tables,
    another_programs_log,
    another_programs_log_after_a_crash,
    another_programs_hot_journal,
    newer_version,
    newer_version_with_a_log,
    directory,
    pipe,
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
async def test_a_store_leaves_a_foreign_file_as_it_was(tmp_path, make):
    path = tmp_path / "chat.db"
    make(path)
    path.chmod(0o644)
    before = state(tmp_path)

    with pytest.raises(StoreError, match=r"can't use .*chat\.db"):
        await SQLiteStore(path).__aenter__()

    assert state(tmp_path) == before


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", [["doctor", "--database"], ["threads"]], ids=" ".join)
def test_the_command_line_leaves_a_foreign_file_as_it_was(tmp_path, make, command):
    path = tmp_path / "chat.db"
    make(path)
    path.chmod(0o644)
    before = state(tmp_path)

    result = CliRunner().invoke(main, [*command, str(path)])

    assert result.exit_code != 0
    assert state(tmp_path) == before


async def test_an_empty_file_is_taken(tmp_path):
    path = tmp_path / "chat.db"
    path.touch()
    async with SQLiteStore(path) as store:
        await store.ping()


async def test_a_blank_database_is_taken(tmp_path):
    path = tmp_path / "chat.db"
    other_program(path, "VACUUM")
    async with SQLiteStore(path) as store:
        await store.ping()


async def test_our_own_file_is_known_after_a_crash_though_all_of_it_is_in_the_log(tmp_path):
    thread = ThreadMetadata(id="thr_1", created_at="2026-01-01T00:00:00")
    path, copy = tmp_path / "chat.db", tmp_path / "copy.db"
    async with SQLiteStore(path) as store:
        await store.save_thread(thread, None)
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")

    check_file(copy)
    async with SQLiteStore(copy) as store:
        assert (await store.load_thread("thr_1", None)).id == "thr_1"


async def test_files_of_others_in_a_directory_of_attachments_stay(tmp_path):
    """They hold up no collection either."""
    names = ["firmware.bin", "photo.part", "notes.json", "att_1.bin"]
    for name in names:
        (tmp_path / name).write_text("of another program")
    store = DiskAttachmentStore(
        tmp_path, metadata=MemoryStore(), base_url="http://localhost/files", secret="s" * 16
    )
    async with store:
        collected = await store.collect_orphans()

    assert collected == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
