"""What examples/tools_and_progress.py shows."""

import trio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import ProgressUpdateEvent, WorkflowItem
from examples.tools_and_progress import DayOut


async def plan(client, message):
    async with client.send(message) as turn:
        await turn.read()
    return turn


async def test_three_tools_run_at_once_and_are_summed_up(jump_clock):
    async with DayOut(MemoryStore()) as server, ChatClient.of_server(server) as client:
        begin = trio.current_time()
        async with client.send("A day in Porto?") as turn:
            await turn.wait_for(
                lambda event: (
                    event.type == "thread.item.added"
                    and turn.text == ""
                    and event.item.type == "assistant_message"
                )
            )
            waited = trio.current_time() - begin
            await turn.read()

    assert round(waited, 3) == 2  # the slowest one's time, not the sum
    assert turn.text == (
        "**Porto, tomorrow:** 24 °C and sunny.\n\n- Trains: 8:40 and 10:10\n"
        "- See the tiles of São Bento station and the lower deck of the bridge"
    )


async def test_each_tool_ticks_off_its_own_step(jump_clock):
    async with DayOut(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await plan(client, "Bergen")
        stored = await client.items(turn.thread_id)

    workflow = next(item for item in stored if isinstance(item, WorkflowItem)).workflow
    # In any order: the tools start at the same time.
    assert sorted((task.title, task.status_indicator) for task in workflow.tasks) == [
        ("Sights of Bergen", "complete"),
        ("Trains to Bergen", "complete"),
        ("Weather in Bergen", "complete"),
    ]


async def test_progress_is_shown_and_not_kept(jump_clock):
    async with DayOut(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await plan(client, "Bergen")
        stored = await client.items(turn.thread_id)

    shown = [event.text for event in turn.events if isinstance(event, ProgressUpdateEvent)]
    assert shown == ["Asking the railway, which takes its time…"]
    assert [item.type for item in stored] == ["user_message", "workflow", "assistant_message"]


async def test_a_tool_that_fails_does_not_end_the_answer(jump_clock, caplog):
    async with DayOut(MemoryStore()) as server, ChatClient.of_server(server) as client:
        turn = await plan(client, "Ghent")

    assert turn.error is None
    assert turn.text.endswith("- I found no list of sights")
    assert "tool sights failed" in caplog.text
