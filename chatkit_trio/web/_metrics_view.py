"""The view that shows a server's metrics to Prometheus, and the counting of an app's requests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from quart import Response, request
from quart_trio.wrappers import TrioResponse

from chatkit_trio.metrics import Metrics
from chatkit_trio.server import ChatKitServer

from ._middleware import NO_STORE
from ._worker import NotSharedError, is_one_of_many

logger = logging.getLogger(__name__)

SAMPLING_INTERVAL = 1.0
"""How often, in seconds, the gauges are set where another process may show them."""


class MetricsView:
    """The metrics of one server."""

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self._metrics = Metrics(server)
        self._has_failed = False
        # One of its own: user code that blocks may hold all threads of Trio's.
        self._limiter = trio.CapacityLimiter(1)

    def start(self, nursery: trio.Nursery) -> None:
        """Set the gauges in this nursery from now on, for other processes.

        Raises `NotSharedError` if this is one of several workers, and they don't count together:
        each scrape would ask another one.
        """
        if is_one_of_many() and not self._metrics.spans_processes:
            raise NotSharedError(
                "several workers have to count together to show metrics: give them an empty"
                " directory in the environment variable PROMETHEUS_MULTIPROC_DIR, or leave out"
                " metrics_path or --workers"
            )
        if self._metrics.spans_processes:
            nursery.start_soon(self._keep_sampling)

    def stop(self) -> None:
        """The gauges stay as they are; the nursery ends what sets them."""

    async def metrics(self) -> Response:
        """Show all metrics, as text."""
        self._metrics.sample()
        accept = request.headers.get("Accept", "")
        body, content_type = await trio.to_thread.run_sync(
            self._metrics.exposition, accept, limiter=self._limiter
        )
        return TrioResponse(body, headers={**NO_STORE, "Content-Type": content_type})

    async def count(self, response: Response) -> Response:  # noqa: ASYNC124 (a plain one gets a thread)
        """Count the request that gets this response."""
        rule = request.url_rule
        with self._harmless():
            self._metrics.count_request("" if rule is None else rule.rule, response.status_code)
        return response

    async def _keep_sampling(self) -> None:
        while True:
            with self._harmless():
                self._metrics.sample()
            await trio.sleep(SAMPLING_INTERVAL)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Log an error once: the files of other processes' metrics may be on a full disk."""
        try:
            yield
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception("counting for metrics failed; they may be wrong from now on")
