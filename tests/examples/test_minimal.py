"""What examples/minimal.py shows."""

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, explore_cancellations
from chatkit_trio.types import SDKHiddenContextItem
from examples.minimal import Minimal


async def test_it_answers_with_what_was_said(jump_clock):
    async with (
        Minimal(MemoryStore()) as server,
        ChatClient.of_server(server) as client,
        client.send("Good morning") as turn,
    ):
        await turn.read()

    assert turn.text.startswith("You said: “Good morning”.")


async def test_a_stopped_answer_is_kept_with_its_note(jump_clock):
    async with Minimal(MemoryStore()) as server, ChatClient.of_server(server) as client:
        async with client.send("Good morning") as turn:
            await turn.wait_for(lambda _event: turn.text == "You said:")
            await turn.stop()
        page = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)

    assert [item.type for item in page.data] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert page.data[1].content[0].text == "You said:"
    assert isinstance(page.data[2], SDKHiddenContextItem)


def test_it_can_be_cut_anywhere():
    explore_cancellations(Minimal, "Good morning")
