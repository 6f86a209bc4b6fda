"""What examples/langgraph_agent.py shows."""

import pytest

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, explore_cancellations
from chatkit_trio.types import ProgressUpdateEvent

pytest.importorskip("langgraph", reason="the extra `langgraph` isn't installed")

from examples.langgraph_agent import Harbour


async def test_it_looks_up_and_answers(jump_clock):
    async with (
        Harbour(MemoryStore()) as server,
        ChatClient.of_server(server) as client,
        client.send("How is the tide in Dover and Brest?") as turn,
    ):
        await turn.read()

    progress = [event.text for event in turn.events if isinstance(event, ProgressUpdateEvent)]
    assert sorted(progress) == ["Looking up Brest", "Looking up Dover"]
    assert turn.text == "The tide is high at 11:20 and low at 9:05. "


async def test_a_stopped_answer_is_kept_and_the_next_one_knows_it(jump_clock):
    async with Harbour(MemoryStore()) as server, ChatClient.of_server(server) as client:
        async with client.send("How is the tide in Dover?") as turn:
            await turn.wait_for(lambda _event: turn.text.startswith("The tide"))
            await turn.stop()
        async with client.send("And in Brest?", turn.thread_id) as next_turn:
            await next_turn.read()
        page = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)

    assert [item.type for item in page.data] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
        "user_message",
        "assistant_message",
    ]
    assert page.data[1].content[0].text.startswith("The tide")
    assert next_turn.text == "The tide is low at 9:05. "


def test_it_can_be_cut_anywhere():
    explore_cancellations(Harbour, "How is the tide in Dover?", step=9)
