"""A web site that notes who asks it for what: the third party of the tests in the browser."""

from __future__ import annotations

import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PICTURE = b"""<svg xmlns="http://www.w3.org/2000/svg" width="480" height="270">
<defs><linearGradient id="g" x2="1" y2="1"><stop stop-color="#0f766e"/>
<stop offset="1" stop-color="#7a3fd0"/></linearGradient></defs>
<rect width="480" height="270" fill="url(#g)"/></svg>"""


def certificate(folder: Path) -> Path:
    """Make a certificate for this run, and return the file with it and its key."""
    path = folder / "recorder.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    files = ["-subj", "/CN=recorder.test", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


class Recorder(ThreadingHTTPServer):
    """Serves one picture at every address over TLS, and notes each connection and request."""

    daemon_threads = True

    def __init__(self, pem: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connections = 0
        self.requests: list[str] = []
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(pem)
        self._thread = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def get_request(self):
        connection, address = super().get_request()
        self.connections += 1
        # The handshake is made by the thread of the connection, so that nobody else waits for it.
        secured = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def handle_error(self, request, client_address) -> None:
        """Say nothing: browsers break off connections as they like."""

    def forget(self) -> None:
        """Begin to count anew."""
        self.connections = 0
        self.requests = []

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.headers['Host']}{self.path}")
        self.send_response(200)
        self.send_header("Content-Type", "image/svg+xml")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
