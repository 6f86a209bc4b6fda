"""A proxy before the tests' PostgreSQL server, which counts round trips, stalls and cuts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_SYNC, _QUERY = ord("S"), ord("Q")


class Proxy:
    """Listens on a port of the loopback and passes everything on to a Unix socket.

    Counts the messages after which a client waits for an answer (Sync, or a simple query).
    """

    def __init__(self, server: Path) -> None:
        self._server = server
        self._flows = threading.Event()
        self._flows.set()
        self._answers = threading.Event()
        self._answers.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.trips = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._flows.set()

    def url(self, direct: str) -> str:
        """Return the URL through the proxy of a database at the socket."""
        return f"{direct.partition('?')[0].replace('@/', f'@127.0.0.1:{self.port}/')}"

    def lead_to(self, server: Path) -> None:
        """Lead to another server, and cut those to the one before."""
        self._server = server
        self.cut()

    def cut(self) -> None:
        """Reset all connections that are open."""
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Take what comes and pass nothing on, as a network does that is gone."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @contextmanager
    def stalled_answers(self) -> Iterator[None]:
        """Pass on what clients send, and no answer."""
        self._answers.clear()
        try:
            yield
        finally:
            self.cut()
            self._answers.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                pump = (source, sink, source is client)
                threading.Thread(target=self._pump, args=pump, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        messages = _Messages()
        with suppress(OSError):
            while data := source.recv(65536):
                if is_client:
                    kinds = messages.feed(data)
                    self.trips += kinds.count(_SYNC) + kinds.count(_QUERY)
                self._flows.wait()
                if not is_client:
                    self._answers.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)  # which ends the other pump too
        with self._lock:
            self._sockets.discard(source)
        source.close()


class _Messages:
    """What a client sends, message by message: the first has no kind, and others are 5 bytes +."""

    def __init__(self) -> None:
        self._data = b""
        self._has_greeted = False

    def feed(self, data: bytes) -> list[int]:
        self._data += data
        kinds: list[int] = []
        while len(self._data) >= 5:
            start = int(self._has_greeted)
            length = start + int.from_bytes(self._data[start : start + 4], "big")
            if len(self._data) < length:
                break
            if self._has_greeted:
                kinds.append(self._data[0])
            # A request for TLS (of 8 bytes) is refused, and followed by the greeting.
            self._has_greeted = self._has_greeted or length != 8
            self._data = self._data[length:]
        return kinds
