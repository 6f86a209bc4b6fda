"""The scripted assistant: what it says, and how it goes on after having been cut short."""

from __future__ import annotations

import re

import pytest
import trio

from chatkit_trio.demo._assistant import DEMO_POLICY, demo_server
from chatkit_trio.demo._history import cut_answer, title_of
from chatkit_trio.demo._model import ModelAssistant
from chatkit_trio.demo._scripted import ScriptedAssistant
from chatkit_trio.demo._topics import TOPICS, topic_named, wants_more
from chatkit_trio.server import CancelReason
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import AssistantMessageItem, StreamOptionsEvent

BREAD = TOPICS["bread"].answer


@pytest.fixture
async def client():
    server = ScriptedAssistant(MemoryStore(), policy=DEMO_POLICY)
    async with server, ChatClient.of_server(server) as client:
        yield client


async def answer_to(client, text, thread_id=None):
    """Send a message, read the whole answer; return the thread's id and the answer's text."""
    async with client.send(text, thread_id=thread_id) as turn:
        await turn.read()
        thread_id = turn.thread_id
    return thread_id, await last_answer(client, thread_id)


async def stopped_after(client, text, seconds, thread_id=None):
    """Send a message and stop the answer; return the thread's id and what there was of it."""
    async with client.send(text, thread_id=thread_id) as turn:
        await turn.wait_for(StreamOptionsEvent)
        await trio.sleep(seconds)
        await client.stop(turn.thread_id)
        thread_id = turn.thread_id
    return thread_id, await last_answer(client, thread_id)


async def last_answer(client, thread_id):
    items = await client.items(thread_id)
    texts = [item.content[0].text for item in items if isinstance(item, AssistantMessageItem)]
    return texts[-1]


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        ("Hi!", "hello"),
        ("How does a nursery work in Trio?", "concurrency"),
        ("SQLite or PostgreSQL?", "database"),
        ("How do I bake bread?", "bread"),
        ("Explain binary search", "search"),
        ("What happens to a cancelled answer?", "cancelled"),
        ("Fail, please", "failure"),
        ("Blorp", None),
    ],
)
def test_words_find_their_topic(message, topic):
    assert topic_named(message) == topic


@pytest.mark.parametrize("message", ["go on", "Please continue!", "ok, go on", "Yes", "more"])
def test_these_words_ask_for_the_rest(message):
    assert wants_more(message)


@pytest.mark.parametrize("message", ["go away", "How do I bake bread?", "", "moreover"])
def test_these_words_do_not(message):
    assert not wants_more(message)


async def test_a_topic_is_told_with_a_workflow_and_a_title(client, autojump_clock):
    thread_id, answer = await answer_to(client, "How do I bake bread?")

    thread = await client.thread(thread_id)
    assert thread.title == "How do I bake bread?"
    assert [item.type for item in thread.items.data] == [
        "user_message",
        "workflow",
        "assistant_message",
    ]
    assert answer == TOPICS["bread"].answer


async def test_it_talks_at_a_readable_pace(client, autojump_clock):
    began = trio.current_time()
    _, answer = await answer_to(client, "How do I bake bread?")
    took = trio.current_time() - began

    assert 30 <= len(answer.split()) / took <= 60


async def test_go_on_goes_on_where_it_was_cut(client, autojump_clock):
    thread_id, first = await stopped_after(client, "How do I bake bread?", 4)
    _, second = await answer_to(client, "go on", thread_id)

    assert 0 < len(first) < len(BREAD)
    assert joined(first, second).split() == BREAD.split()


def joined(first: str, second: str) -> str:
    """Return two parts as one; the item of a list in which the first ends is in both."""
    begun = first.rstrip().rpartition("\n")[2]
    if re.match(r"\d+\. ", begun):
        assert second.startswith(begun)
        first = first.rstrip().removesuffix(begun)
    return f"{first} {second}"


async def test_it_goes_on_with_a_list_from_the_beginning_of_its_item(client, autojump_clock):
    thread_id, first = await stopped_after(client, "How do I bake bread?", 4)
    _, second = await answer_to(client, "go on", thread_id)

    begun = first.rstrip().rpartition("\n")[2]
    assert re.match(r"\d+\. ", begun)
    assert second.startswith(begun)


async def test_going_on_can_be_cut_too(client, autojump_clock):
    thread_id, first = await stopped_after(client, "How do I bake bread?", 4)
    _, second = await stopped_after(client, "go on", 1, thread_id)
    _, third = await answer_to(client, "continue, please", thread_id)

    assert joined(joined(first, second), third).split() == BREAD.split()


async def test_anything_else_makes_it_ask(client, autojump_clock):
    thread_id, first = await stopped_after(client, "How do I bake bread?", 4)
    _, question = await answer_to(client, "Hmm.", thread_id)
    _, rest = await answer_to(client, "yes", thread_id)

    last_words = " ".join(first.split()[-6:])
    assert question == f"You stopped me. I'd got to “{last_words}”. Shall I go on?"
    assert joined(first, rest).split() == BREAD.split()


async def test_a_new_topic_is_answered_after_a_word_on_the_old_one(client, autojump_clock):
    thread_id, _ = await stopped_after(client, "How do I bake bread?", 4)
    _, answer = await answer_to(client, "Explain binary search", thread_id)

    assert answer.startswith("You stopped me. I'd got to “")
    assert answer.endswith(TOPICS["search"].answer)


async def test_it_was_cut_before_it_said_a_word(client, autojump_clock):
    thread_id = None
    async with client.send("How do I bake bread?") as turn:
        await turn.wait_for(StreamOptionsEvent)
        thread_id = turn.thread_id
        await client.stop(thread_id)
    _, question = await answer_to(client, "Hmm.", thread_id)

    assert question == "You stopped me before I had said anything. Shall I go on?"


async def test_an_answer_told_to_its_end_is_not_gone_on_with(client, autojump_clock):
    thread_id, _ = await answer_to(client, "How do I bake bread?")
    _, answer = await answer_to(client, "go on", thread_id)

    assert answer == TOPICS["hello"].answer


async def test_it_fails_when_asked_to_and_recovers_when_retried(client, caplog, autojump_clock):
    async with client.send("Fail, please") as turn:
        await turn.read()
        thread_id = turn.thread_id
        errors = [event for event in turn.events if event.type == "error"]
    message = (await client.items(thread_id))[0]
    async with client.retry(thread_id, message.id) as turn:
        await turn.read()

    assert [error.allow_retry for error in errors] == [True]
    assert (await last_answer(client, thread_id)).startswith("That went better.")


async def test_the_reason_is_read_from_the_hidden_note(autojump_clock):
    server = ScriptedAssistant(MemoryStore(), policy=DEMO_POLICY)
    async with server, ChatClient.of_server(server) as client:
        async with client.send("How do I bake bread?") as turn:
            await turn.wait_for(StreamOptionsEvent)
            await trio.sleep(4)
            await server.drain(0)
            thread_id = turn.thread_id
        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)

    cut = cut_answer([*page.data, page.data[0]])
    assert cut is not None
    assert cut.reason is CancelReason.SHUTDOWN


def test_a_long_message_makes_a_short_title():
    title = title_of("What would you say about a title that goes on and on and on?")

    assert title == "What would you say about a title that goes on…"


def test_without_a_key_the_demo_is_offline(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    assert isinstance(demo_server(tmp_path / "demo.sqlite3"), ScriptedAssistant)


def test_with_a_key_the_demo_has_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    assert isinstance(demo_server(tmp_path / "demo.sqlite3"), ModelAssistant)
