"""Many processes on one PostgreSQL behind nginx, and everything that goes wrong with them.

    python -m benchmarks.cluster                     both variants, 500 streams, some 5 minutes
    python -m benchmarks.cluster --streams 12 --variants hosts --faults kill

Variants: `workers` is Hypercorn with four trio workers; `hosts` are two hosts of two
`chatkit-trio serve` each, with a connection to the database of their own for each host. Clients
send, leave, come back, stop, send on and repeat; nginx gives each of their requests to the next
node. Meanwhile nodes are killed, paused and ended, the database is restarted, and the network
before it is cut and stalled. Then the database is compared with what the clients were shown.

The exit code is 1 if anything is lost, doubled, interleaved, late or untrue.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from benchmarks.cluster_clients import Chat, Record
from benchmarks.cluster_judge import Fault, Findings, Judge, Lives, left_in
from benchmarks.cluster_parts import System, Variant, running_system
from benchmarks.measuring import percentile, print_conditions, print_table
from tests.postgresql_server import running_server

LEASE = 5.0  # seconds, instead of 15
WARM_UP = 6.0
CALM = LEASE + 3.0  # seconds between faults
QUIET_TIMEOUT = 60.0  # seconds for what is live at the end
VARIANTS: tuple[Variant, ...] = ("workers", "hosts")


# --- Faults ------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run of one variant."""

    system: System
    variant: Variant
    rng: random.Random
    faults: list[Fault]

    def begin(self, name: str, *, dead: Sequence[str] = (), ending: Sequence[str] = ()) -> Fault:
        fault = Fault(name, time.monotonic(), set(dead), set(ending))
        self.faults.append(fault)
        return fault

    def a_node(self) -> tuple[int, str]:
        """Return the process and the id of some node."""
        return self.rng.choice(sorted(self.system.nodes().items()))

    def nodes_of(self, pid: int) -> list[str]:
        """Return the nodes that end when this one does: Hypercorn ends all its workers then."""
        service = next(each for each in self.system.services if pid in each.live())
        return list(service.live().values())


async def kill(run: Run) -> None:
    pid, node = run.a_node()
    others = [each for each in run.nodes_of(pid) if each != node]
    run.begin("kill -9 of a node", dead=[node], ending=others)
    os.kill(pid, signal.SIGKILL)
    await trio.sleep(0.5)
    await run.system.wait_ready()


async def pause(run: Run) -> None:
    pid, node = run.a_node()
    fault = run.begin("SIGSTOP beyond the lease, then SIGCONT", dead=[node])
    os.kill(pid, signal.SIGSTOP)
    try:
        await trio.sleep(LEASE + 2)
    finally:
        os.kill(pid, signal.SIGCONT)
    fault.ended = time.monotonic()


async def terminate(run: Run) -> None:
    pid, _ = run.a_node()
    service = next(each for each in run.system.services if pid in each.live())
    run.begin("SIGTERM", ending=list(service.live().values()))
    service.signal(signal.SIGTERM)
    await trio.sleep(0.5)
    with trio.move_on_after(20):
        while service.starts < 2:  # noqa: ASYNC110  (another process)
            await trio.sleep(0.1)
    await run.system.wait_ready()


async def restart(run: Run, *, at_once: bool) -> None:
    fault = run.begin(f"database restarted ({'immediate' if at_once else 'fast'})")
    await trio.to_thread.run_sync(partial(run.system.database.restart, at_once=at_once))
    fault.ended = time.monotonic()


async def cut(run: Run) -> None:
    fault = run.begin("connections to the database cut, 5 times")
    hosted = run.system.hosted(0)
    fault.loses_connections = {node for each in hosted for node in each.live().values()}
    for _ in range(5):
        run.system.proxies[0].cut()
        await trio.sleep(run.rng.uniform(1.0, 2.0))
    fault.ended = time.monotonic()


async def stall(run: Run, *, seconds: float) -> None:
    is_long = seconds > LEASE
    nodes = [node for each in run.system.hosted(0) for node in each.live().values()]
    name = "network to the database gone for longer than the lease"
    if not is_long:
        name = "network to the database stalled for a third of the lease"
    fault = run.begin(name, dead=nodes if is_long else ())
    fault.is_total = len(run.system.proxies) == 1
    with run.system.proxies[0].stalled():
        await trio.sleep(seconds)
    fault.ended = time.monotonic()


FAULTS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "kill": kill,
    "pause": pause,
    "terminate": terminate,
    "restart": partial(restart, at_once=False),
    "crash": partial(restart, at_once=True),
    "cut": cut,
    "stall": partial(stall, seconds=LEASE / 3),
    "partition": partial(stall, seconds=LEASE + 3),
}


# --- A run -------------------------------------------------------------------------------------


async def run_variant(
    variant: Variant, faults: Sequence[str], streams: int, pace: float, seed: int, log: Path | None
) -> tuple[Record, list[Fault], Findings, Lives]:
    record, lives, rng = Record(), Lives(), random.Random(seed)
    with running_server() as database, database.database() as url, temporary_directory() as folder:
        async with (
            running_system(variant, database, url, folder, LEASE) as system,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(lives.watch, url)
            run = Run(system, variant, rng, [])
            await chatting(run, record, faults, streams, pace)
            with trio.move_on_after(QUIET_TIMEOUT):
                while any(left_in(url).values()):  # noqa: ASYNC110  (it asks the database)
                    await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        findings = Judge(record, lives, run.faults, LEASE).judge(url)
        if log is not None:
            log.write_text("\n".join([system.log(), *findings.evidence]))  # noqa: ASYNC240
    return record, run.faults, findings, lives


@contextmanager
def temporary_directory() -> Any:
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        yield Path(name)


async def chatting(
    run: Run, record: Record, faults: Sequence[str], streams: int, pace: float
) -> None:
    """Let clients chat while the faults come one after the other."""
    is_on = True

    async def begin_late(chat: Chat) -> None:
        await trio.sleep(run.rng.uniform(0, WARM_UP))
        await chat.run()

    async with trio.open_nursery() as nursery:
        for number in range(streams):
            chat = Chat(number, run.system.port, record, pace, lambda: is_on)
            nursery.start_soon(begin_late, chat)
        await trio.sleep(WARM_UP + 2)
        for name in faults:
            await FAULTS[name](run)
            await trio.sleep(CALM)
        is_on = False


# --- The tables --------------------------------------------------------------------------------

WRONG = (
    "lost", "doubled", "interleaved", "not a prefix", "shown and not stored",
    "cut without a note", "untrue reason", "stale read", "over too early", "wrong to a client",
    "settled too late", "left over", "nobody served",
)  # fmt: skip
HEAD = ("", *VARIANTS)


def rows_of(record: Record, findings: Findings, lives: Lives) -> dict[str, Any]:
    """Return what is told of one run."""
    served = elsewhere(record, lives)
    for kind in ("watch", "stop", "repeat"):
        if not served[f"{kind} elsewhere"]:
            findings.add("nobody served", kind)
    rows: dict[str, Any] = {
        "messages accepted": findings.counts["accepted"],
        "events read": record.events,
        "answers by end": ", ".join(f"{r} {n}" for r, n in findings.reasons.most_common()),
    }
    for kind, name in (
        ("watch", "watches, by the turn's node / by another"),
        ("stop", "stops, by the turn's node / by another"),
        ("repeat", "repeats, by the turn's node / by another"),
    ):
        rows[name] = f"{served[f'{kind} here']} / {served[f'{kind} elsewhere']}"
    rows["nodes, those that served a watch and a stop of another's turn"] = served["nodes"]
    rows["this process was held up, ms: p99 / longest"] = (
        f"{percentile(lives.held_up, 0.99) * 1000:.0f} / {max(lives.held_up) * 1000:.0f}"
    )
    rows["answers cut by lost connections though their nodes lived"] = findings.counts[
        "cut by lost connections"
    ]
    for kind in WRONG:
        rows[kind] = findings.number(kind)
    return rows


def elsewhere(record: Record, lives: Lives) -> dict[str, Any]:
    """Return how much was served by the node of the turn, and by others."""
    counts: dict[str, Any] = {}
    by: dict[str, set[str]] = {"watch": set(), "stop": set(), "repeat": set()}
    for kind, sent, node in record.served:
        is_here = lives.nodes.get(sent.turn_id, sent.node) == node
        name = f"{kind} {'here' if is_here else 'elsewhere'}"
        counts[name] = counts.get(name, 0) + 1
        if not is_here:
            by[kind].add(node)
    for kind in by:
        counts.setdefault(f"{kind} here", 0)
        counts.setdefault(f"{kind} elsewhere", 0)
    nodes = set(lives.nodes.values())
    counts["nodes"] = f"{len(nodes)}, {len(by['watch'] & by['stop'])}"
    return counts


def fault_rows(variant: str, faults: Sequence[Fault], findings: Findings) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for fault in faults:
        seconds = findings.settled.get(fault.name, [])
        settled = "-"
        if seconds:
            settled = f"{percentile(seconds, 0.5):.1f} / {max(seconds):.1f}"
            settled += " after its end" if fault.is_total else ""
        age = findings.oldest_lost.get(fault.name)
        lost = "-" if age is None else f"{age:+.2f}"
        rows.append([variant, fault.name, len(seconds) or "-", settled, lost])
    return rows


FAULT_HEAD = (
    "variant", "fault", "answers of the dead nodes", "settled after, s: median / last",
    "oldest text lost, s before the fault",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--pace", type=float, default=2.0, help="seconds between two pieces")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="where to keep what the nodes said")
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    columns: dict[str, dict[str, Any]] = {}
    by_fault: list[list[Any]] = []
    is_wrong = False
    for variant in arguments.variants:
        log = arguments.log and arguments.log.with_name(f"{arguments.log.name}-{variant}")
        record, faults, findings, lives = trio.run(
            run_variant, variant, arguments.faults, arguments.streams, arguments.pace,
            arguments.seed, log,
        )  # fmt: skip
        columns[variant] = rows_of(record, findings, lives)
        by_fault += fault_rows(variant, faults, findings)
        is_wrong = is_wrong or bool(findings.wrong)
        for kind, found in findings.wrong.items():
            print(f"{variant}: {kind}: {len(found)}", *found[:12], sep="\n  ", file=sys.stderr)
        counts = ", ".join(f"{name} {count}" for name, count in record.counts.most_common())
        print(f"{variant}: {counts}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([columns, by_fault]))
    else:
        print_conditions()
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        print_table(
            ["", *columns],
            ([name, *(column[name] for column in columns.values())] for name in names),
        )
        print()
        print_table(FAULT_HEAD, by_fault)
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
