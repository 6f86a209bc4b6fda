"""The words of the protocol: requests, threads, items, and the events and updates of a stream.

Only models live here. The order of fields is the order on the wire. Times are timezone-aware UTC; a
time without a zone is local time, as everywhere in Python. The field `type` discriminates every
union.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal

from pydantic import (
    AfterValidator,
    AnyUrl,
    FailFast,
    Field,
    PlainSerializer,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypeIs, TypeVar

from ._model import Model
from .actions import Action
from .errors import ErrorCode
from .icons import IconName
from .widgets import WidgetComponent, WidgetRoot

T = TypeVar("T")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{moment!r} has no time in UTC: {error}") from error


# Written as it is read: user code may also set the field of a model, which validates nothing.
_UTCDatetime = Annotated[
    datetime, AfterValidator(_in_utc), PlainSerializer(_in_utc, return_type=datetime)
]


def _is_none(value: object) -> bool:
    return value is None


class TurnEnding(Model):
    """What the store keeps about a turn that was cut: which turn, why, and what it had begun."""

    turn_id: str
    reason: str
    """The value of the `CancelReason`."""
    item_ids: list[str] = Field(default=[])
    """The ids of the visible items that the turn had begun and not finished, as far as they were
    kept; without any, the id of its last visible item."""
    continued: bool | None = Field(default=None, exclude_if=_is_none)
    """True if `ChatKitServer.on_recovered` has been called to go on with the answer."""


class AnswerEnding(TurnEnding):
    """What a client that asks for endings is told about an answer that was cut."""

    can_continue: bool
    """Whether something of the answer is there and the conversation hasn't gone on without it."""


class Page(Model, Generic[T]):
    """Part of a list. `after` is the cursor of the next part, if there is one.

    A page of items that was asked for with endings has those of its cut answers. A page of threads
    that was asked for with names has, by id, those of its threads that have no title. Both are no
    part of the protocol, and are left out of dumps when they are None.
    """

    data: list[T] = Field(default=[])
    has_more: bool = False
    after: str | None = None
    endings: SkipJsonSchema[list[AnswerEnding] | None] = Field(default=None, exclude_if=_is_none)
    names: SkipJsonSchema[dict[str, str] | None] = Field(default=None, exclude_if=_is_none)


FeedbackKind = Literal["positive", "negative"]
"""Thumbs up or thumbs down."""


# --- Sources that an answer can cite


class SourceBase(Model):
    """The fields of every source."""

    title: str
    description: str | None = None
    timestamp: str | None = None
    group: str | None = None


class FileSource(SourceBase):
    """A file that an answer is based on."""

    type: Literal["file"] = "file"
    filename: str


class URLSource(SourceBase):
    """A web page that an answer is based on."""

    type: Literal["url"] = "url"
    url: str
    attribution: str | None = None


class EntitySource(SourceBase):
    """Something in your own application; the page's entity callbacks get its `data`.

    `label` is shown beside the icon in the default hover header; `inline_label` is shown in the
    text, in place of the icon. `interactive` makes the entity clickable.
    """

    type: Literal["entity"] = "entity"
    id: str
    icon: IconName | None = None
    label: str | None = None
    inline_label: str | None = None
    interactive: bool = False
    data: dict[str, Any] = Field(default_factory=dict)
    preview: Literal["lazy"] | None = Field(
        default=None, deprecated=True, description="Clients ignore it."
    )


Source = Annotated[URLSource | FileSource | EntitySource, Field(discriminator="type")]
"""Anything that an answer can cite."""


class Annotation(Model):
    """A pointer from an assistant's text to a source; `index` is the place in the text."""

    type: Literal["annotation"] = "annotation"
    source: URLSource | FileSource | EntitySource
    index: int | None = None


# --- What users and assistants write


class AssistantMessageContent(Model):
    """One part of an assistant message."""

    annotations: list[Annotation] = Field(default_factory=list)
    text: str
    type: Literal["output_text"] = "output_text"


class UserMessageTextContent(Model):
    """Plain text in a user message."""

    type: Literal["input_text"] = "input_text"
    text: str


class UserMessageTagContent(Model):
    """An @-mention in a user message. `data` comes from the client: don't trust it."""

    type: Literal["input_tag"] = "input_tag"
    id: str
    text: str
    data: dict[str, Any]
    group: str | None = None
    interactive: bool = False


UserMessageContent = Annotated[
    UserMessageTextContent | UserMessageTagContent, Field(discriminator="type")
]
"""One part of a user message."""


class ToolChoice(Model):
    """The tool a user picked in the composer."""

    id: str


class InferenceOptions(Model):
    """What a user picked in the composer for this message."""

    tool_choice: ToolChoice | None = None
    model: str | None = None


class UserMessageInput(Model):
    """A user message as the client sends it; `attachments` are ids."""

    content: Annotated[list[UserMessageContent], FailFast()]
    attachments: Annotated[list[str], FailFast()]
    quoted_text: str | None = None
    inference_options: InferenceOptions


# --- Attachments


class AttachmentUploadDescriptor(Model):
    """How the client uploads the bytes of a two-phase attachment."""

    url: AnyUrl
    method: Literal["POST", "PUT"]
    headers: dict[str, str] = Field(default_factory=dict)


class AttachmentBase(Model):
    """The fields of every attachment.

    `upload_descriptor`, of a two-phase upload, is set until a message with the attachment is sent;
    `thread_id` is set from then on. `metadata` belongs to the application: it is stored, but a dump
    with `context={"exclude_metadata": True}` leaves it out, and every answer to a client is such a
    dump.
    """

    id: str
    name: str
    mime_type: str
    upload_descriptor: AttachmentUploadDescriptor | None = None
    thread_id: str | None = None
    metadata: dict[str, Any] | None = None

    # No return annotation: it would take the place of the model's own JSON schema.
    @model_serializer(mode="wrap")
    def _serialize(  # type: ignore[no-untyped-def]
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ):
        dumped = dump(self)
        if (info.context or {}).get("exclude_metadata"):
            dumped.pop("metadata", None)
        return dumped


class FileAttachment(AttachmentBase):
    """A file."""

    type: Literal["file"] = "file"


class ImageAttachment(AttachmentBase):
    """An image, which the client shows from `preview_url`."""

    type: Literal["image"] = "image"
    preview_url: AnyUrl


Attachment = Annotated[FileAttachment | ImageAttachment, Field(discriminator="type")]
"""Anything a user can attach."""


# --- Workflows and their tasks


class BaseTask(Model):
    """The fields of every task; the indicator is shown within a workflow only."""

    status_indicator: Literal["none", "loading", "complete"] = "none"


class CustomTask(BaseTask):
    """A step in your own words."""

    type: Literal["custom"] = "custom"
    title: str | None = None
    icon: IconName | None = None
    content: str | None = None


class SearchTask(BaseTask):
    """A web search with its queries and results."""

    type: Literal["web_search"] = "web_search"
    title: str | None = None
    title_query: str | None = None
    queries: list[str] = Field(default_factory=list)
    sources: list[URLSource] = Field(default_factory=list)


class ThoughtTask(BaseTask):
    """A piece of the model's reasoning."""

    type: Literal["thought"] = "thought"
    title: str | None = None
    content: str


class FileTask(BaseTask):
    """Files that were looked at."""

    type: Literal["file"] = "file"
    title: str | None = None
    sources: list[FileSource] = Field(default_factory=list)


class ImageTask(BaseTask):
    """Work on an image."""

    type: Literal["image"] = "image"
    title: str | None = None


Task = Annotated[
    CustomTask | SearchTask | ThoughtTask | FileTask | ImageTask, Field(discriminator="type")
]
"""One step of a workflow."""


class CustomSummary(Model):
    """A summary in your own words, shown when the workflow has finished."""

    title: str
    icon: IconName | None = None


class DurationSummary(Model):
    """How long a finished workflow took, in seconds."""

    duration: int


WorkflowSummary = CustomSummary | DurationSummary
"""What a finished workflow shows when folded."""


class Workflow(Model):
    """Steps of work, shown as a list that folds."""

    type: Literal["custom", "reasoning"]
    tasks: list[Task]
    summary: WorkflowSummary | None = None
    expanded: bool = False


# --- Structured input: questions with choices


class StructuredInputAnswer(Model):
    """An answer as stored with its question."""

    values: list[str] = Field(default_factory=list)
    skipped: bool = False


class StructuredInputBase(Model):
    """The fields of every question; `id` is unique within the item."""

    id: str
    question: str
    answer: StructuredInputAnswer | None = None


class StructuredInputMultipleChoiceOption(Model):
    """A choice that the user may make."""

    value: str


class StructuredInputMultipleChoice(StructuredInputBase):
    """A question with choices; the user may also answer in their own words."""

    type: Literal["multiple_choice"] = "multiple_choice"
    options: list[StructuredInputMultipleChoiceOption]
    multiple: bool = False


class StructuredInputFreeform(StructuredInputBase):
    """A question answered in the user's own words."""

    type: Literal["freeform"] = "freeform"
    description: str | None = None


StructuredInput = Annotated[
    StructuredInputMultipleChoice | StructuredInputFreeform, Field(discriminator="type")
]
"""One question to the user."""


# --- Thread items


class ThreadItemBase(Model):
    """The fields of every item."""

    id: str
    thread_id: str
    created_at: _UTCDatetime


class UserMessageItem(ThreadItemBase):
    """What a user said."""

    type: Literal["user_message"] = "user_message"
    content: list[UserMessageContent]
    attachments: list[Attachment] = Field(default_factory=list)
    quoted_text: str | None = None
    inference_options: InferenceOptions


class AssistantMessageItem(ThreadItemBase):
    """What the assistant said."""

    type: Literal["assistant_message"] = "assistant_message"
    content: list[AssistantMessageContent]


class ClientToolCallItem(ThreadItemBase):
    """A call of a function in the page; the client answers with its output."""

    type: Literal["client_tool_call"] = "client_tool_call"
    status: Literal["pending", "completed"] = "pending"
    call_id: str
    name: str
    arguments: dict[str, Any]
    output: Any | None = None


class WidgetItem(ThreadItemBase):
    """A widget; `copy_text` is what the copy button takes."""

    type: Literal["widget"] = "widget"
    widget: WidgetRoot
    copy_text: str | None = None


class GeneratedImage(Model):
    """An image that a model made; `url` may be a data URL."""

    id: str
    url: str


class GeneratedImageItem(ThreadItemBase):
    """An image that a model makes; `image` is None until there is a first preview."""

    type: Literal["generated_image"] = "generated_image"
    image: GeneratedImage | None = None


class StructuredInputItem(ThreadItemBase):
    """Questions to the user, and the answers when the user has given them."""

    type: Literal["structured_input"] = "structured_input"
    status: Literal["pending", "answered", "skipped"] = "pending"
    inputs: list[StructuredInput]


class TaskItem(ThreadItemBase):
    """A single step of work, outside a workflow."""

    type: Literal["task"] = "task"
    task: Task


class WorkflowItem(ThreadItemBase):
    """Steps of work."""

    type: Literal["workflow"] = "workflow"
    workflow: Workflow


class EndOfTurnItem(ThreadItemBase):
    """A mark that the assistant's turn is over."""

    type: Literal["end_of_turn"] = "end_of_turn"


class HiddenContextItem(ThreadItemBase):
    """A note of the application for the model. No client ever sees it."""

    type: Literal["hidden_context_item"] = "hidden_context_item"
    content: Any


class ApprovalCall(Model):
    """A call of a tool that a person is asked about, and what has become of it."""

    id: str
    """What the model calls it."""
    name: str
    """The tool's name."""
    arguments: str
    """The arguments as the model has written them: JSON text."""
    state: Literal["asked", "refused", "begun", "done"] = "asked"
    """`begun` is stored before the tool runs. A call that is still `begun` when its turn is over
    was cut short: nobody knows whether it took effect."""
    comment: str = ""
    """What the person said."""
    output: str = ""
    """What the model gets for the call, once it is done."""


class Approval(Model):
    """What a model run has asked a person, and what it needs to go on."""

    item_id: str
    """The item with the questions: one for each call, in this order."""
    run: str
    """Which run asks: only that one goes on."""
    calls: list[ApprovalCall]
    state: str = ""
    """The state of the run, JSON text; empty once the run won't go on any more."""


class SDKHiddenContextItem(ThreadItemBase):
    """A note of this package for the model, such as why an answer ended. No client sees it.

    The note of a turn that was cut has the `ending` beside its text, and that of a run which waits
    for a person, or has waited, the `approval`. Both are no part of the protocol: they are left out
    of the JSON schema, and out of dumps when they are None.
    """

    type: Literal["sdk_hidden_context"] = "sdk_hidden_context"
    content: str
    ending: SkipJsonSchema[TurnEnding | None] = Field(default=None, exclude_if=_is_none)
    approval: SkipJsonSchema[Approval | None] = Field(default=None, exclude_if=_is_none)


ThreadItem = Annotated[
    UserMessageItem
    | AssistantMessageItem
    | ClientToolCallItem
    | WidgetItem
    | GeneratedImageItem
    | StructuredInputItem
    | WorkflowItem
    | TaskItem
    | HiddenContextItem
    | SDKHiddenContextItem
    | EndOfTurnItem,
    Field(discriminator="type"),
]
"""Anything that stands in a thread."""


def is_hidden(item: ThreadItem) -> bool:
    """Say whether an item is for the model only, and must never be sent to a client.

    Use it wherever you show items that you have loaded from a store yourself.
    """
    return item.type in ("hidden_context_item", "sdk_hidden_context")


# --- Threads


class ActiveStatus(Model):
    """The thread accepts messages."""

    type: Literal["active"] = Field(default="active", frozen=True)


class LockedStatus(Model):
    """The thread accepts no messages for now."""

    type: Literal["locked"] = Field(default="locked", frozen=True)
    reason: str | None = None


class ClosedStatus(Model):
    """The thread accepts no messages any more."""

    type: Literal["closed"] = Field(default="closed", frozen=True)
    reason: str | None = None


ThreadStatus = Annotated[ActiveStatus | LockedStatus | ClosedStatus, Field(discriminator="type")]
"""Whether a thread accepts messages."""


class ThreadMetadata(Model):
    """A thread without its items; `metadata` belongs to the application, and no client gets it."""

    title: str | None = None
    id: str
    created_at: _UTCDatetime
    status: ThreadStatus = Field(default_factory=ActiveStatus)
    allowed_image_domains: list[str] | None = None
    """The hosts from which the page loads images by itself, and the hosts below them; it loads
    none from others. None: the user is asked for each image."""
    metadata: dict[str, Any] = Field(default_factory=dict)


class Thread(ThreadMetadata):
    """A thread as clients see it, with a page of its items."""

    items: Page[ThreadItem]


# --- Updates of an item while it streams


class AssistantMessageContentPartAdded(Model):
    """A part of an assistant message begins."""

    type: Literal["assistant_message.content_part.added"] = "assistant_message.content_part.added"
    content_index: int
    content: AssistantMessageContent


class AssistantMessageContentPartTextDelta(Model):
    """Text is appended to a part."""

    type: Literal["assistant_message.content_part.text_delta"] = (
        "assistant_message.content_part.text_delta"
    )
    content_index: int
    delta: str


class AssistantMessageContentPartAnnotationAdded(Model):
    """A part gets an annotation."""

    type: Literal["assistant_message.content_part.annotation_added"] = (
        "assistant_message.content_part.annotation_added"
    )
    content_index: int
    annotation_index: int
    annotation: Annotation


class AssistantMessageContentPartDone(Model):
    """A part is complete; `content` is all of it."""

    type: Literal["assistant_message.content_part.done"] = "assistant_message.content_part.done"
    content_index: int
    content: AssistantMessageContent


class WidgetStreamingTextValueDelta(Model):
    """Text is appended to a `Text` or `Markdown` of a widget; `done` says it was the last."""

    type: Literal["widget.streaming_text.value_delta"] = "widget.streaming_text.value_delta"
    component_id: str
    delta: str
    done: bool


class WidgetRootUpdated(Model):
    """The whole widget is replaced."""

    type: Literal["widget.root.updated"] = "widget.root.updated"
    widget: WidgetRoot


class WidgetComponentUpdated(Model):
    """One component of a widget is replaced."""

    type: Literal["widget.component.updated"] = "widget.component.updated"
    component_id: str
    component: WidgetComponent


class WorkflowTaskAdded(Model):
    """A workflow gets another task."""

    type: Literal["workflow.task.added"] = "workflow.task.added"
    task_index: int
    task: Task


class WorkflowTaskUpdated(Model):
    """A task of a workflow is replaced."""

    type: Literal["workflow.task.updated"] = "workflow.task.updated"
    task_index: int
    task: Task


class GeneratedImageUpdated(Model):
    """An image gets a better version; `progress` runs from 0 to 1."""

    type: Literal["generated_image.updated"] = "generated_image.updated"
    image: GeneratedImage
    progress: float | None = None


ThreadItemUpdate = (
    AssistantMessageContentPartAdded
    | AssistantMessageContentPartTextDelta
    | AssistantMessageContentPartAnnotationAdded
    | AssistantMessageContentPartDone
    | WidgetStreamingTextValueDelta
    | WidgetComponentUpdated
    | WidgetRootUpdated
    | WorkflowTaskAdded
    | WorkflowTaskUpdated
    | GeneratedImageUpdated
)
"""Anything that can happen to an item while it streams."""


# --- Events of a stream


class ThreadCreatedEvent(Model):
    """A thread begins."""

    type: Literal["thread.created"] = "thread.created"
    thread: Thread


class ThreadUpdatedEvent(Model):
    """A thread's title, status or allowed domains changed."""

    type: Literal["thread.updated"] = "thread.updated"
    thread: Thread


class ThreadItemAddedEvent(Model):
    """An item begins; `thread.item.updated` events and a `thread.item.done` follow."""

    type: Literal["thread.item.added"] = "thread.item.added"
    item: ThreadItem


class ThreadItemUpdatedEvent(Model):
    """An item that has begun changes."""

    type: Literal["thread.item.updated"] = "thread.item.updated"
    item_id: str
    # Discriminated by `type`, so that reading or writing an update doesn't try ten classes.
    update: ThreadItemUpdate = Field(discriminator="type")


ThreadItemUpdated = ThreadItemUpdatedEvent
"""Older name of `ThreadItemUpdatedEvent`."""


class ThreadItemDoneEvent(Model):
    """An item is complete, and stored."""

    type: Literal["thread.item.done"] = "thread.item.done"
    item: ThreadItem


class ThreadItemRemovedEvent(Model):
    """An item has been deleted."""

    type: Literal["thread.item.removed"] = "thread.item.removed"
    item_id: str


class ThreadItemReplacedEvent(Model):
    """A stored item has new content."""

    type: Literal["thread.item.replaced"] = "thread.item.replaced"
    item: ThreadItem


class StreamOptions(Model):
    """What the client may do with a stream; `allow_cancel` gives it a stop button."""

    allow_cancel: bool


class StreamOptionsEvent(Model):
    """What the client may do with this stream; the first event of an answer."""

    type: Literal["stream_options"] = "stream_options"
    stream_options: StreamOptions


class ProgressUpdateEvent(Model):
    """A line about the work in progress; it is shown until the next event, and never stored."""

    type: Literal["progress_update"] = "progress_update"
    icon: IconName | None = None
    text: str


class ClientEffectEvent(Model):
    """Something that the page should do; it sends no answer."""

    type: Literal["client_effect"] = "client_effect"
    name: str
    data: dict[str, Any] = Field(default_factory=dict)


class ErrorEvent(Model):
    """The stream failed; `message` is shown if the code is `custom`."""

    type: Literal["error"] = "error"
    code: ErrorCode | Literal["custom"] = Field(default="custom")
    message: str | None = None
    allow_retry: bool = Field(default=False)


class NoticeEvent(Model):
    """A message to the user beside the conversation; `message` is Markdown."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warning", "danger"]
    message: str
    title: str | None = None


ThreadStreamEvent = Annotated[
    ThreadCreatedEvent
    | ThreadUpdatedEvent
    | ThreadItemDoneEvent
    | ThreadItemAddedEvent
    | ThreadItemUpdatedEvent
    | ThreadItemRemovedEvent
    | ThreadItemReplacedEvent
    | StreamOptionsEvent
    | ProgressUpdateEvent
    | ClientEffectEvent
    | ErrorEvent
    | NoticeEvent,
    Field(discriminator="type"),
]
"""Anything a stream can carry."""


class SyncCustomActionResponse(Model):
    """What a `sync_action` hook returns: the item that changed, if any."""

    updated_item: ThreadItem | None = None


# --- Speech


class AudioInput(Model):
    """Recorded speech; `mime_type` is as the client sent it, codecs included."""

    data: bytes
    mime_type: str

    @property
    def media_type(self) -> str:
        """The bare media type in lower case, such as `audio/webm`."""
        return self.mime_type.split(";", 1)[0].strip().lower()


class TranscriptionResult(Model):
    """What was said."""

    text: str


# --- Requests


class BaseReq(Model):
    """The fields of every request; the page's integration may add `metadata`."""

    metadata: dict[str, Any] = Field(default_factory=dict)


class ThreadGetByIdParams(Model):
    """Which thread."""

    thread_id: str


class ThreadsGetByIdReq(BaseReq):
    """Load one thread with its first items."""

    type: Literal["threads.get_by_id"] = "threads.get_by_id"
    params: ThreadGetByIdParams


class ThreadCreateParams(Model):
    """The first message."""

    input: UserMessageInput


class ThreadsCreateReq(BaseReq):
    """Begin a thread with a message, and answer it."""

    type: Literal["threads.create"] = "threads.create"
    params: ThreadCreateParams


class ThreadListParams(Model):
    """Which page of the threads."""

    limit: int | None = None
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class ThreadsListReq(BaseReq):
    """List the user's threads."""

    type: Literal["threads.list"] = "threads.list"
    params: ThreadListParams


class ThreadAddUserMessageParams(Model):
    """The message and its thread."""

    input: UserMessageInput
    thread_id: str


class ThreadsAddUserMessageReq(BaseReq):
    """Add a message to a thread, and answer it."""

    type: Literal["threads.add_user_message"] = "threads.add_user_message"
    params: ThreadAddUserMessageParams


class ThreadAddClientToolOutputParams(Model):
    """What the page's function returned for the thread's last call, which is pending."""

    thread_id: str
    result: Any


class ThreadsAddClientToolOutputReq(BaseReq):
    """Hand in the output of a client tool, and get the rest of the answer."""

    type: Literal["threads.add_client_tool_output"] = "threads.add_client_tool_output"
    params: ThreadAddClientToolOutputParams


class StructuredInputAnswerSubmission(Model):
    """The answer to one question."""

    values: Annotated[list[str], FailFast()] = Field(default_factory=list)
    skipped: bool = False


class StructuredInputSubmission(Model):
    """Answers by question id, or that all were skipped."""

    status: Literal["answered", "skipped"] = "answered"
    answers: dict[str, StructuredInputAnswerSubmission] = Field(default_factory=dict)


class ThreadAddStructuredInputParams(Model):
    """The answers and the item that asked."""

    thread_id: str
    item_id: str
    input: StructuredInputSubmission


class ThreadsAddStructuredInputReq(BaseReq):
    """Answer questions, and get the rest of the answer."""

    type: Literal["threads.add_structured_input"] = "threads.add_structured_input"
    params: ThreadAddStructuredInputParams


class ThreadCustomActionParams(Model):
    """The action, and the item of its widget, if it came from a widget."""

    thread_id: str
    item_id: str | None = None
    action: Action[str, Any]


class ThreadsCustomActionReq(BaseReq):
    """Handle an action with a stream."""

    type: Literal["threads.custom_action"] = "threads.custom_action"
    params: ThreadCustomActionParams


class ThreadsSyncCustomActionReq(BaseReq):
    """Handle an action with one answer."""

    type: Literal["threads.sync_custom_action"] = "threads.sync_custom_action"
    params: ThreadCustomActionParams


class ThreadRetryAfterItemParams(Model):
    """The user message to answer again."""

    thread_id: str
    item_id: str
    input: SkipJsonSchema[UserMessageInput | None] = Field(default=None, exclude_if=_is_none)
    """What the user has made of the message meanwhile; without it the message stays as it is. Not
    of the original's protocol."""


class ThreadsRetryAfterItemReq(BaseReq):
    """Delete everything after a user message, and answer the message again, edited or not."""

    type: Literal["threads.retry_after_item"] = "threads.retry_after_item"
    params: ThreadRetryAfterItemParams


class ItemFeedbackParams(Model):
    """What the user thinks of which items."""

    thread_id: str
    item_ids: Annotated[list[str], FailFast()]
    kind: FeedbackKind


class ItemsFeedbackReq(BaseReq):
    """Rate items."""

    type: Literal["items.feedback"] = "items.feedback"
    params: ItemFeedbackParams


class AttachmentDeleteParams(Model):
    """Which attachment."""

    attachment_id: str


class AttachmentsDeleteReq(BaseReq):
    """Delete an attachment."""

    type: Literal["attachments.delete"] = "attachments.delete"
    params: AttachmentDeleteParams


class AttachmentCreateParams(Model):
    """The file to upload; `size` is in bytes, as the client states it."""

    name: str
    size: int
    mime_type: str


class AttachmentsCreateReq(BaseReq):
    """Ask for a URL to upload a file to."""

    type: Literal["attachments.create"] = "attachments.create"
    params: AttachmentCreateParams


class InputTranscribeParams(Model):
    """Recorded speech in Base64; `mime_type` may name codecs, as `audio/webm;codecs=opus`."""

    audio_base64: str
    mime_type: str


class InputTranscribeReq(BaseReq):
    """Turn speech into text."""

    type: Literal["input.transcribe"] = "input.transcribe"
    params: InputTranscribeParams


class ItemsListParams(Model):
    """Which page of a thread's items."""

    thread_id: str
    limit: int | None = None
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class ItemsListReq(BaseReq):
    """List a thread's items."""

    type: Literal["items.list"] = "items.list"
    params: ItemsListParams


class ThreadUpdateParams(Model):
    """A thread's new title."""

    thread_id: str
    title: str


class ThreadsUpdateReq(BaseReq):
    """Rename a thread."""

    type: Literal["threads.update"] = "threads.update"
    params: ThreadUpdateParams


class ThreadDeleteParams(Model):
    """Which thread."""

    thread_id: str


class ThreadsDeleteReq(BaseReq):
    """Delete a thread."""

    type: Literal["threads.delete"] = "threads.delete"
    params: ThreadDeleteParams


StreamingReq = (
    ThreadsCreateReq
    | ThreadsAddUserMessageReq
    | ThreadsAddClientToolOutputReq
    | ThreadsAddStructuredInputReq
    | ThreadsRetryAfterItemReq
    | ThreadsCustomActionReq
)
"""Requests answered with a stream of events."""

NonStreamingReq = (
    ThreadsGetByIdReq
    | ThreadsListReq
    | ItemsListReq
    | ItemsFeedbackReq
    | AttachmentsCreateReq
    | AttachmentsDeleteReq
    | ThreadsUpdateReq
    | ThreadsDeleteReq
    | InputTranscribeReq
    | ThreadsSyncCustomActionReq
)
"""Requests answered with one JSON document."""

ChatKitReq = Annotated[StreamingReq | NonStreamingReq, Field(discriminator="type")]
"""Any request."""


def is_streaming_req(request: ChatKitReq) -> TypeIs[StreamingReq]:
    """Say whether a request is answered with a stream."""
    return isinstance(request, StreamingReq)
