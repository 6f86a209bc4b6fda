"""Logs for people and for machines; a log that nobody reads holds nothing up."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from chatkit_trio.logs import JSONFormatter, set_up_logs


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger, as in a process in which nothing has set up logs; pytest has."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def written():
    """Call a function with nothing set up before; return what it has had logged."""

    def run(log: Callable[[io.StringIO], None]) -> str:
        stream = io.StringIO()
        with bare_root() as root:
            log(stream)
            root.handlers[0].flush()
        return stream.getvalue()

    return run


def test_a_record_is_one_json_object_with_its_fields(written):
    def log(stream):
        set_up_logs("json", stream=stream)
        try:
            raise ValueError("first line\nsecond line")
        except ValueError:
            extra = {"event": "x", "odd": set}
            logging.getLogger("a.b").exception("it is %s", "broken", extra=extra)

    (line,) = written(log).splitlines()
    told = json.loads(line)
    assert told.pop("exception").endswith("ValueError: first line\nsecond line")
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "ERROR",
        "logger": "a.b",
        "process": os.getpid(),
        "message": "it is broken",
        "event": "x",
        "odd": "<class 'set'>",
    }


@pytest.mark.parametrize(
    "odd", [float("nan"), {(1, 2): 3}, {"far": [float("inf")]}, b"bytes", {"a"}], ids=str
)
def test_a_field_that_json_does_not_know_is_told_as_text(written, odd):
    def log(stream):
        set_up_logs("json", stream=stream)
        logging.getLogger("mine").info("hello", extra={"odd": odd, "number": 7, "none": None})

    told = json.loads(written(log), parse_constant=lambda name: pytest.fail(name))

    assert (told["odd"], told["number"], told["none"]) == (str(odd), 7, None)
    assert told["message"] == "hello"


def test_a_second_call_changes_the_first(written):
    def log(stream):
        set_up_logs("json", stream=stream)
        set_up_logs("text", level=logging.WARNING, stream=stream)
        logging.getLogger("a").info("quiet")
        logging.getLogger("a").warning("told")

    (line,) = written(log).splitlines()
    assert line.endswith(" WARNING a: told")


def test_logs_that_somebody_else_has_set_up_stay():
    own = logging.NullHandler()
    with bare_root() as root:
        root.addHandler(own)
        root.setLevel(logging.ERROR)

        set_up_logs("json")

        assert (root.handlers, root.level) == ([own], logging.ERROR)


def test_a_log_that_nobody_reads_holds_nobody_up_and_counts_what_it_drops():
    reading, writing = os.pipe()
    with bare_root(), os.fdopen(reading, "rb") as read, os.fdopen(writing, "w") as stream:
        set_up_logs(stream=stream)
        for number in range(10_000):
            logging.getLogger("a").info("line %d %s", number, "x" * 50)
        os.set_blocking(reading, False)
        text = b""
        while b"were dropped" not in text:
            text += read.read(1 << 20) or b""
            time.sleep(0.001)
        while b" line 3000 " not in text:
            text += read.read(1 << 20) or b""
            time.sleep(0.001)
        handler = logging.getLogger().handlers[0]
        # A stream in which a thread still writes can't be closed.
        while handler._lines.unfinished_tasks:
            text += read.read(1 << 20) or b""
            time.sleep(0.001)
        handler.close()
    lines = text.decode().splitlines()

    assert " line 0 " in lines[0]
    assert any("lines of the log were dropped: nobody has read them" in line for line in lines)


def test_what_cannot_be_logged_is_told_and_nothing_else_happens(written, capsys):
    def log(stream):
        set_up_logs(stream=stream)
        logging.getLogger("a").info("%d", "no number")

    assert written(log) == ""
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_formatter_is_enough_for_those_who_have_handlers_of_their_own():
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "name": "a", "turn_id": 1})

    told = json.loads(JSONFormatter().format(record))

    assert (told["message"], told["turn_id"]) == ("hello", 1)
