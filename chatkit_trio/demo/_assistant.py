"""The demo's server and app: which assistant, which store, which policy."""

from __future__ import annotations

import os
from typing import Any

from quart_trio import QuartTrio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import SlowStore
from chatkit_trio.web import create_app

from ._scripted import ScriptedAssistant

# A reload is a disconnect too: the answer goes on, and the page finds it again.
DEMO_POLICY = TurnPolicy(on_disconnect="finish")

# All visitors are one owner, so these bound the demo as a whole: far more than people do by hand.
DEMO_LIMITS = OwnerLimits(
    live_turns=32,
    requests_per_minute=1200,
    text_bytes_per_minute=4_000_000,
    upload_bytes_per_hour=500_000_000,
    uploads_per_hour=1000,
    live_uploads=8,
)


def demo_server(
    database: str | os.PathLike[str], *, slow_writes: float = 0.0
) -> ChatKitServer[Any]:
    """Return the demo's server: scripted, or with a model if `OPENAI_API_KEY` is set.

    `slow_writes` is how many seconds each write waits. Raises `ImportError` if there is a key and
    the `openai` package isn't installed.
    """
    store: Store[Any] = SQLiteStore(database)
    if slow_writes > 0:
        store = SlowStore(store, slow_writes, reads=0)
    if not os.environ.get("OPENAI_API_KEY"):
        return ScriptedAssistant(store, policy=DEMO_POLICY, owner_limits=DEMO_LIMITS)
    # Imported here, because the openai package is an extra.
    from ._model import ModelAssistant

    return ModelAssistant(store, policy=DEMO_POLICY, owner_limits=DEMO_LIMITS)


def demo_app(database: str | os.PathLike[str], *, slow_writes: float = 0.0) -> QuartTrio:
    """Return the demo's app: `demo_server` with the chat page; all visitors share the threads."""
    return create_app(demo_server(database, slow_writes=slow_writes))
