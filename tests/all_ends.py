"""One turn for each way in which a turn can end, by the real engine and with the mock clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from chatkit_trio.server import CancelReason, ChatKitServer, Turn, TurnPolicy, current_turn
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import ChatClient, SlowStore, do, fail, pause, say, scripted_server
from tests.engine.scenes import ask, sending

SECRET = "swordfish"
"""A word of the user and of the model, which no log and no label may have."""

ENDS = ["finished", *(reason.value for reason in CancelReason)]

HELLO = say("Hello", f" {SECRET}", finish=False, every=1.0)
"""A message whose first event comes at once; its text is there after two seconds."""

_SCRIPTS: dict[str, list[Any]] = {
    "finished": [say("Hello", f" {SECRET}", every=1.0)],
    "failed": [HELLO, fail(RuntimeError("out of words"))],
    "incomplete": [HELLO, do(lambda scene: current_turn().mark_incomplete())],
    "stalled": [say("Hello", *[f"{SECRET} "] * 99)],
    "crashed": [HELLO, pause(1), say("more")],
}
_POLICIES = {
    "stalled": TurnPolicy(stall_timeout=2, max_unread_bytes=2000),
    "silent": TurnPolicy(idle_timeout=2),
    "deadline": TurnPolicy(turn_timeout=4),
}


async def let_end(reason: str, watch: Callable[[ChatKitServer[Any]], object]) -> Turn[Any]:
    """Run a turn that ends for this reason, and return it; `watch` is called with its server.

    A new message that supersedes it is a second turn, which finishes. One that has crashed is
    settled by another server, which is watched too.
    """
    cluster = MemoryCluster() if reason == "crashed" else None
    stores = [SlowStore(MemoryStore(cluster=cluster), 0.0) for _ in range(2)]
    server, other = (
        scripted_server(
            store,
            _SCRIPTS.get(reason, [HELLO, pause(1e9)]),
            [say("Fine")],
            policy=_POLICIES.get(reason),
        )
        for store in stores
    )
    watch(server)
    watch(other)
    async with server, other, sending(server, SECRET) as turn:
        own = turn.server_turn
        if reason != "stalled":
            await turn.wait_for(lambda event: SECRET in event.model_dump_json(include={"update"}))
        match reason:
            case "stopped":
                await server.stop(own.thread_id)
            case "disconnected":
                await turn.disconnect()
            case "shutdown":
                await server.drain(0)
            case "superseded":
                await ask(server, SECRET, own.thread_id)
            case "crashed":
                coordination = server.store.coordination
                assert cluster is not None
                assert coordination is not None
                stores[0].seconds = 1.0  # the other one is quicker
                cluster.abandon(own.id, coordination.node)
                await ChatClient.of_server(other).thread(own.thread_id)
            case "finished" | "failed" | "incomplete":
                await turn.read()
        with trio.fail_after(100):
            await own.ended.wait()
    return own
