"""A server that does all there is on demand, behind both adapters; run by Hypercorn as a process.

What the user's message says is what happens. The environment says where the database is.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import trio
from quart import Response

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text, stream_widget
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientEffectEvent,
    ClientToolCallItem,
    CustomSummary,
    CustomTask,
    EntitySource,
    FileSource,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    NoticeEvent,
    ProgressUpdateEvent,
    StructuredInputFreeform,
    StructuredInputItem,
    TaskItem,
    ThoughtTask,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    URLSource,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.web import create_app
from chatkit_trio.web.ag_ui import ag_ui_blueprint
from chatkit_trio.web.ai_sdk import ai_sdk_blueprint
from chatkit_trio.widgets import Card, Markdown

PICTURE = "data:image/png;base64,iVBORw0KGgo="


class Oracle(ChatKitServer[str]):
    """Answers as it is told."""

    def __init__(self) -> None:
        store = SQLiteStore(os.environ["ORACLE_DATABASE"], owner=lambda user: user)
        super().__init__(store, policy=TurnPolicy(heartbeat=0.2))
        self.released = trio.Event()

    def release(self) -> None:
        self.released.set()
        self.released = trio.Event()

    async def respond(self, thread, input_user_message, context):
        if input_user_message is None:
            async for event in self.go_on(thread, context):
                yield event
            return
        said = input_user_message.content[0].text
        acts = {
            "everything": self.everything,
            "late": self.late,
            "tool": self.tool,
            "ask": self.ask,
            "half": self.half,
            "fail": self.fail,
            "bug": self.bug,
        }
        if said in acts:
            async for event in acts[said](thread):
                yield event
        else:
            async for event in stream_text(thread, self.words(f"You said {said}")):
                yield event

    async def words(self, text):
        for word in text.split(" "):
            await trio.lowlevel.checkpoint()
            yield word if text.endswith(word) else word + " "

    def fields(self, thread, number=0):
        made = self.store.generate_item_id("message", thread, "")
        return {"id": made, "thread_id": thread.id, "created_at": datetime.now(UTC)}

    async def everything(self, thread):
        thread.title = "All there is"
        yield ProgressUpdateEvent(text="Looking around")
        async for event in self.thoughts(thread):
            yield event
        async for event in self.message_with_sources(thread):
            yield event

        async def states():
            for text in ("He", "Hello"):
                yield Card(children=[Markdown(id="m", value=text, streaming=text == "He")])

        async for event in stream_widget(thread, states()):
            yield event
        workflow = WorkflowItem(
            **self.fields(thread), workflow=Workflow(type="custom", tasks=[CustomTask(title="One")])
        )
        yield ThreadItemAddedEvent(item=workflow)
        two = CustomTask(title="Two")
        yield ThreadItemUpdatedEvent(
            item_id=workflow.id, update=WorkflowTaskAdded(task_index=1, task=two)
        )
        workflow.workflow.tasks.append(two)
        yield ThreadItemDoneEvent(item=workflow)
        yield ThreadItemDoneEvent(item=TaskItem(**self.fields(thread), task=CustomTask(title="T")))
        image = GeneratedImageItem(**self.fields(thread))
        yield ThreadItemAddedEvent(item=image)
        picture = GeneratedImage(id="i", url=PICTURE)
        yield ThreadItemUpdatedEvent(
            item_id=image.id, update=GeneratedImageUpdated(image=picture, progress=0.5)
        )
        yield ThreadItemDoneEvent(item=image.model_copy(update={"image": picture}))
        yield NoticeEvent(level="info", message="Mind the gap")
        yield ClientEffectEvent(name="confetti", data={"pieces": 3})

    async def thoughts(self, thread):
        item = WorkflowItem(**self.fields(thread), workflow=Workflow(type="reasoning", tasks=[]))
        yield ThreadItemAddedEvent(item=item)
        first = ThoughtTask(content="I ")
        yield ThreadItemUpdatedEvent(
            item_id=item.id, update=WorkflowTaskAdded(task_index=0, task=first)
        )
        whole = ThoughtTask(title="Musing", content="I wonder")
        yield ThreadItemUpdatedEvent(
            item_id=item.id, update=WorkflowTaskUpdated(task_index=0, task=whole)
        )
        summary = CustomSummary(title="Mused")
        done = Workflow(type="reasoning", tasks=[whole], summary=summary)
        yield ThreadItemDoneEvent(item=item.model_copy(update={"workflow": done}))

    async def message_with_sources(self, thread):
        item = AssistantMessageItem(
            **self.fields(thread), content=[AssistantMessageContent(text="")]
        )
        yield ThreadItemAddedEvent(item=item)
        for delta in ("Seen ", "it"):
            yield ThreadItemUpdatedEvent(
                item_id=item.id,
                update=AssistantMessageContentPartTextDelta(content_index=0, delta=delta),
            )
        annotations = [
            Annotation(source=URLSource(title="Site", url="https://site.example/")),
            Annotation(source=FileSource(title="Paper", filename="paper.pdf")),
            Annotation(source=EntitySource(title="Thing", id="thing_1")),
        ]
        yield ThreadItemUpdatedEvent(
            item_id=item.id,
            update=AssistantMessageContentPartAnnotationAdded(
                content_index=0, annotation_index=0, annotation=annotations[0]
            ),
        )
        content = AssistantMessageContent(text="Seen it", annotations=annotations)
        yield ThreadItemDoneEvent(item=item.model_copy(update={"content": [content]}))

    async def late(self, thread):
        """What comes in an order that isn't the usual one."""
        item = AssistantMessageItem(**self.fields(thread), content=[])

        def update(change):
            return ThreadItemUpdatedEvent(item_id=item.id, update=change)

        def delta(text):
            return update(AssistantMessageContentPartTextDelta(content_index=0, delta=text))

        yield ThreadItemAddedEvent(item=item)
        yield update(
            AssistantMessageContentPartAdded(
                content_index=0, content=AssistantMessageContent(text="")
            )
        )
        yield delta("Seen ")
        yield ThreadItemDoneEvent(
            item=ClientToolCallItem(
                **self.fields(thread), call_id="call_1", name="look", arguments={}, output="Porto"
            ).model_copy(update={"status": "completed"})
        )
        yield delta("it")
        content = AssistantMessageContent(text="Seen it")
        yield update(AssistantMessageContentPartDone(content_index=0, content=content))
        sources = [
            Annotation(source=URLSource(title=name, url=f"https://{name}.example/"))
            for name in ("one", "two")
        ]
        yield update(
            AssistantMessageContentPartAnnotationAdded(
                content_index=0, annotation_index=0, annotation=sources[0]
            )
        )
        cited = content.model_copy(update={"annotations": sources})
        yield ThreadItemDoneEvent(item=item.model_copy(update={"content": [cited]}))

    async def tool(self, thread):
        async for event in stream_text(thread, ["Let me see. "]):
            yield event
        yield ThreadItemDoneEvent(
            item=ClientToolCallItem(
                **self.fields(thread), call_id="call_1", name="get_place", arguments={"exact": True}
            )
        )

    async def ask(self, thread):
        question = StructuredInputFreeform(id="colour", question="Which colour?")
        yield ThreadItemDoneEvent(
            item=StructuredInputItem(**self.fields(thread), inputs=[question])
        )

    async def go_on(self, thread, context):
        page = await self.store.load_thread_items(thread.id, None, 1, "desc", context)
        item = page.data[0]
        said = item.output if item.type == "client_tool_call" else item.inputs[0].answer.values[0]
        async for event in stream_text(thread, [f"So it is {said}"]):
            yield event

    def half(self, thread):
        async def words():
            yield "half "
            await self.released.wait()
            yield "whole"

        return stream_text(thread, words())

    async def fail(self, thread):
        async for event in stream_text(thread, self.failing(CustomStreamError("I am tired."))):
            yield event

    async def bug(self, thread):
        async for event in stream_text(thread, self.failing(RuntimeError("a secret"))):
            yield event

    async def failing(self, error):
        yield "so far"
        raise error


oracle = Oracle()


def user_of(request) -> str:
    if request.headers.get("X-User") == "nobody":
        raise PermissionError
    return request.headers.get("X-User", "ada")


app = create_app(oracle, context=user_of)
for returning in (False, True):
    suffix = "-returning" if returning else ""
    settings = {"context": user_of, "clients_return": returning}
    app.register_blueprint(
        ai_sdk_blueprint(oracle, path=f"/api/chat{suffix}", name=f"ai{suffix}", **settings)
    )
    app.register_blueprint(
        ag_ui_blueprint(oracle, path=f"/ag-ui{suffix}", name=f"ag{suffix}", **settings)
    )


@app.post("/release")
async def release() -> Response:
    oracle.release()
    return Response("")
