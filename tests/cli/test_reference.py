"""The reference page of the command line tells every command and option that there is."""

from __future__ import annotations

import re
from pathlib import Path

import click

from chatkit_trio.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text("utf-8")
SHARED = {"--quiet", "--verbose", "--log-format", "--version", "--help"}


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


def options_of(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
        if option.startswith("--")
    }


def sections() -> dict[str, set[str]]:
    """Return the options that the tables of each section name."""
    parts = re.split(r"^##+ ", PAGE, flags=re.M)[1:]
    named = {}
    for part in parts:
        head, _, body = part.partition("\n")
        cells = [line.split(" | ")[0] for line in body.splitlines() if line.startswith("| `-")]
        named[head] = set(re.findall(r"--[\w-]+", " ".join(cells)))
    return named


def test_every_command_has_a_section_with_its_options_and_no_others():
    told = {name: options for name, options in sections().items() if name in commands(main)}
    there = {name: options_of(each) - SHARED for name, each in commands(main).items()}

    assert told == there


def test_what_all_commands_have_is_told_once():
    assert sections()["For every command"] == SHARED
    assert options_of(main) <= SHARED


def test_every_exit_code_that_a_command_has_is_told():
    text = PAGE.partition("## Exit codes")[2].partition("\n## ")[0]

    assert re.findall(r"^\| (\d) \|", text, re.M) == ["0", "1", "2", "3"]
