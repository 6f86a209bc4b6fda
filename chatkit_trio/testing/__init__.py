"""Tools for testing servers, applications and stores built with chatkit_trio.

`ChatClient` speaks the protocol in this process or over a socket, `explore_cancellations` cancels
a turn at every point where it waits, `StoreConformance` checks a store of your own, and the rest
are parts to build tests of: scripts instead of a model, stores that are slow or fail, a clock
that jumps.
"""

from typing import TYPE_CHECKING, Any

from ._client import ChatClient
from ._client_turn import ClientTurn
from ._clock import JumpClock
from ._explore import (
    EVERY_REASON,
    EVERY_TROUBLE,
    Aftermath,
    CancellationBroken,
    Exploration,
    explore_cancellations,
)
from ._script import (
    Scene,
    ScriptedModel,
    ScriptedRespond,
    ScriptedServer,
    Step,
    do,
    emit,
    fail,
    pause,
    say,
    scripted_server,
    set_title,
    show_widget,
    work,
)
from ._simulate import SimulatedRun, Simulation, SimulationFailed, simulate
from ._simulate_plan import Operation
from ._store_doubles import FaultyStore, SlowStore, StoreWrapper
from ._transport import RequestRefused

if TYPE_CHECKING:
    from ._store_conformance import StoreConformance

__all__ = [
    "EVERY_REASON",
    "EVERY_TROUBLE",
    "Aftermath",
    "CancellationBroken",
    "ChatClient",
    "ClientTurn",
    "Exploration",
    "FaultyStore",
    "JumpClock",
    "Operation",
    "RequestRefused",
    "Scene",
    "ScriptedModel",
    "ScriptedRespond",
    "ScriptedServer",
    "SimulatedRun",
    "Simulation",
    "SimulationFailed",
    "SlowStore",
    "Step",
    "StoreConformance",
    "StoreWrapper",
    "do",
    "emit",
    "explore_cancellations",
    "fail",
    "pause",
    "say",
    "scripted_server",
    "set_title",
    "show_widget",
    "simulate",
    "work",
]


def __getattr__(name: str) -> Any:
    # Not imported above: it needs pytest, which an application that runs hasn't got.
    if name != "StoreConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise ImportError(
            "StoreConformance is a set of pytest's tests: pip install 'chatkit-trio[testing]'"
        ) from error

    # Its asserts explain themselves only if pytest rewrites them, before the first import.
    for module in ("_store_conformance", "_coordination_conformance", "_store_under_test"):
        pytest.register_assert_rewrite(f"chatkit_trio.testing.{module}")
    from ._store_conformance import StoreConformance

    return StoreConformance
