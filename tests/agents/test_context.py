"""What tools do with their context, without a model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
import trio
from pydantic import Field, TypeAdapter

from chatkit_trio.agents import AgentContext, ThreadItemConverter, simple_to_agent_input
from chatkit_trio.agents._queue import EventQueue, Reader
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.types import (
    CustomTask,
    HiddenContextItem,
    Page,
    ThreadItem,
    UserMessageItem,
    Workflow,
)
from chatkit_trio.widgets import Card, Text

from .scenarios import CONVERSIONS, converter
from .threads import MOMENT, new_context


async def test_task_index_is_its_place_among_equal_tasks() -> None:
    """6.2: it was found by equality."""
    context = await new_context()
    for _ in range(3):
        await context.add_workflow_task(CustomTask(title="same"))

    added = [context._queue.get_nowait() for _ in range(3)]

    assert added[0].type == "thread.item.added"
    assert [event.update.task_index for event in added[1:]] == [1, 2]


async def test_update_of_a_task_that_isnt_there_is_an_error() -> None:
    context = await new_context()
    with pytest.raises(ValueError, match="no workflow"):
        await context.update_workflow_task(CustomTask(), 0)
    await context.add_workflow_task(CustomTask())

    for index in (-1, 1):
        with pytest.raises(IndexError, match=f"task_index {index} of workflow"):
            await context.update_workflow_task(CustomTask(), index)


async def test_new_workflow_ends_the_one_in_progress() -> None:
    context = await new_context()
    await context.add_workflow_task(CustomTask(title="old"))
    await context.start_workflow(Workflow(type="reasoning", tasks=[]))

    types = [context._queue.get_nowait().type for _ in range(3)]

    assert types == ["thread.item.added", "thread.item.done", "thread.item.added"]


async def test_end_without_a_workflow_does_nothing() -> None:
    context = await new_context()

    await context.end_workflow()

    assert len(context._queue) == 0


async def test_contexts_have_queues_of_their_own() -> None:
    first, second = await new_context(), await new_context()

    await first.stream_progress("x")

    assert (len(first._queue), len(second._queue)) == (1, 0)


async def test_context_may_be_subclassed_as_in_the_samples() -> None:
    class SampleContext(AgentContext[dict[str, Any]]):
        store: Annotated[MemoryStore[dict[str, Any]], Field(exclude=True)]
        request_context: dict[str, Any]
        page: str = ""

    base = await new_context()
    context = SampleContext(
        thread=base.thread, store=MemoryStore(), request_context={"user": "u"}, page="home"
    )

    assert context.thread is base.thread
    assert context.generate_id("workflow").startswith("wf_")


async def test_put_waits_for_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    queue = EventQueue(capacity=2)
    queue.attach_reader(Reader())

    async def fill() -> None:
        for index in range(5):
            await queue.put(index)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        assert len(queue) == 2
        assert [await queue.get() for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_cancelled_put_has_put_nothing(autojump_clock: trio.testing.MockClock) -> None:
    queue = EventQueue(capacity=1)
    queue.attach_reader(Reader())
    await queue.put("kept")

    with trio.move_on_after(1):
        await queue.put("cancelled")

    assert (queue.get_nowait(), len(queue)) == ("kept", 0)


async def test_put_goes_on_when_the_reader_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    queue, reader = EventQueue(capacity=1), Reader()
    queue.attach_reader(reader)
    await queue.put(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.put, 2)
        await trio.testing.wait_all_tasks_blocked()
        queue.detach_reader(reader)

    assert len(queue) == 1


# --- Items for the model -----------------------------------------------------------------------


def hidden(content: Any) -> HiddenContextItem:
    return HiddenContextItem(id="h", thread_id="thr_1", created_at=MOMENT, content=content)


async def test_a_widget_that_is_cut_between_two_states_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its states may hold a connection: closing mustn't wait for the garbage collector."""
    context = await new_context()
    context._queue.attach_reader(Reader())  # which doesn't read, so that the queue fills
    closed = False

    async def states() -> AsyncIterator[Card]:
        nonlocal closed
        try:
            for number in range(1000):
                await trio.lowlevel.checkpoint()
                yield Card(children=[Text(value=str(number), id="text")])
        finally:
            closed = True

    with trio.move_on_after(1) as scope:
        await context.stream_widget(states())

    assert scope.cancelled_caught
    assert closed


async def test_hidden_context_that_isnt_text_goes_in_as_json() -> None:
    """The original raised, and ended the turn (its PR 59)."""
    item = hidden({"clicked": [1, None], "at": datetime(2026, 1, 2, tzinfo=UTC)})

    [message] = await simple_to_agent_input(item)

    text = message["content"][0]["text"]  # type: ignore[index, typeddict-item]
    assert '{"clicked":[1,null],"at":"2026-01-02T00:00:00Z"}' in text


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        (
            {"attachments": [{"type": "file", "id": "a", "name": "n", "mime_type": "x/y"}]},
            "attachment_to_message_content",
        ),
        (
            {"content": [{"type": "input_tag", "id": "t", "text": "Bern", "data": {}}]},
            "tag_to_message_content",
        ),
    ],
)
async def test_what_only_the_application_knows_is_asked_for(
    fields: dict[str, Any], method: str
) -> None:
    base = {"id": "m", "thread_id": "t", "created_at": MOMENT, "inference_options": {}}
    item = UserMessageItem.model_validate({"content": [], **base, **fields})

    with pytest.raises(NotImplementedError, match=method):
        await simple_to_agent_input(item)


async def test_overridden_method_may_return_one_item_several_or_none() -> None:
    class Converter(ThreadItemConverter):
        async def hidden_context_to_input(self, item: HiddenContextItem) -> Any:
            return item.content

    given: list[Any] = [{"type": "message"}, [{"a": 1}, {"b": 2}], None]

    made = await Converter().to_agent_input([hidden(value) for value in given])

    assert made == [{"type": "message"}, {"a": 1}, {"b": 2}]


class Note(HiddenContextItem):
    """An application's own kind of a note."""

    source: str = "crm"


async def test_an_item_of_a_derived_class_goes_in_as_one_of_its_class() -> None:
    fields = {"id": "h", "thread_id": "thr_1", "created_at": MOMENT, "content": "a note"}

    assert await simple_to_agent_input([Note(**fields)]) == await simple_to_agent_input(
        [HiddenContextItem(**fields)]
    )


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CONVERSIONS)
async def test_items_of_openai_chatkit_go_in_as_ours(name: str) -> None:
    """A forgotten import, or a library that makes them."""
    types: Any = pytest.importorskip("chatkit.types")
    given = CONVERSIONS[name]
    theirs: TypeAdapter[Any] = TypeAdapter(types.ThreadItem)
    ours: TypeAdapter[Any] = TypeAdapter(ThreadItem)

    made = await converter(ThreadItemConverter).to_agent_input(
        [theirs.validate_python(item) for item in given]
    )

    assert made == await converter(ThreadItemConverter).to_agent_input(
        [ours.validate_python(item) for item in given]
    )


@pytest.mark.parametrize("value", [None, "hi", {"type": "end_of_turn"}, Page(data=[])])
async def test_what_is_no_item_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(value).__name__} is not a thread item"):
        await simple_to_agent_input([value])


async def test_the_id_of_a_thread_is_made_as_the_store_makes_ids_of_threads() -> None:
    class Store(MemoryStore[None]):
        def generate_thread_id(self, context: None) -> str:
            return "thread-7"

    context = await new_context()
    context.store = Store()

    assert context.generate_id("thread") == "thread-7"


NAIVE = MOMENT.astimezone().replace(tzinfo=None)


@pytest.mark.parametrize("package", ["chatkit", "chatkit_trio"])
async def test_a_workflow_that_the_app_has_begun_itself_may_have_a_time_without_a_zone(
    package: str,
) -> None:
    types: Any = pytest.importorskip(f"{package}.types")
    context = await new_context()
    workflow = types.Workflow(type="custom", tasks=[types.CustomTask(title="one")])
    item = types.WorkflowItem(id="w", thread_id="thr_1", created_at=MOMENT, workflow=workflow)
    context.workflow_item = item.model_copy(update={"created_at": NAIVE})

    await context.end_workflow()

    event = context._queue.get_nowait()
    assert event.item.created_at.astimezone(UTC) == MOMENT
    assert event.item.workflow.summary.duration > 3600
