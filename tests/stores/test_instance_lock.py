from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from chatkit_trio.stores._instance_lock import InstanceLock, live_instances, remove_dead_locks


def test_a_lock_is_alive_until_it_is_released(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    one, other = InstanceLock(database), InstanceLock(database)
    assert live_instances(database) == {one.instance, other.instance}
    one.release()
    assert live_instances(database) == {other.instance}
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_looking_who_is_alive_changes_nothing(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    (tmp_path / "chat.db-instance-00ff").touch()
    assert live_instances(database) == set()
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db-instance-00ff"]


def test_the_file_of_a_dead_process_is_removed_and_no_other(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    (tmp_path / "chat.db-instance-00ff").touch()
    (tmp_path / "another.db-instance-00ff").touch()
    lock = InstanceLock(database)
    remove_dead_locks(database)
    assert {file.name for file in tmp_path.iterdir()} == {
        "another.db-instance-00ff",
        f"chat.db-instance-{lock.instance}",
    }
    lock.release()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("ask", [live_instances, remove_dead_locks])
def test_without_a_descriptor_to_look_with_nobody_is_taken_for_dead(
    tmp_path: Path, ask: Callable[[Path], object]
) -> None:
    database = tmp_path / "chat.db"
    lock = InstanceLock(database)
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        ask(database)
    assert live_instances(database) == {lock.instance}
    lock.release()


@pytest.mark.parametrize("ask", [live_instances, remove_dead_locks])
def test_in_a_directory_that_may_not_be_listed_nobody_is_taken_for_dead(
    tmp_path: Path, ask: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: object) -> None:
        raise PermissionError(f"may not list {directory}")

    with monkeypatch.context() as patched:
        for name in ("listdir", "scandir"):  # as root, one may list everything
            patched.setattr(os, name, refuse)
        with pytest.raises(PermissionError):
            ask(tmp_path / "chat.db")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_was_removed_is_put_back_under_its_name(
    tmp_path: Path, replaced: bool
) -> None:
    database = tmp_path / "chat.db"
    lock = InstanceLock(database)
    lock.path.unlink()
    if replaced:
        lock.path.touch()
    assert not lock.is_in_place
    lock.put_back()
    assert lock.is_in_place
    assert live_instances(database) == {lock.instance}
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_being_made_is_never_taken_for_a_stale_one(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    done = Event()

    def look() -> None:
        while not done.is_set():
            live_instances(database)
            remove_dead_locks(database)

    def make() -> bool:
        lock = InstanceLock(database)
        held = lock.instance in live_instances(database)
        lock.release()
        return held

    with ThreadPoolExecutor(3) as threads:
        looking = [threads.submit(look) for _ in range(2)]
        held = [threads.submit(make) for _ in range(200)]
        assert all(one.result() for one in held)
        done.set()
        for one in looking:
            one.result()
    assert list(tmp_path.iterdir()) == []
