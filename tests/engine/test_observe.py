"""What observers are told of turns, and that they can't harm any."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Any

import pytest
import trio

from chatkit_trio.errors import ChatKitError, CustomStreamError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.observe import (
    OWNER_KEY_VARIABLE,
    FirstEventSent,
    RequestRefused,
    StoreOperation,
    TurnAsked,
    TurnBegan,
    TurnEnded,
    TurnInfo,
    TurnRecovered,
    TurnSettled,
    TurnSettling,
    owner_hash,
)
from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import ChatClient, fail, pause, say, scripted_server
from tests.all_ends import ENDS, let_end
from tests.transcript import transcript

from .doubles import TroubledStore, fails, once
from .scenes import ask, sending, thread_of


def of_turn(events: list[Any], turn_id: str) -> list[Any]:
    return [
        event
        for event in events
        if not isinstance(event, StoreOperation | RequestRefused | TurnRecovered)
        and event.turn.turn_id == turn_id
    ]


@pytest.mark.parametrize("reason", ENDS)
async def test_an_observer_is_told_how_a_turn_ends(reason, autojump_clock):
    events: list[Any] = []
    turn = await let_end(reason, lambda server: server.observe(events.append))

    told = of_turn(events, turn.id)
    kinds = [TurnAsked, TurnBegan, FirstEventSent, TurnSettling, TurnSettled, TurnEnded]
    assert [type(event) for event in told] == kinds
    assert told[0].turn == TurnInfo(turn.id, turn.thread_id, "threads.create", "")
    assert told[3].reason == told[5].reason == reason
    assert told[4].is_stored
    assert told[5].events == turn.log.next_number
    assert type(told[5].error) is (RuntimeError if reason == "failed" else type(None))
    assert told[5].is_cut is (reason not in ("finished", "failed", "crashed"))
    recovered = [event for event in events if isinstance(event, TurnRecovered)]
    # Both servers may find it; the one that settles it tells.
    expected = [TurnRecovered(turn.id, turn.thread_id, "crashed")] if reason == "crashed" else []
    assert recovered == expected


async def test_the_first_event_is_that_of_respond_and_not_the_users_own_message(autojump_clock):
    events: list[Any] = []
    server = scripted_server(MemoryStore(), [pause(3), say("Hello", every=1)])
    server.observe(events.append)
    async with server:
        await ask(server)

    (first,) = [event for event in events if isinstance(event, FirstEventSent)]
    (ended,) = [event for event in events if isinstance(event, TurnEnded)]
    assert (first.seconds, ended.seconds) == (3.0, 4.0)


async def test_a_turn_that_shows_nothing_has_no_first_event(autojump_clock):
    events: list[Any] = []
    server = scripted_server(MemoryStore(), [fail(CustomStreamError("no"))])
    server.observe(events.append)
    async with server:
        await ask(server)

    assert not [event for event in events if isinstance(event, FirstEventSent)]


async def test_store_operations_are_told_with_their_seconds(autojump_clock):
    events: list[Any] = []
    server = scripted_server(MemoryStore(), [say("Hello", every=1)])
    store = TroubledStore(MemoryStore())
    server = scripted_server(store, [say("Hello", every=1)])
    server.observe(events.append)
    add = store.add_thread_item

    async def add_slowly(*args: Any, **kwargs: Any) -> None:
        await trio.sleep(2)
        await add(*args, **kwargs)

    store.add_thread_item = add_slowly
    async with server:
        await ask(server)

    told = [(e.name, e.seconds, e.is_done) for e in events if isinstance(e, StoreOperation)]
    assert told == [
        ("begin_turn", 2.0, True),
        ("has_item", 0.0, True),
        ("add_thread_item", 2.0, True),
    ]


async def test_a_store_that_refuses_at_first_takes_several_tries(autojump_clock):
    """In the store afterwards: the message, the partial answer and the note."""
    events: list[Any] = []
    store = TroubledStore(MemoryStore())
    server = scripted_server(store, [say("Hello", finish=False), pause(99)])
    server.observe(events.append)
    async with server, sending(server) as turn:
        await turn.read(6)
        store.give(once(fails()), "settle")
        await server.stop(turn.thread_id or "")
        stored = await transcript(store, turn.thread_id)

    (settled,) = [event for event in events if isinstance(event, TurnSettled)]
    assert (settled.tries, settled.is_stored) == (2, True)
    assert stored == ["user: hi", "assistant: Hello", "note: stopped"]


async def test_refused_requests_are_told_with_their_code(autojump_clock):
    events: list[Any] = []
    limits = OwnerLimits(requests_per_minute=3)
    server = scripted_server(MemoryStore(), [say("Hello")], owner_limits=limits)
    server.observe(events.append)
    get = '{"type":"threads.get_by_id","params":{"thread_id":"thr_1"}}'
    async with server:
        for body in ("{", get, get, get):
            with pytest.raises(ChatKitError):
                await server.process(body, None)

    assert [(event.code, event.request) for event in events] == [
        ("invalid_request", ""),
        ("not_found", "threads.get_by_id"),
        ("not_found", "threads.get_by_id"),
        ("limit", ""),
    ]


async def test_a_turn_that_can_t_begin_is_refused_with_a_code(autojump_clock):
    """The thread is deleted while the message waits for it."""
    events: list[Any] = []
    policy = TurnPolicy(on_busy="queue")
    server = scripted_server(MemoryStore(), [say("Hi")], [pause(9)], [say("Hi")], policy=policy)
    server.observe(events.append)
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "one", thread_id), sending(server, "two", thread_id) as second:
            await trio.sleep(1)
            await server.store.delete_thread(thread_id, None)
            await second.read()
            waiting = second.server_turn

    told = of_turn(events, waiting.id)
    assert [type(event) for event in told] == [TurnAsked, TurnEnded]
    assert (told[1].reason, told[1].error.code) == ("refused", "not_found")
    (refused,) = [event for event in events if isinstance(event, RequestRefused)]
    assert (refused.code, refused.request) == ("not_found", "threads.add_user_message")


@pytest.mark.parametrize("error", [ValueError("no"), trio.EndOfChannel(), GeneratorExit()])
async def test_an_observer_that_raises_is_logged_once_and_harms_nothing(
    error, autojump_clock, caplog
):
    """In the store afterwards: whole answers."""
    events: list[Any] = []

    def broken(event: Any) -> None:
        raise error

    server = scripted_server(MemoryStore(), [say("Hello")])
    server.observe(broken)
    server.observe(events.append)
    async with server:
        turn = await ask(server)
        await ask(server, "again", turn.thread_id)
        stored = await transcript(server.store, turn.thread_id)

    assert stored == ["user: hi", "assistant: Hello", "user: again", "assistant: Hello"]
    assert [event.reason for event in events if isinstance(event, TurnEnded)] == ["finished"] * 2
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_what_can_t_be_an_observer_is_refused():
    server = scripted_server(MemoryStore(), [])

    async def waits(event: Any) -> None:
        await trio.lowlevel.checkpoint()

    class Waits:
        async def __call__(self, event: Any) -> None:
            await trio.lowlevel.checkpoint()

    for wrong in (waits, Waits(), Counter, None, "watch"):
        with pytest.raises(TypeError, match="plain function of an event"):
            server.observe(wrong)


async def test_an_owner_that_can_t_be_told_is_none(autojump_clock, caplog):
    events: list[Any] = []
    server = scripted_server(MemoryStore(), [say("Hello")])
    server.get_owner = lambda context: 1 / 0
    server.observe(events.append)
    async with server:
        await ask(server)

    assert events[-1].reason == "finished"
    assert events[-1].turn.owner == ""
    assert "get_owner() failed" in caplog.text


async def test_a_recovered_turn_is_told_of_at_the_start(tmp_path):
    from tests.test_journal import leave_two_turns_behind

    events: list[Any] = []
    await leave_two_turns_behind(tmp_path / "chat.sqlite3")
    server = scripted_server(SQLiteStore(tmp_path / "chat.sqlite3"), [])
    server.observe(events.append)
    async with server:
        pass

    assert sorted((event.turn_id, event.reason) for event in events) == [
        ("turn_a", "crashed"),
        ("turn_b", "crashed"),
    ]


# --- What it costs -----------------------------------------------------------------------------


async def calls_of(words: int, *observers: Any) -> Counter[str]:
    """Return how often each function of the observers' modules is called in one answer."""
    counts: Counter[str] = Counter()

    def count(frame: Any, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.endswith(("/story.py", "/observe.py")):
            counts[frame.f_code.co_name] += 1

    server = scripted_server(MemoryStore(), [say(*["word "] * words)])
    for observer in observers:
        server.observe(observer)
    async with server:
        sys.setprofile(count)
        try:
            await ask(server)
        finally:
            sys.setprofile(None)
    return counts


async def test_no_event_of_an_answer_costs_a_call_with_or_without_observers(autojump_clock):
    assert await calls_of(10) == await calls_of(300)
    assert await calls_of(10, print_nothing) == await calls_of(300, print_nothing)


async def test_without_observers_nothing_is_told_and_the_owner_is_not_asked_for(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("chatkit_trio.turns"), "disabled", True)
    monkeypatch.setattr(MemoryStore, "get_owner", lambda self, context: 1 / 0)

    assert set(await calls_of(10)) <= {"is_watched", "is_heard"}


def print_nothing(event: Any) -> None:
    pass


# --- Owners ------------------------------------------------------------------------------------


def test_an_owner_has_one_hash_for_each_key_and_it_isn_t_the_owners(monkeypatch):
    monkeypatch.delenv(OWNER_KEY_VARIABLE, raising=False)
    unkeyed = owner_hash("ann")
    monkeypatch.setenv(OWNER_KEY_VARIABLE, "one key")
    keyed, again, other = owner_hash("ann"), owner_hash("ann"), owner_hash("bob")
    monkeypatch.setenv(OWNER_KEY_VARIABLE, "another key")

    assert keyed == again == "2c33c5b20bae4e85"
    assert len({unkeyed, keyed, other, owner_hash("ann")}) == 4
    assert owner_hash("") == ""


async def test_the_log_has_the_owners_hash_and_not_the_owner(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "chatkit_trio")
    server = scripted_server(MemoryStore(owner=lambda context: context), [say("Hello")])
    async with server:
        client = ChatClient.of_server(server, "ann@example.org")
        async with client.send("hi") as turn:
            await turn.read()

    told = [record for record in caplog.records if record.name == "chatkit_trio.turns"]
    expected = ("threads.create", owner_hash("ann@example.org"))
    assert [(record.request, record.owner_hash) for record in told] == [expected] * 2
    assert "ann@example.org" not in "".join(map(repr, map(vars, told)))
