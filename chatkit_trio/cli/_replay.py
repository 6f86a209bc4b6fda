"""`replay`: list recorded turns, and play one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ._plain import json_text, one_line, plain
from ._playing import Script, headline, play, told_gap, when
from ._recordings import End, Gap, Line, Recording, recordings_in

_SLOWEST, _FASTEST = 0.01, 1000.0


def _possible(context: click.Context, parameter: click.Parameter, speed: float) -> float:
    if speed == 0 or _SLOWEST <= speed <= _FASTEST:  # no NaN is
        return speed
    raise click.BadParameter(f"it is 0 or from {_SLOWEST} to {_FASTEST:g}, not {speed}")


@click.command()
@click.argument("place", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option("--turn", "turn_id", metavar="ID", help="Play this turn of the directory.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    callback=_possible,
    help="2 is twice as fast as it was; 0 shows all at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def replay(place: Path, turn_id: str | None, speed: float, as_json: bool) -> None:
    """List the turns that a server has recorded, or play one.

    A server records with `serve --record DIR`. The turns of a DIR are listed, the newest first. A
    FILE of it, or the one that --turn names, is played: what its client could read, at the pace at
    which it came.

    With --json a list is one JSON value, and a turn is a line for each event as it was sent.
    """
    if place.is_dir():
        found, wrong = recordings_in(place)
        if turn_id is None:
            _list(place, found, wrong, as_json=as_json)
            return
        chosen = next((each for each in found if each.turn_id == turn_id), None)
        if chosen is None:
            raise click.ClickException(f"there is no recording of {turn_id} in {place}")
    elif place.is_file():
        chosen = Recording.open(place)
        if turn_id not in (None, chosen.turn_id):
            raise click.ClickException(
                f"{place} is of {one_line(chosen.turn_id)}, not of {turn_id}"
            )
    else:
        raise click.ClickException(f"there is no file or directory {place}")
    lines = play(chosen.lines(), speed)
    if as_json:
        _print_events(lines)
    else:
        click.echo(headline(chosen))
        _show(lines)


def _list(place: Path, found: list[Recording], wrong: list[str], *, as_json: bool) -> None:
    for problem in wrong:
        click.echo(f"left out: {plain(problem)}", err=True)
    if as_json:
        told = [_summary(each, each.end()) for each in found]
        click.echo(json_text(told, indent=2))
        return
    for each in found:
        head = f"{when(each)}  {each.request} of thread {each.thread_id}"
        click.echo(f"{one_line(each.turn_id)}  {plain(head)}\n    {_how_it_ended(each.end())}")
    if not found:
        click.echo(f"there are no recordings in {place}", err=True)


def _how_it_ended(end: End | None) -> str:
    if end is None:
        return "has no end yet"
    missing = f", {end.missing} of them missing" if end.missing else ""
    seconds = f"{end.ms / 1000:.1f} s"
    return f"{one_line(end.ended)} after {seconds}, {end.events} events{missing}"


def _summary(recording: Recording, end: End | None) -> dict[str, Any]:
    return {
        "file": str(recording.path),
        "turn_id": recording.turn_id,
        "thread_id": recording.thread_id,
        "request": recording.request,
        "began_at": recording.began_at,
        "ended": None if end is None else end.ended,
        "seconds": None if end is None else end.ms / 1000,
        "events": None if end is None else end.events,
        "missing": None if end is None else end.missing,
    }


def _show(lines: Iterable[Line]) -> None:
    script = Script()
    try:
        for line in lines:
            click.echo(script.show(line), nl=False)
    finally:
        # Before what is said of a file that breaks off.
        click.echo(script.finish(), nl=False)


def _print_events(lines: Iterable[Line]) -> None:
    for line in lines:
        match line:
            case Gap():
                click.echo(f"[{line.ms / 1000:.3f}] {told_gap(line)}", err=True)
            case End():
                pass
            case _:
                click.echo(json_text(line.event, separators=(",", ":")))
