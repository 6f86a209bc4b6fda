"""`new`: what it prints, word by word, in an empty directory; and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatkit_trio.cli import _new, main
from tests.web.sockets import ROOT, calling, running

BIN = Path(sys.executable).parent


def new(name, directory: Path) -> list[str]:
    """Make a project as a user does; return the printed commands."""
    command = [sys.executable, "-m", "chatkit_trio", "new", str(name)]
    run = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.strip() for line in run.stdout.splitlines() if line.startswith("    ")]


def environment() -> dict[str, str]:
    return {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PORT": "0",
        "BROWSER": "true",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }


async def test_the_printed_commands_pass_word_by_word_in_an_empty_directory(tmp_path):
    enter, test, serve = new("my_chat", tmp_path)
    tested = subprocess.run(  # noqa: ASYNC221
        f"{enter} && {test}",
        shell=True,
        cwd=tmp_path,
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    script = f"cd {tmp_path} && {enter} && exec {serve}"
    async with running(["sh", "-c", script], tmp_path, "Serving on", **environment()) as server:
        async with calling(server.port) as caller:
            await caller.read_to_end()
        server.send_signal(signal.SIGINT)
        await server.ended(60)

    assert (enter, test) == ("cd my_chat", "pytest")
    assert serve == "chatkit-trio serve app:app --reload --open"
    assert "3 passed" in tested.stdout, tested.stdout
    assert caller.text == "You said: A question "
    readme = (tmp_path / "my_chat" / "README.md").read_text()
    assert f"```\n{test}\n{serve}\n```" in readme


def test_what_it_writes_is_clean(tmp_path):
    new("my_chat", tmp_path)
    ruff = str(BIN / "ruff")
    for arguments in (["check", "--extend-select", "I,B,UP,ASYNC"], ["format", "--check"]):
        subprocess.run([ruff, *arguments, "--isolated"], cwd=tmp_path / "my_chat", check=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["new", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "my-chat",
            "'my-chat' can't be the name of a project: it has to be of the letters A to Z,",
        ),
        ("my-chat", "such as my_chat"),
        ("2chat", "such as chat"),
        ("class", "such as class_chat"),
        ("héllo wörld!", "such as hello_world\n"),
        ("größe", "such as grosse\n"),
        ("_x", "such as x\n"),
        ("my_chat_", "such as my_chat\n"),
        ("None", "such as None_chat\n"),
        ("chatkit-trio", "such as chatkit_trio_chat\n"),
        ("チャット", "and with a letter or digit at its end\n"),
        ("---", "and with a letter or digit at its end\n"),
        ("chatkit_trio", "chatkit_trio is the name of something in the project: take another"),
        ("Chatkit__Trio", "Chatkit__Trio is the name of something in the project: take another"),
        ("nowhere/chat", "nowhere: make it first"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_a_sentence(run, tmp_path, name, told):
    result = run("--", name)

    assert result.exit_code == 1
    assert told in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_left_as_it_is(run, tmp_path):
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "app.py").write_text("mine")

    result = run("chat")

    assert result.exit_code == 1
    assert f"the directory {tmp_path / 'chat'} isn't empty" in result.output
    assert [(each.name, each.read_text()) for each in (tmp_path / "chat").iterdir()] == [
        ("app.py", "mine")
    ]


def test_a_file_is_left_as_it_is(run, tmp_path):
    (tmp_path / "chat").write_text("mine")

    result = run("chat")

    assert result.exit_code == 1
    assert "is a file: take another name" in result.output
    assert (tmp_path / "chat").read_text() == "mine"


def test_a_link_to_itself_is_told(run, tmp_path):
    (tmp_path / "chat").symlink_to("chat")

    result = run("chat")

    assert result.exit_code == 1
    assert "chat can't be written" in result.output


def test_an_empty_directory_is_taken_also_the_current_one(run, tmp_path, monkeypatch):
    (tmp_path / "chat").mkdir()
    monkeypatch.chdir(tmp_path / "chat")

    result = run(".")

    assert result.exit_code == 0
    assert "cd " not in result.output
    assert 'name = "chat"' in (tmp_path / "chat" / "pyproject.toml").read_text()


def test_without_an_activated_environment_the_commands_name_its_python(run, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(_new, "find_spec", lambda name: None)

    result = run("chat")

    assert f"    {sys.executable} -m pip install 'chatkit-trio[testing]'\n" in result.output
    assert f"    {sys.executable} -m pytest\n" in result.output
    assert f"    {sys.executable} -m chatkit_trio serve app:app" in result.output
