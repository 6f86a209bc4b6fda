"""From the events of a model's answer (OpenAI Responses) to the events of a thread.

`ResponseTranslator` takes events of the model and of its tools in the order of production and
returns thread events. Every item gets an id from the store; the model's own ids only tell which of
its events belong together. Nothing is started here, and the only awaits are the conversions of
`ResponseStreamConverter`, which an application may override.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from chatkit_trio._engine.foreign import read_event, read_item
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
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
    URLSource,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)

from ._citations import citation_of
from ._context import AgentContext, snapshot, task_added, task_updated
from ._output_items import InOrder, Message, OpenItems, Reasoning, ThoughtPart

if TYPE_CHECKING:
    from openai.types.responses.response_output_text import (
        AnnotationContainerFileCitation,
        AnnotationFileCitation,
        AnnotationURLCitation,
    )

_Events = list[ThreadStreamEvent]

_BESIDE_WORKFLOWS = ClientToolCallItem | HiddenContextItem | SDKHiddenContextItem
"""Items that don't end the workflow in progress, because the user doesn't see them."""


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
class _Thought:
    """A thought in progress: its text in pieces, and how much of it the client has.

    An update carries the whole text, so one update a piece would be quadratic. Past a few hundred
    characters an update is sent when the text has grown by a sixty-fourth.
    """

    reasoning: Reasoning
    part: ThoughtPart
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
        self._messages: OpenItems[Message] = OpenItems()
        self._images: OpenItems[GeneratedImageItem] = OpenItems()
        self._reasonings: OpenItems[Reasoning] = OpenItems()
        self._order = InOrder()
        self._done: list[tuple[int | None, Any]] = []
        """The items of the answer that the model has ended, with their indexes."""
        self._ended_response: str | None = None
        """The id of the answer that ended last, if no other has begun since."""
        self._thought: _Thought | None = None
        self._open_workflow: WorkflowItem | None = None
        """The workflow in progress, as this translator has seen it."""
        self._resumed: tuple[WorkflowItem, WorkflowItem] | None = None
        """The workflow of an earlier turn that goes on, and as it was."""
        self._closed_workflows: set[str] = set()
        self._produced: dict[str, None] = {}
        self._calls: list[tuple[str | None, str]] = []
        self.is_incomplete = False
        """Whether the newest answer was cut by the model itself, for example by its length."""

    async def resume(self) -> None:
        """Continue the workflow that the last turn left open, if the thread ends with one.

        A client tool call may stand behind it: then this turn was begun by the tool's output. One
        that was put into the context before the run is in progress as it is.
        """
        context = self._context
        if context.workflow_item is not None and context._is_shown(context.workflow_item):
            self._open_workflow = context.workflow_item
        page = await context.store.load_thread_items(
            context.thread.id, None, 2, "desc", context.request_context
        )
        newest = [read_item(item) for item in page.data]
        if newest and isinstance(newest[0], ClientToolCallItem):
            newest = newest[1:]
        if newest and isinstance(newest[0], WorkflowItem) and context.workflow_item is None:
            context.workflow_item = self._open_workflow = newest[0]
            context._resumed_workflow_id = newest[0].id
            self._resumed = newest[0], snapshot(newest[0])

    async def translate(self, event: Any) -> _Events:
        """Return the thread events for a model's event, bare or as the Agents SDK wraps it."""
        if event.type == "run_item_stream_event":
            if event.item.type == "tool_call_item":
                self._note_call(event.item.raw_item)
            return []
        if event.type == "raw_response_event":
            event = event.data
        kind = event.type
        if kind in _CONVERTING:
            return [made async for made in _CONVERTING[kind](self, event)]
        if kind in _PLAIN:
            return list(_PLAIN[kind](self, event))
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
        elif isinstance(own, ThreadItemRemovedEvent):
            self._produced.pop(own.item_id, None)
            if self._open_workflow is not None and self._open_workflow.id == own.item_id:
                self._leave_workflow()
            return [event, *self._order.drop(own.item_id)]
        elif isinstance(own, ThreadItemUpdatedEvent) and self._comes_late(own):
            return []
        elif isinstance(own, ThreadItemReplacedEvent):
            self._leave_if_ended(own.item)
        return [*events, *self._in_order(event, own)]

    def _in_order(self, event: ThreadStreamEvent, own: Any) -> Iterator[ThreadStreamEvent]:
        """Return a tool's event so that the thread has its item where the page shows it.

        Items of a model or of tools that run at once may be open meanwhile.
        """
        match own:
            case ThreadItemAddedEvent() | ThreadItemDoneEvent() if isinstance(
                own.item, _BESIDE_WORKFLOWS
            ):
                yield event  # no page shows it, so it has no place there
            case ThreadItemAddedEvent():
                self._order.begin(own.item.id)
                yield event
            case ThreadItemDoneEvent():
                if self._order.has_open and not self._order.has_begun(own.item.id):
                    # It is shown now, behind the open ones, and has to be stored behind them.
                    self._order.begin(own.item.id)
                    yield ThreadItemAddedEvent(item=own.item)
                yield from self._order.end(own.item.id, event)
            case ThreadItemUpdatedEvent():
                yield from self._order.change(own.item_id, event)
            case ThreadItemReplacedEvent():
                yield from self._order.change(own.item.id, event)
            case _:
                yield event

    def finish(self) -> _Events:
        """Return the last events, when the run is over."""
        events = self._order.release()
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
        """Return the events that remove every item of the run, in the order of production.

        A workflow of an earlier turn becomes what it was.
        """
        self._context.workflow_item = self._open_workflow = None
        self._forget_items()
        self._order.release()
        events: _Events = [ThreadItemRemovedEvent(item_id=item_id) for item_id in self._produced]
        if self._resumed is not None and self._resumed[0] != self._resumed[1]:
            events.append(ThreadItemReplacedEvent(item=self._resumed[1]))
        return events

    def leave(self, context: AgentContext[Any]) -> _Events:
        """Return the events that end what a run has left open, for another begins in `context`.

        A workflow stays open if it goes on in that context.
        """
        events = list(self._end_items())
        if context is not self._context:
            events += self._close_workflow()
        return [*events, *self._order.release()]

    # --- Responses -----------------------------------------------------------------------------

    def _response_begins(self, event: Any) -> Iterator[ThreadStreamEvent]:
        yield from self._order.release()
        self._forget_items()
        self._ended_response = None
        self.is_incomplete = False

    def _forget_items(self) -> None:
        for items in (self._messages, self._images, self._reasonings):
            items.take_all()
        self._done.clear()

    async def _response_ends(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        """End what the provider hasn't ended, and say whether the answer is complete."""
        response = getattr(event, "response", None)
        response_id = getattr(response, "id", None)
        if response_id is not None and response_id == self._ended_response:
            return  # some gateways tell the end twice
        for index, item in self._left_of(response):
            async for made in self._end_item(index, item):
                yield made
        for made in self._end_items():
            yield made
        for made in self._order.release():
            yield made
        self._ended_response = response_id
        if is_cut(event):
            self.is_incomplete = True

    def _end_items(self) -> Iterator[ThreadStreamEvent]:
        for message in self._messages.take_all():
            yield from self._end_message(message, [])
        for image in self._images.take_all():
            yield from self._end_image(image)
        self._forget_items()

    def _left_of(self, response: Any) -> list[tuple[int, Any]]:
        """Return the items of a whole answer that haven't been shown, or not to their end.

        Some gateways send some of the items with the last event only, or all of them.
        """
        items = output_of(response)
        output = [(i, item) for i, item in enumerate(items) if item not in items[:i]]

        def left(kind: str, items: OpenItems[Any]) -> list[tuple[int, Any]]:
            return items.left([entry for entry in output if entry[1].type == kind])

        found = left("image_generation_call", self._images)
        if not (self._messages.are_known or self._images.are_known):
            # A thought that comes behind what it led to would be shown behind it.
            found += left("reasoning", self._reasonings)
        found += left("message", self._messages)
        found += [entry for entry in output if entry[1].type == "function_call"]
        return sorted(found, key=operator.itemgetter(0))

    # --- Messages ------------------------------------------------------------------------------

    def _begin_message(
        self, index: int | None, model_id: Any, content: list[AssistantMessageContent]
    ) -> Iterator[ThreadStreamEvent]:
        message = Message(self._context.generate_id("message"), datetime.now(UTC))
        for place, part in enumerate(content):
            message.set_part(place, part)
        self._messages.add(index, model_id, message)
        yield from self._close_workflow()
        self._begin(message.id)
        yield ThreadItemAddedEvent(item=self._message_item(message, content))

    def _begin(self, item_id: str) -> None:
        self._ended_response = None
        self._produced[item_id] = None
        self._order.begin(item_id)

    def _message_item(
        self, message: Message, content: list[AssistantMessageContent]
    ) -> AssistantMessageItem:
        return AssistantMessageItem(
            id=message.id,
            thread_id=self._context.thread.id,
            created_at=message.created_at,
            content=content,
        )

    def _message_of(self, event: Any) -> tuple[Message | None, _Events]:
        """Return the message that an event is about, and the events that begin it.

        None if the message has ended.
        """
        index, model_id = _place(event)
        message = self._messages.find(index, model_id)
        if message is not None:
            return message, []
        if self._messages.has_ended(index):
            return None, []
        # Some providers leave out the event that begins a message.
        events = list(self._begin_message(index, model_id, []))
        return self._messages.find(index, model_id), events

    def _text_delta(self, event: Any) -> Iterator[ThreadStreamEvent]:
        """Handle a piece of text or of a refusal; both are shown to the user."""
        if event.delta is None:
            return
        message, begun = self._message_of(event)
        yield from begun
        if message is not None:
            index = _content_index(event)
            message.part(index).pieces.append(event.delta)
            update = AssistantMessageContentPartTextDelta(content_index=index, delta=event.delta)
            yield ThreadItemUpdatedEvent(item_id=message.id, update=update)

    def _text_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._part_done(event, event.text)

    def _refusal_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._part_done(event, event.refusal)

    def _part_done(self, event: Any, text: str | None) -> Iterator[ThreadStreamEvent]:
        message, begun = self._message_of(event)
        yield from begun
        if message is not None:
            index = _content_index(event)
            part = message.part(index)
            content = AssistantMessageContent(
                text=text or "".join(part.pieces), annotations=list(part.annotations)
            )
            message.set_part(index, content)
            update = AssistantMessageContentPartDone(content_index=index, content=content)
            yield ThreadItemUpdatedEvent(item_id=message.id, update=update)

    async def _part_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        if not _is_text(getattr(event, "part", None)):
            return
        content = await self._content(event.part)
        message, begun = self._message_of(event)
        for made in begun:
            yield made
        if message is not None:
            index = _content_index(event)
            message.set_part(index, content)
            update = AssistantMessageContentPartAdded(content_index=index, content=content)
            yield ThreadItemUpdatedEvent(item_id=message.id, update=update)

    async def _annotation_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        annotation = await self._annotation(event.annotation)
        if annotation is None:
            return
        message, begun = self._message_of(event)
        for made in begun:
            yield made
        if message is not None:
            index = _content_index(event)
            # Counted here, because the model's index counts annotations that were left out too.
            annotations = message.part(index).annotations
            annotations.append(annotation)
            update = AssistantMessageContentPartAnnotationAdded(
                content_index=index,
                annotation_index=len(annotations) - 1,
                annotation=annotation,
            )
            yield ThreadItemUpdatedEvent(item_id=message.id, update=update)

    async def _contents(self, parts: Any) -> list[AssistantMessageContent]:
        if isinstance(parts, str):
            return [AssistantMessageContent(text=parts)]
        return [await self._content(part) for part in parts or () if _is_text(part)]

    async def _content(self, part: Any) -> AssistantMessageContent:
        raw = getattr(part, "annotations", None) or ()
        converted = [await self._annotation(each) for each in raw]
        annotations = [annotation for annotation in converted if annotation is not None]
        text = getattr(part, _TEXT_OF[part.type], None) or ""
        return AssistantMessageContent(text=text, annotations=annotations)

    async def _annotation(self, raw: Any) -> Annotation | None:
        citation = citation_of(raw)
        match citation and citation.type:
            case "file_citation":
                return await self._converter.file_citation_to_annotation(citation)
            case "container_file_citation":
                return await self._converter.container_file_citation_to_annotation(citation)
            case "url_citation":
                return await self._converter.url_citation_to_annotation(citation)
        return None

    # --- Items ---------------------------------------------------------------------------------

    async def _item_added(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        item, index = item_of(event), _output_index(event)
        if item is None:
            return
        self._ended_response = None
        if item.type == "message":
            content = await self._contents(item.content)
            for made in self._begin_message(index, item.id, content):
                yield made
        elif item.type == "reasoning":
            for made in self._begin_reasoning(index, item.id):
                yield made
        elif item.type == "image_generation_call":
            for made in self._begin_image(index, item.id):
                yield made

    async def _item_done(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        item, index = item_of(event), _output_index(event)
        if item is None or (index, item) in self._done:
            return  # some gateways tell the end twice
        self._ended_response = None
        self._done.append((index, item))
        async for made in self._end_item(index, item):
            yield made
        if is_cut(event):
            self.is_incomplete = True

    async def _end_item(self, index: int | None, item: Any) -> AsyncIterator[ThreadStreamEvent]:
        """Handle an item that is whole, and which may never have begun."""
        model_id = getattr(item, "id", None)
        if item.type == "message":
            content = await self._contents(item.content)
            if self._messages.find(index, model_id) is None:
                for made in self._begin_message(index, model_id, []):
                    yield made
            message = self._messages.end(index, model_id)
            assert message is not None
            for made in self._end_message(message, content):
                yield made
        elif item.type == "reasoning":
            for made in self._end_reasoning(index, item):
                yield made
        elif item.type == "image_generation_call":
            async for made in self._image_done(index, item):
                yield made
        elif item.type == "function_call":
            self._note_call(item)

    def _end_message(
        self, message: Message, content: list[AssistantMessageContent]
    ) -> Iterator[ThreadStreamEvent]:
        content = message.merged(content)
        # One without any text tells nobody anything, and some models refuse it as input.
        end: ThreadStreamEvent = ThreadItemRemovedEvent(item_id=message.id)
        if any(part.text for part in content):
            end = ThreadItemDoneEvent(item=self._message_item(message, content))
        yield from self._order.end(message.id, end)

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

    def _begin_image(self, index: int | None, model_id: Any) -> Iterator[ThreadStreamEvent]:
        item = GeneratedImageItem(
            id=self._context.generate_id("message"),
            thread_id=self._context.thread.id,
            created_at=datetime.now(UTC),
        )
        self._images.add(index, model_id, item)
        self._context.generated_image_item = item
        # What was thought before the image has to be stored before it, too.
        yield from self._close_workflow()
        self._begin(item.id)
        yield ThreadItemAddedEvent(item=item.model_copy())

    async def _partial_image(self, event: Any) -> AsyncIterator[ThreadStreamEvent]:
        index, model_id = _place(event)
        if self._images.find(index, model_id) is None:
            if self._images.has_ended(index):
                return
            for made in self._begin_image(index, model_id):
                yield made
        item = self._images.find(index, model_id)
        assert item is not None
        preview = event.partial_image_index
        item.image = await self._image(item, event.partial_image_b64, preview)
        progress = self._converter.partial_image_index_to_progress(preview)
        update = GeneratedImageUpdated(image=item.image, progress=progress)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=update)

    async def _image_done(self, index: int | None, done: Any) -> AsyncIterator[ThreadStreamEvent]:
        result = getattr(done, "result", None)
        if result and self._images.find(index, done.id) is None:
            for made in self._begin_image(index, done.id):
                yield made
        item = self._images.end(index, done.id)
        if item is None:
            return
        if result:
            item.image = await self._image(item, result, None)
        for made in self._end_image(item):
            yield made

    def _end_image(self, item: GeneratedImageItem) -> Iterator[ThreadStreamEvent]:
        """End an image: with its last preview if the model has failed to finish it."""
        if self._context.generated_image_item is item:
            self._context.generated_image_item = None
        end: ThreadStreamEvent = ThreadItemRemovedEvent(item_id=item.id)
        if item.image is not None:
            end = ThreadItemDoneEvent(item=item.model_copy())
        yield from self._order.end(item.id, end)

    async def _image(
        self, item: GeneratedImageItem, base64_image: str, index: int | None
    ) -> GeneratedImage:
        url = await self._converter.base64_image_to_url(
            image_id=item.id, base64_image=base64_image, partial_image_index=index
        )
        return GeneratedImage(id=item.id, url=url)

    # --- Workflows and thoughts ----------------------------------------------------------------

    def _begin_reasoning(self, index: int | None, model_id: Any) -> Iterator[ThreadStreamEvent]:
        self._reasonings.add(index, model_id, Reasoning())
        if self._context.workflow_item is None:
            _item, events = self._workflow()
            yield from events

    def _workflow(self) -> tuple[WorkflowItem, _Events]:
        """Return the workflow in progress, or a new one and the event that begins it."""
        if self._context.workflow_item is not None:
            return self._context.workflow_item, []
        item = self._context._new_workflow(Workflow(type="reasoning", tasks=[]))
        self._context.workflow_item = self._open_workflow = item
        self._begin(item.id)
        return item, [ThreadItemAddedEvent(item=snapshot(item))]

    def _reasoning_of(self, event: Any) -> tuple[Reasoning | None, _Events]:
        """Return the reasoning that an event is about, and the events that begin it."""
        index, model_id = _place(event)
        reasoning = self._reasonings.find(index, model_id)
        if reasoning is not None:
            return reasoning, []
        if self._reasonings.has_ended(index):
            return None, []
        events = list(self._begin_reasoning(index, model_id))
        return self._reasonings.find(index, model_id), events

    def _thought_delta(self, event: Any) -> Iterator[ThreadStreamEvent]:
        if not event.delta:
            return
        reasoning, begun = self._reasoning_of(event)
        yield from begun
        part = _thought_part(event)
        if reasoning is None or part in reasoning.done:
            return
        item, begun = self._workflow()
        yield from begun
        reasoning.pieces.setdefault(part, []).append(event.delta)
        thought = self._thought_of(reasoning, part, item)
        if thought is not None:
            if thought.append(event.delta):
                thought.flush()
                yield task_updated(item, _index_of(thought.task, item))
        elif item.workflow.type == "reasoning" and not item.workflow.tasks:
            # Only the first thought of a workflow is shown while it grows.
            task = ThoughtTask(content=event.delta)
            length = len(event.delta)
            self._thought = _Thought(reasoning, part, task, [event.delta], length, length)
            yield self._add_task(item, task)

    def _thought_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._whole_thought(event, event.text)

    def _thought_part_done(self, event: Any) -> Iterator[ThreadStreamEvent]:
        return self._whole_thought(event, getattr(event.part, "text", None))

    def _whole_thought(self, event: Any, text: str | None) -> Iterator[ThreadStreamEvent]:
        if not text:
            return
        reasoning, begun = self._reasoning_of(event)
        yield from begun
        if reasoning is not None:
            yield from self._end_thought(reasoning, _thought_part(event), text)

    def _end_thought(
        self, reasoning: Reasoning, part: ThoughtPart, text: str
    ) -> Iterator[ThreadStreamEvent]:
        if part in reasoning.done:
            return
        reasoning.done.add(part)
        item, begun = self._workflow()
        yield from begun
        thought = self._thought_of(reasoning, part, item)
        if thought is None:
            yield self._add_task(item, ThoughtTask(content=text))
        else:
            self._thought = None
            thought.task.content = text
            yield task_updated(item, _index_of(thought.task, item))

    def _end_reasoning(self, index: int | None, done: Any) -> Iterator[ThreadStreamEvent]:
        """Show the thoughts that haven't streamed, or not to their end."""
        model_id = getattr(done, "id", None)
        if self._reasonings.find(index, model_id) is None and Reasoning().unfinished(done):
            yield from self._begin_reasoning(index, model_id)
        reasoning = self._reasonings.end(index, model_id)
        if reasoning is not None:
            for part, text in reasoning.unfinished(done):
                yield from self._end_thought(reasoning, part, text)

    def _thought_of(
        self, reasoning: Reasoning, part: ThoughtPart, item: WorkflowItem
    ) -> _Thought | None:
        thought = self._thought
        if (
            thought is not None
            and thought.reasoning is reasoning
            and thought.part == part
            and _has_task(item, thought.task)
        ):
            return thought
        return None

    def _add_task(self, item: WorkflowItem, task: ThoughtTask) -> ThreadStreamEvent:
        was_shown = self._context._is_shown(item)
        item.workflow.tasks.append(task)
        if was_shown:
            return task_added(item, len(item.workflow.tasks) - 1)
        self._open_workflow = item
        self._begin(item.id)
        return ThreadItemAddedEvent(item=snapshot(item))

    def _flush_thought(self) -> None:
        thought, self._thought = self._thought, None
        if thought is not None:
            thought.flush()
            # What still comes of it would be shown in another workflow, and a second time.
            thought.reasoning.done.add(thought.part)

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
        item = self._leave_workflow()
        if item is None:
            return []
        return list(self._order.end(item.id, self._context._ended(item, expanded=False)))

    def _leave_if_ended(self, item: ThreadItem) -> None:
        """Let go of an earlier turn's workflow, which a tool has ended by replacing it."""
        current = self._open_workflow
        is_open = current is not None and current.id == item.id
        # Until a tool ends it, the context has it.
        if is_open and self._context.workflow_item is not current:
            self._leave_workflow()

    def _leave_workflow(self) -> WorkflowItem | None:
        """Let go of the workflow in progress, and return it if there is one."""
        item = self._open_workflow
        if item is not None:
            self._flush_thought()
            self._open_workflow = None
            self._closed_workflows.add(item.id)
            if self._context.workflow_item is item:
                self._context.workflow_item = None
        return item

    def _comes_late(self, event: ThreadItemUpdatedEvent) -> bool:
        """Say whether a task's update comes after its workflow was stored, with the task in it."""
        is_task = isinstance(event.update, WorkflowTaskAdded | WorkflowTaskUpdated)
        return is_task and event.item_id in self._closed_workflows


def _index_of(task: ThoughtTask, item: WorkflowItem) -> int:
    # By identity: two tasks may well be equal.
    return next(index for index, other in enumerate(item.workflow.tasks) if other is task)


def _has_task(item: WorkflowItem, task: ThoughtTask) -> bool:
    return any(other is task for other in item.workflow.tasks)


def is_cut(event: Any) -> bool:
    """Say whether the event tells that the model has cut an answer, or a call of a tool, itself."""
    if event.type == "response.output_item.done":
        return _is_cut_call(item_of(event))
    if event.type == "response.completed":
        response = getattr(event, "response", None)
        return _status(response) == "incomplete" or any(map(_is_cut_call, output_of(response)))
    return bool(event.type == "response.incomplete")


def _is_cut_call(item: Any) -> bool:
    return getattr(item, "type", None) == "function_call" and _status(item) == "incomplete"


def output_of(response: Any) -> list[Any]:
    """Return the items of a whole answer; of what a provider leaves out, there are none."""
    items = getattr(response, "output", None) or ()
    return [item for item in items if getattr(item, "type", None) is not None]


def item_of(event: Any) -> Any:
    """Return the item that an event tells of; None if the provider has left it out."""
    item = getattr(event, "item", None)
    return item if getattr(item, "type", None) is not None else None


def _is_text(part: Any) -> bool:
    return getattr(part, "type", None) in _TEXT_OF


def _status(of: Any) -> str | None:
    status: str | None = getattr(of, "status", None)
    return status


def _output_index(event: Any) -> int | None:
    index = getattr(event, "output_index", None)
    return index if isinstance(index, int) else None


def _place(event: Any) -> tuple[int | None, Any]:
    return _output_index(event), getattr(event, "item_id", None)


def _content_index(event: Any) -> int:
    return getattr(event, "content_index", None) or 0


def _thought_part(event: Any) -> ThoughtPart:
    if "summary" in event.type:
        return "summary", getattr(event, "summary_index", None) or 0
    return "raw", _content_index(event)


_TEXT_OF = {"output_text": "text", "text": "text", "refusal": "refusal"}
"""The attribute that has the text of a part, by the part's type."""

_PLAIN: dict[str, Callable[[ResponseTranslator, Any], Iterable[ThreadStreamEvent]]] = {
    "response.created": ResponseTranslator._response_begins,
    "response.output_text.delta": ResponseTranslator._text_delta,
    "response.output_text.done": ResponseTranslator._text_done,
    "response.refusal.delta": ResponseTranslator._text_delta,
    "response.refusal.done": ResponseTranslator._refusal_done,
    "response.reasoning_summary_text.delta": ResponseTranslator._thought_delta,
    "response.reasoning_summary_text.done": ResponseTranslator._thought_done,
    "response.reasoning_summary_part.done": ResponseTranslator._thought_part_done,
    "response.reasoning_text.delta": ResponseTranslator._thought_delta,
    "response.reasoning_text.done": ResponseTranslator._thought_done,
}

_CONVERTING: dict[str, Callable[[ResponseTranslator, Any], AsyncIterator[ThreadStreamEvent]]] = {
    "response.content_part.added": ResponseTranslator._part_added,
    "response.output_text.annotation.added": ResponseTranslator._annotation_added,
    "response.output_item.added": ResponseTranslator._item_added,
    "response.output_item.done": ResponseTranslator._item_done,
    "response.image_generation_call.partial_image": ResponseTranslator._partial_image,
    "response.completed": ResponseTranslator._response_ends,
    "response.incomplete": ResponseTranslator._response_ends,
}
