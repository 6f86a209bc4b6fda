"""`serve --reload` in a real process, while an app is being written; and what is a change."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem
from chatkit_trio.web._reloading import _look
from tests.web.sockets import ROOT, Caller, calling, items_in, running

WITHIN = 60
APP = """
import trio
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import SQLiteStore

class Talker(ChatKitServer):
    def respond(self, thread, input_user_message, context):
        return stream_text(thread, self.words())

    async def words(self):
        while True:
            yield "VERSION "
            await trio.sleep(0.05)

server = Talker(SQLiteStore("chat.sqlite3"), policy=TurnPolicy(on_disconnect="finish"))
"""


def version(number: int) -> str:
    return APP.replace("VERSION", f"version{number}")


async def first_words(port: int) -> Caller:
    """Ask, read the first words, and leave; the socket stays open all the time a worker changes."""
    async with calling(port) as caller:
        with trio.fail_after(WITHIN):
            while b"version" not in caller.body:
                await caller._read()
    return caller


async def test_a_change_is_served_at_once_and_what_was_said_before_is_stored(tmp_path):
    app = tmp_path / "app.py"
    app.write_text(version(1))
    command = [sys.executable, "-m", "chatkit_trio", "serve", "app:server", "--reload"]
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PWD": str(tmp_path)}
    script = f"cd {tmp_path}; exec " + " ".join([*command, "--port", "0"])
    async with running(["sh", "-c", script], tmp_path, "Serving on", **environment) as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"version1 ")
            app.write_text(version(2))
            await caller.read_to_end()
        second = await first_words(server.port)

        app.write_text("def f(:")
        await server.logs("waiting for a change of a file", WITHIN)
        app.write_text(version(3))
        third = await first_words(server.port)
        server.send_signal(signal.SIGINT)
        await server.ended(WITHIN)
    _, answer, note = await items_in(tmp_path / "chat.sqlite3", caller.thread_id)

    assert isinstance(answer, AssistantMessageItem)
    assert answer.content[0].text == caller.text != ""
    assert isinstance(note, SDKHiddenContextItem)
    assert (b"version2" in second.body, b"version3" in third.body) == (True, True)
    assert server.returncode == 0
    assert "restarting: app.py has changed" in server.log
    assert "Error: app:server can't be loaded: SyntaxError: invalid syntax" in server.log
    assert "Traceback" not in server.log
    assert server.log.count("Serving on") == 1
    # Each request and turn is told as well, and nothing of what was said.
    turn = rf"chatkit_trio\.turns: turn_\w+ of thread {caller.thread_id}"
    assert re.search(rf"INFO {turn} begins\n", server.log)
    assert re.search(rf"INFO {turn} ended: shutdown, after \d+\.\d\d s\n", server.log)
    assert re.search(r"INFO chatkit_trio\.requests: POST /chatkit 200, \d+\.\d+ s\n", server.log)
    assert "version1 " not in server.log


def relative(files, root):
    return {os.path.relpath(each, root) for each in files}


async def test_the_files_of_a_project_are_those_that_are_written_for_it(tmp_path: Path):
    names = ["app.py", "chat/deep/x.py", ".venv/a.py", "env/lib/b.py", "node_modules/c.py", "d.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "gone.py").symlink_to("nowhere.py")

    before = await _look(tmp_path)
    (tmp_path / "app.py").write_text("1")
    (tmp_path / "chat" / "new.py").write_text("")
    after = await _look(tmp_path)

    changed = [path for path, _ in before.items() ^ after.items()]
    assert relative(before, tmp_path) == {"app.py", "chat/deep/x.py"}
    assert relative(changed, tmp_path) == {"app.py", "chat/new.py"}


def test_reload_is_for_one_worker():
    result = CliRunner().invoke(main, ["serve", "app:app", "--reload", "--workers", "2"])

    assert result.exit_code == 2
    assert "--reload is for one worker: leave --workers out" in result.output
