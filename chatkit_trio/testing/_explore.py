"""Cancelling a turn at every point at which a cancellation can strike, and looking what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatkit_trio.server import CancelReason, ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore

from ._invariants import describe, problems
from ._probe import can_repeat_schedules
from ._trial import Aftermath, Cut, Scenario, run_trial

__all__ = [
    "EVERY_REASON",
    "Aftermath",
    "CancellationBroken",
    "Exploration",
    "explore_cancellations",
]

EVERY_REASON = (
    CancelReason.STOPPED,
    CancelReason.DISCONNECTED,
    CancelReason.DEADLINE,
    CancelReason.SHUTDOWN,
    CancelReason.SUPERSEDED,
    CancelReason.STALLED,
    CancelReason.FAILED,
)
"""The reasons that can be caused in one process; `crashed` needs a second one."""


class CancellationBroken(AssertionError):
    """A turn that was cut short has left something wrong; the message says what, where, and how to
    see it again."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What `explore_cancellations` has tried."""

    checkpoints: int
    """How many points there are at which a cancellation can strike the turn."""
    runs: dict[CancelReason, int] = field(default_factory=dict)
    """How many runs were made for each reason."""
    ends: Counter[str] = field(default_factory=Counter)
    """How the turns ended: "finished" or a reason. One that strikes too late cuts nothing short."""

    @property
    def total_runs(self) -> int:
        """How many runs were made in all, without the first that counts."""
        return sum(self.runs.values())


def explore_cancellations(
    make_server: Callable[[Store[Any]], ChatKitServer[Any]],
    *messages: str,
    make_store: Callable[[], Store[Any]] = MemoryStore,
    context: Any = None,
    reasons: Collection[CancelReason | str] = EVERY_REASON,
    check: Callable[[Aftermath], None] | None = None,
    at: int | None = None,
    step: int = 1,
    store_seconds: float = 0.002,
    time_limit: float = 600.0,
    seed: int = 0,
) -> Exploration:
    """Cut a turn short at every checkpoint, for every reason, and check what is in the store.

        def test_no_answer_is_lost():
            explore_cancellations(MyServer, "Tell me a story")

    `make_server` is called with a store and returns a server that isn't running; it must behave
    the same in every run. The last of `messages` starts the turn that is cut, those before it are
    answered first, all in one new thread. Runs are made for each of `reasons`:

    - stopped, disconnected, deadline, shutdown, superseded: at each checkpoint of the turn, the
      moments at which one of its tasks gives up control;
    - stalled: with a client that stops reading after each number of events;
    - failed: with a store whose first, second, ... write raises.

    After each run these must hold: everything `respond` had yielded and all that the client had
    got is in the store, once; there is nothing that wasn't yielded; the hidden note is there once
    if the turn was cut short, and not otherwise; changes to the thread are saved; who read the
    thread at the moment of the cut saw its final state; no task is left and the generator is
    closed; the next turn runs and finds all that. `check` adds what you want to assert.

    Call it from a test that isn't async: each run has a Trio run of its own on virtual time, a new
    store from `make_store`, wrapped so that a write takes `store_seconds` and a read a tenth of
    that, and at most `time_limit` seconds of that time. `seed` decides the order in which tasks
    run; `step=5` tries every fifth point only, and `at` a single one.

    Raises `CancellationBroken` at the first run that breaks a rule.
    """
    if not messages:
        raise ValueError("explore_cancellations() needs a message to send")
    scenario = Scenario(make_server, make_store, messages, context, store_seconds, time_limit, seed)
    counted = _run(scenario, None, check)
    exploration = Exploration(counted.checkpoints)
    for reason in map(CancelReason, reasons):
        cuts = [Cut(reason, at)] if at is not None else list(_cuts(reason, counted, step))
        for cut in cuts:
            aftermath = _run(scenario, cut, check)
            exploration.ends[aftermath.reason or "finished"] += 1
        exploration.runs[reason] = len(cuts)
    return exploration


def _cuts(reason: CancelReason, counted: Aftermath, step: int) -> Iterator[Cut]:
    match reason:
        case CancelReason.STALLED:
            points = range(0, len(counted.received_events), step)
        case CancelReason.FAILED:
            points = range(1, counted.writes + 1, step)
        case CancelReason.CRASHED:
            raise ValueError("a crash can't be explored in this process; kill another one for it")
        case _:
            points = range(0, counted.checkpoints + 1, step)
    return (Cut(reason, point) for point in points)


def _run(
    scenario: Scenario, cut: Cut | None, check: Callable[[Aftermath], None] | None
) -> Aftermath:
    aftermath = run_trial(scenario, cut)
    found = problems(aftermath)
    if found:
        raise CancellationBroken(_report(scenario, aftermath, found))
    if check is not None:
        try:
            check(aftermath)
        except AssertionError as error:
            message = _report(scenario, aftermath, [f"check() failed: {error}"])
            raise CancellationBroken(message) from error
    return aftermath


def _report(scenario: Scenario, aftermath: Aftermath, found: Sequence[str]) -> str:
    lines = [_headline(aftermath), *(f"  - {problem}" for problem in found)]
    if aftermath.place:
        lines += ["the turn was waiting in", *(f"    {place}" for place in aftermath.place)]
    lines += [
        f"the client had got: {_listed([event.type for event in aftermath.received_events])}",
        f"stored: {_listed([describe(item) for item in aftermath.stored])}",
        _replay(scenario, aftermath.cut),
    ]
    return "\n".join(lines)


def _headline(aftermath: Aftermath) -> str:
    cut = aftermath.cut
    if cut is None:
        return "the turn that wasn't cut short at all went wrong:"
    where = {
        CancelReason.STALLED: f"by a client that read {cut.at} events and no more",
        CancelReason.FAILED: f"by a store whose write number {cut.at} failed",
    }
    return f"cut short ({cut.reason}) {where.get(cut.reason, f'at checkpoint {cut.at}')}:"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) if words else "nothing"


def _replay(scenario: Scenario, cut: Cut | None) -> str:
    if cut is None:
        return f"seed {scenario.seed}"
    replay = f"replay with: reasons=[{str(cut.reason)!r}], at={cut.at}, seed={scenario.seed}"
    if can_repeat_schedules():
        return replay
    return replay + " (this version of Trio doesn't let a seed decide: it may take several tries)"
