"""Runs and thread items that the original and we are given alike.

A tool gets the SDK's types as an argument: the original's, or ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents import (
    GuardrailFunctionOutput,
    OutputGuardrail,
    RunContextWrapper,
    StopAtTools,
    function_tool,
)

from . import script

TIME = "2026-01-02T00:00:00Z"

Ctx = RunContextWrapper[Any]


@dataclass(frozen=True)
class Run:
    """What a model says, and the tools it may call."""

    answers: list[list[Any]]
    tools: Callable[[Any], list[Any]] = field(default=lambda types: [])
    options: dict[str, Any] = field(default_factory=dict)


def _item(type: str, id: str = "item_1", **fields: Any) -> script.Json:
    return {"type": type, "id": id, "thread_id": "thr_1", "created_at": TIME, **fields}


# --- Tools -------------------------------------------------------------------------------------


async def _let_read() -> None:
    """Wait until what was sent has been read: the original's events go on changing."""
    await asyncio.sleep(0.01)


def _progress(types: Any) -> list[Any]:
    @function_tool
    async def work(ctx: Ctx) -> str:
        """Work."""
        await ctx.context.stream(types.ProgressUpdateEvent(text="working"))
        await ctx.context.stream(types.NoticeEvent(level="info", message="**done**"))
        return "ok"

    return [work]


def _steps(types: Any) -> list[Any]:
    @function_tool
    async def work(ctx: Ctx) -> str:
        """Work in steps."""
        context = ctx.context
        await context.start_workflow(types.Workflow(type="custom", tasks=[]))
        await context.add_workflow_task(types.CustomTask(title="one"))
        await _let_read()
        await context.add_workflow_task(types.CustomTask(title="two"))
        await _let_read()
        await context.update_workflow_task(types.CustomTask(title="two", content="x"), 1)
        await _let_read()
        await context.end_workflow(types.CustomSummary(title="all done"), expanded=True)
        return "ok"

    return [work]


def _open_steps(types: Any) -> list[Any]:
    @function_tool
    async def work(ctx: Ctx) -> str:
        """Work in steps and leave them open."""
        await ctx.context.add_workflow_task(types.CustomTask(title="one"))
        return "ok"

    return [work]


def _hidden_then_visible(types: Any) -> list[Any]:
    @function_tool
    async def work(ctx: Ctx) -> str:
        """Leave a note, which doesn't end the workflow, then show a task, which does."""
        context = ctx.context
        await context.add_workflow_task(types.CustomTask(title="one"))
        base = {"thread_id": context.thread.id, "created_at": TIME}
        note = types.HiddenContextItem(id="note", content="n", **base)
        await context.stream(types.ThreadItemDoneEvent(item=note))
        task = types.TaskItem(id="task", task=types.CustomTask(title="shown"), **base)
        await context.stream(types.ThreadItemDoneEvent(item=task))
        return "ok"

    return [work]


def _client_tool(types: Any) -> list[Any]:
    @function_tool
    async def work(ctx: Ctx) -> str:
        """Have the page do it."""
        await asyncio.sleep(0)
        ctx.context.client_tool_call = types.ClientToolCall(name="work", arguments={"n": 1})
        return ""

    return [work]


def _tripping(*args: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


_FILE = {"type": "file_citation", "file_id": "f", "filename": "a.txt", "index": 3}
_NAMELESS = {**_FILE, "filename": ""}
_URL = {
    "type": "url_citation",
    "url": "https://example.org",
    "title": "Example",
    "start_index": 0,
    "end_index": 5,
}
_CITED: list[Any] = [
    script.item_added(script.message_item("m")),
    script.part_added("m", script.text_part("")),
    script.text_delta("m", "Hello"),
    # As dicts: of its present class the original's converter makes an error.
    *(script.annotation_as_dict("m", i, a) for i, a in enumerate((_NAMELESS, _FILE, _URL))),
    script.text_done("m", "Hello"),
    script.item_done(script.message_item("m", script.text_part("Hello", (_NAMELESS, _FILE, _URL)))),
]
_TWO_PARTS = [
    script.item_added(script.message_item("m")),
    script.part_added("m", script.text_part("")),
    script.text_delta("m", "one"),
    script.part_added("m", script.text_part(""), 1),
    script.text_delta("m", "two", 1),
    script.item_done(script.message_item("m", script.text_part("one"), script.text_part("two"))),
]
_CALL = script.call("work")
_REFUSAL = script.item_done(script.message_item("m", script.refusal_part("No")))
_HI = script.message("m", "H", "i")

RUNS: dict[str, Run] = {
    "text": Run([script.answer(*_HI)]),
    "two messages": Run([script.answer(*_HI, *script.message("n", "there"))]),
    "two parts": Run([script.answer(*_TWO_PARTS)]),
    "citations": Run([script.answer(*_CITED)]),
    "refusal": Run([script.answer(script.item_added(script.message_item("m")), _REFUSAL)]),
    "reasoning": Run([script.answer(*script.reasoning("r", ("a", "b"), ("c",)), *_HI)]),
    "reasoning twice": Run(
        [script.answer(*script.reasoning("r", ("a",)), *script.reasoning("s", ("b", "c")), *_HI)]
    ),
    "image": Run([script.answer(*script.image("i", "p", "q", result="x"), *_HI)]),
    "tool with progress": Run([script.answer(*_CALL), script.answer(*_HI)], _progress),
    "tool with steps": Run([script.answer(*_CALL), script.answer(*_HI)], _steps),
    "steps that the answer ends": Run([script.answer(*_CALL), script.answer(*_HI)], _open_steps),
    "steps that an item ends": Run(
        [script.answer(*_CALL), script.answer(*_HI)], _hidden_then_visible
    ),
    "client tool": Run(
        [script.answer(*_CALL)],
        _client_tool,
        {"tool_use_behavior": StopAtTools(stop_at_tool_names=["work"])},
    ),
    "guardrail": Run(
        [script.answer(*_HI)],
        options={"output_guardrails": [OutputGuardrail(guardrail_function=_tripping)]},
    ),
}

# --- Items for the model -----------------------------------------------------------------------


def _text(text: str) -> script.Json:
    return {"type": "input_text", "text": text}


def _tag(text: str, id: str = "t") -> script.Json:
    return {"type": "input_tag", "id": id, "text": text, "data": {}}


def _user(*content: script.Json, id: str = "msg_1", **fields: Any) -> script.Json:
    return _item("user_message", id, content=list(content), inference_options={}, **fields)


_ASSISTANT = _item(
    "assistant_message",
    content=[
        {"type": "output_text", "text": "one", "annotations": []},
        {
            "type": "output_text",
            "text": "two",
            "annotations": [
                {
                    "type": "annotation",
                    "source": {"type": "url", "url": "https://example.org", "title": "Example"},
                    "index": 1,
                }
            ],
        },
    ],
)
_TOOL = {"call_id": "c1", "name": "f", "arguments": {"a": [1, "ü"]}}
_TASKS = [
    {"type": "custom", "title": "title", "content": "content"},
    {"type": "custom", "title": "title"},
    {"type": "custom", "content": "content"},
    {"type": "custom"},
    {"type": "thought", "content": "Hm"},
    {"type": "web_search", "title": "search"},
]
_QUESTIONS = [
    {"type": "freeform", "id": "a", "question": "A?"},
    {"type": "freeform", "id": "b", "question": "B?", "answer": {"values": ["x"]}},
    {
        "type": "multiple_choice",
        "id": "c",
        "question": "C?",
        "options": [{"value": "1"}, {"value": "2"}],
        "multiple": True,
        "answer": {"values": ["1", "2"]},
    },
    {"type": "freeform", "id": "d", "question": "D?", "answer": {"skipped": True}},
]
_ATTACHMENTS = [
    {"type": "file", "id": "atc_1", "name": "a.txt", "mime_type": "text/plain"},
    {
        "type": "image",
        "id": "atc_2",
        "name": "b.png",
        "mime_type": "image/png",
        "preview_url": "https://example.org/b.png",
    },
]
_WIDGET = {"type": "Card", "children": [{"type": "Text", "value": "Hi", "weight": "bold"}]}
_IMAGE = {"id": "i", "url": "https://example.org/i.png"}

CONVERSIONS: dict[str, list[script.Json]] = {
    "nothing": [],
    "user text": [_user(_text("Hello "), _text("you"))],
    "quoted text": [_user(_text("That?"), quoted_text="the first line\nthe second")],
    "quoted text that isn't last": [
        _user(_text("That?"), quoted_text="old"),
        _user(_text("And that?"), id="msg_2"),
    ],
    "tags, each once": [_user(_text("Is "), _tag("Bern"), _text(" like "), _tag("Bern", "u"))],
    "two tags": [_user(_tag("Bern"), _text(" or "), _tag("Basel"))],
    "attachments": [_user(_text("See"), attachments=_ATTACHMENTS)],
    "all at once": [
        _user(_tag("Bern"), attachments=_ATTACHMENTS[:1], quoted_text="quoted"),
    ],
    "assistant": [_ASSISTANT],
    "assistant without parts": [_item("assistant_message", content=[])],
    "pending client tool call": [_item("client_tool_call", status="pending", **_TOOL)],
    "client tool call": [
        _item("client_tool_call", status="completed", output={"r": [1, None, "ü"]}, **_TOOL)
    ],
    "client tool call without output": [_item("client_tool_call", status="completed", **_TOOL)],
    "widget": [_item("widget", "wid_1", widget=_WIDGET, copy_text="Hi")],
    "image": [_item("generated_image", image=_IMAGE)],
    "image without image": [_item("generated_image")],
    "structured input": [_item("structured_input", status="answered", inputs=_QUESTIONS)],
    **{f"task {index}": [_item("task", task=task)] for index, task in enumerate(_TASKS)},
    "workflow": [_item("workflow", workflow={"type": "custom", "tasks": _TASKS})],
    "end of turn": [_item("end_of_turn")],
    "hidden context": [_item("hidden_context_item", content="<secret>\nof two lines")],
    "sdk hidden context": [_item("sdk_hidden_context", content="stopped")],
    "a whole thread": [
        _user(_text("Hello")),
        _ASSISTANT,
        _item("hidden_context_item", "h", content="note"),
        _item("end_of_turn", "e"),
        _user(_text("And?"), id="msg_2", quoted_text="one"),
    ],
}


def converter(base: type[Any]) -> Any:
    """Return a converter with what an application has to add."""

    class Converter(base):  # type: ignore[misc]
        async def attachment_to_message_content(self, attachment: Any) -> Any:
            return {"type": "input_text", "text": f"attachment {attachment.id}"}

        async def tag_to_message_content(self, tag: Any) -> Any:
            return {"type": "input_text", "text": f"tag {tag.id} {tag.text}"}

    return Converter()
