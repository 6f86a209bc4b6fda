"""The rules of a turn, without a nursery: events in, effects and pending items out.

`items`, `drafts`, `keeping` and `thread_state` of the engine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit_trio._engine.drafts import MAX_CONTENT_PARTS, UnfitUpdate
from chatkit_trio._engine.items import (
    AddItem,
    DeleteItem,
    DropItem,
    RequireNew,
    SaveItem,
    TurnItems,
    UpdateStoredItem,
    is_visible,
)
from chatkit_trio._engine.keeping import kept_items
from chatkit_trio._engine.thread_state import ThreadWatch, as_metadata
from chatkit_trio.errors import ConflictError
from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientToolCallItem,
    ClosedStatus,
    CustomTask,
    EndOfTurnItem,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    HiddenContextItem,
    LockedStatus,
    Page,
    ProgressUpdateEvent,
    SDKHiddenContextItem,
    StructuredInputItem,
    TaskItem,
    Thread,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    URLSource,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import DynamicWidgetRoot

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BASE: dict[str, Any] = {"id": "i1", "thread_id": "t1", "created_at": NOW}


def message(*texts: str) -> AssistantMessageItem:
    return AssistantMessageItem(**BASE, content=[AssistantMessageContent(text=t) for t in texts])


def card(text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Text", "id": "body", "value": text}]}
    )


def update(change: ThreadItemUpdate) -> ThreadItemUpdatedEvent:
    return ThreadItemUpdatedEvent(item_id="i1", update=change)


def fed(*events: Any) -> TurnItems:
    items = TurnItems()
    for event in events:
        effect = items.feed(event)
        if effect is not None:
            items.confirm(effect)
    return items


@given(st.lists(st.tuples(st.integers(0, 3), st.text())))
def test_folding_deltas_gives_the_final_message(deltas: list[tuple[int, str]]) -> None:
    texts = [""] * (1 + max((index for index, _ in deltas), default=-1))
    for index, delta in deltas:
        texts[index] += delta

    items = fed(
        ThreadItemAddedEvent(item=message()),
        *(
            update(AssistantMessageContentPartTextDelta(content_index=index, delta=delta))
            for index, delta in deltas
        ),
    )

    assert items.pending() == [message(*texts)]


def test_reading_an_item_between_deltas_changes_nothing() -> None:
    items = fed(ThreadItemAddedEvent(item=message("a")))
    for delta in "bcd":
        items.feed(update(AssistantMessageContentPartTextDelta(content_index=0, delta=delta)))
        items.pending()

    assert items.pending() == [message("abcd")]


def test_parts_and_annotations_are_folded_in_their_places() -> None:
    note = Annotation(source=URLSource(title="a", url="https://a.example"))
    other = Annotation(source=URLSource(title="b", url="https://b.example"))
    whole = AssistantMessageContent(text="whole", annotations=[note])

    items = fed(
        ThreadItemAddedEvent(item=message()),
        update(
            AssistantMessageContentPartAdded(
                content_index=0, content=AssistantMessageContent(text="x")
            )
        ),
        update(
            AssistantMessageContentPartAnnotationAdded(
                content_index=0, annotation_index=0, annotation=note
            )
        ),
        update(
            AssistantMessageContentPartAnnotationAdded(
                content_index=0, annotation_index=0, annotation=other
            )
        ),
        update(AssistantMessageContentPartDone(content_index=1, content=whole)),
    )

    first = AssistantMessageContent(text="x", annotations=[other, note])
    assert items.pending() == [message().model_copy(update={"content": [first, whole]})]


def test_respond_may_go_on_changing_the_item_it_added() -> None:
    item = message("a")
    items = fed(ThreadItemAddedEvent(item=item))
    item.content[0].text = "changed"

    assert items.pending() == [message("a")]


@pytest.mark.parametrize("index", [-1, MAX_CONTENT_PARTS, 10**9])
def test_a_content_index_cannot_size_a_list_without_bound(index: int) -> None:
    """Defect 6.2: `content_index` from the stream padded a list without bound."""
    items = fed(ThreadItemAddedEvent(item=message()))

    with pytest.raises(ValueError, match="out of range"):
        items.feed(update(AssistantMessageContentPartTextDelta(content_index=index, delta="x")))


def test_a_workflow_index_out_of_range_is_refused() -> None:
    """Defect 6.2: it killed the stream with an IndexError."""
    task = CustomTask(title="a")
    begun = ThreadItemAddedEvent(
        item=WorkflowItem(**BASE, workflow=Workflow(type="custom", tasks=[task]))
    )
    with pytest.raises(UnfitUpdate, match="has no task 7"):
        fed(begun, update(WorkflowTaskUpdated(task_index=7, task=CustomTask(title="lost"))))
    items = fed(
        begun,
        update(WorkflowTaskUpdated(task_index=0, task=CustomTask(title="b"))),
        update(WorkflowTaskAdded(task_index=1, task=task)),
    )

    workflow = Workflow(type="custom", tasks=[CustomTask(title="b"), task])
    assert items.pending() == [WorkflowItem(**BASE, workflow=workflow)]


def test_widget_updates_are_folded() -> None:
    items = fed(
        ThreadItemAddedEvent(item=WidgetItem(**BASE, widget=card("old"))),
        update(WidgetRootUpdated(widget=card(""))),
        *(
            update(WidgetStreamingTextValueDelta(component_id="body", delta=delta, done=False))
            for delta in ("Hel", "lo")
        ),
    )

    (item,) = items.pending()
    assert isinstance(item, WidgetItem)
    assert item.widget.model_dump()["children"][0]["value"] == "Hello"


def test_image_updates_are_folded() -> None:
    image = GeneratedImage(id="g", url="data:,")
    items = fed(
        ThreadItemAddedEvent(item=GeneratedImageItem(**BASE)),
        update(GeneratedImageUpdated(image=image, progress=0.5)),
    )

    assert items.pending() == [GeneratedImageItem(**BASE, image=image)]


def test_each_event_says_what_the_store_has_to_do() -> None:
    item = message("x")
    root = WidgetRootUpdated(widget=card("new"))

    assert TurnItems().feed(ThreadItemAddedEvent(item=item)) == RequireNew("i1")
    assert TurnItems().feed(ThreadItemDoneEvent(item=item)) == AddItem(item)
    assert TurnItems().feed(ThreadItemReplacedEvent(item=item)) == SaveItem(item)
    assert TurnItems().feed(ThreadItemRemovedEvent(item_id="i1")) == DeleteItem("i1")
    assert TurnItems().feed(ProgressUpdateEvent(text="x")) is None
    assert TurnItems().feed(update(root)) == UpdateStoredItem("i1", root)


def test_an_item_that_is_done_twice_is_stored_once() -> None:
    item = message("x")
    items = fed(ThreadItemDoneEvent(item=item))

    assert items.feed(ThreadItemDoneEvent(item=item)) == SaveItem(item)


def test_a_finished_item_is_kept_until_its_write_is_confirmed() -> None:
    items = fed(ThreadItemAddedEvent(item=message("part")))
    effect = items.feed(ThreadItemDoneEvent(item=message("whole")))

    before = items.unconfirmed()
    assert effect is not None
    items.confirm(effect)

    assert (before, items.unconfirmed(), items.pending()) == ([message("whole")], [], [])


def test_an_item_removed_before_it_was_done_is_only_dropped() -> None:
    items = fed(ThreadItemAddedEvent(item=message("x")))

    assert items.feed(ThreadItemRemovedEvent(item_id="i1")) == DropItem("i1")
    assert items.pending() == []


@pytest.mark.parametrize("first", [ThreadItemAddedEvent, ThreadItemDoneEvent])
def test_an_item_begun_with_an_id_of_this_turn_is_refused(first: Any) -> None:
    items = fed(first(item=message("x")))

    with pytest.raises(ConflictError, match="i1"):
        items.feed(ThreadItemAddedEvent(item=message("y")))


@pytest.mark.parametrize(
    "event", [ThreadItemAddedEvent, ThreadItemDoneEvent, ThreadItemReplacedEvent]
)
@pytest.mark.parametrize("letter", ["x", "é"])
def test_an_id_of_more_bytes_than_stores_take_is_refused(event: Any, letter: str) -> None:
    items, size = TurnItems(), len(letter.encode())
    longest = message("x").model_copy(update={"id": letter * (1000 // size)})
    items.feed(event(item=longest))
    version, changed = items.version, items.changed()

    with pytest.raises(ValueError, match="may have 1000 bytes, not"):
        items.feed(event(item=longest.model_copy(update={"id": longest.id + letter})))
    assert (items.version, items.changed()) == (version, changed)


def test_a_confirmed_write_doesnt_hide_a_later_state_of_its_item() -> None:
    items = TurnItems()
    first = items.feed(ThreadItemDoneEvent(item=message("one")))
    items.feed(ThreadItemDoneEvent(item=message("two")))
    assert first is not None
    items.confirm(first)

    assert items.unconfirmed() == [message("two")]


def test_a_reopened_item_is_changed_until_the_turn_is_settled() -> None:
    items = TurnItems()
    delta = AssistantMessageContentPartTextDelta(content_index=0, delta="lo")
    assert items.reopen(message("Hel"), delta) is None
    before = items.changed()
    items.settled()

    assert (before, items.changed()) == ([message("Hello")], [])


@pytest.mark.parametrize(
    "hidden",
    [HiddenContextItem(**BASE, content={"a": 1}), SDKHiddenContextItem(**BASE, content="a")],
)
def test_hidden_items_are_never_visible(hidden: ThreadItem) -> None:
    """Defect 6.2: hidden items leaked in `added` and `replaced`."""
    events = [
        ThreadItemAddedEvent(item=hidden),
        ThreadItemDoneEvent(item=hidden),
        ThreadItemReplacedEvent(item=hidden),
    ]

    assert [is_visible(event) for event in events] == [False, False, False]


def test_what_is_kept_of_unfinished_items_goes_by_kind() -> None:
    loading = CustomTask(title="a", status_indicator="loading")
    resting = CustomTask(title="a", status_indicator="none")
    image = GeneratedImage(id="g", url="data:,")
    kept: list[ThreadItem] = [
        message("text"),
        WidgetItem(**BASE, widget=card("x")),
        GeneratedImageItem(**BASE, image=image),
        HiddenContextItem(**BASE, content="x"),
    ]
    dropped: list[ThreadItem] = [
        message(),
        message(" \n", ""),
        WorkflowItem(**BASE, workflow=Workflow(type="custom", tasks=[])),
        GeneratedImageItem(**BASE),
        ClientToolCallItem(**BASE, call_id="c", name="n", arguments={}, status="pending"),
        StructuredInputItem(**BASE, inputs=[]),
        EndOfTurnItem(**BASE),
    ]
    settled: list[tuple[ThreadItem, ThreadItem]] = [
        (
            WorkflowItem(**BASE, workflow=Workflow(type="custom", tasks=[loading])),
            WorkflowItem(**BASE, workflow=Workflow(type="custom", tasks=[resting])),
        ),
        (TaskItem(**BASE, task=loading), TaskItem(**BASE, task=resting)),
    ]

    assert kept_items([*kept, *dropped]) == kept
    assert kept_items([before for before, _ in settled]) == [after for _, after in settled]


def test_a_thread_with_items_is_narrowed_before_it_is_stored() -> None:
    """Defect 6.2: `threads.create` handed a `Thread` to `save_thread`."""
    thread = Thread(id="t1", created_at=NOW, items=Page(data=[message("x")]), metadata={"a": [1]})

    metadata = as_metadata(thread)
    metadata.metadata["a"].append(2)

    assert type(metadata) is ThreadMetadata
    assert thread.metadata == {"a": [1]}


def test_changes_inside_the_threads_metadata_are_noticed() -> None:
    thread = ThreadMetadata(id="t1", created_at=NOW, metadata={"a": {"b": 1}})
    watch = ThreadWatch(thread)
    unchanged = watch.changed()
    thread.metadata["a"]["b"] = 2
    changed = watch.changed()
    watch.saved(as_metadata(thread))

    assert (unchanged, changed, watch.changed()) == (False, True, False)


def test_a_status_that_changes_in_its_place_is_noticed() -> None:
    """Asked twice before: what hasn't changed is looked at less closely."""
    thread = ThreadMetadata(id="t1", created_at=NOW, status=LockedStatus(reason="soon"))
    watch = ThreadWatch(thread)
    unchanged = [watch.changed(), watch.changed()]
    assert isinstance(thread.status, LockedStatus)
    thread.status.reason = "over"
    changed = watch.changed()
    watch.saved(as_metadata(thread))
    saved = watch.changed()
    thread.status = ClosedStatus(reason="over")

    assert (unchanged, changed, saved, watch.changed()) == ([False, False], True, False, True)


def test_a_changed_id_of_the_thread_is_set_back_and_refused() -> None:
    thread = ThreadMetadata(id="t1", created_at=NOW)
    watch = ThreadWatch(thread)
    thread.id = "t2"

    with pytest.raises(ValueError, match="t2"):
        watch.changed()
    assert (thread.id, watch.changed()) == ("t1", False)
