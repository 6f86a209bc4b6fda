"""Loading a thread while its turn goes on: whatever happens meanwhile, nothing is missing."""

from __future__ import annotations

import pytest
import trio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    ScriptedServer,
    StoreWrapper,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    WidgetItem,
    WidgetStreamingTextValueDelta,
)
from chatkit_trio.web import create_app
from tests.engine.parts import NOW, card, text_of


class LateAnswers(StoreWrapper):
    """A store that waits before it reads items, and before it hands them over."""

    before = 0.0
    late = 0.0

    async def around(self, name, call):
        is_load = name in ("load_thread_items", "load_item")
        if is_load:
            await trio.sleep(self.before)
        answer = await call()
        if is_load:
            await trio.sleep(self.late)
        return answer


@pytest.mark.parametrize("ending", ["done", "stopped"])
async def test_an_item_that_is_stored_during_a_load_is_in_it(ending, autojump_clock):
    store = LateAnswers(MemoryStore())
    script = [say("Hello", " there", every=1), pause(0 if ending == "stopped" else 60)]
    async with (
        scripted_server(store, script) as server,
        ChatClient.of_server(server) as client,
        client.send("Hi") as turn,
    ):
        await turn.wait_for(ThreadItemUpdatedEvent)
        await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
        store.late = 5
        loaded = []

        async def load():
            loaded.append(await client.thread(turn.thread_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.sleep(0.5)
            if ending == "stopped":
                await turn.stop()
            await turn.wait_for(lambda event: event.type == "thread.item.done")

    answers = [item for item in loaded[0].items.data if isinstance(item, AssistantMessageItem)]
    assert [answer.content[0].text.split()[0] for answer in answers] == ["Hello"]


class Hanging(StoreWrapper):
    """A store that never ends an operation."""

    def __init__(self, store, name):
        super().__init__(store)
        self.name = name

    async def around(self, name, call):
        if name == self.name:
            await trio.sleep_forever()
        return await call()


def hide(scene):
    return ThreadItemDoneEvent(
        item=HiddenContextItem(
            id="hidden", thread_id=scene.thread.id, created_at=NOW, content="The user is poor."
        )
    )


def rewrite_hidden(scene):
    return ThreadItemReplacedEvent(item=hide(scene).item)


@pytest.mark.parametrize("asked", ["its node", "another node"])
@pytest.mark.parametrize("hanging", ["add_thread_item", "save_item"])
@pytest.mark.parametrize("kept_bytes", [1, 100_000])
async def test_a_hidden_item_that_is_being_stored_is_told_to_nobody(
    kept_bytes, hanging, asked, autojump_clock
):
    """With 1 byte of frames kept, who watches gets the state so far."""
    cluster, policy = MemoryCluster(), TurnPolicy(max_replay_bytes=kept_bytes)
    script = [say("Hello", every=0.1, finish=False), emit(hide, rewrite_hidden)]
    async with (
        scripted_server(
            Hanging(MemoryStore(cluster=cluster), hanging), script, policy=policy
        ) as here,
        scripted_server(MemoryStore(cluster=cluster), [say("Fine")]) as there,
        ChatClient.of_server(here) as client,
        ChatClient.of_app(create_app(here if asked == "its node" else there)) as other,
        client.send("Hi") as turn,
    ):
        await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
        await trio.sleep(1)
        loaded = await other.thread(turn.thread_id)
        listed = await other.items_page(turn.thread_id)
        async with other.watch(turn.thread_id) as watched:
            with trio.move_on_after(5):
                await watched.read()
        turn.server_turn.cancel()

    kinds = ["user_message", "assistant_message"]
    assert [item.type for item in loaded.items.data] == kinds
    assert "hidden_context" not in [item.type for item in listed.data]
    assert watched.events
    assert "poor" not in "".join(event.model_dump_json() for event in watched.events)


def grown(count):
    """Show a finished widget, and stream words into it, one a second."""

    async def respond(thread, message, context):
        item = WidgetItem(id="grows", thread_id=thread.id, created_at=NOW, widget=card(""))
        yield ThreadItemDoneEvent(item=item)
        for number in range(count):
            await trio.sleep(1)
            delta = WidgetStreamingTextValueDelta(
                component_id="body", delta=f"{number} ", done=False
            )
            yield ThreadItemUpdatedEvent(item_id="grows", update=delta)

    return respond


@pytest.mark.parametrize("begins", ["before its first word", "after some words"])
@pytest.mark.parametrize(
    ("before", "late"), [(0, 0), (0, 0.5), (0, 1.5), (0, 3), (0.5, 0), (3, 0), (8, 0), (12, 0)]
)
@pytest.mark.parametrize("comes_back", ["by a watch", "by a watch elsewhere", "by a repeat"])
async def test_text_that_comes_while_the_state_so_far_is_loaded_is_told_once(
    comes_back, before, late, begins, autojump_clock
):
    cluster, policy = MemoryCluster(), TurnPolicy(max_replay_bytes=1)
    store, store_there = (LateAnswers(MemoryStore(cluster=cluster)) for _ in range(2))
    async with (
        ScriptedServer(store, grown(9), policy=policy) as server,
        scripted_server(store_there, []) as there,
        ChatClient.of_app(create_app(server)) as client,
        ChatClient.of_app(create_app(there)) as client_there,
        client.send("Hi", idempotency_key="k") as turn,
    ):
        sign = "grows" if begins == "before its first word" else "2 "
        await turn.wait_for(lambda event: sign in event.model_dump_json())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            store.before = store_there.before = before
            store.late = store_there.late = late
            if comes_back == "by a repeat":
                again = client.send("Hi", idempotency_key="k")
            elif comes_back == "by a watch":
                again = client.watch(turn.thread_id)
            else:
                again = client_there.watch(turn.thread_id)
            async with again as returned:
                await returned.read()
        store.before = store.late = store_there.before = store_there.late = 0
        told = returned.items
        if ("reload", {}) in returned.signals:  # the turn was over before there was a state
            told = (await client_there.thread(turn.thread_id)).items.data
        stored = await server.store.load_item(turn.thread_id, "grows", context=None)

    whole = "0 1 2 3 4 5 6 7 8 "
    assert text_of(stored) == whole
    assert [text_of(item) for item in told if item.id == "grows"] == [whole]


async def test_text_that_waits_for_a_slow_reader_is_told_once_to_one_who_comes_later(
    autojump_clock,
):
    """The state so far has the text already; its frame comes later, and only for the first."""
    policy = TurnPolicy(max_unread_bytes=1, max_replay_bytes=1)
    async with (
        ScriptedServer(MemoryStore(), grown(9), policy=policy) as server,
        ChatClient.of_server(server, can_return=True) as client,
        client.send("Hi", idempotency_key="k") as turn,
    ):
        await turn.wait_for(lambda event: "2 " in event.model_dump_json())
        await trio.sleep(3)
        async with (
            client.send("Hi", idempotency_key="k") as returned,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(returned.read)
            await trio.sleep(1)
            nursery.start_soon(turn.read)

    whole = "0 1 2 3 4 5 6 7 8 "
    for reader in (turn, returned):
        assert [text_of(item) for item in reader.items if item.id == "grows"] == [whole]
