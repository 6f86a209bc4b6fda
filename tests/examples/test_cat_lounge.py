"""What examples/cat_lounge shows."""

import pytest

from chatkit_trio.actions import Action
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import ClientEffectEvent, HiddenContextItem, WidgetItem
from examples.cat_lounge import CatLounge


async def ask(client, message, thread_id=None):
    async with client.send(message, thread_id) as turn:
        await turn.read()
    return turn


async def act(client, turn, kind, payload, item_id=None):
    async with client.act(turn.thread_id, Action(type=kind, payload=payload), item_id) as acting:
        await acting.read()
    return acting


def widget_of(items):
    return next(item for item in items if isinstance(item, WidgetItem))


def labels(item, kind):
    """Return the labels or values of all components of a kind, in order."""

    def walk(node):
        if node.get("type") == kind:
            yield node.get("label") or node.get("value")
        children = node.get("children", [])
        for child in children if isinstance(children, list) else [children]:
            yield from walk(child)

    return list(walk(item.widget.model_dump()))


async def test_the_lounge_is_shown_as_a_list(jump_clock):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Who is here?")

    assert labels(widget_of(turn.items), "Text") == ["Pepper", "Saffron", "The kitten"]
    assert turn.text == "Choose one to meet it."


async def test_the_title_is_found_while_the_answer_streams(jump_clock):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "I'd like to meet Saffron")
        thread = await client.thread(turn.thread_id)

    assert turn.thread.title == thread.title == "About Saffron"


async def test_a_row_of_the_list_shows_a_cat(jump_clock):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Who is here?")
        acting = await act(client, turn, "cat.show", {"cat": "Pepper"})

    assert labels(widget_of(acting.items), "Title") == ["Pepper"]


async def test_feeding_changes_the_card_the_page_and_what_the_model_knows(jump_clock):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Pepper")
        card = widget_of(turn.items)
        acting = await act(client, turn, "cat.feed", {"cat": "Pepper"}, card.id)
        kept = await client.items(turn.thread_id)
        page = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)

    (effect,) = [event for event in acting.events if isinstance(event, ClientEffectEvent)]
    assert (effect.name, effect.data) == ("cat_mood", {"cat": "Pepper", "mood": "content"})
    assert labels(card, "Badge") == ["bored"]
    assert labels(widget_of(kept), "Badge") == ["content"]
    (note,) = [item for item in page.data if isinstance(item, HiddenContextItem)]
    assert note.content == "The user gave Pepper meal number 1; now it is content."


async def test_stroking_works_while_an_answer_streams(jump_clock):
    stroke = Action(type="cat.stroke", payload={"cat": "Pepper"})
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Pepper")
        card = widget_of(turn.items)
        async with client.send("Who else is here?", turn.thread_id) as second:
            await second.read(3)
            response = await client.act_and_wait(turn.thread_id, stroke, card.id)
            await second.read()
        kept = await client.items(turn.thread_id)
        shown = await ask(client, "Pepper", turn.thread_id)

    assert labels(response.updated_item, "Caption") == ["Meals: 0 · Strokes: 1"]
    assert labels(widget_of(kept), "Caption") == ["Meals: 0 · Strokes: 1"]
    assert labels(widget_of(shown.items), "Caption") == ["Meals: 0 · Strokes: 1"]
    assert second.text == "Choose one to meet it."


async def test_a_name_is_kept_in_the_thread_and_its_title(jump_clock):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "What shall we call the kitten?")
        acting = await act(client, turn, "name.keep", {"name": "Comet"})
        thread = await client.thread(turn.thread_id)
        shown = await ask(client, "Show me the kitten", turn.thread_id)

    assert acting.text == "Then **Comet** it is."
    assert thread.title == "A kitten called Comet"
    assert labels(widget_of(shown.items), "Title") == ["Comet"]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("cat.feed", {"cat": "Garfield"}), ("cat.feed", None), ("name.keep", {"name": "<b>"})],
)
async def test_what_the_page_sends_is_checked(jump_clock, kind, payload):
    async with CatLounge(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await ask(client, "Pepper")
        acting = await act(client, turn, kind, payload)

    assert acting.error.code == "custom"
    assert not acting.error.allow_retry
