"""The command line: loading what is to be served, looking into databases, and what users see."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys

import click
import psycopg
import pytest
from click.testing import CliRunner
from quart_trio import QuartTrio

from chatkit_trio.cli import main
from chatkit_trio.cli._loading import load_app
from chatkit_trio.server import CancelReason
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores._sqlite_schema import MIGRATIONS
from chatkit_trio.testing import ChatClient, pause, say, scripted_server, set_title
from chatkit_trio.types import ThreadItemAddedEvent
from chatkit_trio.web._blueprint import servers_of


@pytest.fixture
def run():
    """Run the command line in this process."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module to serve from, in the current directory; return its name."""

    def make(text: str) -> str:
        (tmp_path / "served_here.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "served_here", raising=False)
        return "served_here"

    return make


SERVER = """
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app

server = scripted_server(MemoryStore(), [say("Hello")])
app = create_app(server)
number = 7
"""


# --- serve ---------------------------------------------------------------------------------------


def test_an_app_is_served_as_it_is(module):
    name = module(SERVER)

    app = load_app(f"{name}:app")

    assert app is sys.modules[name].app


def test_a_server_gets_an_app_of_its_own(module):
    name = module(SERVER)

    app = load_app(f"{name}:server")

    assert isinstance(app, QuartTrio)
    assert servers_of(app) == [sys.modules[name].server]


MAKERS = """
from quart import Quart
from quart_trio import QuartTrio
from fastapi import FastAPI
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import create_app

class Plain(ChatKitServer):
    async def respond(self, thread, input_user_message, context):
        return
        yield

class Ready(Plain):
    def __init__(self):
        super().__init__(MemoryStore())

class Broken(Plain):
    def __init__(self):
        raise ValueError("no key")

class App(QuartTrio):
    def __init__(self, name="app"):
        super().__init__(name)

class Settings:
    pass

class Callable:
    async def __call__(self, scope, receive, send):
        pass

def make_app():
    return create_app(Ready())

def make_server(store=None):
    return Ready()

def make_from(store):
    return Plain(store)

async def make_later():
    return Ready()

async def raw(scope, receive, send):
    pass

def wsgi(environ, start_response):
    return []

class Flask:
    def __call__(self, environ, start_response):
        return []

fast = FastAPI()
plain_quart = Quart("plain")
store = MemoryStore()
"""


@pytest.mark.parametrize("name", ["Ready", "make_app", "make_server", "App"])
def test_what_makes_an_app_is_called(module, name):
    app = load_app(f"{module(MAKERS)}:{name}")

    assert isinstance(app, QuartTrio)
    made = [type(server).__name__ for server in servers_of(app)]
    assert made == ([] if name == "App" else ["Ready"])


@pytest.mark.parametrize("name", ["Callable", "raw", "fast"])
def test_any_asgi_app_is_served(module, name):
    app = load_app(f"{module(MAKERS)}:{name}")

    found = getattr(sys.modules["served_here"], name)
    assert isinstance(app, found) if name == "Callable" else app is found


NEITHER = "is neither a ChatKit server nor an ASGI app"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Plain",
            "served_here:Plain is a class that can't be made without store: make an object of it in"
            " the module, as in server = Plain(SQLiteStore('chat.sqlite3')), and serve"
            " served_here:server",
        ),
        ("Broken", "served_here:Broken can't be made: Broken() raised ValueError: no key"),
        ("Settings", NEITHER),
        ("make_from", NEITHER),
        ("make_later", NEITHER),
        ("wsgi", NEITHER),
        ("Flask", NEITHER),
        ("store", NEITHER),
        ("plain_quart", "served_here:plain_quart is an app for asyncio: make it with quart_trio"),
    ],
)
def test_a_class_or_another_thing_is_refused_in_one_sentence(module, run, name, message):
    module(MAKERS)

    result = run("serve", f"served_here:{name}")

    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere:app", "nowhere:app can't be loaded: No module named 'nowhere'"),
        ("served_here:nothing", "has no attribute 'nothing'"),
        ("served_here:number", "is neither a ChatKit server nor an ASGI app"),
        ("served_here:ap", "no attribute 'ap'; try served_here:server or served_here:app"),
        ("served_here:number", "but an int; try served_here:server or served_here:app"),
        ("served_here", "served_here is not of the form MODULE:NAME"),
        ("served_here", "as in served_here:app"),
        (":app", ":app is not of the form MODULE:NAME"),
        (".served_here:app", "is not of the form MODULE:NAME, such as app:app for app.py"),
        ("served here:app", "is not of the form MODULE:NAME, such as app:app for app.py"),
        ("served_here:app()", "is not of the form MODULE:NAME, such as app:app for app.py"),
        (
            "served_here.py",
            "served_here.py is a file, and a module is wanted: write served_here:app",
        ),
        ("served_here.py:server", "a module is wanted: write served_here:server"),
        ("./served_here.py:app", "a module is wanted: write served_here:app"),
        ("chat/main.py:app", "a module is wanted: write chat.main:app"),
        ("served_here.nothing:app", "No module named 'served_here.nothing'"),
    ],
)
def test_what_cannot_be_served_is_explained(module, run, target, message):
    module(SERVER)

    result = run("serve", target)

    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)


BROKEN = [
    ("import trio\n\ndef f(:\n", "line 3", "SyntaxError: invalid syntax"),
    ("def make():\n    return {}['key']\n\napp = make()\n", "line 4", "KeyError: 'key'"),
    ("import nothing_there\n", "line 1", "No module named 'nothing_there'"),
    ("from chatkit_trio.web import nothing\n", "line 1", "cannot import name 'nothing'"),
    ("import served_here.part\n", "line 1", "'served_here' is not a package"),
    ("raise SystemExit(3)\n", "line 1", "the module ends the process when it is imported"),
    ("def f(): f()\nf()\n", "line 1", "RecursionError"),
    (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('odd') from e\n",
        "line 2",
        "ValueError: odd",
    ),
]


@pytest.mark.parametrize(("text", "place", "what"), BROKEN, ids=[each[2] for each in BROKEN])
def test_an_error_in_the_module_is_told_with_its_own_frames_only(module, run, text, place, what):
    module(text)

    result = run("serve", "served_here:app")

    *frames, last = result.output.splitlines()
    assert result.exit_code == 1
    assert last.startswith("Error: served_here:app can't be loaded: ")
    assert what in last
    assert any("served_here.py" in line and place in line for line in frames)
    assert not [line for line in frames if "importlib" in line or "/click/" in line]
    assert len(frames) < 40


def run_in_a_process(*arguments, directory) -> subprocess.CompletedProcess:
    """Run the command line as users do; one that fails to serve leaves sockets to the system."""
    command = [sys.executable, "-m", "chatkit_trio", *map(str, arguments)]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_taken_port_is_explained(module, tmp_path):
    name = module(SERVER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_in_a_process("serve", f"{name}:app", "--port", port, directory=tmp_path)

    assert result.returncode == 1
    assert result.stderr == (
        f"Error: the server can't listen: port {port} of 127.0.0.1 is taken: another program"
        " listens there. End that one, or take another port with --port (0: a free one)\n"
    )


def test_a_database_that_cannot_be_opened_is_explained(tmp_path):
    database = tmp_path / "nowhere" / "demo.sqlite3"

    result = run_in_a_process("demo", "--port", 0, "--database", database, directory=tmp_path)

    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: the app can't start: can't use {database}: unable to open")
    assert line.endswith(f"(there is no directory {database.parent}: make it first)")
    assert "Serving on" not in result.stdout


def test_a_key_without_the_client_is_explained(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "chatkit_trio.demo._model", raising=False)

    result = run("demo", "--port", 0, "--database", tmp_path / "demo.sqlite3")

    assert result.exit_code == 1
    assert "install chatkit-trio[openai]" in result.output.replace("\n", " ")


# --- threads -------------------------------------------------------------------------------------


async def conversation_in(database) -> str:
    """Store a conversation that was stopped; return its thread's id."""
    script = [set_title("A talk"), say("Hello there"), say("This is", finish=False), pause(99)]
    store = SQLiteStore(database, owner=lambda user: user)
    async with (
        scripted_server(store, script) as server,
        ChatClient.of_server(server, "ada") as client,
        client.send("Hi") as turn,
    ):
        await turn.wait_for(ThreadItemAddedEvent)
        await turn.wait_for(ThreadItemAddedEvent)
        await turn.wait_for(lambda event: "This is" in event.model_dump_json())
        turn.server_turn.cancel(CancelReason.STOPPED)
        await turn.read()
    return turn.thread_id


async def test_threads_are_listed_with_their_owners(run, tmp_path):
    thread_id = await conversation_in(tmp_path / "chat.sqlite3")

    result = run("threads", tmp_path / "chat.sqlite3")

    first, second = result.output.splitlines()
    assert first.startswith(thread_id)
    assert first.endswith("A talk of ada")
    assert second == "    4 items"


async def test_a_thread_is_shown_with_what_only_the_model_sees(run, tmp_path):
    thread_id = await conversation_in(tmp_path / "chat.sqlite3")

    result = run("threads", tmp_path / "chat.sqlite3", thread_id)

    lines = result.output.splitlines()
    said = [line for line in lines if line and not line.startswith("---")]
    who = [line.split(",")[0] for line in lines if line.startswith("---")]
    assert said[:3] == ["Hi", "Hello there", "This is"]
    assert said[3].startswith("The user stopped the previous answer")
    assert who == ["--- user", "--- assistant", "--- assistant", "--- hidden"]


async def test_an_unknown_thread_is_explained(run, tmp_path):
    await conversation_in(tmp_path / "chat.sqlite3")

    result = run("threads", tmp_path / "chat.sqlite3", "thr_nowhere")

    assert result.exit_code == 1
    assert "has no thread thr_nowhere" in result.output


def test_another_programs_file_is_refused(run, tmp_path):
    other = tmp_path / "other.sqlite3"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE threads (id)")
    connection.close()

    result = run("threads", other)

    assert result.exit_code == 1
    assert "it is an SQLite file of another program" in result.output


def test_a_file_that_is_no_database_is_refused(run, tmp_path):
    (tmp_path / "notes.txt").write_text("hello " * 1000)

    result = run("threads", tmp_path / "notes.txt")

    assert result.exit_code == 1
    assert "can't be read: file is not a database" in result.output


# --- doctor --------------------------------------------------------------------------------------


def test_a_good_installation_is_well(run):
    result = run("doctor")

    assert result.exit_code == 0
    assert {line[:4] for line in result.output.splitlines()} == {"ok  "}


def test_a_database_that_is_still_to_be_made_is_well(run, tmp_path):
    result = run("doctor", "--database", tmp_path / "chat.sqlite3")

    assert result.exit_code == 0
    assert "isn't there yet" in result.output
    assert not (tmp_path / "chat.sqlite3").exists()


async def test_answers_left_by_a_crash_are_counted(run, tmp_path):
    database = tmp_path / "chat.sqlite3"
    thread_id = await conversation_in(database)
    row = ("turn_x", thread_id, "ada", "an instance that is gone")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO turns (id, thread_id, owner, instance) VALUES (?, ?, ?, ?)", row
        )
    connection.close()

    result = run("doctor", "--database", database)

    assert result.exit_code == 0
    assert "a crash has left 1 unfinished answer, which the next start settles" in result.output


async def test_answers_of_a_living_process_are_not_counted(run, tmp_path):
    store = SQLiteStore(tmp_path / "chat.sqlite3")
    async with (
        scripted_server(store, [pause(99)]) as server,
        ChatClient.of_server(server) as client,
        client.send("Hi") as turn,
    ):
        await turn.read(3)
        result = run("doctor", "--database", tmp_path / "chat.sqlite3")

    assert "a crash has left no answer unfinished" in result.output


def test_a_newer_schema_is_bad(run, tmp_path):
    database = tmp_path / "chat.sqlite3"
    with sqlite3.connect(database) as connection:
        connection.execute(f"PRAGMA application_id = {0x436B5472}")
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    result = run("doctor", "--database", database)

    assert result.exit_code == 1
    assert "its schema has version 99" in result.output


def test_a_taken_port_is_bad(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("doctor", "--port", port)

    assert result.exit_code == 1
    assert f"BAD  port {port} of 127.0.0.1 can't be listened on" in result.output


def test_a_free_port_is_well(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run("doctor", "--port", port)

    assert result.exit_code == 0


def test_the_commands_are_these():
    assert isinstance(main, click.Group)
    assert sorted(main.commands) == [
        "demo",
        "doctor",
        "migrate",
        "new",
        "replay",
        "serve",
        "threads",
    ]


OPPOSITES = [
    # what is wrong, its check, what has to be told, and what must not be
    ("no directory", "directory", "there is no directory", "may write"),
    ("no right to the directory", "directory", "this user may not write to", "may write to"),
    ("no right to the file", "database", "this user may not write to", "may write to"),
    ("a directory", "database", "is a directory, and a file is needed", "will make it"),
    ("another file", "database", "it is an SQLite file of another program", "newest"),
    ("a link to itself", "database", "Too many levels of symbolic links", "will make it"),
]


@pytest.mark.parametrize(("wrong", "check", "told", "untold"), OPPOSITES)
async def test_what_is_wrong_is_a_sentence_of_its_own(
    run, tmp_path, monkeypatch, wrong, check, told, untold
):
    path = tmp_path / "chat.sqlite3"
    if wrong == "no directory":
        path = tmp_path / "nowhere" / "chat.sqlite3"
    elif wrong == "a directory":
        path.mkdir()
    elif wrong == "a link to itself":
        path.symlink_to(path)
    elif wrong == "another file":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE threads (id)")
        connection.close()
    else:
        await conversation_in(path)
        refused = tmp_path if "directory" in wrong else path
        monkeypatch.setattr("os.access", lambda asked, mode: asked != refused)

    result = run("doctor", "--database", path, "--json")

    (finding,) = [each for each in json.loads(result.stdout) if not each["is_well"]]
    assert result.exit_code == 1
    assert finding["check"] == check
    assert told in finding["text"]
    assert untold not in finding["text"]


async def test_machines_get_each_finding_once(run, tmp_path):
    path = tmp_path / "chat.sqlite3"
    await conversation_in(path)

    result = run("doctor", "--database", path, "--json")

    findings = json.loads(result.stdout)
    told = [each["text"] for each in findings if each["check"] not in ("package", "extra")]
    assert result.exit_code == 0
    assert all(each["is_well"] is True for each in findings)
    assert told[1:] == [
        f"this user may write to {tmp_path}",
        f"this user may write to {path}",
        f"its tables have version {len(MIGRATIONS)}, which is the newest",
        "a crash has left no answer unfinished",
        "every item could be stored",
    ]


def test_an_empty_file_is_well_because_the_server_takes_it(run, tmp_path):
    (tmp_path / "chat.sqlite3").touch()

    result = run("doctor", "--database", tmp_path / "chat.sqlite3")

    assert result.exit_code == 0
    assert "is empty; the server will make its tables" in result.output


def test_a_postgresql_database_is_looked_at_too(run, postgresql_url):
    place = [postgresql_url, "--schema", "looked_at"]
    before = run("doctor", "--database", *place)
    run("migrate", *place)
    after = run("doctor", "--database", *place)
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("DROP SCHEMA looked_at CASCADE")
    away = run("doctor", "--database", "postgresql://ada:secret@127.0.0.1:1/chat")

    assert (before.exit_code, after.exit_code, away.exit_code) == (1, 0, 1)
    assert "BAD  schema looked_at has no tables: run chatkit-trio migrate" in before.output
    assert "ok   the tables in schema looked_at have version" in after.output
    assert "BAD  can't use postgresql://127.0.0.1:1/chat" in away.output
    assert "secret" not in away.output


@pytest.mark.parametrize(
    "arguments", [["--port", "99999"], ["--database", "postgresql://h/d?odd=1"]]
)
def test_a_wrong_call_of_doctor_is_told_as_one(run, arguments):
    assert run("doctor", *arguments).exit_code == 2
