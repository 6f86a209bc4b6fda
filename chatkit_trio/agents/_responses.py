"""From the events of a model's answer (OpenAI Responses) to the events of a thread.

`ResponseTranslator` takes events of the model and of its tools in the order of production and
returns thread events. Every item gets an id from the store; the model's own ids only tell which of
its events belong together. Nothing is started here, and the only awaits are the conversions of
`ResponseStreamConverter`, which an application may override.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from chatkit_trio._engine.foreign import read_event
from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientToolCallItem,
    FileSource,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThoughtTask,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
    URLSource,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)

from ._context import AgentContext, is_shown, snapshot, task_added, task_updated

if TYPE_CHECKING:
    from openai.types.responses.response_output_text import (
        AnnotationContainerFileCitation,
        AnnotationFileCitation,
        AnnotationURLCitation,
    )

logger = logging.getLogger(__name__)

_EXTRAS = {"openai": "openai", "agents": "agents", "pydantic_ai": "pydantic-ai"}
"""The extra that installs a package, by the package's name."""

_Events = list[ThreadStreamEvent]

_BESIDE_WORKFLOWS = ClientToolCallItem | HiddenContextItem | SDKHiddenContextItem
"""Items that don't end the workflow in progress, because the user doesn't see them."""


def require(module: str) -> Any:
    """Return a module of an optional package.

    Raises `ImportError` that names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = _EXTRAS[module.partition(".")[0]]
        raise ImportError(
            f"this needs the package of {module!r}: pip install 'chatkit-trio[{extra}]'"
        ) from error


class ResponseStreamConverter:
    """How a model's images and citations are shown in the thread; override what your app needs.

    `partial_images` is how many previews of an image were asked for; without it the progress of an
    image isn't known and stays 0.
    """

    partial_images: int | None = None

    def __init__(self, *, partial_images: int | None = None) -> None:
        self.partial_images = partial_images

    async def base64_image_to_url(
        self, image_id: str, base64_image: str, partial_image_index: int | None = None
    ) -> str:
        """Return a URL for an image; the default is a data URL, which can be large.

        `image_id` is the same for all previews of one image and its final version, and unique.
        `partial_image_index` counts previews from 0, and is None for the final version.
        """
        return f"data:image/png;base64,{base64_image}"

    def partial_image_index_to_progress(self, partial_image_index: int) -> float:
        """Return how far an image is, from 0 to 1, at this preview."""
        if not self.partial_images or self.partial_images < 0:
            return 0.0
        return min(1.0, partial_image_index / self.partial_images)

    async def file_citation_to_annotation(
        self, file_citation: AnnotationFileCitation
    ) -> Annotation | None:
        """Return the annotation for a citation of a file, or None to leave it out."""
        return _file_annotation(file_citation.filename, file_citation.index)

    async def container_file_citation_to_annotation(
        self, container_file_citation: AnnotationContainerFileCitation
    ) -> Annotation | None:
        """Return the annotation for a citation of a container's file, or None to leave it out."""
        citation = container_file_citation
        return _file_annotation(citation.filename, citation.end_index)

    async def url_citation_to_annotation(
        self, url_citation: AnnotationURLCitation
    ) -> Annotation | None:
        """Return the annotation for a citation of a web page, or None to leave it out."""
        source = URLSource(url=url_citation.url, title=url_citation.title)
        return Annotation(source=source, index=url_citation.end_index)


def _file_annotation(filename: str | None, index: int) -> Annotation | None:
    if not filename:
        return None
    return Annotation(source=FileSource(filename=filename, title=filename), index=index)


DEFAULT_CONVERTER = ResponseStreamConverter()


@dataclass(slots=True)
class _Message:
    """An assistant message in progress."""

    id: str
    created_at: datetime
    annotations: dict[int, list[Annotation]] = field(default_factory=dict)


@dataclass(slots=True)
class _Thought:
    """A thought in progress: its text in pieces, and how much of it the client has.

    An update carries the whole text, so one update a piece would be quadratic. Past a few hundred
    characters an update is sent when the text has grown by a sixty-fourth.
    """

    model_id: str
    summary_index: int
    task: ThoughtTask
    pieces: list[str]
    length: int
    sent_length: int

    def append(self, delta: str) -> bool:
        """Append a piece and say whether an update is due."""
        self.pieces.append(delta)
        self.length += len(delta)
        return self.length - self.sent_length > self.length // 64

    def flush(self) -> None:
        """Bring the task up to date."""
        self.pieces = ["".join(self.pieces)]
        self.task.content = self.pieces[0]
        self.sent_length = self.length


class ResponseTranslator:
    """Turns the events of one run into thread events; each run needs a new one."""

    def __init__(self, context: AgentContext[Any], converter: ResponseStreamConverter) -> None:
        self._context = context
        self._converter = converter
        self._messages: dict[str, _Message] = {}
        self._images: dict[str, GeneratedImageItem] = {}
        self._thought: _Thought | None = None
        self._open_workflow: WorkflowItem | None = None
        """The workflow in progress, as this translator has seen it."""
        self._closed_workflows: set[str] = set()
        self._produced: dict[str, None] = {}
        self._calls: list[tuple[str | None, str]] = []

    async def resume(self) -> None:
        """Continue the workflow that the last turn left open, if the thread ends with one.

        A client tool call may stand behind it: then this turn was begun by the tool's output.
        """
        context = self._context
        page = await context.store.load_thread_items(
            context.thread.id, None, 2, "desc", context.request_context
        )
        newest = page.data
        if newest and isinstance(newest[0], ClientToolCallItem):
            newest = newest[1:]
        if newest and isinstance(newest[0], WorkflowItem) and context.workflow_item is None:
            context.workflow_item = self._open_workflow = newest[0]
            context._resumed_workflow_id = newest[0].id

    async def translate(self, event: Any) -> _Events:
        """Return the thread events for a model's event, bare or as the Agents SDK wraps it."""
        if event.type == "run_item_stream_event":
            if event.item.type == "tool_call_item":
                self._note_call(event.item.raw_item)
            return []
        if event.type == "raw_response_event":
            event = event.data
        if event.type in _CONVERTING:
            return [made async for made in _CONVERTING[event.type](self, event)]
        if event.type in _PLAIN:
            return list(_PLAIN[event.type](self, event))
        return []

    def pass_on(self, event: ThreadStreamEvent) -> _Events:
        """Return a tool's thread event, and before it what it ends."""
        events: _Events = []
        own = read_event(event)  # what is no event, the turn refuses
        if isinstance(own, ThreadItemAddedEvent | ThreadItemDoneEvent):
            events += self._close_workflow_for(own.item)
            self._produced[own.item.id] = None
            if isinstance(own.item, WorkflowItem):
                is_open = isinstance(own, ThreadItemAddedEvent)
                self._open_workflow = self._live(own.item) if is_open else None
        elif isinstance(own, ThreadItemUpdatedEvent) and self._comes_late(own):
            return []
        return [*events, event]

    def finish(self) -> _Events:
        """Return the last events, when the run is over."""
        events: _Events = []
        item, self._context.workflow_item = self._context.workflow_item, None
        if item is not None:
            # The workflow isn't closed: the next turn may continue it.
            self._flush_thought()
            self._produced[item.id] = None
            events.append(self._context._finished(item))
        if self._context.client_tool_call is not None:
            events.append(ThreadItemDoneEvent(item=self._client_tool_call()))
        return events

    def withdraw(self) -> _Events:
        """Return the events that remove every item of the run, in the order of production."""
        self._context.workflow_item = None
        return [ThreadItemRemovedEvent(item_id=item_id) for item_id in self._produced]

    # --- Messages ------------------------------------------------------------------------------

    def _begin_message(
        self, model_id: str, content: list[AssistantMessageContent]
    ) -> Iterator[ThreadStreamEvent]:
        message = _Message(self._context.generate_id("message"), datetime.now(UTC))
        self._messages[model_id] = message
        yield from self._close_workflow()
        self._produced[message.id] = None
        yield ThreadItemAddedEvent(item=self._message_item(message, content))

    def _message_item(
        self, message: _Message, content: list[AssistantMessageContent]
    ) -> AssistantMessageItem:
        return AssistantMessageItem(
            id=message.id,
            thread_id=self._context.thread.id,
            created_at=message.created_at,
            content=content,
        )

    def _update_message(
        self, model_id: str, update: ThreadItemUpdate
    ) -> Iterator[ThreadStreamEvent]:
        if model_id not in self._messages:
            # Some providers leave out the event that begins a message.
            yield from self._begin_message(model_id, [])
        yield ThreadItemUpdatedEvent(item_id=self._messages[model_id].id, update=update)

    def _text_delta(self, event: Any) -> Iterator[ThreadStreamEvent]:
        """Handle a piece of text or of a refusal; both are shown to the user."""
        update = AssistantMessageContentPartTextDelta(
            content_index=event.content_index, delta=event.delta
        )
        return self._update_message(event.item_id, update)

    def _text_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._part_done(event, event.text)

    def _refusal_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._part_done(event, event.refusal)

    def _part_done(self, event: Any, text: str) -> Iterator[ThreadStreamEvent]:
        message = self._messages.get(event.item_id)
        annotations = [] if message is None else message.annotations.get(event.content_index, [])
        content = AssistantMessageContent(text=text, annotations=list(annotations))
        update = AssistantMessageContentPartDone(content_index=event.content_index, content=content)
        return self._update_message(event.item_id, update)

    async def _part_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        if event.part.type not in _TEXT_OF:
            return
        content = await self._content(event.part)
        update = AssistantMessageContentPartAdded(
            content_index=event.content_index, content=content
        )
        for made in self._update_message(event.item_id, update):
            yield made

    async def _annotation_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        annotation = await self._annotation(event.annotation)
        if annotation is None:
            return
        if event.item_id not in self._messages:
            for made in self._begin_message(event.item_id, []):
                yield made
        message = self._messages[event.item_id]
        # Counted here, because the model's index counts annotations that were left out too.
        annotations = message.annotations.setdefault(event.content_index, [])
        annotations.append(annotation)
        update = AssistantMessageContentPartAnnotationAdded(
            content_index=event.content_index,
            annotation_index=len(annotations) - 1,
            annotation=annotation,
        )
        yield ThreadItemUpdatedEvent(item_id=message.id, update=update)

    async def _contents(self, parts: Any) -> list[AssistantMessageContent]:
        return [await self._content(part) for part in parts if part.type in _TEXT_OF]

    async def _content(self, part: Any) -> AssistantMessageContent:
        converted = [await self._annotation(raw) for raw in getattr(part, "annotations", ())]
        annotations = [annotation for annotation in converted if annotation is not None]
        text = getattr(part, _TEXT_OF[part.type])
        return AssistantMessageContent(text=text, annotations=annotations)

    async def _annotation(self, raw: Any) -> Annotation | None:
        try:
            # The OpenAI client doesn't always parse these: one may be a dict, or of a wrong class.
            citation = _citation_adapter().validate_python(raw, from_attributes=True)
        except ValidationError:
            logger.warning("an annotation of an unknown kind was left out")
            return None
        match citation.type:
            case "file_citation":
                return await self._converter.file_citation_to_annotation(citation)
            case "container_file_citation":
                return await self._converter.container_file_citation_to_annotation(citation)
            case "url_citation":
                return await self._converter.url_citation_to_annotation(citation)
        return None

    # --- Items ---------------------------------------------------------------------------------

    async def _item_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        item = event.item
        if item.type == "message":
            for made in self._begin_message(item.id, await self._contents(item.content)):
                yield made
        elif item.type == "reasoning" and self._context.workflow_item is None:
            yield self._begin_reasoning()
        elif item.type == "image_generation_call":
            yield self._begin_image(item.id)

    async def _item_done(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        item = event.item
        if item.type == "message":
            content = await self._contents(item.content)
            for made in self._end_message(item.id, content):
                yield made
        elif item.type == "image_generation_call" and item.result:
            image_item = self._images.pop(item.id, None)
            if image_item is not None:
                image_item.image = await self._image(image_item, item.result, None)
                self._context.generated_image_item = None
                yield ThreadItemDoneEvent(item=image_item.model_copy())
        elif item.type == "function_call":
            self._note_call(item)

    def _end_message(
        self, model_id: str, content: list[AssistantMessageContent]
    ) -> Iterator[ThreadStreamEvent]:
        if model_id not in self._messages:
            yield from self._begin_message(model_id, [])
        # Removed, so that a later message of the same model id is a new item.
        message = self._messages.pop(model_id)
        yield ThreadItemDoneEvent(item=self._message_item(message, content))

    def _note_call(self, call: Any) -> None:
        def get(name: str) -> Any:
            return call.get(name) if isinstance(call, dict) else getattr(call, name, None)

        if get("type") == "function_call" and get("call_id"):
            self._calls.append((get("name"), get("call_id")))

    def _client_tool_call(self) -> ClientToolCallItem:
        call = self._context.client_tool_call
        assert call is not None
        same_name = [call_id for name, call_id in self._calls if name == call.name]
        call_ids = same_name or [call_id for _name, call_id in self._calls]
        return ClientToolCallItem(
            id=self._context.generate_id("tool_call"),
            thread_id=self._context.thread.id,
            created_at=datetime.now(UTC),
            call_id=call_ids[-1] if call_ids else self._context.generate_id("tool_call"),
            name=call.name,
            arguments=call.arguments,
        )

    # --- Images --------------------------------------------------------------------------------

    def _begin_image(self, model_id: str) -> ThreadStreamEvent:
        item = GeneratedImageItem(
            id=self._context.generate_id("message"),
            thread_id=self._context.thread.id,
            created_at=datetime.now(UTC),
        )
        self._images[model_id] = item
        self._context.generated_image_item = item
        self._produced[item.id] = None
        return ThreadItemAddedEvent(item=item.model_copy())

    async def _partial_image(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        item = self._images.get(event.item_id)
        if item is None:
            return
        index = event.partial_image_index
        item.image = await self._image(item, event.partial_image_b64, index)
        progress = self._converter.partial_image_index_to_progress(index)
        update = GeneratedImageUpdated(image=item.image, progress=progress)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=update)

    async def _image(
        self, item: GeneratedImageItem, base64_image: str, index: int | None
    ) -> GeneratedImage:
        url = await self._converter.base64_image_to_url(
            image_id=item.id, base64_image=base64_image, partial_image_index=index
        )
        return GeneratedImage(id=item.id, url=url)

    # --- Workflows and thoughts ----------------------------------------------------------------

    def _begin_reasoning(self) -> ThreadStreamEvent:
        item = self._context._new_workflow(Workflow(type="reasoning", tasks=[]))
        self._context.workflow_item = self._open_workflow = item
        self._produced[item.id] = None
        return ThreadItemAddedEvent(item=snapshot(item))

    def _thought_delta(self, event: Any) -> Iterator[ThreadStreamEvent]:
        item = self._context.workflow_item
        if item is None:
            return
        thought = self._thought_of(event, item)
        if thought is not None:
            if thought.append(event.delta):
                thought.flush()
                yield task_updated(item, _index_of(thought.task, item))
        elif item.workflow.type == "reasoning" and not item.workflow.tasks:
            # Only the first thought of a workflow is shown while it grows.
            task = ThoughtTask(content=event.delta)
            length = len(event.delta)
            self._thought = _Thought(
                event.item_id, event.summary_index, task, [event.delta], length, length
            )
            yield self._add_task(item, task)

    def _thought_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        item = self._context.workflow_item
        if item is None:
            return
        thought = self._thought_of(event, item)
        if thought is None:
            yield self._add_task(item, ThoughtTask(content=event.text))
        else:
            self._thought = None
            thought.task.content = event.text
            yield task_updated(item, _index_of(thought.task, item))

    def _thought_of(self, event: Any, item: WorkflowItem) -> _Thought | None:
        thought = self._thought
        if (
            thought is not None
            and (thought.model_id, thought.summary_index) == (event.item_id, event.summary_index)
            and _has_task(item, thought.task)
        ):
            return thought
        return None

    def _add_task(self, item: WorkflowItem, task: ThoughtTask) -> ThreadStreamEvent:
        was_shown = is_shown(item.workflow)
        item.workflow.tasks.append(task)
        if was_shown:
            return task_added(item, len(item.workflow.tasks) - 1)
        self._open_workflow = item
        self._produced[item.id] = None
        return ThreadItemAddedEvent(item=snapshot(item))

    def _flush_thought(self) -> None:
        if self._thought is not None:
            self._thought.flush()
            self._thought = None

    def _live(self, item: WorkflowItem) -> WorkflowItem:
        """Return the context's own object for a workflow, because that one gets later changes."""
        current = self._context.workflow_item
        return current if current is not None and current.id == item.id else item

    def _close_workflow_for(self, item: ThreadItem) -> _Events:
        current = self._open_workflow
        if current is None or current.id == item.id or isinstance(item, _BESIDE_WORKFLOWS):
            return []
        return self._close_workflow()

    def _close_workflow(self) -> _Events:
        item = self._open_workflow
        if item is None:
            return []
        self._flush_thought()
        self._open_workflow = None
        self._closed_workflows.add(item.id)
        if self._context.workflow_item is item:
            self._context.workflow_item = None
        return [self._context._ended(item, expanded=False)]

    def _comes_late(self, event: ThreadItemUpdatedEvent) -> bool:
        """Say whether a task's update comes after its workflow was stored, with the task in it."""
        is_task = isinstance(event.update, WorkflowTaskAdded | WorkflowTaskUpdated)
        return is_task and event.item_id in self._closed_workflows


def _index_of(task: ThoughtTask, item: WorkflowItem) -> int:
    # By identity: two tasks may well be equal.
    return next(index for index, other in enumerate(item.workflow.tasks) if other is task)


def _has_task(item: WorkflowItem, task: ThoughtTask) -> bool:
    return any(other is task for other in item.workflow.tasks)


_TEXT_OF = {"output_text": "text", "refusal": "refusal"}


@cache
def _citation_adapter() -> TypeAdapter[Any]:
    annotation: Any = require("openai.types.responses.response_output_text").Annotation
    return TypeAdapter(annotation)


_PLAIN: dict[str, Callable[[ResponseTranslator, Any], Iterator[ThreadStreamEvent]]] = {
    "response.output_text.delta": ResponseTranslator._text_delta,
    "response.output_text.done": ResponseTranslator._text_done,
    "response.refusal.delta": ResponseTranslator._text_delta,
    "response.refusal.done": ResponseTranslator._refusal_done,
    "response.reasoning_summary_text.delta": ResponseTranslator._thought_delta,
    "response.reasoning_summary_text.done": ResponseTranslator._thought_done,
}

_CONVERTING: dict[str, Callable[[ResponseTranslator, Any], AsyncIterator[ThreadStreamEvent]]] = {
    "response.content_part.added": ResponseTranslator._part_added,
    "response.output_text.annotation.added": ResponseTranslator._annotation_added,
    "response.output_item.added": ResponseTranslator._item_added,
    "response.output_item.done": ResponseTranslator._item_done,
    "response.image_generation_call.partial_image": ResponseTranslator._partial_image,
}
