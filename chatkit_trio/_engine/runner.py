"""Which event loop the calling task runs on: everything that waits here needs Trio."""

from __future__ import annotations

import trio

HOW_TO_SERVE = "chatkit-trio serve MODULE:app, or hypercorn --worker-class trio MODULE:app"


def check_runs_on_trio(what: str) -> None:
    """Raise `RuntimeError` unless the caller is a task of Trio; `what` needs it."""
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(not_on_trio(what))


def not_on_trio(what: str) -> str:
    """Say in one sentence what to do where something of this package meets another event loop."""
    return (
        f"{what} runs on Trio and was started on another event loop, such as asyncio under uvicorn"
        f" or Hypercorn's default worker: serve the app by {HOW_TO_SERVE}"
    )
