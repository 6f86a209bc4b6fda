"""`new`: write a project with a server, its tests, and a page that says how to run them."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from unicodedata import combining, normalize

import click

_FILES = ["pyproject.toml", "app.py", "tests/test_app.py", "README.md", "gitignore"]


@click.command("new")
@click.argument("name", type=click.Path(path_type=Path))
def new(name: Path) -> None:
    """Make a project: an app, tests, a README.

    NAME is its directory, which is made if it isn't there; one that is has to be empty.
    """
    directory = Path(os.path.realpath(name))
    _check(directory)
    words = {"name": directory.name, "version": version("chatkit-trio")}
    try:
        for each in _FILES:
            path = directory / each.replace("gitignore", ".gitignore")
            path.parent.mkdir(exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(_template(each).substitute(words))
    except OSError as error:
        raise click.ClickException(
            f"{error.filename} can't be written: {error.strerror}"
        ) from error
    click.echo(f"{name} is there. Test it and serve it:\n")
    for line in _steps(name, directory):
        click.echo(f"    {line}")


def _steps(name: Path, directory: Path) -> Iterator[str]:
    """Yield the commands that come next, for the user's shell."""
    if directory != Path.cwd():
        yield f"cd {shlex.quote(str(name))}"
    if find_spec("pytest") is None or find_spec("pytest_trio") is None:
        yield f"{shlex.quote(sys.executable)} -m pip install 'chatkit-trio[testing]'"
    yield _command("pytest")
    yield f"{_command('chatkit-trio')} serve app:app --reload --open"


def _check(directory: Path) -> None:
    """Raise `click.ClickException` unless a project can be made there."""
    name = directory.name
    if not _is_name(name):
        raise click.ClickException(
            f"{name!r} can't be the name of a project: it has to be of the letters A to Z, digits"
            " and underscores, with a letter at its beginning and with a letter or digit at its"
            f" end{_suggestion(name)}"
        )
    if _is_own(name):
        raise click.ClickException(f"{name} is the name of something in the project: take another")
    if directory.is_dir():
        if any(directory.iterdir()):
            raise click.ClickException(
                f"the directory {directory} isn't empty: take another name, or empty it first"
            )
    elif directory.exists():
        raise click.ClickException(f"{directory} is a file: take another name")
    elif not directory.parent.is_dir():
        raise click.ClickException(f"there is no directory {directory.parent}: make it first")


def _is_name(name: str) -> bool:
    """Return whether Python can import a thing of this name, and pip install it."""
    return not keyword.iskeyword(name) and bool(_NAME.fullmatch(name))


def _is_own(name: str) -> bool:
    """Return whether something in a project has this name."""
    # To pip, names are the same whatever their case and the number of their underscores.
    return name in {"app", "tests"} or re.sub("_+", "_", name).lower() == "chatkit_trio"


_NAME = re.compile("[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")


def _suggestion(name: str) -> str:
    plain = "".join(each if each.isascii() else each.casefold() for each in name)
    letters = [each for each in normalize("NFKD", plain) if not combining(each)]
    candidate = "".join(each if _NAME.fullmatch(f"x{each}x") else "_" for each in letters)
    candidate = candidate.rstrip("_").lstrip("_0123456789")
    if keyword.iskeyword(candidate) or _is_own(candidate):
        candidate += "_chat"
    return f", such as {candidate}" if _is_name(candidate) else ""


def _command(name: str) -> str:
    """Return how a program of this environment is called in the user's shell."""
    here = Path(sys.executable).parent
    found = shutil.which(name)
    if found is not None and Path(found).parent == here:
        return name
    return f"{shlex.quote(sys.executable)} -m {name.replace('-', '_')}"


def _template(name: str) -> Template:
    place = files("chatkit_trio.cli").joinpath("project", *f"{name}.template".split("/"))
    return Template(place.read_text("utf-8"))
