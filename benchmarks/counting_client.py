"""A client that only counts: it opens streams over raw sockets and reads all of them to the end.

Started by `throughput` as a process of its own, so that reading costs the server nothing. Prints
the seconds from the first request sent to the last stream's end, the frames counted, how long each
stream's first frame took, and how old timed pieces of text were when they came. JSON and HTTP's
chunk headers contain no two line feeds in a row, so that counting those counts frames.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import time

from benchmarks.measuring import message, percentile

_TIME = re.compile(rb'"delta":"(\d+\.\d+) ')


class Stream:
    """One answer being read."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._asked_at = time.monotonic()
        self.socket.sendall(request)
        self.frames = 0
        self.first_frame = 0.0
        """Seconds."""
        self.delays: list[float] = []
        self._tail = b""

    def read(self) -> bool:
        """Count what has come; return whether the answer has ended."""
        data = self.socket.recv(1 << 18)
        now = time.monotonic()
        if not data:
            raise ConnectionError("the server broke the stream off")
        if not self.first_frame and b"data: " in data:
            self.first_frame = now - self._asked_at
        # A time that is cut in two is left out of the delays.
        self.delays += [now - float(made_at) for made_at in _TIME.findall(data)]
        data = self._tail + data
        self.frames += data.count(b"\n\n")
        self._tail = data[-1:] if data.endswith(b"\n") and not data.endswith(b"\n\n") else b""
        return data.endswith(b"0\r\n\r\n")


def request(path: str, command: dict[str, object], *headers: str) -> bytes:
    """Return the bytes of a POST with a user message that is this command."""
    body = json.dumps(message(None, **command)).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/chatkit")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--command", type=json.loads, required=True)
    parser.add_argument("--ramp", type=float, default=0, help="seconds in which streams begin")
    arguments = parser.parse_args()
    start = time.perf_counter()
    ended: list[Stream] = []
    with selectors.DefaultSelector() as selector:
        begun = 0
        while begun < arguments.streams or selector.get_map():
            wait = None
            if begun < arguments.streams:
                wait = start + arguments.ramp * begun / arguments.streams - time.perf_counter()
                if wait <= 0:
                    stream = Stream(arguments.port, request(arguments.path, arguments.command))
                    selector.register(stream.socket, selectors.EVENT_READ, stream)
                    begun += 1
                    wait = 0
            for key, _ in selector.select(wait):
                if key.data.read():
                    selector.unregister(key.data.socket)
                    key.data.socket.close()
                    ended.append(key.data)
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "frames": sum(stream.frames for stream in ended)}
    for name, values in (
        ("first_frame", [stream.first_frame for stream in ended]),
        ("delay", [delay for stream in ended for delay in stream.delays] or [0.0]),
    ):
        found[f"{name}_p50"], found[f"{name}_p99"] = (
            percentile(values, 0.5),
            percentile(values, 0.99),
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
