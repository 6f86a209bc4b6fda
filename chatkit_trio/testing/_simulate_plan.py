"""What happens in one simulated run, as data: a list of operations, made from a seed.

Every choice is in the operation itself, so that deleting one leaves the others as they were. What
the simulator's own server answers is written in the message that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from random import Random

from chatkit_trio._settings import check_choice, check_seconds

__all__ = ["CLIENT_OPERATIONS", "Operation", "Settings", "plan", "settings_of", "simpler"]

CLIENT_OPERATIONS = (
    "send", "retry", "answer", "act", "act_and_wait", "stop", "watch", "load", "list", "rename",
    "delete", "feedback",
)  # fmt: skip
"""What a client does."""

_EVERY_OPERATION = (*CLIENT_OPERATIONS, "restart", "crash", "store", "hold", "clock")

_KINDS = {
    "store": ("fail", "fail after", "hang", "slow", "away"),
    "hold": ("pause", "cut"),
    "retry": ("", "first", "last"),
}
"""What the text of some operations may be."""

_LASTING = ("hang", "slow", "away", "pause", "cut")
"""Kinds that are nothing without a time."""

_READINGS = {
    "all": 0,
    "leave": 1,
    "lose": 1,
    "quit": 1,
    "stop": 1,
    "pause": 2,
    "twice": 1,
    "back": 2,
}
"""How a stream may be read, and how many numbers say more of it."""


@dataclass(frozen=True, slots=True, repr=False)
class Operation:
    """One thing that happens in a simulated run. The reference lists what there is.

    Raises `ValueError` for what isn't there, and for a fault or a hold that takes no time.
    """

    at: float
    """When, in seconds of virtual time."""
    do: str
    """What: one of the clients' operations, or "crash", "restart", "store", "hold",
    "clock"."""
    client: int = 0
    """Which client does it, counted from 0."""
    thread: int = 0
    """On which thread, counted from 0; a message to one that isn't there yet creates it."""
    text: str = ""
    """The message, the title, the kind of store fault: what the operation is about."""
    reading: str = "all"
    """How the client reads the stream it gets, such as "leave:3"."""
    seconds: float = 0.0
    """How long: a store fault or a hold lasts, a server takes to drain or is down; or how far its
    clock jumps."""
    node: int = 0
    """Which of several servers it goes to, or happens to, counted from 0."""

    def __post_init__(self) -> None:
        check_seconds("at", self.at, or_zero=True)
        check_choice("do", self.do, _EVERY_OPERATION)
        if self.do in _KINDS:
            check_choice(f"text of {self.do!r}", self.text, _KINDS[self.do])
            if self.text in _LASTING and not self.seconds > 0:
                raise ValueError(f"{self.do!r} of the kind {self.text!r} needs seconds, above 0")
        mode, *numbers = self.reading.split(":")
        check_choice("reading", mode, _READINGS)
        if len(numbers) != _READINGS[mode] or not all(map(_is_number, numbers)):
            wanted = "".join([mode, *[":1"] * _READINGS[mode]])
            raise ValueError(f"reading must be such as {wanted!r}, not {self.reading!r}")

    def __repr__(self) -> str:
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)[2:]
            if getattr(self, field.name) != field.default
        ]
        return f"Operation({', '.join([repr(self.at), repr(self.do), *given])})"


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole run: the speed of the store, and the server's default policy."""

    store_seconds: float
    settle_timeout: float
    stall_timeout: float
    max_unread_bytes: int
    max_replay_bytes: int
    on_disconnect: str | float
    on_busy: str
    allow_cancel: bool
    nodes: int = 1
    """How many servers share the store."""
    hints: float = 1.0
    """How many of the hints between servers arrive."""
    clock_skew: float = 0.0
    """By how many seconds the wall clock of each server is ahead of the one before."""


def settings_of(seed: int, nodes: int = 1) -> Settings:
    """Return the settings of a seed; they don't depend on the operations."""
    choose = Random(f"settings {seed}").choice  # noqa: S311  (nothing secret)
    after_disconnect: list[str | float] = ["cancel", "cancel", "cancel", "finish", 0.4]
    return Settings(
        store_seconds=choose([0.0, 0.002, 0.002, 0.05]),
        settle_timeout=choose([0.5, 1.0, 3.0]),
        stall_timeout=1.0,
        max_unread_bytes=choose([300, 4000, 256 * 1024]),
        max_replay_bytes=choose([400, 256 * 1024, 256 * 1024]),
        on_disconnect=choose(after_disconnect),
        on_busy=choose(["supersede", "supersede", "supersede", "queue", "reject"]),
        allow_cancel=choose([True] * 7 + [False]),
        nodes=nodes,
        hints=choose([1.0, 1.0, 0.5, 0.0]),
        clock_skew=choose([0.0, 0.3, -0.3, 20.0, -20.0, 3600.0]) if nodes > 1 else 0.0,
    )


def plan(seed: int, steps: int, messages: Sequence[str] | None, nodes: int = 1) -> list[Operation]:
    """Return the operations of a seed, in order of time."""
    rng = Random(f"plan {seed}")  # noqa: S311  (nothing secret)
    operations = _Planner(rng, steps, messages).plan()
    return operations if nodes == 1 else _spread(operations, nodes, rng)


def _spread(operations: Sequence[Operation], nodes: int, rng: Random) -> list[Operation]:
    """Spread operations over several servers: some are held up for a while, a clock jumps."""
    spread = [replace(operation, node=rng.randrange(nodes)) for operation in operations]
    end = operations[-1].at
    for _ in range(rng.choice([0, 0, 1, 2])):
        kind, seconds = rng.choice(["pause", "cut"]), rng.choice([0.5, 2.0, 8.0])
        at, node = round(rng.uniform(0, end), 3), rng.randrange(nodes)
        spread.append(Operation(at, "hold", text=kind, seconds=seconds, node=node))
    if rng.random() < 0.3:
        at, node = round(rng.uniform(0, end), 3), rng.randrange(nodes)
        seconds = rng.choice([-3600.0, -20.0, 20.0, 3600.0])
        spread.append(Operation(at, "clock", seconds=seconds, node=node))
    return sorted(spread, key=lambda operation: operation.at)


class _Planner:
    def __init__(self, rng: Random, steps: int, messages: Sequence[str] | None) -> None:
        self._rng = rng
        self._steps = steps
        self._messages = messages
        self._threads = rng.choice([1, 1, 2, 3])
        self._clients = rng.randint(2, 4)
        self._faults = rng.choice([0, 0, 1, 2])
        self._crashes = rng.random() < 0.4
        self._restarts = rng.random() < 0.25

    def plan(self) -> list[Operation]:
        rng = self._rng
        now = 0.0
        operations = [self._client_operation(0.0, "send")]
        while len(operations) < self._steps:
            now = round(now + rng.choice([0.0, 0.01, rng.uniform(0, 0.4), rng.uniform(0, 1)]), 3)
            operations.append(self._client_operation(now, self._what()))
        operations += [self._store_fault(now) for _ in range(self._faults)]
        if self._crashes:
            operations.append(self._ending("crash", now))
        if self._restarts:
            operations.append(self._ending("restart", now))
        return sorted(operations, key=lambda operation: operation.at)

    def _what(self) -> str:
        weights = [10, 3, 3, 2, 1, 4, 3, 3, 1, 2, 1, 1]
        return self._rng.choices(CLIENT_OPERATIONS, weights)[0]

    def _client_operation(self, at: float, do: str) -> Operation:
        rng = self._rng
        return Operation(
            at,
            do,
            client=rng.randrange(self._clients),
            thread=rng.randrange(self._threads),
            text=self._text(do),
            reading=self._reading() if do in ("send", "retry", "answer", "act", "watch") else "all",
        )

    def _text(self, do: str) -> str:
        match do:
            case "send" if self._messages is not None:
                return self._rng.choice(self._messages)
            case "send" | "answer" | "act":
                return self._answer()
            case "rename":
                return f"title {self._rng.randrange(1000)}"
            case "retry":
                return self._rng.choice(["first", "last", "last"])
        return ""

    def _reading(self) -> str:
        rng = self._rng
        count = rng.choice([0, 2, 4, rng.randint(3, 20)])
        return rng.choice(
            [
                "all",
                "all",
                "all",
                f"leave:{count}",
                f"lose:{count}",
                f"twice:{count}",
                f"quit:{round(rng.uniform(0, 1.2), 3)}",
                f"stop:{count}",
                f"pause:{count}:{rng.choice([0.3, 3.0])}",
                f"back:{count}:{rng.choice([0.0, 0.1, 0.6])}",
            ]
        )

    def _answer(self) -> str:
        rng = self._rng
        words = [self._word() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.3:
            words.append(rng.choice(["tool", "ask", "fail", "break", "quit", "failtask"]))
        if rng.random() < 0.3:
            words.append(
                rng.choice(["finish", "grace:0.4", "queue", "reject", "limit:0.8", "idle:0.3"])
            )
        return " ".join(words)

    def _word(self) -> str:
        rng = self._rng
        count, every = rng.randint(1, 6), rng.choice([0, 0.05, 0.2])
        return rng.choice(
            [
                f"say:{count}:{every}",
                f"say:{count}:{every}",
                f"say:{count}:{every}",
                f"talk:{count}:{every}",
                f"burst:{rng.choice([10, 40])}",
                f"work:{count}:{every}",
                f"labor:{count}:{every}",
                f"grow:{count}:{every}",
                f"grow:{count}:{every} silent:2.0",
                "widget",
                f"silent:{rng.choice([0.1, 2.0])}",
                f"title:{rng.randrange(1000)}",
                "nursery",
                "scope",
                f"shield:{count}",
                f"cleanup:{rng.choice([0.1, 0.5])}",
                "rewrite",
                "remove",
                "hidden",
                "task:0.3",
            ]
        )

    def _store_fault(self, end: float) -> Operation:
        rng = self._rng
        kind = rng.choice(["fail", "fail", "fail after", "hang", "slow", "away"])
        seconds = 0.0
        if kind in ("hang", "slow", "away"):
            seconds = rng.choice([0.3, 1.0, 2.0, 8.0])
        return Operation(round(rng.uniform(0, end), 3), "store", text=kind, seconds=seconds)

    def _ending(self, do: str, end: float) -> Operation:
        seconds = self._rng.choice([0.0, 0.1, 1.0])
        return Operation(round(self._rng.uniform(0, end), 3), do, seconds=seconds)


# --- Making a plan simpler ---------------------------------------------------------------------


def simpler(
    operations: Sequence[Operation], fails: Callable[[list[Operation]], bool]
) -> list[Operation]:
    """Return the fewest and plainest operations found for which `fails` still says yes."""
    kept = _fewer(list(operations), fails)
    for place in range(len(kept)):
        for plainer in _plainer(kept[place]):
            tried = [*kept[:place], plainer, *kept[place + 1 :]]
            if fails(tried):
                kept = tried
    return _fewer(kept, fails)


def _fewer(kept: list[Operation], fails: Callable[[list[Operation]], bool]) -> list[Operation]:
    """Leave out halves, quarters and so on, down to single operations."""
    size = max(1, len(kept) // 2)
    while True:
        start, has_shrunk = 0, False
        while start < len(kept):
            tried = kept[:start] + kept[start + size :]
            if tried and fails(tried):
                kept, has_shrunk = tried, True
            else:
                start += size
        if size == 1 and not has_shrunk:
            return kept
        size = max(1, size // 2)


def _plainer(operation: Operation) -> list[Operation]:
    """Return variants of an operation that are easier to read."""
    changes: list[tuple[str, object]] = []
    if operation.reading != "all":
        changes.append(("reading", "all"))
    words = operation.text.split()
    if len(words) > 1 and operation.do in ("send", "answer", "act"):
        changes += [("text", " ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]
    return [_changed(operation, name, value) for name, value in changes]


def _changed(operation: Operation, name: str, value: object) -> Operation:
    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    return Operation(**{**values, name: value})
