"""What a wrong call is told: one line that says what is wrong and where, and the documented code.

Here are the kinds that several commands share: paths, output that can't be written, text that
would steer a terminal. What one command alone can be told wrongly is with the tests of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from chatkit_trio.cli import main
from chatkit_trio.observe import OWNER_KEY_VARIABLE
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import SDKHiddenContextItem, ThreadMetadata

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TOO_LONG = "n" * 300
STEERING = "\x1b]0;mine\x07 \x9b2J 東京\nfaked line"


def run(*arguments: object, exit_code: int, stdin: bytes = b"") -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), input=stdin)
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def the_error(result: Result) -> str:
    """Return the one line that standard error has; usage may be above that of a wrong call."""
    *usage, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert usage == [] if result.exit_code == 1 else usage[0].startswith("Usage: ")
    assert result.stdout == ""
    return last.removeprefix("Error: ")


async def fill(path: Path) -> None:
    async with SQLiteStore(path, owner=str) as store:
        thread = ThreadMetadata(id="thr_1", title=STEERING, created_at=NOW)
        await store.save_thread(thread, "eve\x1b[31m")
        note = SDKHiddenContextItem(
            id="shcx_1", thread_id="thr_1", created_at=NOW, content=STEERING
        )
        await store.add_thread_item("thr_1", note, "eve\x1b[31m")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "chat.sqlite3"
    trio.run(fill, path)
    return path


# --- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", TOO_LONG],
        ["replay", TOO_LONG],
        ["threads", "list", TOO_LONG],
        ["threads", "show", TOO_LONG, "thr_1"],
        ["threads", "export", TOO_LONG],
        ["threads", "delete", TOO_LONG, "thr_1", "--yes"],
        ["threads", "import", TOO_LONG, os.devnull],
        ["demo", "--port", "0", "--record", TOO_LONG],
    ],
    ids=" ".join,
)
def test_a_path_that_the_system_refuses_is_told_once_and_without_a_number(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    error = the_error(run(*arguments, exit_code=1))

    assert error.count(TOO_LONG) == 1
    assert error.endswith(": File name too long")
    assert "Errno" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["threads", "list", "loop"],
        ["threads", "export", "loop"],
        ["threads", "import", "loop", os.devnull],
        ["threads", "list", "loop/chat.sqlite3"],
        ["demo", "--port", "0", "--record", "loop"],
    ],
    ids=" ".join,
)
def test_a_link_to_itself_is_told_as_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")

    error = the_error(run(*arguments, exit_code=1))

    assert "loop" in error
    assert "Errno" not in error


def test_doctor_has_a_finding_for_a_path_that_the_system_refuses(tmp_path: Path) -> None:
    result = run("doctor", "--database", tmp_path / TOO_LONG, "--json", exit_code=1)

    (finding,) = [each for each in json.loads(result.stdout) if not each["is_well"]]
    assert finding["check"] == "database"
    assert finding["text"] == f"{tmp_path / TOO_LONG} can't be looked at: File name too long"


@pytest.mark.parametrize("command", ["list", "export", "import"])
def test_a_directory_in_place_of_a_database_is_told(command: str, tmp_path: Path) -> None:
    error = the_error(run("threads", command, tmp_path, exit_code=1))

    assert error.endswith(": it is a directory, and a file is needed: name one in it")


@pytest.mark.parametrize("name", ["", ":memory:"])
@pytest.mark.parametrize(
    "arguments", [["threads", "import"], ["threads", "list"], ["demo", "--database"]], ids=" ".join
)
def test_a_database_without_a_file_is_a_wrong_call(arguments: list[str], name: str) -> None:
    error = the_error(run(*arguments, name, exit_code=2))

    assert "needs a file" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["threads", "import"],
        ["threads", "list"],
        ["demo", "--database"],
        ["doctor", "--database"],
    ],
    ids=" ".join,
)
def test_a_url_of_another_database_is_a_wrong_call(arguments: list[str]) -> None:
    error = the_error(run(*arguments, "mysql://ada:secret@db/chat", exit_code=2))

    assert error == (
        "a URL has to be one of PostgreSQL, such as postgresql://user@host:5432/database, and this"
        " one begins with mysql://"
    )


def test_a_database_without_threads_is_told_of(tmp_path: Path) -> None:
    empty = tmp_path / "chat.sqlite3"
    run("threads", "import", empty, exit_code=0)

    told = run("threads", "list", empty, exit_code=0)
    machines = run("threads", "list", empty, "--json", exit_code=0)

    assert (told.stdout, told.stderr) == ("", f"There are no threads in {empty}\n")
    assert (machines.stdout, machines.stderr) == ("[]\n", "")


NO_UTF8 = os.fsdecode(b"\xff")


@pytest.mark.parametrize("command", ["show", "export", "delete"])
def test_a_thread_whose_name_is_no_text_is_not_there(command: str, database: Path) -> None:
    error = the_error(run("threads", command, database, NO_UTF8, exit_code=1))

    assert error == f"{database} has no thread \\udcff"


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "app:app"],
        ["serve", "app:app", "--workers", "2"],
        ["serve", "app:app", "--reload"],
        ["demo", "--port", "0"],
        ["new", "my_chat"],
        ["doctor", "--database", "chat.sqlite3"],
        ["threads", "import", "chat.sqlite3", os.devnull],
        ["threads", "export", "chat.sqlite3", "--output", "threads.jsonl"],
    ],
    ids=" ".join,
)
def test_a_working_directory_that_was_removed_is_told(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER_KEY_VARIABLE, "key")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    error = the_error(run(*arguments, exit_code=1))

    assert error == "the working directory is gone: go to one that is there"


# --- Output --------------------------------------------------------------------------------------


def in_a_process(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "chatkit_trio", *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60, stderr=subprocess.PIPE, **settings)


def test_a_server_is_told_of_a_link_to_itself(tmp_path: Path) -> None:
    """In a process of its own: a server that fails leaves its signals ignored, for it ends."""
    database = tmp_path / "loop"
    database.symlink_to(database)

    ended = in_a_process("demo", "--port", "0", "--database", database, stdout=subprocess.DEVNULL)

    assert ended.returncode == 1
    *_, last = ended.stderr.decode().splitlines()
    assert last.startswith("Error: ")
    assert last.count(str(database)) == 1
    assert "Errno" not in last


@pytest.mark.parametrize("command", ["list", "export"])
def test_a_reader_that_has_enough_is_no_error_of_the_database(command: str, database: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        ended = in_a_process("threads", command, database, stdout=output)

    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["list", "export"])
def test_a_full_disk_is_told_of_the_output(command: str, database: Path) -> None:
    with Path("/dev/full").open("wb") as output:
        ended = in_a_process("threads", command, database, stdout=output)

    line = b"Error: the output can't be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, line)


def test_what_the_terminal_has_no_letters_for_is_escaped(database: Path) -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    pipe = subprocess.PIPE
    listed = in_a_process("threads", "list", database, env=latin, stdout=pipe)
    machines = in_a_process("threads", "list", database, "--json", env=latin, stdout=pipe)

    assert (listed.returncode, machines.returncode) == (0, 0)
    assert b"\\u6771\\u4eac" in listed.stdout
    (thread,) = json.loads(machines.stdout.decode("latin-1"))
    assert thread["title"] == STEERING


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "thr_1"],
        ["search", "東京"],
        ["list", "--json"],
        ["show", "thr_1", "--json"],
        ["export"],
    ],
    ids=" ".join,
)
def test_what_users_have_written_does_not_steer_the_operators_terminal(
    arguments: list[str], database: Path
) -> None:
    command, *more = arguments
    told = run("threads", command, database, *more, exit_code=0).stdout

    assert "東京" in told
    assert [each for each in told if each != "\n" and (each < " " or "\x7f" <= each < "\xa0")] == []
    if command != "show":
        assert "\nfaked line" not in told


# --- Contents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"\xff\xfe{}\n", "is not a line of an export: it is no UTF-8"),
        (b"[" * 100_000 + b"\n", "is not a line of an export: it is nested too deep"),
        (b"{]\n", "is not a line of an export: it is no JSON: Expecting property name enclosed in"),
        (b'{"item": 5}\n', "is not a line of an export: Input should be an object"),
        (
            b'{"thread": {"id": "t", "created_at": "2026-05-04T12:00:00Z"}, "owner": 5}\n',
            "is not a line of an export: its owner is no text",
        ),
    ],
    ids=["bytes", "depth", "JSON", "item", "owner"],
)
def test_a_file_of_another_kind_is_told_by_its_line(line: bytes, told: str, tmp_path: Path) -> None:
    head = b'{"format": "chatkit-trio threads", "version": 1}\n'
    (tmp_path / "file").write_bytes(head + line)

    error = the_error(run("threads", "import", tmp_path / "new", tmp_path / "file", exit_code=1))

    assert error.startswith(f"line 2 of {tmp_path / 'file'} {told}")


@pytest.mark.parametrize(
    ("spoil", "arguments", "what"),
    [
        ("UPDATE threads SET data = '{'", ["list"], "thread thr_1"),
        ("UPDATE threads SET data = '{\"id\": 5}'", ["list"], "thread thr_1"),
        ("UPDATE threads SET data = '{\"id\": 5}'", ["show", "thr_1"], "thread thr_1"),
        ("UPDATE items SET data = '{'", ["show", "thr_1"], "item shcx_1 of thread thr_1"),
        ("UPDATE items SET data = '{\"type\": 5}'", ["export"], "item shcx_1 of thread thr_1"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_in_one_line(
    spoil: str, arguments: list[str], what: str, database: Path
) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(spoil)
    connection.close()
    command, *more = arguments

    result = run("threads", command, database, *more, exit_code=1)

    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {what} can't be read: ")


# --- serve ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a..b", "::1x", "http://127.0.0.1"])
def test_a_host_that_cannot_be_is_told_of_the_option_that_has_it(host: str) -> None:
    error = the_error(run("serve", "app:app", "--host", host, exit_code=2))

    assert error.startswith("Invalid value for --host: ")
    assert repr(host) in error


def test_a_file_elsewhere_is_told_with_the_directory_to_go_to() -> None:
    error = the_error(run("serve", "/srv/chat/app.py:app", exit_code=2))

    assert error.endswith(
        "/srv/chat/app.py is a file, and a module is wanted: go to /srv/chat, and write app:app"
    )


# --- doctor --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["münchen..example", NO_UTF8, "n" * 70])
def test_doctor_has_a_finding_for_a_host_that_cannot_be(host: str) -> None:
    result = run("doctor", "--host", host, "--port", 8000, "--json", exit_code=1)

    (finding,) = [each for each in json.loads(result.stdout) if not each["is_well"]]
    assert finding["check"] == "port"
    assert finding["text"].startswith(f"port 8000 of {host} can't be listened on: ")
