"""How fast models reach a thread, and how fast a cancelled turn reaches the model.

    python -m benchmarks.agents_bridge

The model is scripted; the Responses server is on loopback, in this process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from agents import Runner as SDKRunner

from chatkit_trio.agents import Runner, run_model, stream_agent_response
from tests.agents import script
from tests.agents.models import RUN_CONFIG, ScriptedModel, agent
from tests.agents.responses_server import ResponsesServer, serving
from tests.agents.threads import new_context

EVENTS = 5_000
RUNS = 5
CANCELS = 30


ANSWER = script.answer(*script.message("m", *["word "] * EVENTS))
PARSED = script.parsed(ANSWER)


async def rates(measure: Callable[[], Awaitable[int]]) -> str:
    """Run it several times and return events a second: median, least and most."""
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        count = await measure()
        found.append(count / (time.perf_counter() - start))
    return f"{statistics.median(found):>10,.0f} {min(found):>10,.0f} {max(found):>10,.0f}"


# --- Events a second ---------------------------------------------------------------------------


async def sdk_on_asyncio() -> int:
    result = SDKRunner.run_streamed(agent(ScriptedModel(PARSED)), "hi", run_config=RUN_CONFIG)
    return len([event async for event in result.stream_events()])


async def bridge_raw() -> int:
    run = Runner.run_streamed(agent(ScriptedModel(PARSED)), "hi", run_config=RUN_CONFIG)
    return len([event async for event in run.stream_events()])


async def bridge_folded() -> int:
    context = await new_context()
    run = Runner.run_streamed(agent(ScriptedModel(PARSED)), "hi", run_config=RUN_CONFIG)
    return len([event async for event in stream_agent_response(context, run)])


async def on_trio() -> int:
    server = ResponsesServer()
    server.answers = [ANSWER]
    async with serving(server) as client, trio.open_nursery() as nursery:
        context = await new_context()
        run = run_model(context, client, model="scripted", input="hi", nursery=nursery)
        events = [event async for event in run]
    return len(events)


# --- From cancel to the model's end ------------------------------------------------------------


async def hang() -> None:
    await asyncio.sleep(3600)


class TimedModel(ScriptedModel):
    """Notes when it is cancelled."""

    cancelled_at = 0.0

    async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            async for event in super().stream_response(*args, **kwargs):
                yield event
        except asyncio.CancelledError:
            self.cancelled_at = time.perf_counter()
            raise


async def read_and_cancel(events: Any) -> tuple[float, float]:
    """Cancel a read after the first piece of text; return when, and when the read had ended."""
    began = 0.0
    with trio.CancelScope() as scope:
        async for event in events:
            if hasattr(getattr(event, "update", None), "delta"):
                began = time.perf_counter()
                scope.cancel()
    return began, time.perf_counter()


async def cancel_bridge() -> tuple[float, float]:
    model = TimedModel([*script.answer(*script.message("m", "Hel"))[:4], hang])
    run = Runner.run_streamed(agent(model), "hi", run_config=RUN_CONFIG)
    began, ended = await read_and_cancel(stream_agent_response(await new_context(), run))
    return model.cancelled_at - began, ended - began


async def cancel_on_trio() -> tuple[float, float]:
    server = ResponsesServer()
    server.answers = [
        [*script.answer(*script.message("m", "Hel"))[:4], trio.sleep_forever],
    ]
    async with serving(server) as client, trio.open_nursery() as nursery:
        context = await new_context()
        run = run_model(context, client, model="scripted", input="hi", nursery=nursery)
        began, ended = await read_and_cancel(run)
        # Both clocks are the system's monotonic one.
        offset = time.perf_counter() - trio.current_time()
        await server.disconnected.wait()
        closed = server.disconnected_at + offset
    return closed - began, ended - began


async def delays(measure: Callable[[], Awaitable[tuple[float, float]]]) -> str:
    """Return, in milliseconds, median and worst: to the model's end, and to the read's end."""
    pairs = [await measure() for _ in range(CANCELS)]
    columns = [[1000 * pair[column] for pair in pairs] for column in (0, 1)]
    return " ".join(
        f"{statistics.median(column):>10.2f} {max(column):>10.2f}" for column in columns
    )


async def main() -> None:
    print(f"{'events a second, ' + str(RUNS) + ' runs':34} {'median':>10} {'min':>10} {'max':>10}")
    for name, measure in {
        "bridge, the SDK's events": bridge_raw,
        "bridge, thread events": bridge_folded,
        "trio and HTTP, thread events": on_trio,
    }.items():
        print(f"{name:34} {await rates(measure)}")
    print()
    print(f"{'cancel, ms, ' + str(CANCELS) + ' runs':34} {'model':>10} {'max':>10}", end=" ")
    print(f"{'read':>10} {'max':>10}")
    print(f"{'bridge':34} {await delays(cancel_bridge)}")
    print(f"{'trio and HTTP':34} {await delays(cancel_on_trio)}")


async def baseline() -> None:
    print(f"{'the SDK on asyncio alone, no trio':34} {await rates(sdk_on_asyncio)}")


if __name__ == "__main__":
    asyncio.run(baseline())
    trio.run(main)
