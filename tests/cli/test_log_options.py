"""What the terminal of somebody who serves shows, in a real process."""

from __future__ import annotations

import json
import logging
import signal

import pytest
from click.testing import CliRunner

from chatkit_trio.cli import main
from tests.test_logs import bare_root
from tests.web.sockets import calling, served_by_cli

WITHIN = 60


async def test_all_lines_of_workers_and_their_parent_are_json_if_asked_for(tmp_path):
    options = ["--workers", "2", "--log-format", "json"]
    async with served_by_cli(tmp_path / "chat.sqlite3", *options) as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word4 ")
            server.send_signal(signal.SIGINT)
            await caller.read_to_end()
        await server.ended(WITHIN)
    lines = [line for line in server.log.splitlines() if not line.startswith("Serving on")]

    told = [json.loads(line) for line in lines]
    events = {each["event"]: each for each in told if "event" in each}
    assert {"turn.began", "turn.ended", "request"} <= {*events}
    ended = events["turn.ended"]
    assert (ended["thread_id"], ended["reason"]) == (caller.thread_id, "shutdown")
    assert "word4" not in server.log
    assert len({each["process"] for each in told}) > 1


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["serve", "--quiet", "nope"], logging.WARNING),
        (["--quiet", "serve", "nope"], logging.WARNING),
        (["serve", "--verbose", "nope"], logging.DEBUG),
        (["serve", "nope"], logging.INFO),
    ],
)
def test_quiet_and_verbose_are_levels_wherever_they_stand(arguments, level):
    with bare_root() as root:
        CliRunner().invoke(main, arguments)

        assert root.level == level


def test_quiet_and_verbose_exclude_each_other():
    result = CliRunner().invoke(main, ["--quiet", "serve", "--verbose", "app:app"])

    assert result.exit_code == 2
    assert "--quiet and --verbose exclude each other" in result.output


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_what_serves_has_the_options_too(command):
    result = CliRunner().invoke(main, [command, "--help"])

    assert all(each in result.output for each in ("--quiet", "--verbose", "--log-format"))
