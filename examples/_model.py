"""The model behind the examples: a real model if `OPENAI_API_KEY` is set, else a scripted one.

`run_model` can't tell them apart. A script is a function that gets what the model was asked, and
returns what the model does: say something, or call tools.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

import trio

MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
WORDS_PER_SECOND = 30

# How the item converter begins its notes, which have the role of the user too.
_NOTES = ("A note for the agent", "The user was shown", "# What the user's")


@dataclass(frozen=True)
class Say:
    """Stream this text as a message."""

    text: str


@dataclass(frozen=True)
class Call:
    """Call this tool. Calls in the same answer run at the same time."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


class Asked:
    """What a model was asked: the conversation, as items of the Responses API."""

    def __init__(self, items: Sequence[dict[str, Any]]) -> None:
        texts = [_text(item) for item in items]
        places = [place for place, text in enumerate(texts) if text and not text.startswith(_NOTES)]
        self.message = texts[places[-1]] if places else ""
        """The user's latest message."""
        earlier = places[-2] + 1 if len(places) > 1 else 0
        self.notes = [text for text in texts[earlier:] if text.startswith(_NOTES)]
        """The application's notes since the user's previous message."""
        self.previous_answer = "".join(map(_answer_text, items[earlier : max(places, default=0)]))
        """The model's answer to the user's previous message."""
        newest = items[places[-1] :] if places else items
        names = {item["call_id"]: item["name"] for item in newest if _is(item, "function_call")}
        self.results: dict[str, list[str]] = {}
        """The results of tools since the user's latest message, by the tool's name."""
        for item in newest:
            if _is(item, "function_call_output"):
                self.results.setdefault(names[item["call_id"]], []).append(item["output"])

    def mentions(self, *words: str) -> bool:
        """Say whether the user's latest message contains one of these words."""
        return any(word in self.message.lower() for word in words)


Script = Callable[[Asked], Sequence[Say | Call]]


@asynccontextmanager
async def open_model(script: Script) -> AsyncIterator[Any]:
    """Open a client: the openai package's, or a double that follows the script."""
    if not os.environ.get("OPENAI_API_KEY"):
        yield ScriptedClient(script)
        return
    from openai import AsyncOpenAI  # imported here, because it is an extra

    async with AsyncOpenAI() as client:  # it reads OPENAI_BASE_URL itself
        yield client


class ScriptedClient:
    """A double of the openai package's client, as far as `run_model` uses it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.responses = self

    async def create(self, *, input: Sequence[dict[str, Any]], **_request: Any) -> _Stream:
        await trio.lowlevel.checkpoint()
        return _Stream(_answer(self._script(Asked(input))))


class _Stream:
    def __init__(self, events: AsyncGenerator[Any]) -> None:
        self._closing = aclosing(events)
        self._events = events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._closing.__aexit__(*exc_info)  # noqa: ASYNC102 (it waits for nothing)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._events)


async def _answer(steps: Sequence[Say | Call]) -> AsyncGenerator[Any]:
    for number, step in enumerate(steps):
        if isinstance(step, Call):
            yield _event("response.output_item.done", item=_function_call(step, number))
            continue
        item = _Item(type="message", id=f"message {number}", role="assistant", content=[])
        yield _event("response.output_item.added", item=item)
        where = {"item_id": item.id, "content_index": 0}
        yield _event("response.content_part.added", part=_part(""), **where)
        for word in re.findall(r"\s*\S+|\s+$", step.text):
            await trio.sleep(1 / WORDS_PER_SECOND)
            yield _event("response.output_text.delta", delta=word, **where)
        yield _event("response.output_text.done", text=step.text, **where)
        done = _Item(type="message", id=item.id, role="assistant", content=[_part(step.text)])
        yield _event("response.output_item.done", item=done)
    yield _event("response.completed", response=SimpleNamespace(id="offline", usage=None))


class _Item(SimpleNamespace):
    """An item of the model's output; the next request gives it back to the model."""

    def model_dump(self, **_options: Any) -> dict[str, Any]:
        return json.loads(json.dumps(vars(self), default=vars))


def _function_call(call: Call, number: int) -> _Item:
    return _Item(
        type="function_call",
        id=f"call {number}",
        call_id=f"call_{call.tool}_{number}",
        name=call.tool,
        arguments=json.dumps(call.arguments),
    )


def _part(text: str) -> SimpleNamespace:
    return SimpleNamespace(type="output_text", text=text, annotations=[])


def _event(kind: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(type=kind, **fields)


def _is(item: dict[str, Any], kind: str) -> bool:
    return item.get("type") == kind


def _answer_text(item: dict[str, Any]) -> str:
    if item.get("role") != "assistant":
        return ""
    return "".join(part["text"] for part in item["content"])


def _text(item: dict[str, Any]) -> str:
    """Return the text of an item with the role `user`."""
    if item.get("role") != "user":
        return ""
    content = item["content"]
    return (
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    )
