"""This process among those that share a store: who may begin, and what nodes ask of each other.

The store has what must be true (one live turn a thread, the fence, who is dead); see
`chatkit_trio.store.Coordination`. Everything else is asked of the node that runs the turn, by
messages in its box: end it, tell its items, give it a title or an item, let others watch it. A node
that doesn't answer is waited for until the store says that it is dead; then its turn is settled
here.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import trio

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import (
    BusyError,
    ConflictError,
    FramesLost,
    NotFoundError,
    StoreError,
    ThreadChangedError,
    TurnFencedError,
)
from chatkit_trio.store import Coordination, Hint, News, Store, TurnRecord
from chatkit_trio.types import ThreadItem, ThreadMetadata, is_hidden

from .frames import FrameReader
from .journal import recover
from .keeping import CancelReason
from .loading import load_thread
from .messages import Ask, Deed, Frames, Over, Reply, Taken, decode, encode
from .opening import PreparedRequest
from .policy import TurnPolicy
from .remote import RemoteReader, RemoteTurn
from .replay import frames_so_far
from .story import Story
from .thread_state import as_metadata
from .turn import Turn, TurnState

logger = logging.getLogger(__name__)

_IDLE_LOOKS = 4
"""How often within its lease a node asks for news that has no turn and waits for nothing."""

_TRIES_A_POLL = 5
"""How often in an interval of polling a node asks for its news that couldn't be told them."""

_SILENT_POLLS = 3
"""After so many intervals of polling a read doesn't wait for the node of a live turn any more. If
no hint comes, the question takes up to one and the answer another."""

_MOST_LOOKS = 10
"""So often a request looks at its thread before it gives up, because others change it each time."""

_LAST_POLLS = 5
"""For so many intervals a node that leaves waits for those who watch its turns."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What a live turn has that the store lacks, when it was asked."""

    new: list[ThreadItem]
    changed: list[ThreadItem]
    is_over: Callable[[], Awaitable[bool]]
    """Says whether the store may have got it since: what was loaded is then loaded again."""


@dataclass(eq=False, slots=True)
class _Asked:
    """A question that waits for its answer."""

    reply: Reply | None = None
    came: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False, slots=True)
class _Publication:
    """A turn of this node that somebody on another node watches."""

    reader: FrameReader
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    taken: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)


class Node:
    """The engine's side of `Coordination`; one for each open store with coordination.

    Several servers of one process may share it; one of them runs its loop.
    """

    def __init__(self, store: Store[Any], coordination: Coordination[Any]) -> None:
        self._store = store
        self._coordination = coordination
        self._registries: list[Callable[[], Iterable[Turn[Any]]]] = []
        self._stories: list[Story] = []
        self.tellers: list[Callable[[str], Awaitable[str]]] = []
        """Who tells other nodes something about this one when they ask."""
        self._running = trio.Lock()
        self._hint = Hint()
        self._is_resting = False
        """Whether its next look is far off."""
        self._heard = trio.Event()
        self._heard_at = -inf
        self._nursery: trio.Nursery | None = None
        self._asked: dict[str, _Asked] = {}
        self._watched: dict[str, RemoteReader] = {}
        self._published: dict[str, _Publication] = {}
        self._strays: frozenset[str] = frozenset()
        self._in_line: set[str] = set()
        """The turns of this node that may have a place in a line."""

    @property
    def _turns(self) -> dict[str, Turn[Any]]:
        return {turn.id: turn for turns in self._registries for turn in turns()}

    # --- The life of a node --------------------------------------------------------------------

    async def run(self, turns: Callable[[], Iterable[Turn[Any]]], story: Story) -> None:
        """Take part with these turns until cancelled; one of several servers runs the loop."""
        self._registries.append(turns)
        self._stories.append(story)
        try:
            async with self._running:
                await self._run()
        finally:
            self._registries.remove(turns)
            self._stories.remove(story)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self._keep_listening)
                await self._keep_asking()
            finally:
                # Before its tasks have ended: then it takes no more.
                self._nursery = None

    async def finish(self) -> None:
        """Send those who watch a turn from elsewhere its end; bounded, for the server leaves."""
        seconds = _LAST_POLLS * self._coordination.poll_interval
        with trio.move_on_after(seconds, shield=True):
            while self._published:
                await next(iter(self._published.values())).ended.wait()

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._coordination.listen()
            except Exception:
                logger.exception("listening for hints of other nodes failed; it is tried again")
            await trio.sleep(self._coordination.poll_interval)

    async def _keep_asking(self) -> None:
        coordination = self._coordination
        self._heard_at = trio.current_time()
        with coordination.hint(coordination.node) as self._hint:
            while True:
                pause = self._pause
                self._is_resting = pause > coordination.poll_interval
                if await self._look():
                    self._heard_at = trio.current_time()
                    self._heard.set()
                    self._heard = trio.Event()
                else:
                    pause = coordination.poll_interval / _TRIES_A_POLL
                    if not self.is_heard:
                        self._lose(turn for turn in self._turns.values() if _is_answering(turn))
                await self._hint.wait(pause)

    @property
    def is_heard(self) -> bool:
        """Whether the store has said within a lease which turns are live here.

        If not, this process may have been paused, and others may have settled them.
        """
        return trio.current_time() - self._heard_at <= self._coordination.lease_timeout

    async def hear(self) -> None:
        """Wait until the store has said which turns are live here; others are lost then.

        Raises `StoreError` if that takes too long.
        """
        self._hint.tell()
        with trio.move_on_after(self._coordination.lease_timeout):
            while not self.is_heard:
                await self._heard.wait()
            return
        raise StoreError(
            "the store took too long to say which answers are still this server's; try again"
        )

    @property
    def _pause(self) -> float:
        is_idle = not (self._turns or self._asked or self._watched)
        coordination = self._coordination
        return (
            max(coordination.lease_timeout / _IDLE_LOOKS, coordination.poll_interval)
            if is_idle
            else coordination.poll_interval
        )

    async def _look(self) -> bool:
        """Ask the store for news and act on it; say whether the store could be asked."""
        before = self._turns
        answering = [turn for turn in before.values() if _is_answering(turn)]
        if (news := await self._news()) is None:
            return False
        missing = [turn for turn in answering if turn.id not in news.live and _is_answering(turn)]
        lost = [turn for turn in missing if await self._has_thread(turn)]
        self._lose(turn for turn in lost if _is_answering(turn))
        await self._abandon_strays(news, before.keys())
        for message in news.messages:
            self._take(message)
        return True

    async def _has_thread(self, turn: Turn[Any]) -> bool:
        """Say whether the thread of a turn is there, or may be.

        If it isn't, it was deleted with the record of the turn, perhaps by the turn itself.
        """
        with trio.move_on_after(self._coordination.lease_timeout / 2):
            try:
                await load_thread(self._store, turn.thread_id, turn.context)
            except NotFoundError:
                return False
            except Exception:
                logger.exception("the store can't say whether there is thread %s", turn.thread_id)
        return True

    async def _news(self) -> News | None:
        """Return what is new; None if the store can't be asked, which is logged."""
        try:
            with trio.move_on_after(self._coordination.lease_timeout / 2):
                return await self._coordination.news()
        except Exception:
            logger.exception("asking the store for this node's news failed; it is tried again")
            return None
        logger.error("the store took too long to give this node's news; it is tried again")
        return None

    def _lose(self, turns: Iterable[Turn[Any]]) -> None:
        """End turns that other nodes settle, or may settle any moment."""
        for turn in turns:
            logger.error("%s is ended here: another node settles it or may do so", turn.id)
            turn.cancel(CancelReason.CRASHED)

    async def _abandon_strays(self, news: News, known: Iterable[str]) -> None:
        """Have those turns settled whose beginning was given up before its outcome was known."""
        strays = news.live - self._turns.keys() - set(known)
        # A turn that ends just now may still be among the news: a second look decides.
        for turn_id in strays & self._strays:
            try:
                await self._coordination.abandon(turn_id)
            except Exception:
                logger.exception(
                    "giving up %s, whose beginning failed, didn't succeed; it is tried again",
                    turn_id,
                )
        self._strays = strays

    # --- Messages ------------------------------------------------------------------------------

    def _take(self, message: bytes) -> None:
        assert self._nursery is not None
        try:
            said = decode(message)
        except ValueError:
            logger.exception("a message of another node can't be understood; it is ignored")
            return
        match said:
            case Ask():
                self._nursery.start_soon(self._answer, said)
            case Reply() if said.id in self._asked:
                asked = self._asked[said.id]
                asked.reply = said
                asked.came.set()
                if said.id in self._watched:
                    # Its first frames may come with the same news.
                    self._watched[said.id].begin_with(said.number, said.state.encode())
            case Frames() if said.id in self._watched:
                frames = [frame.encode() for frame in said.frames]
                self._watched[said.id].put(said.first, frames)
            case Over() if said.id in self._watched:
                self._watched[said.id].end(said.reason or None)
            case Taken() if said.id in self._published:
                publication = self._published[said.id]
                publication.taken.set()
                if said.leaves:
                    publication.scope.cancel()
            case _:
                pass  # of a question that nobody waits for any more

    async def _post(self, node: str, message: Reply | Frames | Over | Taken) -> None:
        try:
            await self._coordination.post(node, encode(message))
        except Exception:
            logger.exception("a message for node %s couldn't be sent", node)

    async def _ask(
        self, record: TurnRecord, patience: float, ask_id: str | None = None, **wish: Any
    ) -> Reply | None:
        """Ask the node of a turn; None if the turn is over or the node hasn't answered in time."""
        ask = Ask(
            id=ask_id or secrets.token_hex(8),
            sender=self._coordination.node,
            turn_id=record.turn_id,
            **wish,
        )
        with self._expected(ask) as asked:
            with trio.move_on_after(patience):
                await self._send(record.node, ask)
                while not asked.came.is_set():
                    with trio.move_on_after(self._coordination.poll_interval):
                        await asked.came.wait()
                    if not asked.came.is_set() and not await self._is_live(record):
                        return None
            return asked.reply

    @contextmanager
    def _expected(self, ask: Ask) -> Iterator[_Asked]:
        asked = self._asked[ask.id] = _Asked()
        try:
            yield asked
        finally:
            del self._asked[ask.id]

    async def _send(self, node: str, ask: Ask) -> None:
        await self._coordination.post(node, encode(ask))
        self._hint.tell()  # from now on the box is looked into often

    async def _is_live(self, record: TurnRecord) -> bool:
        """Say whether the turn is still recorded, after settling it if its node is dead."""
        await self._recover(record.thread_id)
        return await self._coordination.record(record.thread_id) == record

    async def _recover(self, thread_id: str) -> None:
        # Several servers of one store may be running here: one tells of it, so that it counts once.
        story = self._stories[0] if self._stories else Story()
        await recover(self._store, thread_id, tell=story.tell)

    # --- What this node wants of others --------------------------------------------------------

    async def others(self) -> list[str]:
        """Return the ids of the other nodes that live."""
        return [each for each in await self._coordination.nodes() if each != self.name]

    @property
    def name(self) -> str:
        """The id of this node."""
        return self._coordination.node

    async def hear_from(self, node: str, about: str) -> list[str] | None:
        """Return what the `tellers` of another node tell; None if it doesn't answer in time."""
        coordination = self._coordination
        # One that is at rest looks into its box that seldom, if it gets no hint.
        patience = coordination.lease_timeout / _IDLE_LOOKS + 2 * coordination.poll_interval
        ask = Ask(id=secrets.token_hex(8), sender=self.name, do="tell", about=about)
        with self._expected(ask) as asked:
            with trio.move_on_after(patience):
                await self._send(node, ask)
                await asked.came.wait()
        return None if asked.reply is None else asked.reply.told

    async def turn_id(self, thread_id: str) -> str | None:
        """Return the id of the turn, of any node, that is live on a thread."""
        record = await self._coordination.record(thread_id)
        return None if record is None else record.turn_id

    async def line_up(self, turn: Turn[Any]) -> None:
        """Take a place in the line of a thread: turns that come later to other nodes wait."""
        self._in_line.add(turn.id)
        line_up = self._coordination.line_up
        await turn.ending.write(partial(line_up, turn.id, turn.thread_id, turn.context))

    async def leave_line(self, turn: Turn[Any]) -> None:
        """Give up the place of a turn that doesn't begin, if it may have one. Shielded."""
        if turn.id in self._in_line:
            self._in_line.discard(turn.id)
            await self._withdraw(turn)

    async def begin(
        self,
        turn: Turn[Any],
        first_writes: Callable[[], AbstractAsyncContextManager[None]],
        has_lined_up: Callable[[], None],
        waits_behind: Callable[[str], bool],
    ) -> PreparedRequest:
        """Make the first writes of a turn when no other node's turn is on its thread.

        They are made inside of `first_writes`. Calls `has_lined_up` as soon as others will wait
        behind it. `waits_behind` says whether a turn of that id waits in this process until this
        one has ended. Raises `BusyError` if the policy says so, and what the request and the store
        raise; then call `leave_line`.
        """
        coordination = self._coordination
        asked = ""
        looks = 0
        with coordination.hint(turn.thread_id) as hint:
            while True:
                prepared = await turn.ending.read(partial(turn.request.prepare, turn.id))
                if not asked:
                    turn.first_write_begins()
                self._in_line.add(turn.id)
                try:
                    async with first_writes():
                        blocking = await self._let_in(turn, prepared)
                except ThreadChangedError:
                    looks += 1
                    if looks == _MOST_LOOKS:
                        raise
                    continue
                has_lined_up()
                if blocking is None:
                    self._in_line.discard(turn.id)
                    if self._is_resting:
                        self._hint.tell()  # it may have lost its lock long ago
                    if asked:
                        turn.first_write_begins()
                    return prepared
                if blocking.node == coordination.node and waits_behind(blocking.turn_id):
                    # While this node was taken for dead its places were lost, and that turn has
                    # taken a new one before this turn has. It takes another when its time comes.
                    # (The same request may wait on another node too; its place there stays.)
                    withdraw = partial(coordination.withdraw, blocking.turn_id)
                    await turn.ending.write(withdraw)
                    continue
                turn.has_to_wait()
                if blocking.turn_id != asked:
                    asked = blocking.turn_id
                    # No operation of the store: who hurries this turn waits for that node too.
                    await self._make_way(turn, blocking)
                await hint.wait(coordination.poll_interval)
                await turn.ending.read(partial(self._recover, turn.thread_id))

    async def _let_in(self, turn: Turn[Any], prepared: PreparedRequest) -> TurnRecord | None:
        """Ask the store to begin; a request whose turn another node has run may not run again."""
        begin = partial(self._coordination.begin, prepared.opening, turn.context)
        try:
            return await turn.ending.write(begin, "begin_turn")
        except ThreadChangedError:
            raise  # it is looked at again
        except ConflictError as error:
            if not turn.request.turn_id:
                raise
            raise TurnFencedError(
                "another process has begun to answer this request; send it again with its"
                " Idempotency-Key to get that answer"
            ) from error

    async def _withdraw(self, turn: Turn[Any]) -> None:
        """Leave the line: now, or as soon as the store can be used."""
        with trio.move_on_after(turn.policy.settle_timeout, shield=True):
            if await self._has_left_line(turn.id):
                return
        if self._nursery is not None:
            self._nursery.start_soon(self._keep_withdrawing, turn.id)

    async def _keep_withdrawing(self, turn_id: str) -> None:
        while not await self._has_left_line(turn_id):  # noqa: ASYNC110  (it asks the store)
            await trio.sleep(self._coordination.poll_interval)

    async def _has_left_line(self, turn_id: str) -> bool:
        try:
            await self._coordination.withdraw(turn_id)
        except Exception:
            logger.exception(
                "taking %s out of the line of its thread failed; it is tried again", turn_id
            )
            return False
        return True

    async def _make_way(self, turn: Turn[Any], blocking: TurnRecord) -> None:
        """Do with the turn that is in the way what the policy says; the caller waits for it."""
        if turn.policy.on_busy == "queue":
            return
        is_superseded = turn.policy.on_busy == "supersede"
        reply = await self._ask(
            blocking,
            self._coordination.lease_timeout,
            do="end",
            reason=CancelReason.SUPERSEDED if is_superseded else None,
            by_client=True,
        )
        if not is_superseded and (reply is None or reply.found):
            raise busy(turn.thread_id)

    async def is_busy(self, thread_id: str) -> bool:
        """Say whether a turn of another node is live on a thread and not about to be settled."""
        reply = await self._reply_about(thread_id, self._coordination.lease_timeout)
        return reply is not None and reply.found

    @property
    def _patience_of_reads(self) -> float:
        return _SILENT_POLLS * self._coordination.poll_interval

    async def superseded_slot(self, thread_id: str) -> str | None:
        """Return the id of the slot of another node's turn that a new message would supersede.

        None if there is none, or if the node doesn't answer soon.
        """
        reply = await self._reply_about(thread_id, self._patience_of_reads)
        return reply.slot or None if reply is not None else None

    async def allows_cancel(self, thread_id: str) -> bool:
        """Say whether the client of another node's turn may end it.

        True if there is none, or if the node doesn't answer in time.
        """
        patience = self._coordination.lease_timeout
        reply = await self._reply_about(thread_id, patience, by_client=True)
        return reply is None or reply.allowed

    async def _reply_about(
        self, thread_id: str, patience: float, *, by_client: bool = False
    ) -> Reply | None:
        """Ask what would come of ending another node's turn on a thread, without ending it.

        None if there is none, or if the node doesn't answer in time.
        """
        if (record := await self._coordination.record(thread_id)) is None:
            return None
        return await self._ask(record, patience, do="end", by_client=by_client)

    async def end(self, thread_id: str, reason: CancelReason, *, by_client: bool) -> bool | None:
        """End another node's turn on a thread and wait until it is settled.

        Returns whether there was one; None if its client may not end it. Raises `StoreError` if it
        takes too long.
        """
        coordination = self._coordination
        with coordination.hint(thread_id) as hint:
            if (record := await coordination.record(thread_id)) is None:
                return False
            patience = coordination.lease_timeout
            reply = await self._ask(record, patience, do="end", reason=reason, by_client=by_client)
            if reply is not None and not reply.allowed:
                return None
            with trio.move_on_after(coordination.lease_timeout):
                while await self._is_live(record):
                    await hint.wait(coordination.poll_interval)
                return True
        raise StoreError(
            f"the server that answers in thread {thread_id} hasn't ended it in time; try again"
        )

    async def wait_settled(self, thread_id: str, turn_id: str) -> None:
        """Wait until another node's turn is settled. Raises `StoreError` if it takes too long."""
        coordination = self._coordination
        with (
            coordination.hint(thread_id) as hint,
            trio.move_on_after(2 * coordination.lease_timeout),
        ):
            while await self.turn_id(thread_id) == turn_id:
                await hint.wait(coordination.poll_interval)
                await self._recover(thread_id)
            return
        raise StoreError(
            f"another server hasn't stored the end of its answer in thread {thread_id}; try again"
        )

    async def look(self, thread_id: str) -> Beside | None:
        """Return what another node's live turn has of a thread; None if there is none.

        Waits for a turn that is being settled. If the node doesn't answer soon, it is what the turn
        had at its last checkpoint. Raises `StoreError` if either takes too long.
        """
        coordination = self._coordination
        asked: TurnRecord | None = None
        patient_until = trio.current_time() + 2 * coordination.lease_timeout
        with coordination.hint(thread_id) as hint:
            while (record := await coordination.record(thread_id)) is not None:
                if record == asked:
                    if trio.current_time() >= patient_until:
                        raise StoreError(
                            f"the server that answers in thread {thread_id} is silent; try again"
                        )
                    await hint.wait(coordination.poll_interval)
                asked = record
                reply = await self._ask(record, self._patience_of_reads, do="look")
                is_over = partial(self._is_another, record)
                if reply is not None and reply.error:
                    raise StoreError(reply.error)
                if reply is not None and reply.found:
                    return Beside(reply.new, reply.changed, is_over)
                if reply is not None:
                    await self.wait_settled(thread_id, record.turn_id)
                elif (entry := await coordination.checkpointed(record.turn_id)) is not None:
                    new = [item for item in entry.items if not is_hidden(item)]
                    return Beside(new, [*entry.changed_items], is_over)
                await self._recover(thread_id)
        return None

    async def _is_another(self, record: TurnRecord) -> bool:
        return await self._coordination.record(record.thread_id) != record

    async def rename(self, thread_id: str, title: str) -> ThreadMetadata | None:
        """Have another node's live turn save a title; None if there is no such turn."""
        if (record := await self._coordination.record(thread_id)) is None:
            return None
        patience = self._coordination.lease_timeout
        reply = await self._ask(record, patience, do="rename", title=title)
        if reply is None:
            return None
        if reply.error:
            raise StoreError(reply.error)
        return reply.thread

    async def replace(self, turn_id: str, item: ThreadItem) -> bool:
        """Have another node's live turn go on with an item as a request here has stored it.

        Returns False if that turn is over; a node that doesn't answer soon is believed to do it.
        Raises `StoreError` if the node couldn't do it.
        """
        record = await self._coordination.record(item.thread_id)
        if record is None or record.turn_id != turn_id:
            return False
        reply = await self._ask(record, self._patience_of_reads, do="replace", item=item)
        if reply is None:
            return await self.turn_id(item.thread_id) == turn_id
        if reply.error:
            raise StoreError(reply.error)
        return reply.found

    async def watch(
        self,
        thread_id: str,
        turn_id: str | None,
        start: int | None,
        policy: TurnPolicy,
        readers: set[RemoteReader],
        *,
        front: bytes = b"",
        component_updates: bool = False,
    ) -> tuple[RemoteTurn, RemoteReader] | None:
        """Return another node's live turn and a reader from frame `start`, or None.

        The reader is among `readers` until it is closed. Raises `FramesLost` if that frame isn't
        kept any more. With `start=None` the reader begins with `front` and frames that rebuild what
        there is so far.
        """
        record = await self._coordination.record(thread_id)
        if record is None or (turn_id is not None and record.turn_id != turn_id):
            return None
        watch_id, patience = secrets.token_hex(8), self._coordination.lease_timeout
        say = partial(self._say, record.node, watch_id)

        def leave() -> None:
            readers.discard(reader)
            if self._watched.pop(watch_id, None) is not None and not reader.is_over:
                say(leaves=True)

        reader = self._watched[watch_id] = RemoteReader(patience, say, leave)
        readers.add(reader)
        is_watched = False
        try:
            reply = await self._ask(
                record,
                patience,
                watch_id,
                do="watch",
                start=start,
                component_updates=component_updates,
            )
            if reply is None or not reply.found:
                return None
            if reply.error:
                raise StoreError(reply.error)
            if start is not None and reply.number != start:
                raise FramesLost(f"frame {start} isn't kept any more; load the thread instead")
            if front:
                reader.begin_with(reply.number, front + reply.state.encode())
            is_watched = True
        finally:
            if not is_watched:
                reader.close()
        return RemoteTurn(record, policy, reader), reader

    def _say(self, node: str, watch_id: str, *, leaves: bool = False) -> None:
        """Tell the node of a watched turn that its frames have been taken, or that it's enough."""
        if self._nursery is not None:
            self._nursery.start_soon(self._post, node, Taken(id=watch_id, leaves=leaves))

    # --- What other nodes want of this one -----------------------------------------------------

    async def _tell(self, ask: Ask) -> None:
        reply = Reply(id=ask.id)
        try:
            reply.told = [await tell(ask.about) for tell in self.tellers]
        except Exception:
            logger.exception("another node's question couldn't be answered")
        await self._post(ask.sender, reply)

    async def _answer(self, ask: Ask) -> None:
        if ask.do == "tell":
            await self._tell(ask)
            return
        turn = self._turns.get(ask.turn_id)
        reply = Reply(id=ask.id)
        try:
            if turn is None or turn.settled.is_set():
                reply.found = False
            else:
                await self._do(ask, turn, reply)
            await self._post(ask.sender, reply)
            if turn is not None and ask.id in self._published and not reply.error:
                await self._publish(ask, turn)
        finally:
            publication = self._published.pop(ask.id, None)
            if turn is not None and publication is not None:
                turn.close_reader(publication.reader)
                publication.ended.set()

    async def _do(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        try:
            await _DEEDS[ask.do](self, ask, turn, reply)
        except Exception as error:
            logger.exception("what another node asked to be done to %s failed", ask.turn_id)
            reply.error = text_of(error)

    async def _end(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        if ask.by_client and not turn.options_known.is_set():
            turn.ending.hurry()
            with trio.move_on_after(turn.longest_settling):
                await turn.options_known.wait()
        reply.found = not turn.is_ending
        reply.allowed = turn.allow_cancel or not ask.by_client
        reply.slot = turn.superseded_slot or ""
        if ask.reason is not None and reply.allowed:
            turn.cancel(ask.reason)

    async def _tell_items(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        if turn.is_ending:
            # Said at once: who asks must not take this node for silent, and waits for the record.
            turn.settle_now()
            reply.found = False
            return
        reply.new, reply.changed = turn.items_so_far()

    async def _rename(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        if turn.answer is not None and await turn.answer.rename(ask.title):
            reply.thread = as_metadata(turn.thread)

    async def _replace(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        if turn.answer is not None and ask.item is not None:
            reply.found = await turn.answer.replace(ask.item)

    async def _let_watch(self, ask: Ask, turn: Turn[Any], reply: Reply) -> None:
        if not turn.has_begun:
            # The store has begun it, or the other node wouldn't know of it.
            with trio.move_on_after(self._coordination.lease_timeout):
                await turn.options_known.wait()
        if turn.is_ending or not turn.has_begun:
            reply.found = False
            return
        try:
            reader = turn.open_reader(ask.start, component_updates=ask.component_updates)
        except FramesLost:
            reply.number = turn.log.next_number  # which isn't the one that was asked for
            return
        self._published[ask.id] = _Publication(reader)
        if ask.start is None:
            reply.state = (await frames_so_far(turn, reader)).decode()
        reply.number = reader.number

    async def _publish(self, ask: Ask, turn: Turn[Any]) -> None:
        """Send the frames of a turn to the node of a watcher, until the end or until it leaves."""
        publication = self._published[ask.id]
        with publication.scope:
            await self._post(ask.sender, await self._send_frames(ask, turn, publication))

    async def _send_frames(self, ask: Ask, turn: Turn[Any], publication: _Publication) -> Over:
        """Return what to say at the end."""
        patience = self._coordination.lease_timeout
        reader = publication.reader
        while True:
            frames: list[bytes] = []
            try:
                # A message without frames shows each side that the other one lives.
                with trio.move_on_after(patience / 2):
                    frames = await reader.receive()
            except trio.EndOfChannel:
                return Over(id=ask.id, reason=turn.end_reason)
            except FramesLost:
                return Over(id=ask.id)
            first = reader.number - len(frames)
            texts = [frame.decode() for frame in frames]
            publication.taken = trio.Event()
            await self._post(ask.sender, Frames(id=ask.id, first=first, frames=texts))
            with trio.move_on_after(patience) as limit:
                await publication.taken.wait()
            if limit.cancelled_caught:
                # Its client lags, and has to be told when it reads on; or its node is dead.
                return Over(id=ask.id)


_DEEDS: dict[Deed, Callable[[Node, Ask, Turn[Any], Reply], Awaitable[None]]] = {
    "end": Node._end,
    "look": Node._tell_items,
    "rename": Node._rename,
    "replace": Node._replace,
    "watch": Node._let_watch,
}


def busy(thread_id: str) -> BusyError:
    """Return what a request for a thread with a live turn is told, if the policy says "reject"."""
    return BusyError(
        f"thread {thread_id} is being answered; wait for the end of that answer or stop it"
    )


def _is_answering(turn: Turn[Any]) -> bool:
    return turn.state is TurnState.ANSWERING and not turn.is_ending


def node_of(store: Store[Any]) -> Node | None:
    """Return this process's node of a store; None if the store has no coordination."""
    if store.coordination is None:
        return None
    if store.coordination.engine is None:
        store.coordination.engine = Node(store, store.coordination)
    node: Node = store.coordination.engine
    return node
