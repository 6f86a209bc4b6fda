"""A client that only counts: it opens streams over raw sockets and reads all of them to the end.

Started by `throughput` as a process of its own, so that reading costs the server nothing. Prints
the seconds from the first request sent to the last stream's end, and the frames counted. JSON and
HTTP's chunk headers contain no two line feeds in a row, so that counting those counts frames.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time

from benchmarks.measuring import message


class Stream:
    """One answer being read."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(request)
        self.frames = 0
        self._tail = b""

    def read(self) -> bool:
        """Count what has come; return whether the answer has ended."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server broke the stream off")
        data = self._tail + data
        self.frames += data.count(b"\n\n")
        self._tail = data[-1:] if data.endswith(b"\n") and not data.endswith(b"\n\n") else b""
        return data.endswith(b"0\r\n\r\n")


def request(path: str, command: dict[str, object]) -> bytes:
    body = json.dumps(message(None, **command)).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/chatkit")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--command", type=json.loads, required=True)
    arguments = parser.parse_args()
    start = time.perf_counter()
    frames = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(arguments.streams):
            stream = Stream(arguments.port, request(arguments.path, arguments.command))
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.read():
                    selector.unregister(key.data.socket)
                    key.data.socket.close()
                    frames += key.data.frames
    print(json.dumps({"seconds": time.perf_counter() - start, "frames": frames}))


if __name__ == "__main__":
    main()
