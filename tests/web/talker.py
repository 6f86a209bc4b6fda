"""A server that talks until it is stopped, on a slow database; served here and in children.

As a module it is what `chatkit-trio serve` is given: the environment says where the database is.
"""

from __future__ import annotations

import os

import trio
from quart import Response

from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.store import Store
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import SlowStore
from chatkit_trio.web import _serving, create_app

SLOW = 0.05  # seconds a write


class Talker(ChatKitServer):
    """Says `word0 word1 ...`, padded to `word_size`, `count` words in all."""

    def __init__(
        self,
        store: Store,
        *,
        every: float = 0.01,
        word_size: int = 8,
        count: int = 1_000_000,
        policy: TurnPolicy | None = None,
    ) -> None:
        super().__init__(store, policy=policy)
        self.produced: list[str] = []
        self._every = every
        self._word_size = word_size
        self._count = count

    def respond(self, thread, input_user_message, context):
        return stream_text(thread, self.words())

    async def words(self):
        for number in range(self._count):
            await trio.sleep(self._every)
            word = f"word{number} ".ljust(self._word_size)
            self.produced.append(word)
            yield word


def open_store(database: str) -> Store:
    """Return the store of a file or of a PostgreSQL database."""
    if database.startswith("postgresql:"):
        return PostgreSQLStore(database, migrate=True)
    return SQLiteStore(database)


if "TALKER_DATABASE" in os.environ:
    server = Talker(
        SlowStore(open_store(os.environ["TALKER_DATABASE"]), SLOW, reads=0),
        word_size=int(os.environ.get("TALKER_WORD_SIZE", "8")),
        count=int(os.environ.get("TALKER_COUNT", "1000000")),
        policy=TurnPolicy(on_disconnect="finish"),
    )
    _serving.GRACE = 0.5
    app = create_app(server)

    @app.after_request
    async def tell_who_answers(response: Response) -> Response:
        response.headers["Worker"] = str(os.getpid())
        return response
