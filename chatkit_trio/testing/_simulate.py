"""Whole schedules from one seed: clients, faults, restarts and crashes, and what must hold then.

`simulate` runs seed after seed; the first that breaks a rule is shrunk to the fewest operations
that still break the same one, and reported as a script to run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from chatkit_trio._settings import check_count, check_plain_function, check_strings
from chatkit_trio.actions import Action
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.types import ThreadItem

from ._arguments import check_makes, failure_of
from ._probe import can_repeat_schedules
from ._simulate_checks import Problem, problems
from ._simulate_history import History
from ._simulate_plan import Operation, plan, simpler
from ._simulate_world import Scenario, run_once

__all__ = ["SimulatedRun", "Simulation", "SimulationFailed", "simulate"]

_TRACE_LINES = 40
_CHECK = "check"
_LONG_ID = re.compile(r"([a-z]_[0-9a-f]{6})[0-9a-f]{26}")


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """One run that kept all rules; given to the `check` of `simulate`."""

    seed: int
    operations: list[Operation]
    """What happened."""
    stored: dict[str, list[ThreadItem]]
    """All items that are in the store at the end, hidden ones too, by thread."""
    trace: list[str]
    """What happened when, a line each, in virtual seconds."""


@dataclass(slots=True)
class Simulation:
    """What `simulate` has tried."""

    runs: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    """How often each operation was carried out."""
    turns: Counter[str] = field(default_factory=Counter)
    """How the turns ended: "finished", or the reason they were cut short for."""
    faults: int = 0
    """How many store operations failed or hung."""
    fingerprint: str = ""
    """A digest of all that happened; the same on every machine for the same seeds."""

    def add(self, run: SimulatedRun, history: History) -> None:
        """Count a run."""
        self.runs += 1
        self.operations.update(operation.do for operation in run.operations)
        self.turns.update(body.turn.end_reason for body in history.bodies)
        self.faults += len(history.faults.raised)
        told = "\n".join([self.fingerprint, *run.trace])
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]


class SimulationFailed(AssertionError):
    """A run has broken a rule. `script` is Python text that runs it again."""

    def __init__(
        self, seed: int, found: Sequence[Problem], operations: Sequence[Operation], report: str
    ) -> None:
        super().__init__(report)
        self.seed = seed
        self.problems = list(found)
        """The rules broken by the shrunk run, each with what was seen."""
        self.operations = list(operations)
        """The shrunk run."""
        self.script = report.partition(_SCRIPT_HEAD)[2]


_SCRIPT_HEAD = "\nto run it again:\n\n"


def memory_cluster() -> Callable[[], Store[Any]]:
    """Return what makes memory stores on the same data, with a lease of 5 seconds."""
    cluster = MemoryCluster(lease_timeout=5.0)
    return partial(MemoryStore, cluster=cluster)


def simulate(
    make_server: Callable[[Store[Any]], ChatKitServer[Any]] | None = None,
    *,
    seeds: int | Iterable[int] = 100,
    make_store: Callable[[], Store[Any]] = MemoryStore,
    nodes: int = 1,
    make_cluster: Callable[[], Callable[[], Store[Any]]] = memory_cluster,
    messages: Sequence[str] = ("Hello",),
    actions: Sequence[Action[str, Any]] = (),
    context: Any = None,
    steps: int = 14,
    operations: Sequence[Operation] | None = None,
    check: Callable[[SimulatedRun], None] | None = None,
    max_shrinking_runs: int = 300,
) -> Simulation:
    """Run random schedules against a server, and check after each that nothing was lost.

    Call it from a test that isn't async: each seed is a Trio run of its own, on virtual time.
    Without `make_server` the server is the simulator's own, whose answers do everything the
    engine has to cope with: that tests a store. `make_server` is called with a store and returns
    a server that isn't running; its clients send `messages` and, if it has widgets, `actions`.
    `make_store` makes an empty store for each run; it survives the run's crashes.

    With `nodes` above 1 so many servers share a store with coordination. Some are killed, paused or
    cut off from the store, and hints between them get lost. `make_cluster` is called for each run
    and returns what makes the store of one server, all of them on the same data.

    `operations` replaces the random ones, to run one schedule again. `check` is called with a
    `SimulatedRun` after each run that kept the rules, and raises `AssertionError` for what else
    you want to be true.

    Raises `SimulationFailed` for the first seed that breaks a rule, shrunk to few operations, and
    `ValueError` or `TypeError` for arguments with which nothing would be tried.

        def test_nothing_is_lost() -> None:
            simulate(MyServer, seeds=200)
    """
    if isinstance(seeds, str) or not isinstance(seeds, int | Iterable):
        raise TypeError(f"seeds must be a number, or an iterable of numbers, not {seeds!r}")
    if isinstance(seeds, int):
        check_count("seeds", seeds)
    check_count("nodes", nodes)
    check_count("steps", steps)
    check_count("max_shrinking_runs", max_shrinking_runs, least=0)
    check_strings("messages", messages)
    _check_makers(make_server, make_store, make_cluster, nodes)
    if operations is not None:
        _check_operations(operations, nodes)
    if check is not None:
        check_plain_function("check", check, "a SimulatedRun")
    pool = None if make_server is None else list(messages)
    scenario = Scenario(make_server, make_store, make_cluster, nodes, pool, actions, context)
    trial = _Trials(scenario, check)
    simulation = Simulation()
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        given = plan(seed, steps, pool, nodes) if operations is None else list(operations)
        history, found = trial.run(seed, given)
        if found:
            raise trial.failure(seed, given, found, max_shrinking_runs)
        simulation.add(_as_run(seed, given, history), history)
    if simulation.runs == 0:
        raise ValueError("seeds is empty, so there is nothing to do")
    return simulation


def _check_makers(make_server: Any, make_store: Any, make_cluster: Any, nodes: int) -> None:
    if make_server is not None:
        check_makes("make_server", make_server, "a server")
    check_makes("make_store", make_store, "a store")
    check_makes("make_cluster", make_cluster, "what makes stores")
    if nodes > 1 and make_store is not MemoryStore:
        raise ValueError("make_store isn't used with nodes above 1: give make_cluster instead")
    if nodes == 1 and make_cluster is not memory_cluster:
        raise ValueError("make_cluster isn't used with one node: give make_store, or more nodes")


def _check_operations(operations: Sequence[Operation], nodes: int) -> None:
    if not operations:
        raise ValueError("operations is empty, so there is nothing to do")
    for operation in operations:
        if not isinstance(operation, Operation):
            raise TypeError(f"operations must be of Operation, not {operation!r}")
        if operation.node not in range(nodes):
            raise ValueError(
                f"an operation has node={operation.node}, and there are {nodes} nodes, counted"
                " from 0"
            )


def _as_run(seed: int, operations: Sequence[Operation], history: History) -> SimulatedRun:
    return SimulatedRun(seed, list(operations), history.stored, history.trace)


def _condensed(trace: Sequence[str]) -> list[str]:
    """Return the last lines, those that say the same one after the other only once."""
    lines: list[str] = []
    for line, again in groupby(trace, key=lambda line: line.split(maxsplit=1)[1]):
        times = [each.split(maxsplit=1)[0] for each in again]
        count = f" ({len(times)} times)" if len(times) > 1 else ""
        lines.append(f"  {times[0]:>9}  {line}{count}")
    dropped = len(lines) - _TRACE_LINES
    return [f"  ... {dropped} lines before", *lines[dropped:]] if dropped > 0 else lines


class _Trials:
    """Runs schedules of one scenario and judges them."""

    def __init__(self, scenario: Scenario, check: Callable[[SimulatedRun], None] | None) -> None:
        self._scenario = scenario
        self._check = check

    def run(self, seed: int, operations: Sequence[Operation]) -> tuple[History, list[Problem]]:
        """Run once, and return the records with what is wrong in them."""
        history = run_once(self._scenario, seed, operations)
        found = problems(history)
        if not found:
            error = failure_of(self._check, _as_run(seed, operations, history))
            if error is not None:
                found = [Problem(_CHECK, f"check() failed: {error}")]
        return history, found

    def failure(
        self, seed: int, operations: Sequence[Operation], found: Sequence[Problem], max_runs: int
    ) -> SimulationFailed:
        """Return the error that reports this failure, made as small as it gets."""
        kind = found[0].kind
        runs = 0

        def fails(fewer: list[Operation]) -> bool:
            nonlocal runs
            runs += 1
            return runs <= max_runs and any(p.kind == kind for p in self.run(seed, fewer)[1])

        shrunk = simpler(operations, fails)
        history, found = self.run(seed, shrunk)
        return SimulationFailed(seed, found, shrunk, self._report(seed, shrunk, history, found))

    def _report(
        self,
        seed: int,
        operations: Sequence[Operation],
        history: History,
        found: Sequence[Problem],
    ) -> str:
        lines = [f"seed {seed} breaks a rule:", *(f"  - {problem}" for problem in found)]
        lines += ["what happened (in virtual seconds):", *_condensed(history.trace)]
        if not can_repeat_schedules():
            lines.append(
                "this version of Trio doesn't let a seed decide: it may take several tries"
            )
        told = _LONG_ID.sub(r"\1", "\n".join(lines))
        return told + _SCRIPT_HEAD + self._script(seed, operations)

    def _script(self, seed: int, operations: Sequence[Operation]) -> str:
        imports, arguments = self._arguments()
        return "\n".join(
            [
                "from chatkit_trio.testing import Operation, simulate",
                *imports,
                "",
                "simulate(",
                *(f"    {argument}," for argument in arguments),
                f"    seeds=[{seed}],",
                "    operations=[",
                *(f"        {operation!r}," for operation in operations),
                "    ],",
                ")",
                "",
            ]
        )

    def _arguments(self) -> tuple[list[str], list[str]]:
        """Return what a script has to import, and its arguments before the seed."""
        imports: list[str] = []
        arguments: list[str] = []
        scenario = self._scenario
        given: dict[str, Any] = {
            "make_server": scenario.make_server,
            "make_store": scenario.make_store,
        }
        if scenario.nodes > 1:
            given = {"make_server": scenario.make_server, "make_cluster": scenario.make_cluster}
            arguments.append(f"nodes={scenario.nodes}")
        for name, value in given.items():
            if value in (None, MemoryStore, memory_cluster):
                continue
            module, path = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
            if path.isidentifier():
                imports.append(f"from {module} import {path}")
                arguments.append(f"{name}={path}")
            else:
                arguments.append(f"{name}=...")
        return imports, arguments
