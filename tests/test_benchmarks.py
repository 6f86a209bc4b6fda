"""The benchmarks run, and what they count is right. Times are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import Figure, chart

pytest.importorskip("chatkit", reason="the original is in the extra `parity`")
pytest.importorskip("fastapi")

ROOT = Path(__file__).parent.parent


def run(name: str, *options: str) -> Any:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *options]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_ours_keeps_every_stream_that_is_cut_short() -> None:
    ways = ["socket closed", "connection reset (RST)", "SIGTERM of the server", "deadline"]
    rows = run("loss", "--streams", "2", "--delays", "0.002", "--ways", *ways)
    ours = [row for row in rows if row[2] == "chatkit_trio"]
    kept = ["2 / 2", "2 / 2", "0 / 2", "2 / 2", "2 / 2"]
    assert ours == [[way, "2 ms", "chatkit_trio", *kept] for way in ways]


def test_ours_keeps_an_answer_whose_client_stops_reading() -> None:
    rows = run("loss", "--streams", "1", "--delays", "0.002", "--ways", "client stops reading")
    assert rows[1][2:] == ["chatkit_trio", "1 / 1", "1 / 1", "0 / 1", "1 / 1", "1 / 1"]


def test_the_next_message_sent_at_once_sees_what_was_cut() -> None:
    way = "socket closed, next message at once"
    rows = run("loss", "--streams", "2", "--delays", "0.05", "--ways", way)
    assert rows[1][2:] == ["chatkit_trio", "2 / 2", "2 / 2", "0 / 2", "2 / 2", "2 / 2"]


def test_both_servers_send_every_event() -> None:
    rows = run("throughput", "--events", "40", "--streams", "4", "--runs", "1")
    responds = [
        "never awaits",
        "a checkpoint an event",
        "50 events/s a stream",
        "100 events/s a stream",
    ]
    # A run that lost an event, or an answer that differed, would have failed.
    assert [row[:2] for row in rows] == [[name, 4] for name in responds]


def test_many_turns_at_once_leave_no_task_behind_and_are_all_stored() -> None:
    rows = run("thousand_turns", "--turns", "10", "--rounds", "1", "--deltas", "2")
    ours = dict(zip(HEAD_OF_TURNS, rows[1], strict=True))
    assert ours["tasks after"] <= ours["tasks before"]
    assert (ours["whole"], ours["cut"], ours["notes"]) == ("5 / 5", "5 / 5", "5 / 5")


def test_each_of_a_crowd_is_answered() -> None:
    rows = run("crowd", "--clients", "20", "--events", "2")
    # A client without its first chunk would keep the run from ending.
    assert [row[:2] for row in rows] == [["one in a round", 20], ["as `serve` does", 20]]


HEAD_OF_TURNS = (
    "system", "round", "turns", "tasks before", "tasks at the height", "tasks after",
    "MB before", "MB at the height", "MB after", "whole", "cut", "notes",
)  # fmt: skip


def test_every_disconnect_is_stored() -> None:
    found = run("disconnect_latency", "--disconnects", "3", "--events", "200", "--runs", "1")
    assert found["latency"][1][:3] == ["chatkit_trio", 3, 3]


def test_resuming_loses_and_doubles_nothing() -> None:
    answers, *_, lost, doubled, disordered, whole = run("resume", "--answers", "10")
    assert (answers, lost, doubled, disordered, whole) == (10, 0, 0, 0, "10 / 10")


def test_one_command_compares_all_that_a_server_is_judged_by() -> None:
    rows = run("compare", "--rows", "idle", "paged", "--idle", "5", "--sizes", "100")
    assert [row[:2] for row in rows] == [
        ["5 idle streams", "KB a stream"],
        ["20 items of a thread of 100", "ms a request"],
    ]


def test_ahead_is_more_of_what_is_wanted_and_less_of_what_is_paid() -> None:
    fast = Figure("speed", "events/s", 100, 250, more_is_better=True)
    dear = Figure("cost", "µs", 100, 200, 50)
    assert (fast.ahead, dear.ahead) == (2.5, 0.5)
    assert dear.cells() == ["cost", "µs", "100", "200", "0.50", "50", "4.00"]
    bars = [line.count("#") for line in chart([fast, dear])]
    assert bars == [50, 10]
