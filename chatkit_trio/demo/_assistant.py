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
from chatkit_trio.web import ChatPage, create_app

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


DEMO_PAGE = ChatPage(
    prompts=[
        {"icon": "sparkle", "label": "What can you help me with?"},
        {"icon": "lightbulb", "label": "Explain structured concurrency"},
        {"icon": "cube", "label": "Which database fits a chat app?"},
        {"icon": "stop", "label": "What happens when I stop an answer?"},
    ]
)


def demo_app(
    database: str | os.PathLike[str], *, slow_writes: float = 0.0, admin_token: str | None = None
) -> QuartTrio:
    """Return the demo's app: `demo_server` with the chat page; all visitors share the threads."""
    server = demo_server(database, slow_writes=slow_writes)
    return create_app(server, page=DEMO_PAGE, admin_token=admin_token)


def who_answers() -> str:
    """Return who answers in the demo, and how to change that, as a sentence."""
    if not os.environ.get("OPENAI_API_KEY"):
        return "Offline: a script answers. With OPENAI_API_KEY in the environment, a model does"
    from ._model import DEFAULT_MODEL

    model = os.environ.get("OPENAI_MODEL", DEFAULT_MODEL)
    base_url = os.environ.get("OPENAI_BASE_URL")
    return f"The model {model} answers" + (f", at {base_url}" if base_url else "")
