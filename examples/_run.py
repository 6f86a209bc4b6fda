"""How `python -m examples.NAME` serves an example: on this machine only, at PORT or 8000."""

from __future__ import annotations

import logging
import os
from functools import partial

import trio
from quart_trio import QuartTrio

from chatkit_trio.web import serve


def run(app: QuartTrio) -> None:
    """Serve an app until Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    port = int(os.environ.get("PORT", "8000"))
    trio.run(partial(serve, app, port=port, drain_timeout=2, on_ready=_tell))


def _tell(urls: object) -> None:
    print("Serving on", *urls if isinstance(urls, (list, tuple)) else [urls])
