"""The ways in which the explorer cuts a turn short, and the points of a turn that each falls on.

A *reason* ends the turn. A *trouble* comes with it: something else goes wrong from the moment of
the cut on. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chatkit_trio.server import CancelReason

__all__ = [
    "EVERY_REASON",
    "EVERY_TROUBLE",
    "GRACE_PERIOD",
    "RESPOND_RAISES",
    "RETURN",
    "TASK_RAISES",
    "TURN_TIMEOUT",
    "Course",
    "Cut",
    "cuts",
    "cuts_at",
    "expected_reason",
    "points",
    "troubled_cuts",
]

GRACE_PERIOD = "grace_period"
RETURN = "return"
TURN_TIMEOUT = "turn_timeout"
RESPOND_RAISES = "respond_raises"
TASK_RAISES = "task_raises"

EVERY_REASON: tuple[str, ...] = (
    *(reason for reason in CancelReason if reason is not CancelReason.CRASHED),
    GRACE_PERIOD,
    RETURN,
    TURN_TIMEOUT,
    RESPOND_RAISES,
    TASK_RAISES,
)
"""All that can end a turn in one process; `crashed` needs a second one."""

EVERY_TROUBLE: tuple[str, ...] = (
    "hanging_write",
    "failing_write",
    "hanging_cleanup",
    "failing_hook",
)
"""What else may go wrong at the moment of a cut."""

_ENDS_AS: dict[str, CancelReason | None] = {
    GRACE_PERIOD: CancelReason.DISCONNECTED,
    RETURN: None,
    TURN_TIMEOUT: CancelReason.DEADLINE,
    RESPOND_RAISES: CancelReason.FAILED,
    TASK_RAISES: CancelReason.FAILED,
}

_AT_CHECKPOINTS = (
    CancelReason.STOPPED,
    CancelReason.DISCONNECTED,
    CancelReason.SHUTDOWN,
    CancelReason.SUPERSEDED,
    GRACE_PERIOD,
)
"""Reasons that strike at a checkpoint, and that every trouble is combined with."""

_GRACE_SHARE = 0.25
"""A grace period is so much of the uncut turn's time: most of those that leave are cut."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What ends the turn, and where."""

    reason: str
    """A `CancelReason`, or the name of another way to end a turn."""
    at: int
    """The number of a checkpoint; for `stalled` of the events that the client reads, for `failed`
    of the write that fails, for `silent` and `respond_raises` of the events that `respond` yields
    before, for `turn_timeout` of a moment."""
    trouble: str | None = None
    """What else goes wrong."""
    seconds: float = 0.0
    """The grace period, or the time limit."""


@dataclass(slots=True)
class Course:
    """How the turn goes when nothing cuts it."""

    checkpoints: list[tuple[float, int | None]] = field(default_factory=list)
    """Of each checkpoint the time, and the number of the write that is under way."""
    started_at: float = 0.0
    """When the turn was started."""
    began_at: float = 0.0
    """When `respond` was called."""
    ended_at: float = 0.0
    """When the turn was settled."""
    writes: int = 0
    """How many writes the turn makes."""
    yielded: int = 0
    """How many events `respond` yields."""
    received: int = 0
    """How many events the client gets."""
    longest_silence: float = 0.0
    """How long `respond` takes at most for one event, in seconds."""

    @property
    def grace_period(self) -> float:
        """A grace period that ends before most turns, and not before a turn has begun."""
        share = (self.ended_at - self.started_at) * _GRACE_SHARE
        return max(share, 3 * (self.began_at - self.started_at), 0.001)

    @property
    def more_than_enough(self) -> float:
        """A time limit, in seconds, that the turn doesn't reach."""
        return 2 * (self.ended_at - self.began_at) + 1

    @property
    def time_limits(self) -> list[float]:
        """Time limits that end the turn at each moment at which something happens, and between."""
        times = sorted({time - self.began_at for time, _ in self.checkpoints})
        later = [time for time in times if time > 0]
        middles = [(one + two) / 2 for one, two in zip([0.0, *later], later, strict=False)]
        return sorted([*later, *middles])

    @property
    def phases(self) -> list[int]:
        """The first checkpoint of each write, and of each stretch between two writes."""
        found: dict[tuple[int, int | None], int] = {}
        before = 0
        for number, (_, write) in enumerate(self.checkpoints, 1):
            before = before if write is None else write
            found.setdefault((before, write), number)
        return list(found.values())


def expected_reason(name: str) -> CancelReason | None:
    """Return the reason that a turn has to have ended for; None if nothing may cut it."""
    return _ENDS_AS[name] if name in _ENDS_AS else CancelReason(name)


def points(reason: str, course: Course) -> range:
    """Return where one reason can strike; for some that is a number of something else."""
    return range(_first(reason), _end(reason, course))


def cuts(reason: str, course: Course, step: int) -> Iterator[Cut]:
    """Return the cuts for one reason, without other trouble."""
    return (cut(reason, at, course) for at in points(reason, course)[::step])


def cuts_at(
    at: int, reasons: Sequence[str], course: Course, trouble: str | None = None
) -> Iterator[Cut]:
    """Return the cuts at one point, for the reasons that can strike there."""
    for reason in reasons:
        further = () if trouble is None else _further_points(reason, trouble, course, 1)
        if at in points(reason, course) or at in further:
            yield cut(reason, at, course, trouble)


def cut(reason: str, at: int, course: Course, trouble: str | None = None) -> Cut:
    """Return one cut, with the time limit that it needs."""
    seconds = 0.0
    if reason in (GRACE_PERIOD, RETURN):
        seconds = course.grace_period
    elif reason == TURN_TIMEOUT and trouble is None:
        seconds = course.time_limits[at]
    elif reason == TURN_TIMEOUT:
        seconds = course.more_than_enough
    elif reason == "silent":
        seconds = 2 * course.longest_silence + 1
    return Cut(reason, at, trouble, seconds)


def _first(reason: str) -> int:
    return 1 if reason == CancelReason.FAILED else 0


def _end(reason: str, course: Course) -> int:
    match reason:
        case CancelReason.STALLED:
            return course.received
        case CancelReason.FAILED:
            return course.writes + 1
        case "silent" | "respond_raises":
            return course.yielded + 1
        case "turn_timeout":
            return len(course.time_limits)
        case _:
            return len(course.checkpoints) + 1


def troubled_cuts(reasons: Sequence[str], trouble: str, course: Course, step: int) -> Iterator[Cut]:
    """Return the cuts for one trouble.

    A write in trouble matters while it's under way, so those cuts fall once into each write and
    once between two, for each reason. The other troubles come after the cut, wherever that was:
    there the reasons take turns.
    """
    striking = [reason for reason in reasons if reason in _AT_CHECKPOINTS]
    if trouble in ("hanging_write", "failing_write"):
        for reason in striking:
            for at in course.phases[::step]:
                yield cut(reason, at, course, trouble)
    else:
        for at in range(0, len(course.checkpoints) + 1, step):
            if striking:
                yield cut(striking[at // step % len(striking)], at, course, trouble)
    for reason in reasons:
        for at in _further_points(reason, trouble, course, step):
            yield cut(reason, at, course, trouble)


def _further_points(reason: str, trouble: str, course: Course, step: int) -> Sequence[int]:
    match reason, trouble:
        case "return", "hanging_write":
            return course.phases[::step]
        case "turn_timeout", "hanging_write":
            return range(1, course.writes + 1, step)
        case CancelReason.FAILED, "hanging_cleanup" | "failing_hook":
            return range(1, course.writes + 1, step)
        case "task_raises", "hanging_cleanup":
            return course.phases[::step]
        case _:
            return ()
