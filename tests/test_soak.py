"""Random use of a server, with an eye on what `simulate` doesn't look at.

`simulate` knows what its clients saw. Here the frames are noted where the engine writes them, so
that none is written behind the end and none is missed; and strangers, and clients that send
nonsense, do so all the while.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from chatkit_trio._engine.frames import FrameLog
from chatkit_trio.actions import Action
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    SimulatedRun,
    say,
    scripted_server,
    show_widget,
    simulate,
)
from chatkit_trio.widgets import DynamicWidgetRoot

CARD = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "id": "t", "value": "x"}]}
)
NONSENSE = [
    b"",
    b"{",
    b'{"type":"threads.delete"}',
    b'{"type":"items.list","params":{"thread_id":"x","limit":-1}}',
    b'{"type":"threads.list","params":{"after":"nothing"}}',
    b'{"type":"threads.update","params":{"thread_id":"x","title":"y"}}',
    b'{"type":"input.transcribe","params":{"audio_base64":"!","mime_type":"a/b"}}',
]


@pytest.fixture
def behind_the_end(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the frames that were written after the last one of their turn."""
    found: list[bytes] = []
    append = FrameLog.append

    def noting(log: FrameLog, frame: bytes) -> None:
        if log.is_closed:
            found.append(frame)
        append(log, frame)

    monkeypatch.setattr(FrameLog, "append", noting)
    return found


def test_no_frame_is_written_behind_the_end_of_a_stream(behind_the_end: list[bytes]) -> None:
    def check(run: SimulatedRun) -> None:
        assert behind_the_end == []

    simulate(seeds=range(1000, 1040), check=check)


def by_user(context: Any) -> str:
    return str(context)


@pytest.mark.parametrize("store_class", ["memory", "sqlite"])
async def test_strangers_and_nonsense_change_nothing(
    store_class: str, tmp_path: Path, jump_clock: JumpClock
) -> None:
    store: Store[Any] = (
        MemoryStore(owner=by_user)
        if store_class == "memory"
        else SQLiteStore(tmp_path / "chat.db", owner=by_user)
    )
    script = [say("one ", "two ", "three", every=0.2), show_widget(CARD)]
    async with scripted_server(store, script) as server:
        ann, bob = ChatClient.of_server(server, "ann"), ChatClient.of_server(server, "bob")
        answers: dict[str, list[str]] = defaultdict(list)
        refusals: Counter[tuple[int, str | None]] = Counter()

        async def talk(thread_id: str | None) -> None:
            for number in range(4):
                async with ann.send(f"message {number}", thread_id) as turn:
                    await turn.read()
                thread_id = turn.thread_id
                assert thread_id is not None
                answers[thread_id].append(turn.text)

        async def meddle(seed: int) -> None:
            rng = Random(seed)
            for _ in range(30):
                await trio.sleep(rng.uniform(0, 0.1))
                try:
                    await _meddle(bob, rng, rng.choice([*answers, "thr_none"]))
                except RequestRefused as refusal:
                    refusals[refusal.status, refusal.code] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(talk, None)
            for seed in range(3):
                nursery.start_soon(meddle, seed)

        assert [*answers.values()] == [["one two three"] * 4] * 3
        for thread_id in answers:
            assert len(await ann.items(thread_id)) == 12
        assert await bob.threads() == []
        assert set(refusals) <= {(404, "not_found"), (400, "invalid_request")}
        assert sum(refusals.values()) == 90


async def _meddle(client: ChatClient, rng: Random, thread_id: str) -> None:
    """Do one of the things that only the owner of a thread may do, or that nobody may."""
    action = Action[str, Any](type="press")
    match rng.randrange(7):
        case 0:
            await client.ask(rng.choice(NONSENSE))
        case 1:
            await client.thread(thread_id)
        case 2:
            await client.items(thread_id)
        case 3:
            await client.rename(thread_id, "mine")
        case 4:
            await client.delete(thread_id)
        case 5:
            await client.act_and_wait(thread_id, action)
        case _:
            async with client.send("and now?", thread_id) as turn:
                await turn.read()
