"""What these files serve: a chat that repeats what it is told. Put your own server in its place.

The database is the one that PGHOST, PGUSER, PGPASSWORD and PGDATABASE name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.web import create_app


class Echo(ChatKitServer[None]):
    """Says a message's words, one after the other."""

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        parts = input_user_message.content if input_user_message is not None else []
        return stream_text(thread, self.words(" ".join(part.text for part in parts)))

    async def words(self, text: str) -> AsyncIterator[str]:
        for word in text.split():
            await trio.sleep(0.1)
            yield f"{word} "


# One owner for all: a chat with users has `owner=` here and `context=` in `create_app`.
store = PostgreSQLStore[None]("", max_connections=10)
server = Echo(
    store,
    policy=TurnPolicy(on_disconnect="finish"),
    owner_limits=OwnerLimits(live_turns=100, requests_per_minute=6000),
)
app = create_app(server)
