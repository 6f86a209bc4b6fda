"""A server over an SQLite file, to be killed; started by `test_approval.py`.

It asks the user for approval and says the thread's id. With `approve` it gets the approval first,
and says the id when the tool runs.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from chatkit_trio.agents import tool
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import ChatClient
from examples._model import Asked, Call, ScriptedClient

from .approvals import Desk, answer, question_in, send


def asks_for_refund(asked: Asked) -> list[Any]:
    return [Call("refund", {"order": "A1", "amount": 30})]


class Doomed(Desk):
    thread_id = ""

    def tools(self) -> Any:
        @tool(needs_approval=True)
        async def refund(order: str, amount: int) -> str:
            print(self.thread_id, flush=True)
            await trio.sleep_forever()
            return ""

        return [refund]


async def main(path: str, *commands: str) -> None:
    server = Doomed(SQLiteStore(path), ScriptedClient(asks_for_refund), [])
    async with server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        server.thread_id = turn.thread_id
        if commands:
            await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        print(turn.thread_id, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
