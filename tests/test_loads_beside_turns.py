"""Loading a thread while its turn goes on: whatever happens meanwhile, nothing is missing."""

from __future__ import annotations

import pytest
import trio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, StoreWrapper, pause, say, scripted_server
from chatkit_trio.types import AssistantMessageItem, ThreadItemUpdatedEvent


class LateAnswers(StoreWrapper):
    """A store that reads items at once, and hands them over late."""

    late = 0.0

    async def around(self, name, call):
        answer = await call()
        if name == "load_thread_items":
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
