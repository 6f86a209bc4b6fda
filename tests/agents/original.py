"""Play every scenario with openai-chatkit on asyncio and print what comes of it, as JSON.

A process of its own: the original lives on asyncio, and patches nothing of ours.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import warnings
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import chatkit.agents  # noqa: E402
import chatkit.store  # noqa: E402
import chatkit.types  # noqa: E402
from agents import Runner  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

from .models import RUN_CONFIG, ScriptedModel, agent  # noqa: E402
from .plain_events import plain  # noqa: E402
from .scenarios import CONVERSIONS, RUNS, TIME, Run, converter  # noqa: E402

ITEM: TypeAdapter[Any] = TypeAdapter(chatkit.types.ThreadItem)
TYPES = SimpleNamespace(**vars(chatkit.types), ClientToolCall=chatkit.agents.ClientToolCall)


class OneThreadStore:
    """The two methods a model run uses, and the ids."""

    def __init__(self) -> None:
        self.added: list[Any] = []

    def generate_item_id(self, item_type: Any, thread: Any, context: None) -> str:
        return chatkit.store.default_generate_id(item_type)

    async def load_thread_items(self, *args: Any) -> Any:
        return chatkit.types.Page(data=[])

    async def add_thread_item(self, thread_id: str, item: Any, context: None) -> None:
        self.added.append(item)


async def run(scenario: Run) -> dict[str, Any]:
    store = OneThreadStore()
    thread = chatkit.types.ThreadMetadata.model_validate({"id": "thr_1", "created_at": TIME})
    context = chatkit.agents.AgentContext(thread=thread, store=store, request_context=None)  # type: ignore[arg-type]
    model = ScriptedModel(*[list(answer) for answer in scenario.answers])
    tools = scenario.tools(TYPES)
    result = Runner.run_streamed(
        agent(model, tools=tools, **scenario.options), "hi", context=context, run_config=RUN_CONFIG
    )
    events: list[Any] = []
    error: str | None = None
    try:
        async for event in chatkit.agents.stream_agent_response(context, result):
            events.append(event.model_copy(deep=True))  # noqa: PERF401
    except Exception as raised:
        error = type(raised).__name__
    return {"events": plain(events), "error": error, "stored": len(store.added)}


async def convert(items: list[Any]) -> Any:
    parsed = [ITEM.validate_python(item) for item in items]
    return await converter(chatkit.agents.ThreadItemConverter).to_agent_input(parsed)


PRIVATE = {"StreamingThoughtTracker", "T1", "T2", "TContext", "TWidget"}
"""What the original's module defines for itself, though without an underscore."""


def signatures() -> dict[str, list[str]]:
    """Return the parameters of every public function and method."""
    found: dict[str, list[str]] = {}
    for name, value in vars(chatkit.agents).items():
        is_own = getattr(value, "__module__", None) == chatkit.agents.__name__
        if not is_own or name.startswith("_") or name in PRIVATE:
            continue
        members = vars(value) if isinstance(value, type) else {"": value}
        for member, function in members.items():
            if inspect.isfunction(function) and not member.startswith(("_", "model_")):
                path = f"{name}.{member}".rstrip(".")
                found[path] = list(inspect.signature(function).parameters)
    return found


async def main() -> None:
    runs = {name: await run(scenario) for name, scenario in RUNS.items()}
    inputs = {name: await convert(items) for name, items in CONVERSIONS.items()}
    fields = list(chatkit.agents.AgentContext.model_fields)
    print(
        json.dumps({"runs": runs, "inputs": inputs, "signatures": signatures(), "fields": fields})
    )


if __name__ == "__main__":
    asyncio.run(main())
