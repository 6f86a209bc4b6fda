"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TEST = """
import pytest, trio
from chatkit_trio.testing import ChatClient, JumpClock, say, scripted_server

@pytest.fixture
def chatkit_server(chatkit_store):
    return scripted_server(chatkit_store, [say("Hello", every=3600)])

async def test_a_client_of_my_server(chatkit_client, chatkit_store, jump_clock):
    async with chatkit_client.send("hi") as turn:
        await turn.read()
    assert turn.text == "Hello"
    assert trio.current_time() == 3600
    assert len((await chatkit_store.load_threads(10, None, "asc", None)).data) == 1
"""

WITHOUT_SERVER = """
async def test_without_a_server(chatkit_client):
    pass
"""

IMPORTS = """
import sys

def test_nothing_of_weight_has_been_imported():
    assert not {"chatkit_trio.types", "chatkit_trio.testing", "quart"} & set(sys.modules)
"""


def run_pytest(folder: Path, test: str) -> str:
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_its_fixtures_make_a_client_on_virtual_time(tmp_path: Path) -> None:
    assert "1 passed" in run_pytest(tmp_path, TEST)


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    assert "define a fixture chatkit_server" in run_pytest(tmp_path, WITHOUT_SERVER)


def test_it_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    assert "1 passed" in run_pytest(tmp_path, IMPORTS)
