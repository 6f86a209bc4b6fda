from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from chatkit_trio.stores._instance_lock import InstanceLock, live_instances


def test_a_lock_is_alive_until_it_is_released(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    one, other = InstanceLock(database), InstanceLock(database)
    assert live_instances(database) == {one.instance, other.instance}
    one.release()
    assert live_instances(database) == {other.instance}
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    (tmp_path / "chat.db-instance-00ff").touch()
    (tmp_path / "another.db-instance-00ff").touch()
    assert live_instances(database) == set()
    assert [file.name for file in tmp_path.iterdir()] == ["another.db-instance-00ff"]


def test_a_lock_being_made_is_never_taken_for_a_stale_one(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    done = Event()

    def look() -> None:
        while not done.is_set():
            live_instances(database)

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
