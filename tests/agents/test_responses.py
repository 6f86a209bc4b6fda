"""What a model's events come to, event by event: on trio, no SDK and no server in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import trio

from chatkit_trio.agents import (
    AgentContext,
    ClientToolCall,
    ModelError,
    ResponseStreamConverter,
    stream_response,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ClientToolCallItem,
    CustomTask,
    ThoughtTask,
    Workflow,
    WorkflowItem,
)

from . import script
from .plain_events import plain
from .threads import MOMENT, collected, new_context


async def played(events: list[script.Json]) -> AsyncIterator[Any]:
    await trio.lowlevel.checkpoint()
    for event in script.parsed(events):
        yield event


async def outcome(
    *events: script.Json,
    context: AgentContext[None] | None = None,
    converter: ResponseStreamConverter | None = None,
) -> list[Any]:
    """Return the thread events of an answer."""
    context = context or await new_context()
    converter = converter or ResponseStreamConverter()
    return await collected(stream_response(context, played([*events]), converter=converter))


def updates(events: list[Any]) -> list[Any]:
    return [
        event.update.model_dump(exclude_none=True)
        for event in events
        if event.type == "thread.item.updated"
    ]


def done(events: list[Any]) -> list[Any]:
    return [event.item for event in events if event.type == "thread.item.done"]


def content(text: str, *annotations: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(annotations)}


# --- Messages ----------------------------------------------------------------------------------


async def test_message_streams_as_added_parts_deltas_and_done() -> None:
    events = await outcome(*script.answer(*script.message("m", "Hel", "lo")))

    part = "assistant_message.content_part"
    item = {"type": "assistant_message", "id": "id0", "thread_id": "thr_1"}
    assert plain(events) == [
        {"type": "thread.item.added", "item": {**item, "id": "id0", "content": []}},
        *(
            {"type": "thread.item.updated", "item_id": "id0", "update": update}
            for update in [
                {"type": f"{part}.added", "content_index": 0, "content": content("")},
                {"type": f"{part}.text_delta", "content_index": 0, "delta": "Hel"},
                {"type": f"{part}.text_delta", "content_index": 0, "delta": "lo"},
                {"type": f"{part}.done", "content_index": 0, "content": content("Hello")},
            ]
        ),
        {"type": "thread.item.done", "item": {**item, "content": [content("Hello")]}},
    ]


async def test_messages_of_one_model_id_become_items_of_their_own() -> None:
    """6.2: model-supplied ids were store keys; every chat-completions message is `__fake_id__`."""
    events = await outcome(
        *script.message("__fake_id__", "one"), *script.message("__fake_id__", "two")
    )

    items = done(events)
    assert [item.content[0].text for item in items] == ["one", "two"]
    assert len({item.id for item in items}) == 2
    assert all(item.id.startswith("msg_") for item in items)


async def test_all_events_of_a_message_carry_the_id_of_its_item() -> None:
    events = await outcome(*script.message("m", "Hel", "lo"))

    ids = {getattr(event, "item_id", None) or event.item.id for event in events}
    assert len(ids) == 1


async def test_text_without_the_event_that_begins_a_message_begins_one() -> None:
    events = await outcome(script.text_delta("m", "Hi"))

    assert [event.type for event in events] == ["thread.item.added", "thread.item.updated"]
    assert events[1].item_id == events[0].item.id


async def test_message_that_only_ends_is_stored_with_its_text() -> None:
    events = await outcome(script.item_done(script.message_item("m", script.text_part("Hi"))))

    assert [item.content[0].text for item in done(events)] == ["Hi"]


async def test_refusal_streams_like_text() -> None:
    """6.x: refusal deltas were not streamed, so the user saw nothing until the item was done."""
    part = script.refusal_part("I can't")
    events = await outcome(
        script.item_added(script.message_item("m")),
        script.part_added("m", script.refusal_part("")),
        script.refusal_delta("m", "I "),
        script.refusal_delta("m", "can't"),
        script.refusal_done("m", "I can't"),
        script.item_done(script.message_item("m", part)),
    )

    texts = [update.get("delta") or update["content"]["text"] for update in updates(events)]
    assert texts == ["", "I ", "can't", "I can't"]
    assert [item.content[0].text for item in done(events)] == ["I can't"]


# --- Annotations -------------------------------------------------------------------------------

FILE = {"type": "file_citation", "file_id": "f", "filename": "a.txt", "index": 3}
NAMELESS = {**FILE, "filename": ""}
CONTAINER = {
    "type": "container_file_citation",
    "container_id": "c",
    "file_id": "f",
    "filename": "b.csv",
    "start_index": 1,
    "end_index": 4,
}
URL = {
    "type": "url_citation",
    "url": "https://example.org",
    "title": "Example",
    "start_index": 0,
    "end_index": 5,
}


def cited(*annotations: script.Json) -> list[script.Json]:
    added = [script.annotation_added("m", i, a) for i, a in enumerate(annotations)]
    return [
        script.item_added(script.message_item("m")),
        script.part_added("m", script.text_part("")),
        script.text_delta("m", "Hello"),
        *added,
        script.text_done("m", "Hello"),
        script.item_done(script.message_item("m", script.text_part("Hello", annotations))),
    ]


async def test_citations_become_annotations() -> None:
    events = await outcome(*cited(FILE, CONTAINER, URL))

    [item] = done(events)
    sources = [(a.index, a.source.type, a.source.title) for a in item.content[0].annotations]
    assert sources == [(3, "file", "a.txt"), (4, "file", "b.csv"), (5, "url", "Example")]


async def test_citation_that_is_left_out_is_not_counted() -> None:
    events = await outcome(*cited(NAMELESS, FILE, URL))

    indexes = [u["annotation_index"] for u in updates(events) if "annotation_index" in u]
    assert indexes == [0, 1]
    assert len(done(events)[0].content[0].annotations) == 2


async def test_finished_part_keeps_its_annotations() -> None:
    """6.x: part.done came with no annotations, so a cancel right after it lost them."""
    events = await outcome(*cited(URL))

    part_done = updates(events)[-1]
    assert [a["source"]["url"] for a in part_done["content"]["annotations"]] == [URL["url"]]


async def test_annotation_as_a_dict_is_understood() -> None:
    events = [script.annotation_as_dict("m", 0, URL)]

    async def play() -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        for event in events:
            yield event

    [_added, update] = await collected(stream_response(await new_context(), play()))
    assert update.update.annotation.source.url == URL["url"]


async def test_annotation_of_an_unknown_kind_is_left_out() -> None:
    [delta] = script.parsed([script.annotation_added("m", 0, URL)])
    delta.annotation = {"type": "from_the_future", "x": 1}

    async def future() -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        yield delta

    assert await collected(stream_response(await new_context(), future())) == []


async def test_converter_may_be_overridden() -> None:
    class Quiet(ResponseStreamConverter):
        async def url_citation_to_annotation(self, url_citation: Any) -> None:
            return None

    events = await outcome(*cited(URL), converter=Quiet())

    assert done(events)[0].content[0].annotations == []


# --- Reasoning and workflows -------------------------------------------------------------------


async def test_reasoning_is_a_workflow_that_ends_when_the_message_begins() -> None:
    events = await outcome(*script.reasoning("r", ("Hm", "m")), *script.message("m", "Hi"))

    assert [event.type for event in events[:5]] == [
        "thread.item.added",
        "thread.item.updated",
        "thread.item.updated",
        "thread.item.updated",
        "thread.item.done",
    ]
    [workflow, _message] = done(events)
    assert workflow.workflow.model_dump() == {
        "type": "reasoning",
        "tasks": [{"type": "thought", "title": None, "content": "Hmm", "status_indicator": "none"}],
        "summary": {"duration": 0},
        "expanded": False,
    }


async def test_only_the_first_thought_streams() -> None:
    events = await outcome(*script.reasoning("r", ("a", "b"), ("c", "d")))

    assert [(u["type"], u["task_index"], u["task"]["content"]) for u in updates(events)] == [
        ("workflow.task.added", 0, "a"),
        ("workflow.task.updated", 0, "ab"),
        ("workflow.task.updated", 0, "ab"),
        ("workflow.task.added", 1, "cd"),
    ]


async def test_equal_thoughts_have_places_of_their_own() -> None:
    """6.2: a task's index was looked up by equality, so an equal thought hit the first one."""
    events = await outcome(*script.reasoning("r", ("same",), ("same",), ("same",)))

    added = [u["task_index"] for u in updates(events) if u["type"] == "workflow.task.added"]
    assert added == [0, 1, 2]


async def test_long_thought_costs_bytes_in_proportion_to_its_length() -> None:
    """6.4: each delta sent the whole thought again, which is quadratic."""

    async def sent(pieces: int) -> int:
        events = await outcome(*script.reasoning("r", ("word ",) * pieces))
        return sum(len(u["task"]["content"]) for u in updates(events))

    small, large = await sent(2_000), await sent(8_000)
    assert large < 6 * small


async def test_events_are_not_changed_by_what_happens_later() -> None:
    """The workflow goes on changing after an event about it was made."""
    events = await outcome(*script.reasoning("r", ("a", "b"), ("c",)), *script.message("m", "x"))

    assert events[0].item.workflow.tasks == []
    assert events[0].item.workflow.summary is None


async def test_workflow_in_progress_at_the_end_is_stored_by_an_event() -> None:
    """6.1: it went to the store directly, after the loop, so a cancelled turn lost it."""
    context = await new_context()
    await context.add_workflow_task(CustomTask(title="step"))

    events = await outcome(context=context)

    [item] = done(events)
    assert item.workflow.summary is None
    assert [task.title for task in item.workflow.tasks] == ["step"]


def workflow_item(*titles: str) -> WorkflowItem:
    return WorkflowItem(
        id="wf_1",
        thread_id="thr_1",
        created_at=MOMENT,
        workflow=Workflow(type="custom", tasks=[CustomTask(title=title) for title in titles]),
    )


async def test_workflow_at_the_end_of_the_thread_is_resumed_and_replaced() -> None:
    """Stored twice under one id otherwise: it is in the thread already."""
    context = await new_context(workflow_item("one"))

    events = await outcome(*script.message("m", "Hi"), context=context)

    assert events[0].type == "thread.item.replaced"
    assert events[0].item.id == "wf_1"
    assert events[0].item.workflow.summary is not None


async def test_workflow_before_a_client_tool_call_is_resumed() -> None:
    call = ClientToolCallItem(
        id="tc_1",
        thread_id="thr_1",
        created_at=MOMENT + timedelta(seconds=1),
        call_id="c",
        name="f",
        arguments={},
        status="completed",
    )
    context = await new_context(workflow_item("one"), call)

    events = await outcome(*script.reasoning("r", ("Hm",)), context=context)

    assert [(u["type"], u["task_index"]) for u in updates(events)] == [("workflow.task.added", 1)]
    assert events[-1].type == "thread.item.replaced"


async def test_workflow_further_back_is_not_resumed() -> None:
    message = AssistantMessageItem(
        id="msg_1",
        thread_id="thr_1",
        created_at=MOMENT,
        content=[AssistantMessageContent(text="x")],
    )
    context = await new_context(workflow_item("one"), message)

    assert await outcome(context=context) == []


async def test_workflow_that_was_put_into_the_context_ends_before_the_message() -> None:
    context = await new_context()
    context.workflow_item = workflow_item("one")

    events = await outcome(*script.message("m", "Hi"), context=context)

    assert [(event.type, event.item.type) for event in events if hasattr(event, "item")] == [
        ("thread.item.done", "workflow"),
        ("thread.item.added", "assistant_message"),
        ("thread.item.done", "assistant_message"),
    ]
    assert context.workflow_item is None


async def test_thought_in_an_empty_custom_workflow_shows_the_workflow() -> None:
    """6.x: the client got an update of an item it had never been told of."""
    context = await new_context()
    await context.start_workflow(Workflow(type="custom", tasks=[]))

    events = await outcome(*script.reasoning("r", ("Hm",)), context=context)

    assert events[0].type == "thread.item.added"
    assert events[0].item.workflow.tasks == [ThoughtTask(content="Hm")]


# --- Images ------------------------------------------------------------------------------------


async def test_image_comes_with_previews_and_progress() -> None:
    converter = ResponseStreamConverter(partial_images=2)

    events = await outcome(*script.image("ig", "p0", "p1", result="final"), converter=converter)

    assert events[0].item.image is None
    assert [(u["image"]["url"], u["progress"]) for u in updates(events)] == [
        ("data:image/png;base64,p0", 0.0),
        ("data:image/png;base64,p1", 0.5),
    ]
    [item] = done(events)
    assert item.image.url == "data:image/png;base64,final"
    assert {u["image"]["id"] for u in updates(events)} == {item.image.id}


async def test_images_made_at_once_are_kept_apart() -> None:
    """6.x: there was room for one image in progress; previews of two went to the last begun.

    They are done in the order in which they began, which is the one that the page shows.
    """
    events = await outcome(
        script.item_added(script.image_item("a", None)),
        script.item_added(script.image_item("b", None)),
        script.partial_image("a", 0, "preview of a"),
        script.item_done(script.image_item("b", "b")),
        script.item_done(script.image_item("a", "a")),
    )

    [first, second] = [e.item.id for e in events if e.type == "thread.item.added"]
    assert [e.item_id for e in events if e.type == "thread.item.updated"] == [first]
    assert [item.id for item in done(events)] == [first, second]


async def test_image_id_is_ours_and_not_the_models() -> None:
    seen: list[str] = []

    class Keeps(ResponseStreamConverter):
        async def base64_image_to_url(
            self, image_id: str, base64_image: str, partial_image_index: int | None = None
        ) -> str:
            seen.append(image_id)
            return "https://example.org/i.png"

    events = await outcome(*script.image("ig", "p", result="r"), converter=Keeps())

    assert set(seen) == {events[0].item.id}


# --- Ends --------------------------------------------------------------------------------------


async def test_client_tool_call_comes_last_with_the_models_call_id() -> None:
    context = await new_context()
    context.client_tool_call = ClientToolCall(name="pick", arguments={"n": 1})

    events = await outcome(
        *script.call("pick", call_id="call_a"),
        *script.call("other", call_id="call_b"),
        context=context,
    )

    [item] = done(events)
    assert (item.call_id, item.name, item.arguments, item.status) == (
        "call_a",
        "pick",
        {"n": 1},
        "pending",
    )
    assert item.id.startswith("tc_")


async def test_client_tool_call_without_a_models_call_has_ids_of_ours() -> None:
    context = await new_context()
    context.client_tool_call = ClientToolCall(name="pick", arguments={})

    [item] = done(await outcome(context=context))

    assert item.call_id.startswith("tc_")
    assert item.call_id != item.id


async def test_failed_response_raises_behind_what_came_before() -> None:
    failed = script.response([], "failed") | {
        "error": {"code": "server_error", "message": "overloaded"}
    }
    stream = stream_response(
        await new_context(),
        played(
            [
                script.text_delta("m", "Hel"),
                {"type": "response.failed", "sequence_number": 0, "response": failed},
            ]
        ),
    )
    seen = [await anext(stream), await anext(stream)]

    with pytest.raises(ModelError, match="overloaded"):
        await anext(stream)

    assert [event.type for event in seen] == ["thread.item.added", "thread.item.updated"]
