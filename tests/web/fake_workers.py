"""A parent of workers that are short scripts instead of servers, so that they start at once.

python -m tests.web.fake_workers COUNT DIRECTORY

A worker runs `DIRECTORY/worker.py`. Started workers are counted by files there, and its own number
is what a worker's script gets, besides the socket to its parent.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import trio

from chatkit_trio.web import _workers

BEGINNING = """
import os, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1].split(",")[0]))
number = 1
while True:
    try:
        open(f"{sys.argv[2]}/started-{number}", "x").close()
        break
    except FileExistsError:
        number += 1
def say(line):
    channel.sendall(f"{line}\\n".encode())
def start():
    say("loaded 0.2 0.1")
    say("ready")
"""


def main(count: int, directory: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    _workers.FIRST_DELAY = 0.1
    _workers.C_CODE_TIMEOUT = 0.3
    _workers.EXITING = 0.2
    script = BEGINNING + (directory / "worker.py").read_text()

    def command(places: str) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", script, places, str(directory)]

    def tell(urls: object) -> None:
        print("Serving on", *urls, flush=True)

    sys.exit(trio.run(_workers.Workers(count, "127.0.0.1", 0, command).run, tell))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
