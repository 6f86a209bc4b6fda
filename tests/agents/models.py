"""A model for the Agents SDK that says what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import trio
from agents import Agent, Model, RunConfig, set_tracing_disabled

from . import script

set_tracing_disabled(True)

Step = script.Json | Callable[[], Awaitable[None]]
"""An event, or something to wait for before the next one."""


class ScriptedModel(Model):
    """Plays one list of steps each time it is asked."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)
        in_trio = trio.lowlevel.in_trio_run()
        self._token = trio.lowlevel.current_trio_token() if in_trio else None
        self.inputs: list[Any] = []
        self.cancelled = trio.Event()

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("only streams are scripted")

    async def stream_response(  # type: ignore[override]
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        self.inputs.append(input)
        try:
            for step in self._answers.pop(0):
                if callable(step):
                    await step()
                else:
                    yield script.parsed([step])[0] if isinstance(step, dict) else step
        except (asyncio.CancelledError, GeneratorExit):  # the latter where its reader was cut
            if self._token is not None:
                self._token.run_sync_soon(self.cancelled.set)
            raise


def agent(model: Model, **options: Any) -> Agent[Any]:
    return Agent(name="scripted", model=model, **options)


class Around:
    """Looks at a run's events on their way, as public servers do."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    async def stream_events(self) -> AsyncIterator[Any]:
        async for event in self._run.stream_events():
            self.seen.append(event.type)
            yield event


def patched(run: Any) -> Any:
    """Return a run with other events in the place of its own."""
    run.stream_events = Around(SimpleNamespace(stream_events=run.stream_events)).stream_events
    return run


RUN_CONFIG = RunConfig(tracing_disabled=True)
