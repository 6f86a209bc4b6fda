"""What is written of a turn while it runs, and that the writing harms none."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio import recording
from chatkit_trio.observe import TurnEnded
from chatkit_trio.recording import TurnRecorder
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import pause, say, scripted_server
from tests.all_ends import ENDS, SECRET, let_end
from tests.engine.scenes import ask

MARK = "chatkit_trio"


def lines_of(directory: Path, turn_id: str = "") -> list[dict[str, Any]]:
    """Return what the one file of a turn has."""
    (path,) = directory.glob(f"*{turn_id}.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def answer_to(server: Any) -> str:
    """Send a message, and return what the store has of the answer then."""
    turn = await ask(server)
    items = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)
    return "".join(content.text for content in items.data[-1].content)


@pytest.mark.parametrize("reason", ENDS)
async def test_a_file_has_all_that_clients_could_read_and_how_the_turn_ended(
    reason, autojump_clock, tmp_path
):
    ended: list[TurnEnded] = []
    recorder = TurnRecorder(tmp_path)

    def watch(server: Any) -> None:
        server.observe(recorder)
        server.observe(lambda event: isinstance(event, TurnEnded) and ended.append(event))

    before = datetime.now(UTC) - timedelta(seconds=1)
    turn = await let_end(reason, watch)
    assert recorder.flush(20)

    head, *steps, end = lines_of(tmp_path, turn.id)
    frames = turn.log.open_reader(0)
    told = [json.loads(frame.removeprefix(b"data: ")) for frame in await frames.receive(10**9)]
    (told_end,) = [event for event in ended if event.turn.turn_id == turn.id]
    assert before < datetime.fromisoformat(head.pop("began_at")) < datetime.now(UTC)
    assert head == {
        "format": "chatkit-trio turn",
        "version": 1,
        "turn_id": turn.id,
        "thread_id": turn.thread_id,
        "request": "threads.create",
    }
    assert [step["event"] for step in steps] == told
    assert SECRET in json.dumps(told)
    assert end == {
        "ms": round(told_end.seconds * 1000),
        "ended": reason,
        "events": len(told),
        "missing": 0,
    }


async def test_each_event_has_its_time_since_the_turn_was_asked_for(autojump_clock, tmp_path):
    recorder = TurnRecorder(tmp_path)
    server = scripted_server(MemoryStore(), [pause(3), say("Hello", " you", every=1.5)])
    server.observe(recorder)
    async with server:
        await ask(server)
    recorder.flush(20)

    deltas = [
        (step["ms"], step["event"]["update"]["delta"])
        for step in lines_of(tmp_path)
        if step.get("event", {}).get("update", {}).get("delta")
    ]
    assert deltas == [(4500, "Hello"), (6000, " you")]


async def test_a_turn_that_is_refused_is_recorded_with_what_its_client_was_told(
    autojump_clock, tmp_path
):
    recorder = TurnRecorder(tmp_path)

    class Shut(MemoryStore[Any]):
        async def begin_turn(self, opening: Any, context: Any) -> None:
            raise OSError("shut")

    server = scripted_server(Shut(), [say("Hello")])
    server.observe(recorder)
    async with server:
        await ask(server)
    recorder.flush(20)

    _head, step, end = lines_of(tmp_path)
    assert step["event"]["type"] == "error"
    assert end["ended"] == "refused"


async def test_files_and_a_new_directory_are_for_their_owner_only(autojump_clock, tmp_path):
    directory = tmp_path / "new" / "recordings"
    before = os.umask(0)
    try:
        recorder = TurnRecorder(directory)
        server = scripted_server(MemoryStore(), [say("Hello")])
        server.observe(recorder)
        async with server:
            await ask(server)
        recorder.flush(20)
    finally:
        os.umask(before)

    (path,) = directory.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_long_turn_is_cut_in_its_file_only_and_the_file_says_so(autojump_clock, tmp_path):
    recorder = TurnRecorder(tmp_path, max_turn_bytes=3000)
    server = scripted_server(MemoryStore(), [say(*["word "] * 100, every=1)])
    server.observe(recorder)
    async with server:
        stored = await answer_to(server)
    recorder.flush(20)

    (path,) = tmp_path.iterdir()
    _head, *steps, gap, end = lines_of(tmp_path)
    assert stored == "word " * 100
    assert 2500 < path.stat().st_size < 3300
    assert gap == {
        "ms": end["ms"],
        "missing": end["events"] - len(steps),
        "because": "size",
    }
    assert gap["missing"] == end["missing"] > 50


async def test_a_disk_that_hangs_holds_up_no_turn_and_what_is_lost_is_told(
    autojump_clock, tmp_path, monkeypatch
):
    recorder = TurnRecorder(tmp_path, max_waiting_bytes=2000)
    goes_on, opened = threading.Event(), recording.open_private

    def hanging(*arguments: Any) -> int:
        assert goes_on.wait(60)
        return opened(*arguments)

    monkeypatch.setattr(recording, "open_private", hanging)
    server = scripted_server(MemoryStore(), [say(*["word "] * 100, every=1)], [say("Late")])
    server.observe(recorder)
    try:
        async with server:
            stored = await answer_to(server)
            assert not recorder.flush(0)
            goes_on.set()
            assert recorder.flush(20)
            await ask(server, "again")
            assert recorder.flush(20)
    finally:
        goes_on.set()

    first, second = sorted(tmp_path.iterdir())
    _head, *steps, gap, end = [json.loads(line) for line in first.read_bytes().splitlines()]
    assert stored == "word " * 100
    assert (gap["because"], gap["missing"]) == ("disk", end["missing"])
    assert end["events"] == len(steps) + end["missing"]
    assert end["ended"] == "finished"
    assert json.loads(second.read_bytes().splitlines()[-1])["missing"] == 0


async def test_turns_for_which_there_is_no_room_at_all_are_counted_in_the_log(
    autojump_clock, tmp_path, monkeypatch, caplog
):
    recorder = TurnRecorder(tmp_path, max_waiting_bytes=250)
    goes_on, opened = threading.Event(), recording.open_private

    def hanging(*arguments: Any) -> int:
        assert goes_on.wait(60)
        return opened(*arguments)

    monkeypatch.setattr(recording, "open_private", hanging)
    server = scripted_server(MemoryStore(), *[[say("Hello")]] * 3)
    server.observe(recorder)
    try:
        async with server:
            for _ in range(3):
                await ask(server)
    finally:
        goes_on.set()
    recorder.flush(20)

    assert len(list(tmp_path.iterdir())) == 1
    warnings = [record.getMessage() for record in caplog.records if "isn't recorded" in record.msg]
    assert len(warnings) == 1
    assert str(tmp_path) in warnings[0]


@pytest.mark.parametrize("fault", ["no space", "the directory is gone"])
async def test_a_disk_that_fails_is_told_once_and_the_answer_is_stored(
    autojump_clock, tmp_path, monkeypatch, caplog, fault
):
    directory = tmp_path / "recordings"
    recorder = TurnRecorder(directory)
    server = scripted_server(MemoryStore(), *[[say("Hello", " you", every=1)]] * 2)
    server.observe(recorder)
    if fault == "no space":

        def full(*arguments: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(recording, "open_private", full)
    else:
        directory.rmdir()
    with caplog.at_level(logging.WARNING, MARK):
        async with server:
            stored = [await answer_to(server) for _ in range(2)]
        assert recorder.flush(20)

    assert stored == ["Hello you"] * 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(directory) in warnings[0]
    assert SECRET not in caplog.text


async def test_what_stands_there_is_never_written_to(autojump_clock, tmp_path, monkeypatch):
    """A link that somebody has put into the directory leads nowhere."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    directory = tmp_path / "recordings"
    recorder = TurnRecorder(directory)
    opened = recording.open_private

    def after_a_link(path: Path, flags: int) -> int:
        path.symlink_to(victim)
        return opened(path, flags)

    monkeypatch.setattr(recording, "open_private", after_a_link)
    server = scripted_server(MemoryStore(), [say("Hello")])
    server.observe(recorder)
    async with server:
        await ask(server)
    recorder.flush(20)

    assert victim.read_text() == "mine"


def test_a_directory_that_cannot_be_used_is_told_when_the_recorder_is_made(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        TurnRecorder(file)
    with pytest.raises(OSError, match="file"):
        TurnRecorder(file / "below")


@pytest.mark.parametrize("name", ["max_turn_bytes", "max_waiting_bytes"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_that_cannot_be_meant_is_refused(tmp_path, name, value, error):
    limits: dict[str, Any] = {name: value}
    with pytest.raises(error, match=name):
        TurnRecorder(tmp_path, **limits)
