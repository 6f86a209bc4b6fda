"""Models to thread events: OpenAI Responses on trio, the Agents SDK from trio, and converters.

On trio alone: `run_model` and `stream_response` (extra `openai`). On an asyncio thread: the Agents
SDK, with `Runner` and `stream_agent_response` (extra `agents`), and pydantic-ai, with
`run_pydantic_ai` (extra `pydantic-ai`). Importing this package imports none of the three.
"""

from typing import TYPE_CHECKING, Any

from chatkit_trio import store, types, widgets
from chatkit_trio.errors import ModelError
from chatkit_trio.server import stream_widget

from ._agents_sdk import AgentRun, Runner, stream_agent_response
from ._approval import ApprovalWords
from ._asyncio_iteration import iterate_on_asyncio
from ._asyncio_thread import run_on_asyncio, run_on_trio
from ._context import AgentContext, ClientToolCall
from ._converter import ThreadItemConverter, simple_to_agent_input
from ._extras import require
from ._model_run import ModelRun, run_model, stream_response
from ._pydantic_ai import PydanticAIRun, run_pydantic_ai
from ._reading import EventStream
from ._responses import ResponseStreamConverter
from ._text_widget import accumulate_text
from ._tools import Tool, tool

__all__ = [
    "AgentContext",
    "AgentRun",
    "ApprovalWords",
    "ClientToolCall",
    "EventStream",
    "ModelError",
    "ModelRun",
    "PydanticAIRun",
    "ResponseStreamConverter",
    "Runner",
    "ThreadItemConverter",
    "Tool",
    "accumulate_text",
    "iterate_on_asyncio",
    "run_model",
    "run_on_asyncio",
    "run_on_trio",
    "run_pydantic_ai",
    "simple_to_agent_input",
    "stream_agent_response",
    "stream_response",
    "stream_widget",
    "tool",
]

if TYPE_CHECKING:
    from agents import TResponseInputItem as TResponseInputItem

    # isort: off
    # The original's module has these by accident, and code in use imports them from there.
    from chatkit_trio.store import (
        Store as Store,
        StoreItemType as StoreItemType,
    )
    from chatkit_trio.types import (
        Annotation as Annotation,
        AssistantMessageContent as AssistantMessageContent,
        AssistantMessageContentPartAdded as AssistantMessageContentPartAdded,
        AssistantMessageContentPartAnnotationAdded as AssistantMessageContentPartAnnotationAdded,
        AssistantMessageContentPartDone as AssistantMessageContentPartDone,
        AssistantMessageContentPartTextDelta as AssistantMessageContentPartTextDelta,
        AssistantMessageItem as AssistantMessageItem,
        Attachment as Attachment,
        ClientToolCallItem as ClientToolCallItem,
        DurationSummary as DurationSummary,
        EndOfTurnItem as EndOfTurnItem,
        FileSource as FileSource,
        GeneratedImage as GeneratedImage,
        GeneratedImageItem as GeneratedImageItem,
        GeneratedImageUpdated as GeneratedImageUpdated,
        HiddenContextItem as HiddenContextItem,
        SDKHiddenContextItem as SDKHiddenContextItem,
        StructuredInputItem as StructuredInputItem,
        Task as Task,
        TaskItem as TaskItem,
        ThoughtTask as ThoughtTask,
        ThreadItem as ThreadItem,
        ThreadItemAddedEvent as ThreadItemAddedEvent,
        ThreadItemDoneEvent as ThreadItemDoneEvent,
        ThreadItemRemovedEvent as ThreadItemRemovedEvent,
        ThreadItemUpdatedEvent as ThreadItemUpdatedEvent,
        ThreadMetadata as ThreadMetadata,
        ThreadStreamEvent as ThreadStreamEvent,
        URLSource as URLSource,
        UserMessageItem as UserMessageItem,
        UserMessageTagContent as UserMessageTagContent,
        UserMessageTextContent as UserMessageTextContent,
        WidgetItem as WidgetItem,
        Workflow as Workflow,
        WorkflowItem as WorkflowItem,
        WorkflowSummary as WorkflowSummary,
        WorkflowTaskAdded as WorkflowTaskAdded,
        WorkflowTaskUpdated as WorkflowTaskUpdated,
    )
    from chatkit_trio.widgets import (
        Markdown as Markdown,
        Text as Text,
        WidgetRoot as WidgetRoot,
    )
    # isort: on
else:

    def __getattr__(name: str) -> Any:
        if name == "TResponseInputItem":
            # The SDK's, which the original's module has.
            return require("agents").TResponseInputItem
        for module in (types, store, widgets):
            if not name.startswith("_") and hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
