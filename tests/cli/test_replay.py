"""`replay`: what was recorded of turns is listed and played, and what can't be is told."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.cli._playing import play
from chatkit_trio.cli._recordings import Recording
from tests.web.sockets import Caller, calling, items_in, running, served_by_cli

HEAD: dict[str, Any] = {
    "format": "chatkit-trio turn",
    "version": 1,
    "turn_id": "turn_1",
    "thread_id": "thr_1",
    "request": "threads.create",
    "began_at": "2026-05-04T12:00:00.000+00:00",
}


def at(ms: int, type: str, **fields: Any) -> dict[str, Any]:
    return {"ms": ms, "event": {"type": type, **fields}}


def delta(ms: int, text: str, item_id: str = "msg_2") -> dict[str, Any]:
    update = {
        "type": "assistant_message.content_part.text_delta",
        "content_index": 0,
        "delta": text,
    }
    return at(ms, "thread.item.updated", item_id=item_id, update=update)


def message(kind: str, text: str, item_id: str) -> dict[str, Any]:
    part = {"type": "input_text" if kind == "user_message" else "output_text", "text": text}
    return {"id": item_id, "thread_id": "thr_1", "type": kind, "content": [part]}


STEPS = [
    at(0, "thread.created", thread={"id": "thr_1"}),
    at(0, "thread.item.done", item=message("user_message", "Grüße", "msg_1")),
    at(1, "stream_options", stream_options={"allow_cancel": True}),
    at(500, "progress_update", text="Thinking"),
    at(900, "thread.item.added", item=message("assistant_message", "", "msg_2")),
    delta(1000, "Hel"),
    delta(1250, "lo\n"),
    delta(1500, "you"),
    at(2000, "thread.item.done", item=message("assistant_message", "Hello\nyou", "msg_2")),
    at(2100, "thread.item.done", item=message("assistant_message", "At once", "msg_3")),
    at(2200, "thread.item.added", item={"id": "wf_1", "type": "workflow"}),
    at(2300, "thread.item.updated", item_id="wf_1", update={"type": "workflow.task.added"}),
    at(2400, "thread.item.removed", item_id="wf_1"),
    at(2500, "error", code="custom", message="No more", allow_retry=False),
]
END = {"ms": 2600, "ended": "stopped", "events": len(STEPS), "missing": 0}

SHOWN = """\
turn_1 of thread thr_1: threads.create, 2026-05-04 12:00:00
[0.000] thread.created thr_1
[0.000] user: Grüße
[0.001] stream_options
[0.500] progress_update Thinking
[1.000] assistant: Hello
you
[2.100] assistant: At once
[2.200] thread.item.added workflow wf_1
[2.300] thread.item.updated workflow.task.added wf_1
[2.400] thread.item.removed wf_1
[2.500] error: No more
[2.600] ended: stopped
"""


def write(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.write_bytes(
        b"".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines
        )
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.jsonl", HEAD, *STEPS, END)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["replay", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_a_turn_is_shown_as_text_that_grows_and_a_line_for_each_other_event(file):
    assert run(file, "--speed", "0") == (0, SHOWN, "")


def test_machines_get_the_events_as_they_were_on_the_wire(file):
    code, out, err = run(file, "--speed", "0", "--json")

    assert [json.loads(line) for line in out.splitlines()] == [step["event"] for step in STEPS]
    assert "Grüße" in out
    assert (code, err) == (0, "")


class Clock:
    """Stands still, but for who sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.mark.parametrize(("speed", "factor"), [(1, 1), (2, 0.5), (0.5, 2), (0, 0)])
def test_each_event_comes_at_its_time(file, speed, factor):
    clock = Clock()
    times = [
        (line.ms, clock.now - 100)
        for line in play(Recording.open(file).lines(), speed, clock.time, clock.sleep)
    ]

    assert times == [
        (step["ms"], pytest.approx(step["ms"] / 1000 * factor)) for step in [*STEPS, END]
    ]


def test_time_that_showing_takes_is_not_added(file):
    clock = Clock()
    for line in play(Recording.open(file).lines(), 1, clock.time, clock.sleep):
        assert clock.now - 100 <= max(line.ms / 1000, 2.1) + 0.001
        clock.now += 0.1

    assert clock.now - 100 == pytest.approx(2.7)


def test_a_directory_is_listed_the_newest_first(tmp_path):
    other = {**HEAD, "turn_id": "turn_2", "began_at": "2026-05-04T13:00:00.000+00:00"}
    write(tmp_path / "a.jsonl", HEAD, *STEPS, END)
    write(tmp_path / "b.jsonl", other, *STEPS[:3])
    write(tmp_path / "notes.txt", b"not looked at")

    assert run(tmp_path) == (
        0,
        "turn_2  2026-05-04 13:00:00  threads.create of thread thr_1\n"
        "    has no end yet\n"
        "turn_1  2026-05-04 12:00:00  threads.create of thread thr_1\n"
        "    stopped after 2.6 s, 14 events\n",
        "",
    )
    assert json.loads(run(tmp_path, "--json")[1]) == [
        {
            "file": str(tmp_path / "b.jsonl"),
            "turn_id": "turn_2",
            "thread_id": "thr_1",
            "request": "threads.create",
            "began_at": "2026-05-04T13:00:00.000+00:00",
            "ended": None,
            "seconds": None,
            "events": None,
            "missing": None,
        },
        {
            "file": str(tmp_path / "a.jsonl"),
            "turn_id": "turn_1",
            "thread_id": "thr_1",
            "request": "threads.create",
            "began_at": "2026-05-04T12:00:00.000+00:00",
            "ended": "stopped",
            "seconds": 2.6,
            "events": 14,
            "missing": 0,
        },
    ]


def test_a_foreign_file_in_a_directory_is_told_and_the_others_are_listed(tmp_path, file):
    write(tmp_path / "z.jsonl", b'{"level": "INFO"}\n')

    code, out, err = run(tmp_path)

    assert code == 0
    assert out.startswith("turn_1  ")
    assert err == f"left out: {tmp_path}/z.jsonl isn't the recording of a turn\n"


def test_a_directory_without_recordings_says_so(tmp_path):
    assert run(tmp_path) == (0, "", f"there are no recordings in {tmp_path}\n")
    assert run(tmp_path, "--json") == (0, "[]\n", "")


def test_a_turn_of_a_directory_is_played(tmp_path, file):
    write(tmp_path / "b.jsonl", {**HEAD, "turn_id": "turn_2"}, END)
    write(tmp_path / "c.jsonl", b"\xff\xfe")

    assert run(tmp_path, "--turn", "turn_1", "--speed", "0") == (0, SHOWN, "")
    assert run(file, "--turn", "turn_1", "--speed", "0") == (0, SHOWN, "")


def test_a_turn_that_is_not_there_is_told(tmp_path, file):
    assert run(tmp_path, "--turn", "turn_9") == (
        1,
        "",
        f"Error: there is no recording of turn_9 in {tmp_path}\n",
    )
    assert run(file, "--turn", "turn_9") == (1, "", f"Error: {file} is of turn_1, not of turn_9\n")


def test_a_place_that_is_not_there_is_told(tmp_path):
    place = tmp_path / "nowhere"

    assert run(place) == (1, "", f"Error: there is no file or directory {place}\n")


@pytest.mark.parametrize("speed", ["-1", "nan", "inf", "0.001", "1001", "fast"])
def test_a_speed_that_cannot_be_is_a_wrong_call(file, speed):
    code, _out, err = run(file, f"--speed={speed}")

    assert code == 2
    assert "--speed" in err


LONG = b'{"ms":1,"event":{"type":"error","message":"' + b"x" * 1_000_000


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "isn't the recording of a turn"),
        (b"\x00\x01\xff", "isn't the recording of a turn"),
        (b"SQLite format 3\x00" + b"\n" * 100, "isn't the recording of a turn"),
        (b"[1]\n", "isn't the recording of a turn"),
        (b"[" * 100_000, "isn't the recording of a turn"),
        (b'{"format": "chatkit-trio threads", "version": 1}\n', "isn't the recording of a turn"),
        (b'{"format": "chatkit-trio turn"}\n', "isn't the recording of a turn"),
        (json.dumps({**HEAD, "turn_id": 7}).encode(), "isn't the recording of a turn"),
        (json.dumps({**HEAD, "began_at": "today"}).encode(), "isn't the recording of a turn"),
        (
            json.dumps({**HEAD, "version": 2}).encode(),
            "has version 2 of the format, and this release reads version 1",
        ),
    ],
    ids=lambda each: each[:20] if isinstance(each, bytes) else "",
)
def test_a_file_that_is_no_recording_is_told_in_a_line(tmp_path, content, told):
    path = write(tmp_path / "a.jsonl", content)

    assert run(path, "--speed", "0") == (1, "", f"Error: {path} {told}\n")
    assert run(path, "--speed", "0", "--json") == (1, "", f"Error: {path} {told}\n")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nothing\n",
        b"\xff\n",
        b"[]\n",
        b"{}\n",
        b'{"ms":1}\n',
        b'{"ms":-1,"event":{"type":"error"}}\n',
        b'{"ms":NaN,"event":{"type":"error"}}\n',
        b'{"ms":1e400,"event":{"type":"error"}}\n',
        b'{"ms":true,"event":{"type":"error"}}\n',
        b'{"ms":' + b"9" * 400 + b',"event":{"type":"error"}}\n',
        b'{"ms":' + b"9" * 5000 + b',"event":{"type":"error"}}\n',
        b'{"ms":1,"event":[]}\n',
        b'{"ms":1,"event":{}}\n',
        b'{"ms":1,"event":{"type":1}}\n',
        b'{"ms":1,"missing":"many","because":"size"}\n',
        b'{"ms":1,"ended":null,"events":0,"missing":0}\n',
        b'{"ms":1,"event":' + b"[" * 100_000 + b"\n",
    ],
    ids=lambda line: line[:40],
)
def test_a_broken_line_is_named_after_what_came_before_it(tmp_path, line):
    path = write(tmp_path / "a.jsonl", HEAD, STEPS[0], line, END)

    code, out, err = run(path, "--speed", "0")

    assert (code, err) == (1, f"Error: line 3 of {path} can't be read\n")
    assert out == "".join(SHOWN.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("rest", [b"", b'{"ms":1,"ev', LONG], ids=["whole", "cut", "long"])
def test_a_file_that_breaks_off_is_played_so_far(tmp_path, rest):
    path = write(tmp_path / "a.jsonl", HEAD, *STEPS[:6], rest)

    code, out, err = run(path, "--speed", "0")

    assert out == SHOWN.partition("lo\n")[0] + "\n"
    assert (code, err) == (
        1,
        f"Error: {path} has no end: the turn goes on, or its process or its disk has failed\n",
    )
    assert run(tmp_path)[1].endswith("    has no end yet\n")


def test_what_is_missing_is_told_where_it_is(tmp_path):
    gaps = [
        {"ms": 600, "missing": 3, "because": "disk"},
        {"ms": 700, "missing": 1, "because": "size"},
    ]
    path = write(tmp_path / "a.jsonl", HEAD, *gaps, {**END, "missing": 4})
    told = [
        "[0.600] 3 events are missing: the disk was too slow",
        "[0.700] 1 event is missing: the file had reached its limit",
    ]

    _code, out, err = run(path, "--speed", "0")
    assert (out.splitlines()[1:3], err) == (told, "")
    _code, out, err = run(path, "--speed", "0", "--json")
    assert (out, err.splitlines()) == ("", told)
    assert "14 events, 4 of them missing" in run(tmp_path)[1]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "thread.item.updated"},
        {"type": "thread.item.updated", "item_id": 1, "update": 2},
        {"type": "thread.item.updated", "update": {"delta": "x"}},
        {"type": "thread.item.done", "item": {"type": "assistant_message", "content": 3}},
        {"type": "thread.item.done", "item": {"type": "user_message", "content": [1, {}]}},
        {"type": "thread.item.done", "item": None},
        {"type": "of.tomorrow", "what": [1]},
        {"type": "error"},
    ],
)
def test_an_event_of_another_shape_is_shown_as_far_as_it_is_known(tmp_path, event):
    path = write(tmp_path / "a.jsonl", HEAD, {"ms": 1, "event": event}, END)

    code, out, err = run(path, "--speed", "0")

    assert (code, err, len(out.splitlines())) == (0, "", 3)


def test_what_users_say_cannot_steer_the_terminal(tmp_path):
    steps = [
        at(0, "thread.item.done", item=message("user_message", "a\x1b[2Jb\x07\x9b1m", "msg_1")),
        delta(1, "c\x1b]0;title\x07\r\td\ud800"),
        at(2, "\x1b[31m"),
    ]
    path = write(tmp_path / "a.jsonl", {**HEAD, "thread_id": "thr\x1b[2J"}, *steps, END)
    for arguments in (
        [path, "--speed", "0"],
        [path, "--speed", "0", "--json"],
        [tmp_path],
        [tmp_path, "--json"],
    ):
        code, out, _err = run(*arguments)

        assert code == 0
        if arguments[-1] == "--json" and path in arguments:
            events = [json.loads(line) for line in out.splitlines()]
            assert events == [step["event"] for step in steps]
        assert not {each for each in out if ord(each) < 32 or 127 <= ord(each) < 160} - {"\n", "\t"}


async def test_a_stopped_turn_of_a_real_server_is_recorded_and_replayed(tmp_path):
    database, recordings = tmp_path / "chat.sqlite3", tmp_path / "recordings"
    async with (
        served_by_cli(database, "--record", str(recordings)) as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word3")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            stop = f"/chatkit/threads/{caller.thread_id}/stop"
            status, _ = await Caller(stream).answer("POST", stop)
        await caller.read_to_end()
        server.send_signal(signal.SIGTERM)
        await server.ended(60)
    assert f"Recording turns in {recordings}" in server.log

    items = await items_in(database, caller.thread_id)
    (listed,) = json.loads(run(recordings, "--json")[1])
    code, out, err = run(recordings, "--turn", listed["turn_id"], "--speed", "0", "--json")
    shown = run(listed["file"], "--speed", "1000")

    events = [json.loads(line) for line in out.splitlines()]
    assert (status, server.returncode) == (200, 0)
    assert (code, err) == (0, "")
    assert events == [event.data for event in caller.events]
    assert listed["thread_id"] == caller.thread_id
    assert (listed["ended"], listed["events"]) == ("stopped", len(events))
    answer = next(item for item in items if item.type == "assistant_message")
    assert f"assistant: {answer.content[0].text}\n" in shown[1]
    assert shown[1].endswith("ended: stopped\n")


@pytest.mark.parametrize("options", [["--workers", "2"], ["--reload"]])
async def test_workers_record_too(tmp_path, options):
    database, recordings = tmp_path / "chat.sqlite3", tmp_path / "recordings"
    environment = {"TALKER_COUNT": "3"}
    async with (
        served_by_cli(database, "--record", str(recordings), *options, **environment) as server,
        calling(server.port) as caller,
    ):
        await caller.read_to_end()
        server.send_signal(signal.SIGTERM)
        await server.ended(60)

    (listed,) = json.loads(run(recordings, "--json")[1])
    assert (listed["thread_id"], listed["ended"]) == (caller.thread_id, "finished")


async def test_the_demo_records_too(tmp_path):
    recordings = tmp_path / "recordings"
    command = [sys.executable, "-m", "chatkit_trio", "demo", "--port", "0"]
    command += ["--database", str(tmp_path / "demo.sqlite3"), "--record", str(recordings)]
    async with (
        running(command, tmp_path, "Serving on", OPENAI_API_KEY="") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"thread.item.added")
        server.send_signal(signal.SIGINT)
        await caller.read_to_end()
        await server.ended(60)

    (listed,) = json.loads(run(recordings, "--json")[1])
    assert (listed["thread_id"], listed["ended"]) == (caller.thread_id, "shutdown")


async def test_a_place_that_cannot_be_recorded_to_is_told_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    for place, target, told in [
        (tmp_path / "file" / "below", "tests.web.talker:server", "can't record in"),
        (tmp_path / "there", "tests.cli.test_replay:plain", "has no ChatKit server to record"),
    ]:
        command = [sys.executable, "-m", "chatkit_trio", "serve", target, "--record", str(place)]
        process = await trio.run_process(
            command,
            env={**os.environ, "TALKER_DATABASE": str(tmp_path / "chat.sqlite3")},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        (line,) = process.stderr.decode().splitlines()
        assert process.returncode == 1
        assert told in line


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Is an app that has nothing of ours in it."""
