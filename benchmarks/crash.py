"""Kill a server with SIGKILL in the middle of streams, start it again, and look at the store.

    python benchmarks/crash.py --kills 200

Each round starts a child that answers `--turns` messages at once from a SQLite file, kills it at a
random word once each answer has begun, and opens the file again as a restarted server does. Then,
for every thread: it is readable, the partial answer is there once, it is a prefix of what was
produced, it lacks nothing that was sent before the last checkpoint of the journal began, and one
hidden note says why it ended.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer, StreamingResult, stream_text
from chatkit_trio.stores.sqlite import SQLiteStore
from chatkit_trio.types import (
    AssistantMessageItem,
    SDKHiddenContextItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)

JOURNAL_INTERVAL = 0.1
WORDS = 250
"""The most words of each turn that are sent before the kill, about."""

REQUEST = json.dumps(
    {
        "type": "threads.create",
        "params": {
            "input": {
                "content": [{"type": "input_text", "text": "Go on"}],
                "attachments": [],
                "inference_options": {},
            }
        },
    }
)


class EndlessServer(ChatKitServer[None]):
    """Answers with numbered words until it is killed."""

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        return stream_text(thread, self.numbers())

    async def numbers(self) -> AsyncIterator[str]:
        for number in itertools.count():
            yield f"{number} "
            await trio.sleep(random.uniform(0.001, 0.005))


async def answer_until_killed(path: Path, turns: int) -> None:
    async with (
        EndlessServer(SQLiteStore(path), journal_interval=JOURNAL_INTERVAL) as server,
        trio.open_nursery() as nursery,
    ):
        for _ in range(turns):
            nursery.start_soon(read_and_report, server)


async def read_and_report(server: EndlessServer) -> None:
    """Print, for every frame received, which thread it was, when, and how much text it brought.

    Last in the line is the time up to which the journal had all text then.
    """
    assert server.journal_writer is not None
    result = await server.process(REQUEST, None)
    assert isinstance(result, StreamingResult)
    async with result as frames:
        async for frame in frames:
            update = json.loads(frame[6:]).get("update", {})
            if "delta" in update:
                now = time.monotonic()
                journaled = now - server.journal_writer.lag
                print(result.turn.thread.id, now, len(update["delta"]), journaled, flush=True)


@dataclass
class Tally:
    """What was found after the kills."""

    threads: int = 0
    owed: int = 0
    """Threads of which text had been sent when the last checkpoint began."""
    kept: int = 0
    """Those of them that have a partial answer."""
    noted: int = 0
    doubled: int = 0
    not_a_prefix: int = 0
    behind: int = 0
    """Threads that lack text of before the last checkpoint."""
    worst_age: float = field(default=0.0)


def kill_one_child(path: Path, turns: int, seed: random.Random) -> tuple[list[str], float]:
    child = subprocess.Popen(
        [sys.executable, __file__, "--child", str(path), "--turns", str(turns)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    lines: list[str] = []
    threads: set[str] = set()
    while len(threads) < turns:
        lines.append(child.stdout.readline())
        assert lines[-1], "the child has ended by itself"
        threads.add(lines[-1].split()[0])
    lines += itertools.islice(child.stdout, seed.randrange(WORDS * turns))
    killed_at = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    with child.stdout:
        lines += child.stdout
    child.wait()
    return lines, killed_at


def texts_sent(lines: list[str]) -> tuple[dict[str, list[tuple[float, int]]], float]:
    """Return, by thread, when how much text had been received, and when the journal had all."""
    sent: dict[str, list[tuple[float, int]]] = {}
    journaled_at = 0.0
    for line in lines:
        if line.endswith("\n"):  # the last line may have been cut
            thread_id, at, length, journaled = line.split()
            received = sent.setdefault(thread_id, [])
            received.append((float(at), int(length) + (received[-1][1] if received else 0)))
            journaled_at = max(journaled_at, float(journaled))
    return sent, journaled_at


async def look_at(path: Path, lines: list[str], killed_at: float, tally: Tally) -> None:
    sent, journaled_at = texts_sent(lines)
    async with EndlessServer(SQLiteStore(path)) as server:
        for thread_id, received in sent.items():
            page = await server.store.load_thread_items(thread_id, None, 100, "asc", None)
            judge(page.data, received, journaled_at, killed_at, tally)


def judge(
    items: list[Any],
    received: list[tuple[float, int]],
    journaled_at: float,
    killed_at: float,
    tally: Tally,
) -> None:
    answers = [item for item in items if isinstance(item, AssistantMessageItem)]
    notes = [item for item in items if isinstance(item, SDKHiddenContextItem)]
    text = answers[0].content[0].text if answers else ""
    produced = "".join(f"{number} " for number in range(len(text)))
    missing = [at for at, length in received if length > len(text)]
    age = killed_at - missing[0] if missing else 0.0
    owed = received[0][0] <= journaled_at
    tally.threads += 1
    tally.owed += owed
    tally.kept += owed and bool(answers)
    tally.noted += len(notes) == 1
    tally.doubled += len(answers) > 1 or len(notes) > 1 or len(items) != len({i.id for i in items})
    tally.not_a_prefix += not produced.startswith(text)
    tally.behind += any(at <= journaled_at for at in missing)
    tally.worst_age = max(tally.worst_age, age)


def run(kills: int, turns: int, seed: int) -> Tally:
    """Kill so many children, one after the other, and return what was found."""
    tally, rng = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.sqlite3"
        for _ in range(kills):
            lines, killed_at = kill_one_child(path, turns, rng)
            trio.run(look_at, path, lines, killed_at, tally)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        trio.run(answer_until_killed, arguments.child, arguments.turns)
        return
    tally = run(arguments.kills, arguments.turns, arguments.seed)
    print(f"kills {arguments.kills}, turns each {arguments.turns}, seed {arguments.seed}")
    print(f"journal every {JOURNAL_INTERVAL} s\n")
    print(
        "| threads | owed an answer | kept | one note | doubled | not a prefix | behind the journal"
        " | oldest text lost |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {tally.threads} | {tally.owed} | {tally.kept} | {tally.noted} | {tally.doubled} |"
        f" {tally.not_a_prefix} | {tally.behind} | {tally.worst_age * 1000:.0f} ms |"
    )


if __name__ == "__main__":
    main()
