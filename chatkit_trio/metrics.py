"""Prometheus metrics of a server (extra `metrics`).

Most people need only `create_app(server, metrics_path="/metrics")`. This is for those who show the
metrics in another way. docs/how-to/observe.md lists them.

Where the environment has `PROMETHEUS_MULTIPROC_DIR`, several processes count into its files, and
each of them shows the sum over all: the multiprocess mode of prometheus-client.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .observe import (
    CallEnded,
    Event,
    FirstEventSent,
    RequestRefused,
    StoreOperation,
    TurnAsked,
    TurnEnded,
    TurnRecovered,
    TurnSettled,
)
from .server import CancelReason

try:
    import prometheus_client
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
except ModuleNotFoundError as error:
    raise ImportError(
        "metrics need the package prometheus-client: pip install 'chatkit-trio[metrics]'"
    ) from error

if TYPE_CHECKING:
    from .server import ChatKitServer

__all__ = ["Metrics"]

_REASONS = ["finished", "refused", *(reason.value for reason in CancelReason)]
_TURN_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_FIRST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
_STORE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts what happens to a server's turns, from now on.

        metrics = Metrics(server)
        ...
        metrics.sample()
        body, content_type = metrics.exposition(request.headers.get("Accept", ""))

    It is an observer of the server, and has a registry of its own. Raises `ValueError` if
    `PROMETHEUS_MULTIPROC_DIR` is no directory.
    """

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self.registry = registry = CollectorRegistry()
        """What this object counts."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder and not Path(folder).is_dir():
            raise ValueError(f"PROMETHEUS_MULTIPROC_DIR is {folder!r}, which is no directory")
        self.spans_processes = bool(folder)
        """Whether several processes count together."""
        self._server = server

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"chatkit_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"chatkit_{name}_seconds", text, labels, buckets=buckets, registry=registry
            )

        self._asked = counter("turns", "Turns that were asked for, by request.", "request")
        self._ended = counter("turns_ended", "Turns that are over, by reason.", "reason")
        self._turn = seconds("turn", "From the request to the stored answer.", _TURN_BUCKETS)
        self._first = seconds(
            "first_event", "From the request to the first event of respond.", _FIRST_BUCKETS
        )
        self._settle = seconds(
            "settle", "From the end of an answer to its storing.", _STORE_BUCKETS
        )
        self._retries = counter("settle_retries", "Tries to store an answer after a first one.")
        self._events = counter("events", "Events that the clients of ended turns could read.")
        self._recovered = counter(
            "turns_recovered", "Turns of dead processes that were stored, by reason.", "reason"
        )
        self._refusals = counter("refusals", "Requests that were refused, by code.", "code")
        self._store = seconds("store", "Store operations of turns.", _STORE_BUCKETS, "operation")
        self._store_failures = counter(
            "store_failures", "Store operations of turns that failed.", "operation"
        )
        self._call = seconds("call", "Calls of models and tools.", _TURN_BUCKETS, "kind")
        self._call_failures = counter(
            "call_failures", "Calls of models and tools that failed; a cut isn't one.", "kind"
        )
        self._tokens = counter("model_tokens", "Tokens that models have counted.", "type")
        self._requests = counter(
            "http_requests", "Requests over HTTP, by route and status.", "route", "status"
        )

        def gauge(name: str, text: str, mode: Any) -> Gauge:
            return Gauge(f"chatkit_{name}", text, registry=registry, multiprocess_mode=mode)

        self._live = gauge("turns_live", "Turns whose answer isn't stored yet.", "livesum")
        self._unread = gauge("unread_bytes", "Bytes that wait for slow clients.", "livesum")
        self._lag = gauge(
            "journal_lag_seconds", "Since the journal had all that live turns said.", "livemax"
        )
        self._waiting = gauge(
            "settling_oldest_seconds",
            "Since the oldest answer that isn't stored is over.",
            "livemax",
        )
        # Shown from the start: to Prometheus, a series that begins with 1 hasn't grown.
        for reason in _REASONS:
            self._ended.labels(reason)
            if reason not in ("finished", "refused"):
                self._recovered.labels(reason)
        for kind in ("model", "tool"):
            self._call_failures.labels(kind)
        server.observe(self)

    def __call__(self, event: Event) -> None:
        """Count an event. Not a checkpoint."""
        match event:
            case TurnAsked(turn=turn):
                self._asked.labels(turn.request).inc()
            case FirstEventSent(seconds=seconds):
                self._first.observe(seconds)
            case TurnSettled(seconds=seconds, tries=tries):
                self._settle.observe(seconds)
                self._retries.inc(max(0, tries - 1))
            case TurnEnded(reason=reason, seconds=seconds, events=events):
                self._ended.labels(reason).inc()
                self._turn.observe(seconds)
                self._events.inc(events)
            case TurnRecovered(reason=reason):
                self._recovered.labels(reason).inc()
            case RequestRefused(code=code):
                self._refusals.labels(code).inc()
            case StoreOperation(name=name, seconds=seconds, is_done=is_done):
                self._store.labels(name).observe(seconds)
                self._store_failures.labels(name).inc(not is_done)
            case CallEnded():
                self._count_call(event)

    def count_request(self, route: str, status: int) -> None:
        """Count a request over HTTP; `route` is the pattern of its path, "" for no route."""
        self._requests.labels(route or "none", str(status)).inc()

    def sample(self) -> None:
        """Look how things stand now; call it in the Trio thread, before `exposition`."""
        writer = self._server.journal_writer
        self._live.set(len(self._server.live_turns))
        self._unread.set(self._server.live_turns.unread_bytes)
        self._lag.set(0.0 if writer is None else writer.lag)
        self._waiting.set(self._server.live_turns.oldest_settling or 0.0)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, and its content type, for an `Accept` header.

        Beside those of the server they are those of prometheus-client's own registry: of the
        process, and what else this program counts. With `PROMETHEUS_MULTIPROC_DIR` they are those
        of all processes, and those of the single process are left out. It reads files: call it in
        a worker thread.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        if not self.spans_processes:
            return encode(_Several([self.registry, prometheus_client.REGISTRY])), content_type
        _forget_dead_processes(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return encode(together), content_type

    def _count_call(self, ended: CallEnded) -> None:
        kind = ended.call.kind
        self._call.labels(kind).observe(ended.seconds)
        self._call_failures.labels(kind).inc(isinstance(ended.error, Exception))
        for name in ("input", "output"):
            self._tokens.labels(name).inc(ended.facts.get(f"gen_ai.usage.{name}_tokens", 0))


class _Several(CollectorRegistry):
    """What several registries have."""

    def __init__(self, registries: Iterable[CollectorRegistry]) -> None:
        super().__init__()
        for registry in registries:
            self.register(registry)


def _forget_dead_processes(folder: Path) -> None:
    """Leave out gauges of processes that are gone; what they have counted stays."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another process may do the same
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass
