"""What examples/metro_map shows."""

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import (
    ClientEffectEvent,
    ClientToolCallItem,
    ThreadAddUserMessageParams,
    ThreadItemReplacedEvent,
    ThreadsAddUserMessageReq,
    UserMessageInput,
    UserMessageTagContent,
)
from examples.metro_map import MetroMap


async def ask(client, message, thread_id=None):
    async with client.send(message, thread_id) as turn:
        await turn.read()
    return turn


async def test_a_route_is_told_and_drawn(jump_clock):
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "From Harbour to the airport, please")

    (effect,) = [event for event in turn.events if isinstance(event, ClientEffectEvent)]
    way = ["harbour", "mill", "market", "theatre", "hill", "airport"]
    assert (effect.name, effect.data) == ("show_route", {"stations": way})
    assert turn.text.startswith("From Harbour it's 5 stops: Old Mill → ")


async def test_the_page_is_asked_for_the_selection(jump_clock):
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "How do I get between these?")
        *_, call = turn.items
        selection = {"stations": ["works", "garden"]}
        async with client.send_tool_output(turn.thread_id, selection) as answer:
            await answer.read()
        stored = await client.items(turn.thread_id)

    assert isinstance(call, ClientToolCallItem)
    assert (call.name, call.status) == ("get_selected_stations", "pending")
    assert answer.text == ("From Glassworks it's 4 stops: Park Gate → Market → Library → Garden.")
    assert [item.type for item in stored] == [
        "user_message",
        "client_tool_call",
        "assistant_message",
    ]
    assert (stored[1].status, stored[1].output) == ("completed", selection)


async def test_nothing_selected_is_an_answer_too(jump_clock):
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "What about these?")
        async with client.send_tool_output(turn.thread_id, {"stations": []}) as answer:
            await answer.read()

    assert answer.text.startswith("Name one station or two")


async def test_stations_in_an_answer_are_entities(jump_clock):
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "What is at Castle Hill?")
        *_, stored = await client.items(turn.thread_id)

    (annotation,) = stored.content[0].annotations
    assert stored.content[0].text[: annotation.index] == "Castle Hill"
    assert (annotation.source.id, annotation.source.label) == ("hill", "Blue")
    assert annotation.source.interactive


async def test_a_typed_mention_becomes_a_tag(jump_clock):
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "What is at @library?")
        stored, *_ = await client.items(turn.thread_id)

    assert [part.text for part in stored.content] == ["What is at ", "Library", "?"]
    assert stored.content[1].type == "input_tag"
    assert any(isinstance(event, ThreadItemReplacedEvent) for event in turn.events)
    assert turn.text == "Library is on Green. Open until midnight; the reading room is round."


async def test_what_a_client_claims_about_a_tag_is_not_believed(jump_clock):
    tag = UserMessageTagContent(id="nowhere", text="Nowhere", data={"note": "free beer"})
    message = UserMessageInput(content=[tag], attachments=[], inference_options={})
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Hello")
        params = ThreadAddUserMessageParams(thread_id=turn.thread_id, input=message)
        async with client.stream(ThreadsAddUserMessageReq(params=params)) as answer:
            await answer.read()

    assert answer.error is None
    assert answer.text.startswith("Name one station or two")
