"""All attacks on a server as one program: what was tried, what held, and what bystanders felt.

    python -m benchmarks.siege                      all of them, some minutes
    python -m benchmarks.siege --only input         the rows of one module
    python -m benchmarks.siege --only F7            the rows of one fault

Each attack gets a server process of its own, `chatkit-trio serve` with the app of
`benchmarks.attacks.victim`, and real sockets. Beside it another client reads a stream with an event
every 10 ms, from a process of its own: the longest time between two of its events is how long the
server kept that client waiting. The exit code is 1 if a row didn't hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

import benchmarks.attacks
from benchmarks.attacks import Attack, Outcome, Victim, running_victim
from benchmarks.measuring import ROOT, print_conditions, print_table

_AT_MOST = 300.0  # seconds an attack may take
_NO_MODULES = {"victim", "hanging", "bystander"}
HEAD = ("what was tried", "fault", "tried", "held", "longest gap", "MB before", "after", "note")


@dataclass
class Row:
    """What is told of one attack."""

    attack: Attack
    outcome: Outcome
    gap: float | None
    before: int
    after: int

    @property
    def has_held(self) -> bool:
        return self.outcome.held == self.outcome.tried

    def cells(self) -> list[str]:
        gap = "" if self.gap is None else f"{self.gap * 1000:.0f} ms"
        tried, held, note = self.outcome.tried, self.outcome.held, self.outcome.note
        verdict = str(held) if self.has_held else f"**{held}**"
        memory = [f"{size / 1e6:.0f}" if size else "" for size in (self.before, self.after)]
        return [self.attack.what, self.attack.fault, str(tried), verdict, gap, *memory, note]


def all_attacks() -> dict[str, Sequence[Attack]]:
    """Return the attacks of each module of `benchmarks.attacks`."""
    names = [each.name for each in pkgutil.iter_modules(benchmarks.attacks.__path__)]
    modules = {
        name: importlib.import_module(f"benchmarks.attacks.{name}")
        for name in names
        if name not in _NO_MODULES
    }
    return {name: module.ATTACKS for name, module in modules.items()}


def chosen(only: Sequence[str]) -> list[Attack]:
    """Return the attacks of the modules or faults named, all if none is."""
    return [
        attack
        for name, attacks in all_attacks().items()
        for attack in attacks
        if not only or name in only or attack.fault in only
    ]


class Bystander:
    """Another client's stream, read by a process of its own."""

    def __init__(self) -> None:
        self.gap: float | None = None

    @asynccontextmanager
    async def watching(self, victim: Victim) -> AsyncIterator[None]:
        """Read along for as long as the block runs; then `gap` is known."""
        command = [sys.executable, "-m", "benchmarks.attacks.bystander", str(victim.port)]
        process = await trio.lowlevel.open_process(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with trio.fail_after(30):
                await process.stdout.receive_some(6)  # "ready"
            yield
            await process.stdin.aclose()
            with trio.fail_after(10):
                output = b"".join([chunk async for chunk in process.stdout])
            self.gap = json.loads(output.splitlines()[-1])["longest"]
        finally:
            with trio.CancelScope(shield=True):
                if process.poll() is None:
                    process.kill()
                await process.wait()


async def run(attack: Attack) -> Row:
    """Run one attack on a fresh server."""
    bystander = Bystander()
    with tempfile.TemporaryDirectory() as directory:
        async with running_victim(Path(directory), attack.arguments, attack.settings) as victim:
            before = victim.rss
            try:
                with trio.fail_after(_AT_MOST):
                    if attack.has_bystander:
                        async with bystander.watching(victim):
                            outcome = await attack.run(victim)
                    else:
                        outcome = await attack.run(victim)
            except Exception as error:
                outcome = Outcome(1, 0, f"{type(error).__name__}: {error}")
            return Row(attack, outcome, bystander.gap, before, victim.rss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="modules or faults")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON instead")
    options = parser.parse_args()
    rows = []
    for attack in chosen(options.only):
        rows.append(trio.run(run, attack))
        print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([row.cells() for row in rows]))
    else:
        print_conditions()
        print_table(HEAD, [row.cells() for row in rows])
    sys.exit(any(not row.has_held for row in rows))


if __name__ == "__main__":
    main()
