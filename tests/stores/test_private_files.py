"""Who may read what the stores make, whatever the umask."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

import pytest

from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.types import AttachmentCreateParams, ThreadMetadata

UMASKS = [0o000, 0o022, 0o077, 0o277, 0o777]


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(directory):
    return {
        path.name.partition("-instance-")[0]: stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
    }


async def write_to(path):
    async with SQLiteStore(path) as store:
        await store.save_thread(ThreadMetadata(id="thr_1", created_at="2026-01-01T00:00:00"), None)
        return modes(path.parent), sorted(each.name for each in path.parent.iterdir())


@pytest.mark.parametrize("mask", UMASKS, ids=oct)
async def test_a_new_database_its_log_and_its_lock_are_private(tmp_path, mask):
    with umask(mask):
        found, names = await write_to(tmp_path / "chat.db")

    assert len(names) == 4
    assert set(found) == {"chat.db", "chat.db-wal", "chat.db-shm"}
    assert set(found.values()) == {0o600}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660])
async def test_a_database_that_is_there_keeps_its_mode_and_its_files_get_no_wider_one(
    tmp_path, mode
):
    path = tmp_path / "chat.db"
    await write_to(path)
    path.chmod(mode)
    with umask(0o000):
        found, _ = await write_to(path)

    assert set(found.values()) == {mode}


async def test_a_lock_that_is_put_back_is_as_private_as_before(tmp_path):
    async with SQLiteStore(tmp_path / "chat.db") as store:
        (lock,) = tmp_path.glob("*-instance-*")
        lock.unlink()
        with umask(0o000):
            await store.journal.begin("turn_1", "thr_1", None)
        mode = stat.S_IMODE(lock.stat().st_mode)

    assert mode == 0o600


def attachment_store(directory):
    return DiskAttachmentStore(
        directory, metadata=MemoryStore(), base_url="http://localhost/files", secret="s" * 16
    )


@pytest.mark.parametrize("mask", UMASKS, ids=oct)
async def test_a_new_directory_of_attachments_and_what_is_in_it_are_private(tmp_path, mask):
    with umask(mask):
        async with attachment_store(tmp_path / "files") as store:
            params = AttachmentCreateParams(name="a.txt", size=3, mime_type="text/plain")
            await store.create_attachment(params, None)
            await store.ping()
            found = modes(tmp_path)

    assert found.pop("files") == 0o700
    assert len(found) == 2
    assert set(found.values()) == {0o600}


async def test_a_directory_that_is_there_keeps_its_mode_and_what_is_made_in_it_is_private(tmp_path):
    directory = tmp_path / "files"
    directory.mkdir()
    directory.chmod(0o755)
    with umask(0o000):
        async with attachment_store(directory) as store:
            params = AttachmentCreateParams(name="a.txt", size=3, mime_type="text/plain")
            await store.create_attachment(params, None)
            found = modes(tmp_path)

    assert found.pop("files") == 0o755
    assert set(found.values()) == {0o600}
