"""Cancelling a turn at every point at which a cancellation can strike, and looking what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatkit_trio._settings import (
    check_choices,
    check_count,
    check_plain_function,
    check_seconds,
    check_strings,
)
from chatkit_trio.server import CancelReason, ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore

from ._arguments import check_makes, failure_of
from ._cuts import EVERY_REASON, EVERY_TROUBLE, Course, Cut, cuts, cuts_at, points, troubled_cuts
from ._invariants import describe, problems
from ._probe import can_repeat_schedules
from ._trial import Aftermath, Scenario, run_trial

__all__ = [
    "EVERY_REASON",
    "EVERY_TROUBLE",
    "Aftermath",
    "CancellationBroken",
    "Exploration",
    "explore_cancellations",
]


class CancellationBroken(AssertionError):
    """A turn that was cut short has left something wrong; the message says what, where, and how to
    see it again."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What `explore_cancellations` has tried."""

    checkpoints: int
    """How many points there are at which a cancellation can strike the turn."""
    runs: dict[str, int] = field(default_factory=dict)
    """How many runs were made for each reason, and for each trouble."""
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
    reasons: Collection[str] = EVERY_REASON,
    troubles: Collection[str] = EVERY_TROUBLE,
    expects_note: bool = True,
    may_fail: bool = False,
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
    answered first, all in one new thread. A first run isn't cut, and no answer of it may fail: an
    exploration of a `respond` that always fails would show nothing. Then runs are made for each of
    `reasons`:

    - stopped, incomplete, disconnected, deadline, shutdown, superseded (another tab sends a
      message): at each checkpoint of the turn, the moments at which one of its tasks gives up
      control;
    - grace_period, return: a client that leaves at each checkpoint, in a turn with a grace period,
      and stays away or comes back in time;
    - task_raises: an error, at each checkpoint, in a task of `turn.nursery`;
    - turn_timeout: the policy's time limit, at each moment at which something happens and between;
    - stalled: with a client that stops reading after each number of events;
    - silent, respond_raises: a `respond` that yields nothing more, or raises, after each number of
      events;
    - failed: with a store whose first, second, ... write raises.

    Then for each of `troubles`, which strike together with those reasons:

    - hanging_write, failing_write: the write which the cut falls on, or else the next one, hangs
      or raises;
    - hanging_cleanup: `respond` doesn't end for a long time, shielded from cancellation;
    - failing_hook: `handle_stream_cancelled` hangs in a nursery, and a task in that fails.

    After each run these must hold: everything `respond` had yielded and all that a client had got
    is in the store, once; a client that reads on to the end shows exactly that; there is nothing
    that wasn't yielded, and nothing again under another id; the hidden note is there once, behind
    the text, if the turn was cut short, and not otherwise; changes to the thread are saved; who
    read the thread at the moment of the cut saw its final state; the turn was settled within
    `Turn.longest_settling`; what a store, a hook or a task raised was told to the client or logged
    as an error; nothing was written after the turn; no task is left and no async generator open;
    the next turn runs, finds all that, and doesn't fail. `check` adds what you want to assert.
    `expects_note=False` is for a server whose `handle_stream_cancelled` leaves no note on purpose,
    `may_fail=True` for one whose `respond` fails by itself on purpose, sometimes or always.

    Call it from a test that isn't async: each run has a Trio run of its own on virtual time, a new
    store from `make_store`, wrapped so that a write takes `store_seconds` and a read a tenth of
    that, and at most `time_limit` seconds of that time. `seed` decides the order in which tasks
    run; `step=5` tries every fifth point only, and `at` a single one.

    Raises `CancellationBroken` at the first run that breaks a rule, and `ValueError` if there is
    nothing to be cut, as `at` may be behind the turn's last point.
    """
    if not messages:
        raise ValueError("explore_cancellations() needs a message to send")
    check_strings("messages", messages)
    check_makes("make_server", make_server, "a server")
    check_makes("make_store", make_store, "a store")
    check_strings("reasons", reasons)
    if CancelReason.CRASHED in reasons:
        raise ValueError("a crash can't be explored in this process; kill another one for it")
    check_choices("reasons", reasons, EVERY_REASON)
    check_choices("troubles", troubles, EVERY_TROUBLE, or_empty=True)
    if check is not None:
        check_plain_function("check", check, "an Aftermath")
    if at is not None:
        check_count("at", at, least=0)
    check_count("step", step)
    check_seconds("store_seconds", store_seconds, or_zero=True)
    check_seconds("time_limit", time_limit)
    scenario = Scenario(
        make_server,
        make_store,
        messages,
        context,
        store_seconds,
        time_limit,
        seed,
        expects_note,
        may_fail,
    )
    course = _run(scenario, None, check).course
    exploration = Exploration(len(course.checkpoints))
    for name, planned in _plan(list(reasons), troubles, course, at, step):
        exploration.runs[name] = 0
        for one in planned:
            aftermath = _run(scenario, one, check)
            exploration.runs[name] += 1
            exploration.ends[aftermath.reason or "finished"] += 1
    if exploration.total_runs == 0:
        raise ValueError(_no_cut(list(reasons), course, at))
    return exploration


def _plan(
    reasons: Sequence[str], troubles: Collection[str], course: Course, at: int | None, step: int
) -> Iterator[tuple[str, Iterator[Cut]]]:
    """Return the cuts to be made, by reason and then by trouble."""
    for reason in reasons:
        yield reason, cuts(reason, course, step) if at is None else cuts_at(at, [reason], course)
    for trouble in troubles:
        every = troubled_cuts(reasons, trouble, course, step)
        yield trouble, every if at is None else cuts_at(at, reasons, course, trouble)


def _no_cut(reasons: Sequence[str], course: Course, at: int | None) -> str:
    given = "" if at is None else f" with at={at}"
    every = ((reason, points(reason, course)) for reason in reasons)
    told = "; ".join(
        f"{reason}: {numbers[0]} to {numbers[-1]}" for reason, numbers in every if numbers
    )
    return f"there is nothing to be cut{given}; the points of this turn are {told or 'none'}"


def _run(
    scenario: Scenario, cut: Cut | None, check: Callable[[Aftermath], None] | None
) -> Aftermath:
    aftermath = run_trial(scenario, cut)
    found = problems(aftermath)
    if found:
        raise CancellationBroken(_report(scenario, aftermath, found))
    error = failure_of(check, aftermath)
    if error is not None:
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
        _replay(scenario, aftermath),
    ]
    return "\n".join(lines)


def _headline(aftermath: Aftermath) -> str:
    cut = aftermath.cut
    if cut is None:
        return "the turn that wasn't cut short at all went wrong:"
    where = {
        "stalled": f"by a client that read {cut.at} events and no more",
        "failed": f"by a store whose write number {cut.at} failed",
        "silent": f"by a respond() that yielded {cut.at} events and no more",
        "respond_raises": f"by a respond() that yielded {cut.at} events and raised",
        "turn_timeout": f"by turn_timeout={cut.seconds:g}",
        "grace_period": f"{cut.seconds:g} s after its client left at checkpoint {cut.at}",
        "return": f"nowhere; its client left at checkpoint {cut.at} and came back",
        "task_raises": f"by a task in turn.nursery that raised at checkpoint {cut.at}",
    }
    beside = "" if cut.trouble is None else f", with a {cut.trouble.replace('_', ' ')}"
    return f"cut short ({cut.reason}) {where.get(cut.reason, f'at checkpoint {cut.at}')}{beside}:"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) if words else "nothing"


def _replay(scenario: Scenario, aftermath: Aftermath) -> str:
    cut = aftermath.cut
    if cut is None:
        return f"seed {scenario.seed}"
    troubles = [] if cut.trouble is None else [cut.trouble]
    replay = (
        f"replay with: reasons=[{str(cut.reason)!r}], troubles={troubles}, at={cut.at},"
        f" seed={scenario.seed}"
    )
    if not can_repeat_schedules():
        return replay + " (no seed decides in this version of Trio: it may take several tries)"
    if aftermath.used_asyncio:
        return replay + " (no seed decides when asyncio does what: it may take several tries)"
    return replay
