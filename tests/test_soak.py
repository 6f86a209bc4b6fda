"""Several tabs of two users do random things to one server, and nothing of the promise breaks.

A run is a seed: it decides what the tabs do, what `respond` does, the policy of each turn, and the
order in which Trio runs tasks. All is on virtual time. Afterwards the run is compared with what
may be said of any run, whatever happened in it: `Soak.check`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

import pytest
import trio
import trio.testing

from chatkit_trio._engine.frames import FrameLog
from chatkit_trio._engine.keeping import ENDING_NOTES, kept_items
from chatkit_trio.actions import Action
from chatkit_trio.errors import CustomStreamError, StoreError
from chatkit_trio.server import CancelReason, FramesLost, Turn, TurnPolicy, current_turn
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    JumpClock,
    RequestRefused,
    Scene,
    ScriptedServer,
    SlowStore,
    Step,
    StoreWrapper,
    do,
    emit,
    fail,
    pause,
    say,
    set_title,
    show_widget,
    work,
)
from chatkit_trio.testing._client_turn import ids_of
from chatkit_trio.testing._probe import same_schedule
from chatkit_trio.testing._recorder import Recorder, Recording
from chatkit_trio.testing._transport import ServerConnection
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ChatKitReq,
    ClientToolCallItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    StructuredInputFreeform,
    StructuredInputItem,
    SyncCustomActionResponse,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    is_hidden,
)
from chatkit_trio.widgets import DynamicWidgetRoot

_T = TypeVar("_T")

TABS = 6
ACTIONS_A_TAB = 12
SECRET = "for the model only"
REASONS = {text: reason for reason, text in ENDING_NOTES.items()}
CARD = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "id": "t", "value": "x"}]}
)


# --- What respond does -------------------------------------------------------------------------


def _message(scene: Scene, text: str, item_id: str) -> AssistantMessageItem:
    fields = scene.item_fields() | {"id": item_id}
    return AssistantMessageItem(content=[AssistantMessageContent(text=text)], **fields)


def _hello(scene: Scene) -> ThreadItemAddedEvent:
    return ThreadItemAddedEvent(item=_message(scene, "hello", scene.item_fields()["id"]))


def more(item: ThreadItem, text: str) -> ThreadItemUpdatedEvent:
    delta = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
    return ThreadItemUpdatedEvent(item_id=item.id, update=delta)


def _closing(step: Step, scene: Scene) -> aclosing[AsyncGenerator[ThreadStreamEvent]]:
    return aclosing(cast("AsyncGenerator[ThreadStreamEvent]", step(scene)))


async def _with_scopes(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    """Hold a nursery and a scope open across yields, the scope until it expires."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.5)
        yield _hello(scene)  # noqa: ASYNC119
    with trio.move_on_after(0.3):
        yield _hello(scene)  # noqa: ASYNC119
        await trio.sleep(0.2)
        yield ThreadItemDoneEvent(item=_message(scene, "all", scene.item_fields()["id"]))  # noqa: ASYNC119
        await trio.sleep(0.6)


async def _with_cleanup(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    """Clean up slowly."""
    try:
        async with _closing(say("clean", " up", every=0.2), scene) as events:
            async for event in events:
                yield event  # noqa: ASYNC119  (the turn closes this generator)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await trio.sleep(0.2)


async def _shielded(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    """Do what must be carried through, and go on yielding when it may be too late."""
    item = _message(scene, "paid", scene.item_fields()["id"])
    yield ThreadItemAddedEvent(item=item)
    for _ in range(5):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.04)
        yield more(item, ".")
    yield ThreadItemDoneEvent(item=_message(scene, "paid.....", item.id))


async def _busy(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    """Never awaits."""
    events = [event async for event in say(*["no rest "] * 100)(scene)]
    for event in events:
        yield event


async def _rewritten(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    first, second = scene.item_fields()["id"], scene.item_fields()["id"]
    yield ThreadItemDoneEvent(item=_message(scene, "draft", first))
    yield ThreadItemDoneEvent(item=_message(scene, "withdrawn", second))
    yield ThreadItemReplacedEvent(item=_message(scene, "draft, but better", first))
    yield ThreadItemRemovedEvent(item_id=second)


async def _hidden(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    for event_type in (ThreadItemDoneEvent, ThreadItemAddedEvent):
        item = HiddenContextItem(content=SECRET, **scene.item_fields())
        yield event_type(item=item)


async def _title_later(thread: ThreadMetadata) -> None:
    await trio.sleep(0.4)
    thread.title = "found later"
    thread.metadata["note"] = SECRET
    await trio.sleep(0.3)


def _start_task(scene: Scene) -> None:
    current_turn().nursery.start_soon(_title_later, scene.thread)


async def _fail_later() -> None:
    await trio.sleep(0.3)
    raise CustomStreamError("a task failed")


def _start_failing_task(scene: Scene) -> None:
    current_turn().nursery.start_soon(_fail_later)


def _ask_tool(scene: Scene) -> ThreadItemDoneEvent:
    fields = scene.item_fields("tool_call")
    call = ClientToolCallItem(name="where", call_id="call", arguments={}, **fields)
    return ThreadItemDoneEvent(item=call)


def _ask_user(scene: Scene) -> ThreadItemDoneEvent:
    questions = [StructuredInputFreeform(id="q", question="Why?")]
    item = StructuredInputItem(inputs=list(questions), **scene.item_fields())
    return ThreadItemDoneEvent(item=item)


def _give_up(scene: Scene) -> None:
    current_turn().cancel()


STEPS: list[Step] = [
    say("one ", "two ", "three", every=0.2),
    say("quick ", "words"),
    say("never ", "done", every=0.1, finish=False),
    say(*["many words, "] * 200),
    work("Search", "Read", every=0.2),
    work("Search", every=0.1, finish=False),
    show_widget(CARD),
    pause(0.5),
    set_title("a title"),
    _with_cleanup,
    _busy,
    _shielded,
    _shielded,
    _rewritten,
    _hidden,
    do(_start_task),
]
ENDS: list[Step] = [
    emit(_ask_tool),
    emit(_ask_user),
    fail(CustomStreamError("told")),
    fail(OSError("not told")),
    do(_start_failing_task),
    do(_give_up),
]


# --- The server and its store ------------------------------------------------------------------


class Audit(StoreWrapper[Any]):
    """Remembers everything that was ever written, next to the store so that it's true."""

    def __init__(self, store: Store[Any]) -> None:
        super().__init__(store)
        self.written: dict[str, ThreadItem] = {}
        """The last state of every item, those deleted later too."""
        self.notes: dict[str, dict[str, CancelReason]] = defaultdict(dict)
        """For each thread its hidden notes."""
        self.additions: Counter[str] = Counter()
        self.removed: set[str] = set()
        """Items that respond() has removed."""

    def _note(self, item: ThreadItem) -> None:
        self.written[item.id] = item
        if isinstance(item, SDKHiddenContextItem):
            self.notes[item.thread_id][item.id] = REASONS[item.content]

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().add_thread_item(thread_id, item, context)
        self.additions[item.id] += 1
        self._note(item)

    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().save_item(thread_id, item, context)
        self._note(item)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        self.removed.add(item_id)
        await super().delete_thread_item(thread_id, item_id, context)

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(settlement, context)
        for item in settlement.new_items:
            if item.id not in self.written:
                self._note(item)
        for item in settlement.changed_items:
            self._note(item)


class Moody(StoreWrapper[Any]):
    """Fails at some writes of answers, before they have happened or after; is slow to settle."""

    def __init__(self, store: Store[Any], rng: Random, share: float) -> None:
        super().__init__(store)
        self._rng = rng
        self._share = share

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name == "settle":
            await trio.sleep(0.1)  # so that who reads without waiting is there first
        if name not in ("add_thread_item", "save_item") or self._rng.random() > self._share:
            return await call()
        if self._rng.random() < 0.5:
            await call()
        raise StoreError("the disk is full")


class SoakServer(ScriptedServer):
    """Answers by random scripts, under random policies."""

    def __init__(self, store: Store[Any], rng: Random) -> None:
        super().__init__(store, self._play)
        self._rng = rng
        self.turns: list[Turn[Any]] = []
        """The turn of each call of respond() or action()."""
        self.overlaps: list[tuple[str, str]] = []
        """Turns that were live on one thread at the same time."""
        self.finished: set[str] = set()
        """The turns whose respond() came to its end."""

    def _play(self, thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        self.overlaps += [
            (turn.id, current_turn().id)
            for turn in self.turns
            if turn.thread_id == thread.id and not turn.settled.is_set()
        ]
        self.turns.append(current_turn())
        scene = Scene(thread, message, context)
        if self._rng.random() < 0.15:
            return _with_scopes(scene)
        script = self._rng.choices(STEPS, k=self._rng.randint(1, 4))
        if self._rng.random() < 0.5:
            script.append(self._rng.choice(ENDS))
        return self._perform(script, scene)

    async def _perform(self, script: list[Step], scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
        for step in script:
            async with _closing(step, scene) as events:
                async for event in events:
                    yield event  # noqa: ASYNC119  (the turn closes this generator)
        self.finished.add(current_turn().id)

    def action(
        self, thread: ThreadMetadata, action: Any, sender: Any, context: Any
    ) -> AsyncIterator[Any]:
        return self._play(thread, None, context)

    async def sync_action(
        self, thread: ThreadMetadata, action: Any, sender: Any, context: Any
    ) -> SyncCustomActionResponse:
        await trio.sleep(0.1)
        return SyncCustomActionResponse(updated_item=sender)

    def get_turn_policy(self, request: ChatKitReq, context: Any) -> TurnPolicy:
        return TurnPolicy(
            on_disconnect=self._rng.choice(["cancel", "cancel", "finish", 0.4]),
            on_busy=self._rng.choice(["supersede", "supersede", "queue", "reject"]),
            turn_timeout=self._rng.choice([None, None, None, 1.5]),
            stall_timeout=1.0,
            max_unread_bytes=self._rng.choice([200, 4000, 256 * 1024]),
            max_replay_bytes=self._rng.choice([300, 256 * 1024]),
        )


# --- The tabs ----------------------------------------------------------------------------------


class Soak:
    """One run."""

    def __init__(self, store: Store[Any], seed: int) -> None:
        self.rng = Random(seed)
        self.raw = store
        self.audit = Audit(store)
        moody = Moody(self.audit, self.rng, self.rng.choice([0, 0, 0.05]))
        self.slow = SlowStore(moody, self.rng.choice([0.0, 0.003, 0.05]))
        self.server = SoakServer(self.slow, self.rng)
        self.recorder = Recorder(self.server)
        self.threads: dict[str, list[str]] = {"ann": [], "bob": []}
        self.streams: list[tuple[Turn[Any], ClientTurn, int]] = []
        """What was read: of which turn, and from which frame on."""
        self.answers: list[bytes] = []
        self.deleted_threads: set[str] = set()
        self.cut_back: set[str] = set()
        """Threads from which a retry has deleted something."""
        self.refusals: set[tuple[int, str | None]] = set()

    async def run(self) -> None:
        with trio.fail_after(300):
            async with self.server:
                async with trio.open_nursery() as nursery:
                    for number in range(TABS):
                        nursery.start_soon(self._tab, "ann" if number % 3 else "bob")
                    if self.rng.random() < 0.5:
                        await trio.sleep(self.rng.uniform(3, 8))
                        await self.server.drain(self.rng.choice([0, 0.5, 5]))
                self._check_settled_on_the_way()
            await self._check_after_a_restart()
        self.check()

    async def _tab(self, user: str) -> None:
        client = ChatClient.of_server(self.server, user)
        actions = [self._send] * 5 + [
            self._retry,
            self._rename,
            self._delete,
            self._look,
            self._look,
            self._watch,
            self._watch,
            self._stop,
            self._answer,
            self._act,
            self._nonsense,
        ]
        for _ in range(ACTIONS_A_TAB):
            await trio.sleep(self.rng.uniform(0, 0.5))
            with self._refusals():
                await self.rng.choice(actions)(client, user)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Any request may be refused; `_check_refusals` says how."""
        try:
            yield
        except RequestRefused as refusal:
            self.refusals.add((refusal.status, refusal.code))

    def _some_thread(self, user: str) -> str:
        known = self.threads[user] + self.threads["bob"][:1]
        return self.rng.choice(known) if known else "thr_none"

    async def _send(self, client: ChatClient, user: str) -> None:
        known = self.threads[user]
        thread_id = self.rng.choice(known[-2:]) if known and self.rng.random() < 0.7 else None
        async with client.send("hello", thread_id) as turn:
            await self._read(client, user, turn)

    async def _retry(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        items = await client.items(thread_id)
        self.cut_back.add(thread_id)
        async with client.retry(thread_id, self.rng.choice(items).id) as turn:
            await self._read(client, user, turn)

    async def _answer(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        items = await client.items(thread_id)
        questions = [item for item in items if isinstance(item, StructuredInputItem)]
        if questions:
            async with client.send_answers(thread_id, questions[-1].id, {"q": ["so"]}) as turn:
                await self._read(client, user, turn)
        else:
            async with client.send_tool_output(thread_id, "here") as turn:
                await self._read(client, user, turn)

    async def _act(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        items = await client.items(thread_id)
        widgets = [item.id for item in items if item.type == "widget"]
        sender = self.rng.choice([*widgets, None])
        action = Action[str, Any](type="press")
        if self.rng.random() < 0.5:
            await client.act_and_wait(thread_id, action, sender)
        else:
            async with client.act(thread_id, action, sender) as turn:
                await self._read(client, user, turn)

    async def _read(self, client: ChatClient, user: str, turn: ClientTurn) -> None:
        """Read a stream of one's own in one of many ways."""
        self.streams.append((turn.server_turn, turn, 0))
        match self.rng.randrange(6):
            case 0:
                await turn.read(self.rng.randint(0, 12))
                await turn.disconnect()
            case 1:
                await turn.read(self.rng.randint(0, 12))
                await trio.sleep(self.rng.choice([0.3, 3.0]))
                await turn.read()
            case 2:
                await turn.read(self.rng.randint(3, 12))
                if turn.thread_id is not None:
                    await self._stop_and_read_at_once(client, turn, turn.thread_id)
                await turn.read()
            case 3:
                with trio.move_on_after(self.rng.uniform(0, 1)):
                    await turn.read()
            case _:
                await turn.read()
                assert turn.server_turn.cancel_reason is not CancelReason.STALLED
        if turn.thread_id is None:
            return
        if turn.thread_id not in self.threads[user]:
            self.threads[user].append(turn.thread_id)
        if turn.is_complete:
            await self._check_read_after_end(client, turn)

    def _shown(self, turn: ClientTurn) -> set[str]:
        """Return what the client was shown and has to be in the thread."""
        return {item.id for item in kept_items(turn.items)} - self.audit.removed

    async def _stop_and_read_at_once(
        self, client: ChatClient, turn: ClientTurn, thread_id: str
    ) -> None:
        """Who asks for the thread while the answer is being stopped gets its last state."""
        if self.server.live_turns.on_thread(thread_id) is not turn.server_turn:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.stop)
            await trio.testing.wait_all_tasks_blocked()
            with self._refusals():
                found = {item.id for item in await client.items(thread_id)}
                missing = self._shown(turn) - found
                assert not missing or thread_id in self.cut_back

    async def _check_read_after_end(self, client: ChatClient, turn: ClientTurn) -> None:
        """Who has read a stream to its end finds in the thread what the stream had shown."""
        assert turn.thread_id is not None
        found = {item.id for item in await client.items(turn.thread_id)}
        if turn.thread_id not in self.cut_back and turn.error is None:
            missing = self._shown(turn) - found
            assert not missing, f"{missing} aren't in the thread, and the client has seen them"

    async def _watch(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        live = self.server.live_turns.on_thread(thread_id)
        start = self.rng.choice([0, 0, live.log.next_number // 2 if live else 7])
        with suppress(FramesLost):
            result = self.server.watch(thread_id, start=start)
            if result is None:
                return
            async with result:
                turn = ClientTurn(ServerConnection(result), client.stop)
                self.streams.append((result.turn, turn, start))
                if self.rng.random() < 0.7:
                    await turn.read(self.rng.choice([None, 1, 9]))

    async def _rename(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        thread = await client.rename(thread_id, "renamed")
        self.answers.append(thread.model_dump_json().encode())

    async def _delete(self, client: ChatClient, user: str) -> None:
        if self.rng.random() < 0.5:
            thread_id = self._some_thread(user)
            await client.delete(thread_id)
            self.deleted_threads.add(thread_id)

    async def _look(self, client: ChatClient, user: str) -> None:
        thread_id = self._some_thread(user)
        thread = await client.thread(thread_id)
        items = await client.items(thread_id)
        threads = await client.threads()
        for model in (thread, *items, *threads):
            self.answers.append(model.model_dump_json().encode())
        ids = [item.id for item in thread.items.data]
        assert len(ids) == len(set(ids))

    async def _stop(self, client: ChatClient, user: str) -> None:
        await client.stop(self._some_thread(user))

    async def _nonsense(self, client: ChatClient, user: str) -> None:
        body = self.rng.choice(
            [
                b"",
                b"{",
                b'{"type":"threads.delete"}',
                b'{"type":"items.list","params":{"thread_id":"x","limit":-1}}',
                b'{"type":"threads.list","params":{"after":"nothing"}}',
                b'{"type":"threads.update","params":{"thread_id":"x","title":"y"}}',
                b'{"type":"input.transcribe","params":{"audio_base64":"!","mime_type":"a/b"}}',
            ]
        )
        await client.ask(body)

    # --- What has to be true -------------------------------------------------------------------

    def _check_settled_on_the_way(self) -> None:
        """Turns may still be live here, for they may outlive their clients; others are over."""
        live = set(self.server.live_turns)
        for turn, _client, _start in self.streams:
            assert turn.settled.is_set() or turn in live

    async def _check_after_a_restart(self) -> None:
        """Another server on the same store finds every thread as it was left."""
        async with SoakServer(self.slow, self.rng) as server:
            for user, threads in self.threads.items():
                client = ChatClient.of_server(server, user)
                for thread_id in set(threads) - self.deleted_threads:
                    items = await client.items(thread_id)
                    ids = [item.id for item in items]
                    assert len(ids) == len(set(ids))
                    assert not any(map(is_hidden, items))

    def check(self) -> None:
        self._check_nothing_is_left()
        self._check_nothing_hidden_left()
        for turn, recording in zip(self.server.turns, self.recorder.recordings, strict=True):
            self._check_answer(turn, recording)
        self._check_notes()
        self._check_streams()
        self._check_refusals()
        assert max(self.audit.additions.values(), default=1) == 1

    def _check_nothing_is_left(self) -> None:
        assert len(self.server.live_turns) == 0
        assert vars(self.server.live_turns)["_admission"] == {}
        assert vars(self.server.live_turns)["_by_thread"] == {}
        assert self.server.overlaps == []
        for turn in self.server.turns:
            assert turn.ended.is_set()
        generators = [each for made in self.recorder.recordings for each in made.generators]
        assert all(generator.ag_frame is None for generator in generators)

    def _check_nothing_hidden_left(self) -> None:
        sent = [frame for _turn, client, _start in self.streams for frame in client.frames]
        for text in (*sent, *self.answers):
            assert SECRET.encode() not in text
            assert b"hidden_context" not in text

    def _check_answer(self, turn: Turn[Any], recording: Recording) -> None:
        """Each message is stored as a prefix of what was yielded, or whole if it was done."""
        removed = ids_of(recording.events, "thread.item.removed")
        done = ids_of(recording.events, "thread.item.done", "thread.item.replaced")
        for item in recording.items():
            if item.id in removed or not isinstance(item, AssistantMessageItem):
                continue
            stored = self.audit.written.get(item.id)
            if turn.cancel_reason is CancelReason.FAILED:
                assert stored is not None or item.id not in done, (turn.id, item)
            if turn.cancel_reason is None:
                assert stored is not None or not kept_items([item]), (turn.id, item)
            if stored is not None:
                whole, kept = _text(item), _text(stored)
                is_enough = kept == whole if turn.cancel_reason is None else True
                assert whole.startswith(kept), (whole, kept)
                assert is_enough, (whole, kept)

    def _check_notes(self) -> None:
        """Each turn that was cut short has left one note of its reason, and no other turn has."""
        expected: dict[str, Counter[CancelReason]] = defaultdict(Counter)
        possible: dict[str, Counter[CancelReason]] = defaultdict(Counter)
        turns = {turn.id: turn for turn, _client, _start in self.streams}
        turns |= {turn.id: turn for turn in self.server.turns}
        for turn in turns.values():
            reason, thread_id = turn.cancel_reason, turn.thread_id
            if reason is None or thread_id is None or not turn.has_begun:
                continue
            possible[thread_id][reason] += 1
            # A failure before the first word has none; nor has one whose answer was complete.
            if reason is not CancelReason.FAILED and turn.id not in self.server.finished:
                expected[thread_id][reason] += 1
        for thread_id in {*possible, *self.audit.notes}:
            notes = Counter(self.audit.notes[thread_id].values())
            assert expected[thread_id] <= notes <= possible[thread_id], thread_id

    def _check_refusals(self) -> None:
        for status, code in self.refusals:
            assert code is not None
            assert 400 <= status < 500 or code in ("not_running", "store")

    def _check_streams(self) -> None:
        """Readers get the turn's frames, in order, none twice; and all of it is in the store."""
        assert BEHIND_THE_END == []
        for turn, client, start in self.streams:
            frames = [b"data: " + text + b"\n\n" for text in client.frames]
            written = FRAMES[turn.log]
            assert frames == written[start : start + len(frames)]
            if client.is_complete:
                assert start + len(frames) == len(written)
            removed = ids_of(client.events, "thread.item.removed")
            for item in kept_items(client.items):
                if item.id in removed or not isinstance(item, AssistantMessageItem):
                    continue
                assert item.id in self.audit.written, (turn.id, item)
                assert _text(self.audit.written[item.id]).startswith(_text(item))


def _text(item: ThreadItem) -> str:
    assert isinstance(item, AssistantMessageItem)
    return "".join(part.text for part in item.content)


# --- The runs ----------------------------------------------------------------------------------

FRAMES: dict[FrameLog, list[bytes]] = defaultdict(list)
"""All frames that were ever written, by log."""

BEHIND_THE_END: list[bytes] = []
"""Frames that were written after the last one."""


@pytest.fixture(autouse=True)
def all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    FRAMES.clear()
    BEHIND_THE_END.clear()
    append = FrameLog.append

    def noting(log: FrameLog, frame: bytes) -> None:
        if log.is_closed:
            BEHIND_THE_END.append(frame)
        FRAMES[log].append(frame)
        append(log, frame)

    monkeypatch.setattr(FrameLog, "append", noting)


def soak(store: Store[Any], seed: int) -> Soak:
    clock = JumpClock()
    run = Soak(store, seed)
    with same_schedule(seed):
        trio.run(run.run, clock=clock, instruments=[clock])
    return run


def by_user(context: Any) -> str:
    return str(context)


@pytest.mark.parametrize("seed", range(30))
def test_random_use_of_a_server_in_memory_keeps_the_promise(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        run = soak(MemoryStore(owner=by_user), seed)

    assert run.server.turns


@pytest.mark.parametrize("seed", range(4))
def test_random_use_of_a_server_on_sqlite_keeps_the_promise(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        run = soak(SQLiteStore(tmp_path / "chat.db", owner=by_user), seed)

    assert run.server.turns
