"""Runs of pydantic-ai, which needs asyncio, read from trio.

The parts of a run become events of a Responses stream, which the same translator turns into thread
events. pydantic-ai is only imported when a run begins: the agent comes from the caller.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from chatkit_trio.errors import ModelError
from chatkit_trio.types import Approval, ApprovalCall, ThreadStreamEvent

from ._approval import DEFAULT_WORDS, Approvals, ApprovalWanted, ApprovalWords, outcome
from ._context import AgentContext
from ._extras import require
from ._reading import AsyncioSource, EventStream
from ._responses import DEFAULT_CONVERTER, ResponseStreamConverter, ResponseTranslator

if TYPE_CHECKING:
    from pydantic_ai import Agent

logger = logging.getLogger(__name__)


class PydanticAIRun(EventStream):
    """The thread events of `run_pydantic_ai`."""

    def __init__(
        self,
        context: AgentContext[Any],
        source: AsyncioSource,
        translator: ResponseTranslator,
        answer: _Answer,
        approvals: Approvals,
    ) -> None:
        super().__init__(context, source, translator, approvals)
        self._parts = _Parts()
        self._answer = answer
        self.result: Any = None
        """pydantic-ai's result (`output`, `new_messages()`) when the run is over, else None."""

    @property
    def is_incomplete(self) -> bool:
        """Whether the model has cut its answer itself, for example at its length limit.

        A turn whose last stream is incomplete ends with reason `incomplete`.
        """
        return self._answer.is_cut

    def new_messages(self) -> list[Any]:
        """Return the messages that this run has added, for the `message_history` of the next one.

        As pydantic-ai's `result.new_messages()`, but also for a run that was cut or has failed:
        then they end before the first call of a tool that has no result, which would make
        pydantic-ai refuse the next prompt. Empty before the run has begun.
        """
        return self._answer.new_messages()

    async def _convert(self, event: Any) -> Iterable[ThreadStreamEvent]:
        if isinstance(event, ApprovalWanted):
            return await super()._convert(event)
        approvals = self._approvals
        if event.event_kind == "function_tool_result" and approvals and approvals.approved:
            await approvals.done_by_id(event.part.tool_call_id, _told_to_model(event.part))
        if event.event_kind == "agent_run_result":
            self.result = event.result
        return [
            made
            for response_event in self._parts.as_events(event)
            for made in await self._translator.translate(response_event)
        ]


def _told_to_model(part: Any) -> str:
    """Return what a tool has told the model: its result, or why the call is to be tried again."""
    # In older releases, 2.50 among them, a retry has no `model_response_str`.
    tell = getattr(part, "model_response_str", None) or part.model_response
    return str(tell())


def run_pydantic_ai(
    context: AgentContext[Any],
    agent: Agent[Any, Any],
    user_prompt: Any = None,
    *,
    converter: ResponseStreamConverter = DEFAULT_CONVERTER,
    approval_words: ApprovalWords = DEFAULT_WORDS,
    **options: Any,
) -> PydanticAIRun:
    """Run an agent of pydantic-ai on the asyncio thread and return its thread events.

        run = run_pydantic_ai(agent_context, agent, "hello", deps=agent_context)
        async for event in run:
            yield event

    The arguments are those of `Agent.run_stream_events`. Text, thinking and images are shown, and
    `converter` says what the URL of an image is. A thread has no item for other files that a model
    makes: they are in the run's `result`, and a line of the log tells of each. Tools send further
    events through the context, which they can get as `deps`. Errors of the run are raised
    unchanged; `ModelError` is raised if the model's stream breaks off. A tool call that the model's
    token limit has cut isn't made: that is pydantic-ai's `IncompleteToolCall`. When the returned
    stream is cancelled, closed or dropped, the run is cancelled and leaves no task behind.

    A run whose output is `DeferredToolRequests` with approvals, and no calls to be carried out
    elsewhere, asks the user, in `approval_words`. When they have answered, `respond` is called
    without a message; the run it starts with the same agent then goes on from there, and ignores
    its own prompt and `message_history`.
    """
    answer = _Answer()
    approvals = Approvals(context, f"run_pydantic_ai of {agent.name}", approval_words)
    events = partial(_events, agent, user_prompt, options, answer, approvals)
    translator = ResponseTranslator(context, converter)
    return PydanticAIRun(context, AsyncioSource(events), translator, answer, approvals)


async def _events(
    agent: Agent[Any, Any],
    user_prompt: Any,
    options: dict[str, Any],
    answer: _Answer,
    approvals: Approvals,
) -> AsyncIterator[Any]:
    user_prompt, options = _going_on(user_prompt, options, approvals)
    if approvals.resumed is not None:
        answer.asked = _from_last_response(options["message_history"])
    capabilities = [*(options.get("capabilities") or ()), _watch_class()(answer)]
    options = {**options, "capabilities": capabilities}
    result: Any = None
    async with agent.run_stream_events(user_prompt, **options) as events:
        answer.run = events
        async for event in events:
            if event.event_kind == "agent_run_result":
                result = event.result
            yield event  # noqa: ASYNC119  (AsyncioSource closes this)
    if (wanted := _wanted(result)) is not None:
        yield wanted


def _wanted(result: Any) -> ApprovalWanted | None:
    """Return the question about the calls that a run has left for approval, if it has."""
    if result is None:
        return None
    requests = result.output
    if not isinstance(requests, require("pydantic_ai").DeferredToolRequests):
        return None
    if requests.calls or not requests.approvals:
        return None  # the application has to carry out the calls, so it has to go on as well
    calls = [
        ApprovalCall(
            id=part.tool_call_id, name=part.tool_name, arguments=part.args_as_json_str() or "{}"
        )
        for part in requests.approvals
    ]
    return ApprovalWanted(calls, result.all_messages_json().decode())


def _going_on(
    user_prompt: Any, options: dict[str, Any], approvals: Approvals
) -> tuple[Any, dict[str, Any]]:
    """Return the prompt and options with which a run goes on that the user was asked for."""
    resumed, dropped = approvals.resumed, approvals.dropped
    if resumed is not None:
        messages = require("pydantic_ai.messages").ModelMessagesTypeAdapter
        comments = [call.comment for call in approvals.approved if call.comment]
        said = "; ".join(dict.fromkeys(comments))
        prompt = f"(The user allowed this and said: {said})" if said else None
        return prompt, options | {
            "message_history": messages.validate_json(resumed.state),
            "deferred_tool_results": _results(resumed, approvals),
        }
    history = options.get("message_history") or ()
    if dropped is not None and history and _waits_for(history[-1], dropped):
        # The history that the application keeps ends with these calls: they need results first.
        return user_prompt, options | {"deferred_tool_results": _results(dropped, approvals)}
    return user_prompt, options


def _from_last_response(messages: list[Any]) -> list[Any]:
    responses = [place for place, each in enumerate(messages) if each.kind == "response"]
    return messages[responses[-1] :] if responses else []


def _results(approval: Approval, approvals: Approvals) -> Any:
    library = require("pydantic_ai")
    return library.DeferredToolResults(
        approvals={
            call.id: True
            if call in approvals.approved
            else library.ToolDenied(message=outcome(call))
            for call in approval.calls
        }
    )


def _waits_for(message: Any, approval: Approval) -> bool:
    """Say whether this last message of a history has calls that the user was asked about."""
    asked = {call.id for call in approval.calls}
    return any(getattr(part, "tool_call_id", None) in asked for part in message.parts)


class _Answer:
    """What is known of a run's newest answer; written on asyncio, read on trio."""

    is_cut = False
    """Whether the model has cut it itself."""
    run: Any = None
    """pydantic-ai's run, once it has begun."""
    asked: Sequence[Any] = ()
    """The messages that this run goes on from: the answer whose calls the user was asked about."""

    def new_messages(self) -> list[Any]:
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.messages import ModelResponse

        try:
            # The turn that asked has left out its calls, because they had no results.
            messages = [] if self.run is None else [*self.asked, *self.run.new_messages()]
        except UserError:
            return []  # it has been entered, and not begun
        answered = {
            part.tool_call_id
            for message in messages
            for part in message.parts
            if part.part_kind in ("tool-return", "retry-prompt")
        }
        for place, message in enumerate(messages):
            if isinstance(message, ModelResponse) and any(
                part.part_kind == "tool-call" and part.tool_call_id not in answered
                for part in message.parts
            ):
                return messages[:place]
        return messages

    def check(self, response: Any) -> None:
        """Look at an answer before anything is done about it.

        Raises `ModelError` if it failed or broke off, and `IncompleteToolCall` if it was cut and
        has calls of tools. pydantic-ai itself makes them if what is left of their arguments is
        valid JSON.
        """
        from pydantic_ai.exceptions import IncompleteToolCall
        from pydantic_ai.messages import ToolCallPart

        if response.finish_reason == "error":
            raise ModelError("the model's answer failed, and the server hasn't said why")
        self.is_cut = response.finish_reason in ("length", "content_filter")
        said = response.finish_reason or (response.provider_details or {}).get("finish_reason")
        if said is None and response.provider_response_id is not None:
            raise ModelError(
                "the model's stream broke off: the server has begun an answer, and not said why it"
                " ended"
            )
        if self.is_cut and any(isinstance(part, ToolCallPart) for part in response.parts):
            raise IncompleteToolCall(
                "the model's answer was cut while it called a tool, so nothing was called:"
                " raise max_tokens, or ask for less at once"
            )


@cache
def _watch_class() -> Any:
    """Return a class of pydantic-ai's, made when it is needed, that looks at each answer."""
    from pydantic_ai.capabilities import AbstractCapability

    class Watch(AbstractCapability[Any]):
        def __init__(self, answer: _Answer) -> None:
            self._answer = answer

        async def after_model_request(
            self, ctx: Any, *, request_context: Any, response: Any
        ) -> Any:
            self._answer.check(response)
            return response

    return Watch


class _Parts:
    """Gives each part of a run an id; pydantic-ai numbers them from 0 in each answer.

    Texts that follow each other are one part, as they are one output in pydantic-ai's result: a
    provider that gives each event another id makes a part of each. Text that comes for a part that
    has ended, behind a call of a tool, is a part of its own here.
    """

    def __init__(self) -> None:
        self._count = 0
        self._ids: dict[int, str] = {}
        self._earlier_text = ""
        self._ended_ids: set[str] = set()
        self._late: str | None = None
        """The id of the part that has the text which came for an ended one."""
        self._late_text = ""
        self._image: SimpleNamespace | None = None

    def as_events(self, event: Any) -> list[SimpleNamespace]:
        """Return an event of pydantic-ai as events of a Responses stream."""
        return [*self._image_done(event), *self._late_done(event), *self._as_events(event)]

    def _late_done(self, event: Any) -> list[SimpleNamespace]:
        """Return the end of late text, which pydantic-ai doesn't tell."""
        if self._late is None or event.event_kind in ("part_delta", "final_result"):
            return []
        part_id, self._late = self._late, None
        return self._text_ended(part_id, self._late_text)

    def _late_grown(self, delta: str) -> list[SimpleNamespace]:
        begun: list[SimpleNamespace] = []
        if self._late is None:
            self._late, self._late_text = self._next_id(), ""
            begun = self._text_started(self._late, "")
        self._late_text += delta
        return [*begun, _on_part("response.output_text.delta", self._late, delta=delta)]

    def _next_id(self) -> str:
        self._count += 1
        return f"part {self._count}"

    def _image_done(self, event: Any) -> list[SimpleNamespace]:
        """Return the end of an image, which pydantic-ai doesn't tell: another event has come.

        A file that begins in the image's place is its better form: that was a preview.
        """
        image, self._image = self._image, None
        if image is None:
            return []
        is_preview = (
            event.event_kind == "part_start"
            and event.part.part_kind == "file"
            and self._ids.get(event.index) == image.id
        )
        if is_preview:
            return []
        return [SimpleNamespace(type="response.output_item.done", item=image)]

    def _as_events(self, event: Any) -> list[SimpleNamespace]:
        match event.event_kind:
            case "part_start":
                if self._goes_on(event, "previous_part_kind"):
                    self._ids[event.index] = part_id = f"part {self._count}"
                    return [
                        _on_part("response.output_text.delta", part_id, delta=event.part.content)
                    ]
                self._ids[event.index] = part_id = self._next_id()
                return self._started(part_id, event.part)
            case "part_delta":
                return self._grown(self._ids[event.index], event.delta)
            case "part_end":
                if self._goes_on(event, "next_part_kind"):
                    self._earlier_text += event.part.content
                    return []
                return self._ended(self._ids[event.index], event.part)
        return []

    def _goes_on(self, event: Any, neighbour: str) -> bool:
        return (event.part.part_kind, getattr(event, neighbour, None)) == ("text", "text")

    def _started(self, id: str, part: Any) -> list[SimpleNamespace]:
        if part.part_kind == "text":
            return self._text_started(id, part.content)
        if part.part_kind == "thinking":
            return [
                _on_item("response.output_item.added", id, "reasoning", []),
                *_thought(id, part.content),
            ]
        if part.part_kind == "file":
            self._note_file(id, part.content)
        return []

    def _text_started(self, id: str, text: str) -> list[SimpleNamespace]:
        added = _on_part("response.content_part.added", id, part=_text(text))
        return [_on_item("response.output_item.added", id, "message", []), added]

    def _note_file(self, id: str, content: Any) -> None:
        if content.is_image:
            self._image = SimpleNamespace(
                type="image_generation_call", id=id, result=b64encode(content.data).decode()
            )
        else:
            logger.warning("a model has made a file a thread can't show: %s", content.media_type)

    def _grown(self, id: str, delta: Any) -> list[SimpleNamespace]:
        if delta.part_delta_kind == "text" and id in self._ended_ids:
            return self._late_grown(delta.content_delta)
        if delta.part_delta_kind == "text":
            return [_on_part("response.output_text.delta", id, delta=delta.content_delta)]
        if delta.part_delta_kind == "thinking":
            return _thought(id, delta.content_delta)
        return []

    def _ended(self, id: str, part: Any) -> list[SimpleNamespace]:
        if part.part_kind == "text":
            text, self._earlier_text = self._earlier_text + part.content, ""
            return self._text_ended(id, text)
        if part.part_kind == "thinking" and part.content:
            return [_on_part("response.reasoning_summary_text.done", id, text=part.content)]
        return []

    def _text_ended(self, id: str, text: str) -> list[SimpleNamespace]:
        if id in self._ended_ids:
            return []
        self._ended_ids.add(id)
        done = _on_part("response.output_text.done", id, text=text)
        return [done, _on_item("response.output_item.done", id, "message", [_text(text)])]


def _text(text: str) -> SimpleNamespace:
    return SimpleNamespace(type="output_text", text=text, annotations=[])


def _on_item(type: str, id: str, item_type: str, content: list[Any]) -> SimpleNamespace:
    return SimpleNamespace(type=type, item=SimpleNamespace(type=item_type, id=id, content=content))


def _on_part(type: str, id: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(type=type, item_id=id, content_index=0, summary_index=0, **fields)


def _thought(id: str, delta: str | None) -> list[SimpleNamespace]:
    if not delta:
        return []
    return [_on_part("response.reasoning_summary_text.delta", id, delta=delta)]
