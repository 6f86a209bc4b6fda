"""The sixteen requests: what each answers, stores and refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import ConflictError, NotFoundError, UnsupportedTypeError
from chatkit_trio.server import (
    ChatKitServer,
    NonStreamingResult,
    StreamingResult,
    TurnPolicy,
    stream_text,
)
from chatkit_trio.store import AttachmentStore, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    Scene,
    ScriptedServer,
    SlowStore,
    Step,
    emit,
    pause,
    say,
    scripted_server,
    show_widget,
)
from chatkit_trio.types import (
    Attachment,
    AttachmentCreateParams,
    AudioInput,
    ClientToolCallItem,
    ClosedStatus,
    CustomTask,
    FeedbackKind,
    FileAttachment,
    HiddenContextItem,
    LockedStatus,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputMultipleChoiceOption,
    SyncCustomActionResponse,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStatus,
    ThreadStreamEvent,
    TranscriptionResult,
    UserMessageItem,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import DynamicWidgetRoot

from .transcript import lines, transcript


def card(text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {
            "type": "Card",
            "children": [{"type": "Text", "id": "text", "value": text, "streaming": True}],
        }
    )


async def begin(server: ScriptedServer, text: str = "hi", context: Any = None) -> str:
    """Begin a thread, read the answer to its end, and return the thread's id."""
    async with ChatClient.of_server(server, context).send(text) as turn:
        await turn.read()
    assert turn.thread_id is not None
    return turn.thread_id


async def refusal(opening: Any) -> tuple[int, str | None]:
    """Return status and code of the error that entering a stream, or awaiting, raises."""
    try:
        if hasattr(opening, "__aenter__"):
            async with opening:
                pass
        else:
            await opening
    except RequestRefused as error:
        return error.status, error.code
    pytest.fail("the request was not refused")


# --- Client tools ------------------------------------------------------------------------------


def call_tool(scene: Scene) -> ThreadStreamEvent:
    fields = scene.item_fields("tool_call")
    item = ClientToolCallItem(call_id="call_1", name="locate", arguments={}, **fields)
    return ThreadItemDoneEvent(item=item)


async def test_the_output_of_a_client_tool_completes_the_call_and_goes_on() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [emit(call_tool)], [say("Thanks")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)

        async with client.send_tool_output(thread_id, {"place": "Paris"}) as turn:
            await turn.read()

        call = (await client.items(thread_id))[1]
        assert isinstance(call, ClientToolCallItem)
        assert (call.status, call.output) == ("completed", {"place": "Paris"})
        assert turn.text == "Thanks"
        assert server.script.scenes[1].message is None


@pytest.mark.parametrize("on_busy", ["queue", "supersede", "reject"])
async def test_a_tool_output_sent_from_two_tabs_is_taken_once(
    on_busy: Any, autojump_clock: trio.testing.MockClock
) -> None:
    # The original checks, then writes, without a lock: both tabs get an answer.
    memory = MemoryStore[Any]()
    server = scripted_server(
        SlowStore(memory, 1), [emit(call_tool)], [say("Thanks")], policy=TurnPolicy(on_busy=on_busy)
    )
    async with server:
        thread_id = await begin(server)
        ends: list[str] = []

        async def hand_in() -> None:
            try:
                async with ChatClient.of_server(server).send_tool_output(thread_id, 1) as turn:
                    await turn.read()
                    ends.append("refused" if turn.error is not None else "answered")
            except RequestRefused:
                ends.append("refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_in)
            nursery.start_soon(hand_in)

        assert sorted(ends) == ["answered", "refused"]
        assert await transcript(memory, thread_id) == [
            "user: hi",
            "client_tool_call",
            "assistant: Thanks",
        ]


async def test_a_tool_output_nobody_waits_for_is_refused() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        thread_id = await begin(server)
        client = ChatClient.of_server(server)

        assert await refusal(client.send_tool_output(thread_id, 1)) == (409, "conflict")


async def test_a_tool_call_is_still_answered_behind_the_note_of_a_cancelled_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(
        MemoryStore(), [emit(call_tool), pause(100)], [say("Thanks")]
    ) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
        assert turn.thread_id is not None

        async with client.send_tool_output(turn.thread_id, 1) as again:
            await again.read()
        assert again.text == "Thanks"


# --- Structured input --------------------------------------------------------------------------


def ask(scene: Scene) -> ThreadStreamEvent:
    options = [StructuredInputMultipleChoiceOption(value=value) for value in ("tea", "coffee")]
    item = StructuredInputItem(
        inputs=[
            StructuredInputMultipleChoice(id="drink", question="Which?", options=options),
            StructuredInputFreeform(id="why", question="Why?"),
        ],
        **scene.item_fields(),
    )
    return ThreadItemDoneEvent(item=item)


async def test_answers_are_stored_with_their_questions_and_the_client_hears_of_it_first() -> None:
    async with scripted_server(MemoryStore(), [emit(ask)], [say("Good")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        item_id = (await client.items(thread_id))[1].id

        async with client.send_answers(thread_id, item_id, {"drink": ["tea", "coffee"]}) as turn:
            await turn.read()

        item = (await client.items(thread_id))[1]
        assert isinstance(item, StructuredInputItem)
        assert item.status == "answered"
        answers = [question.answer for question in item.inputs]
        assert [answer and (answer.values, answer.skipped) for answer in answers] == [
            (["tea"], False),
            ([], True),
        ]
        assert [event.type for event in turn.events[:2]] == [
            "stream_options",
            "thread.item.replaced",
        ]
        assert turn.text == "Good"


async def test_questions_can_be_skipped_once() -> None:
    async with scripted_server(MemoryStore(), [emit(ask)], [say("Good")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        item_id = (await client.items(thread_id))[1].id

        async with client.send_answers(thread_id, item_id, None) as turn:
            await turn.read()

        item = (await client.items(thread_id))[1]
        assert isinstance(item, StructuredInputItem)
        assert item.status == "skipped"
        assert await refusal(client.send_answers(thread_id, item_id, {})) == (409, "conflict")


async def test_answers_to_something_else_are_refused() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        item_id = (await client.items(thread_id))[1].id

        assert await refusal(client.send_answers(thread_id, item_id, {})) == (
            400,
            "invalid_request",
        )
        assert await refusal(client.send_answers(thread_id, "msg_unknown", {})) == (
            404,
            "not_found",
        )


# --- Retry -------------------------------------------------------------------------------------


async def test_a_retry_drops_what_follows_the_message_and_answers_again() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("One")], [say("Two")], [say("Better")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        async with client.send("more", thread_id) as turn:
            await turn.read()
        item_id = (await client.items(thread_id))[0].id

        async with client.retry(thread_id, item_id) as turn:
            await turn.read()

        assert await transcript(store, thread_id) == ["user: hi", "assistant: Better"]


@pytest.mark.parametrize("make", [lambda _: MemoryStore(), SQLiteStore], ids=["memory", "sqlite"])
async def test_an_edited_message_takes_the_place_of_the_old_one(
    make: Callable[[Path], Store[Any]], tmp_path: Path
) -> None:
    store = make(tmp_path / "chat.sqlite3")

    class Echo(ChatKitServer[Any]):
        async def respond(
            self, thread: Any, input_user_message: Any, context: Any
        ) -> AsyncIterator[Any]:
            said = input_user_message.content[0].text
            async for event in stream_text(thread, [f"You said {said}"]):
                yield event

    async with Echo(store) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()
        thread_id = turn.thread_id
        async with client.send("more", thread_id) as turn:
            await turn.read()
        before = (await client.items(thread_id))[0]

        async with client.retry(thread_id, before.id, "hello") as turn:
            events = [event async for event in turn]

        assert await transcript(store, thread_id) == ["user: hello", "assistant: You said hello"]
        [edited, _] = await client.items(thread_id)
        assert (edited.id, edited.created_at) == (before.id, before.created_at)
        assert isinstance(events[0], ThreadItemReplacedEvent)
        assert events[0].item == edited


async def test_an_edited_message_that_is_refused_deletes_and_changes_nothing() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("One")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        [message, answer] = await client.items(thread_id)
        message_input = {"content": [], "attachments": ["att_none"], "inference_options": {}}
        params = {"thread_id": thread_id, "item_id": message.id, "input": message_input}
        body = {"type": "threads.retry_after_item", "params": params}

        with pytest.raises(NotFoundError):
            await server.process(json.dumps(body), None)
        assert await refusal(client.retry(thread_id, answer.id, "no")) == (400, "invalid_request")
        assert await transcript(store, thread_id) == ["user: hi", "assistant: One"]


async def test_a_retry_of_an_unknown_item_is_not_found_and_deletes_nothing() -> None:
    # The original answers 200 with an empty stream, after it has deleted everything.
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("One")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)

        assert await refusal(client.retry(thread_id, "msg_unknown")) == (404, "not_found")
        assert await transcript(store, thread_id) == ["user: hi", "assistant: One"]


async def test_a_retry_of_an_answer_is_refused() -> None:
    async with scripted_server(MemoryStore(), [say("One")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        answer_id = (await client.items(thread_id))[1].id

        assert await refusal(client.retry(thread_id, answer_id)) == (400, "invalid_request")


async def test_a_retry_during_the_live_turn_settles_it_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # In the original the two turns interleave.
    store = SlowStore(MemoryStore[Any](), 0.002)
    async with scripted_server(store, [say("Hel", "lo", every=10)], [say("Better")]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            assert turn.thread_id is not None
            async with client.retry(turn.thread_id, turn.items[0].id) as again:
                await again.read()

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Better"]


# --- Actions -----------------------------------------------------------------------------------


class WidgetServer(ScriptedServer):
    """Answers with a card, and actions with a script of their own."""

    action_script: Step = staticmethod(say("Done"))
    sync_answer: Any = None

    def __init__(self, store: Store[Any]) -> None:
        super().__init__(store, scripted_server(store, [show_widget(card("Hello"))]).script)
        self.senders: list[WidgetItem | None] = []

    def action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        self.senders.append(sender)
        return self.action_script(Scene(thread, None, context))

    async def sync_action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: Any
    ) -> SyncCustomActionResponse:
        await trio.lowlevel.checkpoint()
        item = self.sync_answer(sender, Scene(thread, None, context))
        return SyncCustomActionResponse(updated_item=item)


PRESS = Action[str, Any](type="press", payload={"n": 1})


async def test_an_action_streams_what_it_causes_and_knows_its_widget() -> None:
    store = MemoryStore[Any]()
    async with WidgetServer(store) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        widget_id = (await client.items(thread_id))[1].id

        async with client.act(thread_id, PRESS, widget_id) as turn:
            await turn.read()

        assert [sender and sender.id for sender in server.senders] == [widget_id]
        assert await transcript(store, thread_id) == ["user: hi", "widget", "assistant: Done"]


async def test_an_action_of_something_that_is_no_widget_is_an_error_in_the_stream() -> None:
    async with WidgetServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        message_id = (await client.items(thread_id))[0].id

        async with client.act(thread_id, PRESS, message_id) as turn:
            await turn.read()

        assert [event.type for event in turn.events] == ["error"]
        assert server.senders == []


async def test_an_update_of_a_finished_widget_is_there_after_a_reload() -> None:
    # The original forwards it and stores nothing.
    async with WidgetServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        widget_id = (await client.items(thread_id))[1].id

        def update(scene: Scene) -> ThreadStreamEvent:
            changed = WidgetRootUpdated(widget=card("Pressed"))
            return ThreadItemUpdatedEvent(item_id=widget_id, update=changed)

        def append(text: str) -> ThreadStreamEvent:
            delta = WidgetStreamingTextValueDelta(component_id="text", delta=text, done=False)
            return ThreadItemUpdatedEvent(item_id=widget_id, update=delta)

        server.action_script = emit(update, append(" tw"), append("ice"))
        async with client.act(thread_id, PRESS, widget_id) as turn:
            await turn.read()

        stored = (await client.items(thread_id))[1]
        assert stored.model_dump_json().count("Pressed twice") == 1


async def test_a_sync_action_stores_the_item_that_it_changed() -> None:
    async with WidgetServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        widget_id = (await client.items(thread_id))[1].id
        server.sync_answer = lambda sender, scene: sender.model_copy(
            update={"widget": card("Pressed")}
        )

        answer = await client.act_and_wait(thread_id, PRESS, widget_id)

        assert answer.updated_item is not None
        assert answer.updated_item.id == widget_id
        assert "Pressed" in (await client.items(thread_id))[1].model_dump_json()


async def test_a_sync_action_never_answers_with_a_hidden_item() -> None:
    # The original sends it to the client.
    async with WidgetServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        server.sync_answer = lambda sender, scene: HiddenContextItem(
            content="secret", **scene.item_fields()
        )

        answer = await client.act_and_wait(thread_id, PRESS)

        assert answer.updated_item is None


async def test_a_task_index_out_of_range_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The original's stream dies of an IndexError.
    def workflow(scene: Scene) -> WorkflowItem:
        fields = scene.item_fields("workflow") | {"id": "wf_1"}
        task = CustomTask(title="Search")
        return WorkflowItem(workflow=Workflow(type="custom", tasks=[task]), **fields)

    def begun(scene: Scene) -> ThreadStreamEvent:
        return ThreadItemAddedEvent(item=workflow(scene))

    def done(scene: Scene) -> ThreadStreamEvent:
        return ThreadItemDoneEvent(item=workflow(scene))

    def wrong(scene: Scene) -> ThreadStreamEvent:
        update = WorkflowTaskUpdated(task_index=7, task=CustomTask(title="Lost"))
        return ThreadItemUpdatedEvent(item_id="wf_1", update=update)

    store = MemoryStore[Any]()
    async with scripted_server(store, [emit(begun, wrong, done)]) as server:
        thread_id = await begin(server)

        assert await transcript(store, thread_id) == ["user: hi", "workflow: Search none"]
    assert "workflow.task.updated" in caplog.text


# --- Threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [LockedStatus(), ClosedStatus(reason="done")])
async def test_a_thread_that_is_not_active_takes_no_messages(status: ThreadStatus) -> None:
    # The original lets them through.
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hi")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        thread = await store.load_thread(thread_id, None)
        await store.save_thread(thread.model_copy(update={"status": status}), None)
        message_id = (await client.items(thread_id))[0].id

        assert await refusal(client.send("more", thread_id)) == (409, "conflict")
        assert await refusal(client.retry(thread_id, message_id)) == (409, "conflict")
        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hi"]


async def test_a_thread_that_respond_closes_is_closed_for_the_next_message() -> None:
    def close(scene: Scene) -> ThreadStreamEvent:
        scene.thread.status = ClosedStatus()
        return ThreadItemDoneEvent(item=HiddenContextItem(content="bye", **scene.item_fields()))

    async with scripted_server(MemoryStore(), [emit(close)]) as server:
        thread_id = await begin(server)

        client = ChatClient.of_server(server)
        assert await refusal(client.send("more", thread_id)) == (409, "conflict")


async def test_threads_are_listed_renamed_and_deleted() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        client = ChatClient.of_server(server)
        first, second, third = [await begin(server) for _ in range(3)]

        renamed = await client.rename(second, "Mine")
        await client.delete(first)

        assert renamed.title == "Mine"
        assert [thread.id for thread in await client.threads()] == [second, third]
        page = await client.threads_page(limit=1)
        assert [thread.id for thread in page.data] == [third]
        assert page.has_more
        page = await client.threads_page(limit=1, after=page.after)
        assert [thread.id for thread in page.data] == [second]
        assert await refusal(client.thread(first)) == (404, "not_found")


async def test_a_thread_is_never_answered_with_the_applications_metadata() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hi")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        thread = await store.load_thread(thread_id, None)
        await store.save_thread(thread.model_copy(update={"metadata": {"cost": 1}}), None)

        assert (await client.thread(thread_id)).metadata == {}
        assert [thread.metadata for thread in await client.threads()] == [{}]


async def test_a_title_change_of_a_new_thread_stores_no_items_in_its_metadata() -> None:
    # The original hands the store a thread with its items, which then can't be loaded.
    saved: list[type[ThreadMetadata]] = []

    class Watching(MemoryStore[Any]):
        async def save_thread(self, thread: ThreadMetadata, context: Any) -> None:
            saved.append(type(thread))
            await super().save_thread(thread, context)

    def rename(scene: Scene) -> ThreadStreamEvent:
        scene.thread.title = "A story"
        return ThreadItemDoneEvent(item=HiddenContextItem(content="x", **scene.item_fields()))

    async with scripted_server(Watching(), [emit(rename)]) as server:
        thread_id = await begin(server)

        assert (await ChatClient.of_server(server).thread(thread_id)).title == "A story"
    assert saved == [ThreadMetadata, ThreadMetadata]


@pytest.mark.parametrize("limit", [-1, -100])
async def test_a_negative_limit_is_refused(limit: int) -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)

        assert await refusal(client.items_page(thread_id, limit=limit)) == (400, "invalid_request")


async def test_a_page_has_a_hundred_entries_at_most() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hi")]) as server:
        thread_id = await begin(server)
        scene = Scene(await store.load_thread(thread_id, None), None, None)
        for _ in range(120):
            task = HiddenContextItem(content="x", **scene.item_fields())
            await store.add_thread_item(thread_id, task, None)

        client = ChatClient.of_server(server)
        page = await client.items_page(thread_id, limit=1000, order="asc")
        assert page.has_more
        assert lines(page.data) == ["user: hi", "assistant: Hi"]


# --- Feedback, speech, attachments -------------------------------------------------------------


class Attachments(AttachmentStore[Any]):
    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def create_attachment(self, input: AttachmentCreateParams, context: Any) -> Any:
        await trio.lowlevel.checkpoint()
        attachment_id = self.generate_attachment_id(input.mime_type, context)
        return FileAttachment(
            id=attachment_id, name=input.name, mime_type=input.mime_type, metadata={"path": "/x"}
        )

    async def delete_attachment(self, attachment_id: str, context: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.deleted.append(attachment_id)


class FullServer(ScriptedServer):
    def __init__(self, store: Store[Any], files: Attachments | None = None) -> None:
        script = scripted_server(store, [say("Hi")]).script
        self.files = files or Attachments()
        super().__init__(store, script, attachment_store=self.files)
        self.feedback: list[Any] = []

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: FeedbackKind, context: Any
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.feedback.append((thread_id, item_ids, feedback))

    async def transcribe(self, audio_input: AudioInput, context: Any) -> TranscriptionResult:
        await trio.lowlevel.checkpoint()
        return TranscriptionResult(text=f"{audio_input.media_type}: {audio_input.data.decode()}")


def ada_and_bob(server: ScriptedServer) -> tuple[ChatClient, ChatClient]:
    return ChatClient.of_server(server, "Ada"), ChatClient.of_server(server, "Bob")


async def test_feedback_reaches_the_hook() -> None:
    async with FullServer(MemoryStore()) as server:
        thread_id = await begin(server)
        await ChatClient.of_server(server).give_feedback(thread_id, ["msg_1"], "positive")

        assert server.feedback == [(thread_id, ["msg_1"], "positive")]


async def test_speech_is_decoded_strictly() -> None:
    async with FullServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        answer = await client.transcribe(b"hello", "audio/WebM;codecs=opus")
        garbage = (
            b'{"type": "input.transcribe", "params":'
            b' {"audio_base64": "a!b?", "mime_type": "audio/webm"}}'
        )

        assert answer.text == "audio/webm: hello"
        assert await refusal(client.ask(garbage)) == (400, "invalid_request")


async def test_an_attachment_is_created_sent_with_a_message_and_deleted() -> None:
    store = MemoryStore[Any]()
    async with FullServer(store) as server:
        client = ChatClient.of_server(server)
        attachment = await client.create_attachment("a.txt", 3, "text/plain")
        async with client.send("hi", attachments=[attachment.id]) as turn:
            await turn.read()

        stored = await store.load_attachment(attachment.id, None)
        assert attachment.metadata is None
        assert (stored.metadata, stored.thread_id) == ({"path": "/x"}, turn.thread_id)
        await client.delete_attachment(attachment.id)
        assert server.files.deleted == [attachment.id]
        with pytest.raises(NotFoundError):
            await store.load_attachment(attachment.id, None)


async def test_a_message_with_an_unknown_attachment_is_refused_and_not_stored() -> None:
    store = MemoryStore[Any]()
    async with FullServer(store) as server:
        client = ChatClient.of_server(server)

        assert await refusal(client.send("hi", attachments=["atc_1"])) == (404, "not_found")
        assert await client.threads() == []


class PickyAttachments(Attachments):
    """Takes no attachment called "bad", and marks the others as looked at."""

    async def check_attachment(self, attachment: Attachment, context: Any) -> Attachment:
        await trio.lowlevel.checkpoint()
        if attachment.name == "bad":
            raise UnsupportedTypeError("it isn't what it says")
        return attachment.model_copy(update={"metadata": {"looked_at": True}})


async def test_the_attachment_store_may_refuse_a_messages_attachment_before_all_is_stored() -> None:
    store = MemoryStore[Any]()
    async with FullServer(store, PickyAttachments()) as server:
        client = ChatClient.of_server(server)
        thread_id = await begin(server)
        before = await client.items(thread_id)
        bad = await client.create_attachment("bad", 3, "text/plain")

        refused = [
            await refusal(client.send("new", attachments=[bad.id])),
            await refusal(client.send("more", thread_id, attachments=[bad.id])),
        ]

        assert refused == [(415, "unsupported_type")] * 2
        assert [thread.id for thread in await client.threads()] == [thread_id]
        assert await client.items(thread_id) == before


async def test_a_message_has_its_attachments_as_the_attachment_store_returns_them() -> None:
    store = MemoryStore[Any]()
    async with FullServer(store, PickyAttachments()) as server:
        client = ChatClient.of_server(server)
        good = await client.create_attachment("good", 3, "text/plain")

        async with client.send("new", attachments=[good.id]) as turn:
            await turn.read()
            page = await store.load_thread_items(turn.thread_id, None, 1, "asc", None)

        message = page.data[0]
        assert isinstance(message, UserMessageItem)
        assert [each.metadata for each in message.attachments] == [{"looked_at": True}]
        assert await store.load_attachment(good.id, None) == message.attachments[0]


async def test_a_server_without_an_attachment_store_says_so() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        client = ChatClient.of_server(server)

        assert await refusal(client.create_attachment("a", 1, "text/plain")) == (
            400,
            "invalid_request",
        )


# --- Isolation ---------------------------------------------------------------------------------


async def test_nothing_of_another_owners_is_found_by_any_request() -> None:
    # The original leaves it to each method of the store, and never asks it in most requests.
    store = MemoryStore[str](owner=lambda context: context)
    async with FullServer(store) as server:
        ada, bob = ada_and_bob(server)
        thread_id = await begin(server, context="Ada")
        item_id = (await ada.items(thread_id))[0].id
        attachment = await ada.create_attachment("a.txt", 3, "text/plain")

        refused = [
            await refusal(bob.send("mine", thread_id)),
            await refusal(bob.send("mine", attachments=[attachment.id])),
            await refusal(bob.send_tool_output(thread_id, 1)),
            await refusal(bob.send_answers(thread_id, item_id, {})),
            await refusal(bob.retry(thread_id, item_id)),
            await refusal(bob.act(thread_id, PRESS)),
            await refusal(bob.act_and_wait(thread_id, PRESS)),
            await refusal(bob.thread(thread_id)),
            await refusal(bob.items(thread_id)),
            await refusal(bob.rename(thread_id, "mine")),
            await refusal(bob.delete(thread_id)),
            await refusal(bob.give_feedback(thread_id, [item_id], "negative")),
            await refusal(bob.delete_attachment(attachment.id)),
        ]

        assert refused == [(404, "not_found")] * len(refused)
        assert await bob.threads() == []
        assert server.files.deleted == []
        assert server.feedback == []
        assert await transcript(store, thread_id, "Ada") == ["user: hi", "assistant: Hi"]


async def test_an_item_is_not_found_by_way_of_another_thread() -> None:
    async with WidgetServer(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        one, other = await begin(server), await begin(server)
        item_id = (await client.items(one))[1].id

        assert await refusal(client.act(other, PRESS, item_id)) == (404, "not_found")


# --- What is not a request ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"type": "threads.destroy", "params": {}}',
        b'{"type": "threads.get_by_id", "params": {}}',
        b'{"type": "items.list", "params": {"thread_id": 1}}',
        b"\xff\xfe",
    ],
)
async def test_what_is_not_a_request_is_refused_without_repeating_it(body: bytes) -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        assert await refusal(ChatClient.of_server(server).ask(body)) == (400, "invalid_request")


async def test_an_answer_has_no_nulls() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        thread_id = await begin(server)
        request = f'{{"type": "threads.get_by_id", "params": {{"thread_id": "{thread_id}"}}}}'
        result = await server.process(request, None)

        assert isinstance(result, NonStreamingResult)
        assert b"null" not in result.json


def _message_request(text: str, thread_id: str | None = None) -> str:
    content = [{"type": "input_text", "text": text}]
    user_input = {"content": content, "attachments": [], "inference_options": {}}
    params: dict[str, Any] = {"input": user_input}
    if thread_id is None:
        return json.dumps({"type": "threads.create", "params": params})
    params["thread_id"] = thread_id
    return json.dumps({"type": "threads.add_user_message", "params": params})


async def test_a_thread_and_messages_get_the_ids_that_were_given() -> None:
    async with scripted_server(MemoryStore(), [say("one")], [say("two")]) as server:
        for request, message_id in (
            (_message_request("a"), "msg_a"),
            (_message_request("b", "thr_mine"), "msg_b"),
        ):
            result = await server.process(
                request, None, new_thread_id="thr_mine", new_message_id=message_id
            )
            assert isinstance(result, StreamingResult)
            async with result:
                assert [frame async for frame in result]
        page = await server.store.load_thread_items("thr_mine", None, 9, "asc", None)

    assert [item.id for item in page.data if isinstance(item, UserMessageItem)] == [
        "msg_a",
        "msg_b",
    ]


async def test_an_id_that_is_taken_is_refused_and_nothing_changes() -> None:
    async with scripted_server(MemoryStore(), [say("one")]) as server:
        ids = {"new_thread_id": "thr_mine", "new_message_id": "msg_a"}
        result = await server.process(_message_request("a"), None, **ids)
        assert isinstance(result, StreamingResult)
        async with result:
            assert [frame async for frame in result]
        before = await server.store.load_thread_items("thr_mine", None, 9, "asc", None)
        for request in (_message_request("b"), _message_request("b", "thr_mine")):
            with pytest.raises(ConflictError, match="already"):
                await server.process(request, None, **ids)
        with pytest.raises(ConflictError, match="with another text"):
            await server.process(_message_request("b"), None, answers_again=True, **ids)
        with pytest.raises(ValueError, match="takes a new_thread_id and a new_message_id"):
            await server.process(_message_request("b"), None, answers_again=True)
        with pytest.raises(ValueError, match="not both"):
            await server.process(_message_request("b"), None, idempotency_key="k", **ids)
        after = await server.store.load_thread_items("thr_mine", None, 9, "asc", None)

    assert after == before


async def test_of_two_requests_for_the_same_new_ids_one_is_carried_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Both are checked before either has made its first writes."""
    ids = {"new_thread_id": "thr_mine", "new_message_id": "msg_a"}
    ends: list[bytes] = []
    async with scripted_server(MemoryStore(), [say("one")], [say("two")]) as server:
        results = [await server.process(_message_request("a"), None, **ids) for _ in range(2)]

        async def read(result: StreamingResult | NonStreamingResult) -> None:
            assert isinstance(result, StreamingResult)
            async with result:
                ends.append([frame async for frame in result][-1])

        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(read, result)
        page = await server.store.load_thread_items("thr_mine", None, 9, "asc", None)

    assert sum(b'"type":"error"' in end for end in ends) == 1
    assert [item.type for item in page.data] == ["user_message", "assistant_message"]
