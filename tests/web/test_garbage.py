"""What is loaded when a server listens isn't gone through by garbage collections."""

from __future__ import annotations

import json
import sys

import trio

from .sockets import ROOT

SERVING = """
import gc, json, os, signal, sys
import trio
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import create_app, serve

class Silent(ChatKitServer):
    async def respond(self, thread, input_user_message, context):
        return
        yield

def state():
    return {"loaded": len(gc.get_objects()), "kept_out": gc.get_freeze_count(),
            "begins_at": gc.get_threshold()[0]}

def on_ready(urls):
    told.append(state())
    os.kill(os.getpid(), signal.SIGINT)

if sys.argv[1:] == ["frozen"]:
    gc.freeze()
told = [state()]
trio.run(lambda: serve(create_app(Silent(MemoryStore())), port=0, on_ready=on_ready))
told.append(state())
print(json.dumps(told))
"""


async def states(*arguments: str) -> list[dict[str, int]]:
    """Return how it is before a server, while it listens, and after it."""
    command = [sys.executable, "-c", SERVING, *arguments]
    ended = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    return json.loads(ended.stdout)


async def test_collections_pass_over_what_is_loaded_while_a_server_listens():
    before, listening, after = await states()

    assert listening["kept_out"] > 0.9 * before["loaded"]
    assert listening["loaded"] < 0.1 * before["loaded"]
    assert listening["begins_at"] > before["begins_at"]
    assert after["kept_out"] == before["kept_out"] == 0
    assert after["begins_at"] == before["begins_at"]


async def test_what_the_app_has_frozen_stays_frozen():
    before, _listening, after = await states("frozen")

    assert after["kept_out"] >= 0.9 * before["kept_out"] > 0
    assert after["begins_at"] == before["begins_at"]
