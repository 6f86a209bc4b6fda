"""Many seeds of `chatkit_trio.testing.simulate`, of its own server: what it finds, and how fast.

    python -m benchmarks.simulate --seeds 20000
    python -m benchmarks.simulate --seeds 2000 --first 20000 --store sqlite
    python -m benchmarks.simulate --seeds 10000 --nodes 3

Unlike in a test a failing seed doesn't end it: the first of each kind is shrunk and printed at the
end, with the number of seeds that broke the same rule. The exit code is 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_conditions, print_table
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import Simulation, SimulationFailed, simulate

SEEDS_A_LINE = 1000


class Tally:
    """What all seeds so far have brought."""

    def __init__(self) -> None:
        self.runs = 0
        self.operations: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()
        self.faults = 0
        self.failing: dict[str, list[int]] = {}

    def add(self, simulation: Simulation) -> None:
        self.runs += simulation.runs
        self.operations += simulation.operations
        self.turns += simulation.turns
        self.faults += simulation.faults

    def add_failure(self, seed: int, failure: SimulationFailed) -> None:
        self.runs += 1
        for kind in dict.fromkeys(problem.kind for problem in failure.problems):
            self.failing.setdefault(kind, []).append(seed)

    @property
    def failures(self) -> int:
        return len({seed for seeds in self.failing.values() for seed in seeds})


def new_sqlite(directory: Path) -> Callable[[], Store[Any]]:
    """Return what makes the store of each run, in one file whose name is used again."""
    numbers = count()

    def make_store() -> Store[Any]:
        number = next(numbers)
        for old in directory.glob(f"{number - 2}.db*"):
            old.unlink()
        return SQLiteStore(directory / f"{number}.db")

    return make_store


def run(seeds: range, make_store: Callable[[], Store[Any]], nodes: int, *, quiet: bool) -> Tally:
    tally, began = Tally(), time.perf_counter()
    for seed in seeds:
        try:
            tally.add(
                simulate(seeds=[seed], make_store=make_store, nodes=nodes, max_shrinking_runs=0)
            )
        except SimulationFailed as failure:
            tally.add_failure(seed, failure)
        if not quiet and tally.runs % SEEDS_A_LINE == 0:
            took = time.perf_counter() - began
            print(
                f"{tally.runs:>7} seeds, {sum(tally.turns.values()):>7} turns,"
                f" {tally.faults:>6} store faults, {tally.failures} failing, {took:6.0f} s",
                flush=True,
            )
    return tally


def show(tally: Tally, make_store: Callable[[], Store[Any]], nodes: int) -> None:
    print_table(("turns that ended", "count"), [[k, n] for k, n in tally.turns.most_common()])
    print_table(("operation", "count"), [[k, n] for k, n in tally.operations.most_common()])
    rows = [[kind, len(seeds), seeds[0]] for kind, seeds in sorted(tally.failing.items())]
    print_table(("broken rule", "seeds", "first seed"), rows or [["none", 0, ""]])
    for seed in sorted({seeds[0] for seeds in tally.failing.values()}):
        try:
            simulate(seeds=[seed], make_store=make_store, nodes=nodes)
        except SimulationFailed as failure:
            print(failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS_A_LINE)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--store", choices=("memory", "sqlite"), default="memory")
    parser.add_argument("--nodes", type=int, default=1, help="servers that share memory stores")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with tempfile.TemporaryDirectory() as directory:
        make_store = new_sqlite(Path(directory)) if options.store == "sqlite" else MemoryStore
        tally = run(seeds, make_store, options.nodes, quiet=options.json)
        if options.json:
            print(json.dumps([tally.runs, tally.faults, dict(tally.turns), tally.failing]))
        else:
            print_conditions()
            show(tally, make_store, options.nodes)
    sys.exit(1 if tally.failing else 0)


if __name__ == "__main__":
    main()
