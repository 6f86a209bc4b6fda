"""Thread items as input for a model.

Everything but the assistant's own words gets the role `user`, and nothing gets the role `system`:
the items come from users, or may quote them, and must not gain authority on the way.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pydantic_core

from chatkit_trio._engine.foreign import read_item
from chatkit_trio.types import (
    AssistantMessageItem,
    Attachment,
    ClientToolCallItem,
    CustomTask,
    EndOfTurnItem,
    GeneratedImageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    StructuredInput,
    StructuredInputItem,
    TaskItem,
    ThreadItem,
    UserMessageItem,
    UserMessageTagContent,
    WidgetItem,
    WorkflowItem,
)

if TYPE_CHECKING:
    from openai.types.responses import ResponseInputContentParam, ResponseInputItemParam

_Item: TypeAlias = "ResponseInputItemParam"
_Input: TypeAlias = "ResponseInputItemParam | list[ResponseInputItemParam] | None"

_TAGS_NOTE = (
    "# What the user's @-mentions refer to\n"
    "The @ only marks a mention in the user's text: write the names below without it."
)


class ThreadItemConverter:
    """Turns thread items into input items of the Responses API; override what your app needs.

    Each `..._to_input` method handles one kind of item, and returns one input item, a list of
    them, or None to leave the thread item out. `attachment_to_message_content` and
    `tag_to_message_content` have no default: only the application knows the contents.
    """

    async def attachment_to_message_content(
        self, attachment: Attachment
    ) -> ResponseInputContentParam:
        """Return the message content for an attachment. Override it to accept attachments."""
        raise NotImplementedError(
            f"a user message has attachment {attachment.id}: override"
            f" attachment_to_message_content() in {type(self).__name__} to send it to the model"
        )

    async def tag_to_message_content(self, tag: UserMessageTagContent) -> ResponseInputContentParam:
        """Return the message content for an @-mention.

        Override it to accept tags. `tag.data` comes from the client: don't trust it.
        """
        raise NotImplementedError(
            f"a user message mentions {tag.text!r}: override tag_to_message_content() in"
            f" {type(self).__name__} to tell the model what that is"
        )

    async def user_message_to_input(
        self, item: UserMessageItem, is_last_message: bool = True
    ) -> _Input:
        """Return the user's words and attachments, then the quotation and the mentions.

        The quotation is included for the last message only.
        """
        tags = _unique_tags(item)
        attachments = [await self.attachment_to_message_content(a) for a in item.attachments]
        words = "".join(
            f"@{part.text}" if isinstance(part, UserMessageTagContent) else part.text
            for part in item.content
        )
        messages = [_message(_text(words), *attachments)]
        if item.quoted_text and is_last_message:
            messages.append(_user_text(f"The user quotes this, and means it:\n{item.quoted_text}"))
        if tags:
            contents = [await self.tag_to_message_content(tag) for tag in tags]
            messages.append(_message(_text(_TAGS_NOTE), *contents))
        return messages

    async def assistant_message_to_input(self, item: AssistantMessageItem) -> _Input:
        """Return the assistant's words, without annotations."""
        content: Any = [
            {"type": "output_text", "text": part.text, "annotations": []} for part in item.content
        ]
        return {"type": "message", "role": "assistant", "content": content}

    async def client_tool_call_to_input(self, item: ClientToolCallItem) -> _Input:
        """Return the call and its output; a call without an output yet is left out."""
        if item.status == "pending":
            return None
        return [
            {
                "type": "function_call",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": json.dumps(item.arguments),
            },
            {
                "type": "function_call_output",
                "call_id": item.call_id,
                "output": json.dumps(item.output),
            },
        ]

    async def widget_to_input(self, item: WidgetItem) -> _Input:
        """Return a note that the user was shown the widget, with its JSON."""
        widget = item.widget.model_dump_json(exclude_unset=True, exclude_none=True)
        return _user_text(f"The user was shown a widget (id: {item.id}): {widget}")

    async def generated_image_to_input(self, item: GeneratedImageItem) -> _Input:
        """Return the image by its URL. Override it if the model can't reach that URL."""
        if item.image is None:
            return None
        image: Any = {"type": "input_image", "detail": "auto", "image_url": item.image.url}
        return _message(_text("The agent made this image."), image)

    async def structured_input_to_input(self, item: StructuredInputItem) -> _Input:
        """Return the questions with the user's answers."""
        lines = "\n".join(_answer_line(question) for question in item.inputs)
        return _user_text(
            f"The user was shown these questions (status: {item.status}):\n"
            f"<StructuredInput>\n{lines}\n</StructuredInput>"
        )

    async def workflow_to_input(self, item: WorkflowItem) -> _Input:
        """Return a note for each custom task with a title or content."""
        texts = [_task_text(task) for task in item.workflow.tasks]
        return [_task_note(text) for text in texts if text]

    async def task_to_input(self, item: TaskItem) -> _Input:
        """Return a note about a custom task with a title or content; others are left out."""
        text = _task_text(item.task)
        return _task_note(text) if text else None

    async def hidden_context_to_input(self, item: HiddenContextItem) -> _Input:
        """Return the application's note; content that isn't text goes in as JSON."""
        content = item.content
        if not isinstance(content, str):
            content = pydantic_core.to_json(content, fallback=str).decode()
        return _hidden(content)

    async def sdk_hidden_context_to_input(self, item: SDKHiddenContextItem) -> _Input:
        """Return this package's note, such as why an answer ended early."""
        return _hidden(item.content)

    async def end_of_turn_to_input(self, item: EndOfTurnItem) -> _Input:
        """Return nothing: the end of a turn is only shown in the page."""
        return None

    async def to_agent_input(
        self, thread_items: Sequence[ThreadItem] | ThreadItem
    ) -> list[ResponseInputItemParam]:
        """Return the input for a thread's items, oldest first, or for a single one.

        Items of openai-chatkit are read as ours. Raises `TypeError` for what isn't an item.
        """
        items = list(thread_items) if isinstance(thread_items, Sequence) else [thread_items]
        output: list[ResponseInputItemParam] = []
        for item in items:
            converted = await self._item_to_input(item, is_last=item is items[-1])
            if isinstance(converted, list):
                output += converted
            elif converted is not None:
                output.append(converted)
        return output

    async def _item_to_input(self, item: ThreadItem, *, is_last: bool) -> _Input:
        own = read_item(item)
        if own is None:
            raise TypeError(f"a {type(item).__name__} is not a thread item: {item!r:.200}")
        if isinstance(own, UserMessageItem):
            return await self.user_message_to_input(own, is_last)
        name = next(name for kind, name in _METHODS.items() if isinstance(own, kind))
        method: Callable[[Any], Awaitable[_Input]] = getattr(self, name)
        return await method(own)


_METHODS: dict[type[Any], str] = {
    AssistantMessageItem: "assistant_message_to_input",
    ClientToolCallItem: "client_tool_call_to_input",
    EndOfTurnItem: "end_of_turn_to_input",
    GeneratedImageItem: "generated_image_to_input",
    HiddenContextItem: "hidden_context_to_input",
    SDKHiddenContextItem: "sdk_hidden_context_to_input",
    StructuredInputItem: "structured_input_to_input",
    TaskItem: "task_to_input",
    WidgetItem: "widget_to_input",
    WorkflowItem: "workflow_to_input",
}


def simple_to_agent_input(
    thread_items: Sequence[ThreadItem] | ThreadItem,
) -> Awaitable[list[ResponseInputItemParam]]:
    """Return, when awaited, a model's input for these items by the default converter."""
    return ThreadItemConverter().to_agent_input(thread_items)


def _text(text: str) -> Any:
    return {"type": "input_text", "text": text}


def _message(*content: Any) -> _Item:
    return {"type": "message", "role": "user", "content": list(content)}


def _user_text(text: str) -> _Item:
    return _message(_text(text))


def _hidden(content: str) -> _Item:
    return _user_text(
        "A note for the agent; the user doesn't see it:\n"
        f"<HiddenContext>\n{content}\n</HiddenContext>"
    )


def _task_note(text: str) -> _Item:
    return _user_text(f"The user was shown that this was done:\n<Task>\n{text}\n</Task>")


def _task_text(task: Any) -> str:
    if not isinstance(task, CustomTask):
        return ""
    return ": ".join(part for part in (task.title, task.content) if part)


def _answer_line(question: StructuredInput) -> str:
    answer = question.answer
    if answer is None:
        said = "unanswered"
    else:
        said = "skipped" if answer.skipped else ", ".join(answer.values)
    return f"- {question.question}: {said}"


def _unique_tags(item: UserMessageItem) -> Iterable[UserMessageTagContent]:
    """Return the tags in order, each text once."""
    tags = (part for part in item.content if isinstance(part, UserMessageTagContent))
    unique: dict[str, UserMessageTagContent] = {}
    for tag in tags:
        unique.setdefault(tag.text, tag)
    return unique.values()
