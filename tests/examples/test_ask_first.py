"""What examples/ask_first.py shows."""

import pytest

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import ChatClient
from examples import ask_first
from examples.ask_first import Shop


@pytest.fixture(autouse=True)
def bank():
    ask_first.paid_back.clear()
    return ask_first.paid_back


async def say(client, text, thread_id=None):
    async with client.send(text, thread_id) as turn:
        await turn.read()
    return turn


async def answer(client, thread_id, *answers):
    question = (await client.items(thread_id))[-1]
    given = {str(number): [value] for number, value in enumerate(answers)}
    async with client.send_answers(thread_id, question.id, given) as turn:
        await turn.read()
    return turn


async def test_nothing_is_paid_before_somebody_says_so(jump_clock, tmp_path, bank):
    store = SQLiteStore(tmp_path / "shop.sqlite3")
    async with Shop(store) as server, ChatClient.of_server(server) as client:
        asked = await say(client, "I want my money back for A1")
        paid_unasked = list(bank)
        question = asked.events[-1].item.inputs[0].question
    # Another process, a day later.
    async with (
        Shop(SQLiteStore(tmp_path / "shop.sqlite3")) as server,
        ChatClient.of_server(server) as client,
    ):
        turn = await answer(client, asked.thread_id, "Yes, pay it back")

    assert question == "Shall I pay back 30.00 € for order A1?"
    assert paid_unasked == []
    assert bank == ["A1"]
    assert turn.text == "- **A1**: 30.00 € are on their way"


async def test_each_of_several_is_decided(jump_clock, tmp_path, bank):
    store = SQLiteStore(tmp_path / "shop.sqlite3")
    async with Shop(store) as server, ChatClient.of_server(server) as client:
        asked = await say(client, "Refund A1 and B2")
        turn = await answer(client, asked.thread_id, "No", "Yes, pay it back")

    assert bank == ["B2"]
    assert "didn't allow" in turn.text


async def test_a_small_amount_is_paid_without_a_question(jump_clock, tmp_path, bank):
    store = SQLiteStore(tmp_path / "shop.sqlite3")
    async with Shop(store) as server, ChatClient.of_server(server) as client:
        turn = await say(client, "Refund C3")

    assert bank == ["C3"]
    assert turn.text == "- **C3**: 5.00 € are on their way"


async def test_a_message_instead_refuses(jump_clock, tmp_path, bank):
    store = SQLiteStore(tmp_path / "shop.sqlite3")
    async with Shop(store) as server, ChatClient.of_server(server) as client:
        asked = await say(client, "Refund A1")
        await say(client, "Forget it", asked.thread_id)
        question = next(
            item for item in await client.items(asked.thread_id) if item.type == "structured_input"
        )

    assert bank == []
    assert question.status == "skipped"
