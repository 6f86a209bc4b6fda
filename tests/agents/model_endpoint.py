"""A model endpoint without sockets, for the OpenAI client on trio and on asyncio.

It plays what is written down, byte for byte, and looks at each request as the real API does: input
that the API would refuse is refused here, with the same status. So a thread whose history no model
would take is seen at once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
from openai import AsyncOpenAI

from . import script

Step = script.Json | bytes | Callable[[], Awaitable[None]]
"""An event, bytes as they are, or something to wait for before the next one."""

_OUTPUTS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "computer_call": "computer_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "mcp_approval_request": "mcp_approval_response",
}
_FOLLOWERS = {*_OUTPUTS, "message", "web_search_call", "image_generation_call"}


def refusals(items: list[script.Json], open_calls: dict[str, str] | None = None) -> list[str]:
    """Return what the Responses API would say against these input items.

    `open_calls` are those of the response that the request goes on from.
    """
    found: list[str] = []
    open_calls = dict(open_calls or {})
    called = set(open_calls)
    for place, item in enumerate(items):
        kind = item.get("type", "message")
        call_id = item.get("call_id") or item.get("approval_request_id") or item.get("id")
        if kind in _OUTPUTS:
            if call_id in called:
                found.append(f"input[{place}]: duplicate call_id {call_id}")
            called.add(str(call_id))
            open_calls[str(call_id)] = _OUTPUTS[kind]
            if kind == "function_call" and item.get("status") == "incomplete":
                found.append(f"input[{place}]: an incomplete call was sent back")
        elif kind in _OUTPUTS.values():
            if open_calls.pop(str(call_id), None) != kind:
                found.append(f"input[{place}]: no tool call found for {kind} {call_id}")
        elif kind == "reasoning":
            follower = items[place + 1] if place + 1 < len(items) else {}
            if not _follows_reasoning(follower):
                found.append(f"input[{place}]: reasoning without its required following item")
        elif kind == "message":
            if open_calls:
                found.append(f"input[{place}]: a message before the output of {list(open_calls)}")
            content = item.get("content")
            if content == [] or content is None:
                found.append(f"input[{place}]: a message without content")
            elif item["role"] == "assistant" and not isinstance(content, str):
                found += [
                    f"input[{place}]: content {part['type']} isn't an assistant's"
                    for part in content
                    if part["type"] not in ("output_text", "refusal")
                ]
        elif kind not in _FOLLOWERS:
            found.append(f"input[{place}]: unknown item type {kind}")
    found += [f"no tool output found for function call {call_id}" for call_id in open_calls]
    return found


def _follows_reasoning(item: script.Json) -> bool:
    kind = item.get("type", "message")
    return kind == "reasoning" or (kind in _FOLLOWERS and item.get("role") != "user")


async def _no_point() -> None:
    pass


class _Body(httpx2.AsyncByteStream):
    def __init__(self, steps: list[Any], point: Callable[[], Awaitable[None]]) -> None:
        self._steps = steps
        self._point = point

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self._steps:
            await self._point()
            if callable(step):
                await step()
            elif isinstance(step, bytes):
                yield step
            else:
                yield f"event: {step['type']}\ndata: {json.dumps(step)}\n\n".encode()


class ModelEndpoint(httpx2.AsyncBaseTransport):
    """Plays one answer for each request, the last one again and again; or what a function says.

    The function gets the request's body. `point` is called before each step that is played.
    """

    def __init__(
        self,
        *answers: list[Any],
        content_type: str = "text/event-stream",
        answer: Callable[[script.Json], list[Any]] | None = None,
        point: Callable[[], Awaitable[None]] = _no_point,
    ) -> None:
        self.answers = list(answers)
        self.answer = answer or self._next
        self.point = point
        self.open_calls: dict[str, dict[str, str]] = {}
        self.content_type = content_type
        self.requests: list[dict[str, Any]] = []
        self.refused: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        self.requests.append(body)
        items = body["input"]
        if isinstance(items, str):
            items = [{"type": "message", "role": "user", "content": items}]
        await self.point()
        previous = body.get("previous_response_id")
        wrong = refusals(items, self.open_calls.get(previous))
        if previous is not None and previous not in self.open_calls:
            wrong.append(f"previous response {previous} not found")
        if wrong:
            self.refused += wrong
            error = {"error": {"message": "; ".join(wrong), "type": "invalid_request_error"}}
            return httpx2.Response(400, json=error)
        steps = [self._numbered(step) for step in self.answer(body)]
        headers = {"content-type": self.content_type}
        return httpx2.Response(200, headers=headers, stream=_Body(steps, self.point))

    def _next(self, body: script.Json) -> list[Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _numbered(self, step: Any) -> Any:
        """Return a step with the id of this response, whose open calls are noted."""
        if not isinstance(step, dict) or step.get("response") is None:
            return step
        response_id = f"resp_{len(self.requests)}"
        output = [item for item in step["response"].get("output") or () if item]
        self.open_calls[response_id] = {
            item["call_id"]: _OUTPUTS[item["type"]] for item in output if item["type"] in _OUTPUTS
        }
        return step | {"response": step["response"] | {"id": response_id}}

    def client(self) -> AsyncOpenAI:
        """Return a client of this endpoint."""
        return AsyncOpenAI(
            base_url="https://model.invalid/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=self),
        )
