"""A client whose stream shows how long a server stood still, in a process of its own.

    python -m benchmarks.attacks.bystander PORT

Reads an answer with an event every 10 ms until its standard input is closed; prints the number of
events and the longest time between two of them, in seconds, as JSON. It prints "ready" first, when
events come.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from dataclasses import dataclass

from benchmarks.measuring import message

PAUSE = 0.01
COMMAND = {"deltas": 1_000_000, "pause": PAUSE}
READY_AFTER = 20  # chunks


@dataclass
class Gaps:
    """The longest silence so far."""

    chunks: int = 0
    longest: float = 0.0
    last: float = 0.0

    def note(self, now: float) -> None:
        self.chunks += 1
        if self.chunks > READY_AFTER:
            self.longest = max(self.longest, now - self.last)
        self.last = now


def watch(port: int) -> Gaps:
    """Read the stream until standard input is closed or the stream ends."""
    body = json.dumps(message(None, **COMMAND)).encode()
    head = f"POST /chatkit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    gaps = Gaps()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode() + body)
        while True:
            readable, _, _ = select.select([sock, sys.stdin], [], [])
            if sock in readable:
                if not sock.recv(65536):
                    return gaps
                gaps.note(time.perf_counter())
                if gaps.chunks == READY_AFTER:
                    print("ready", flush=True)
            if sys.stdin in readable:
                # A stall that hasn't ended yet counts too.
                gaps.longest = max(gaps.longest, time.perf_counter() - gaps.last)
                return gaps


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        found = watch(int(sys.argv[1]))
        print(json.dumps({"chunks": found.chunks, "longest": found.longest}), flush=True)
