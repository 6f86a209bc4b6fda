"""An assistant with a model, on any server that speaks OpenAI's chat completions.

The client runs on trio. The stream is open in an `async with`, so a cancelled turn closes the
model's connection at once, and the model stops.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.store import Store
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem

from ._history import as_model_messages, text_of, title_of

DEFAULT_MODEL = "gpt-5-mini"
_HISTORY_LENGTH = 60
_INSTRUCTIONS = (
    "You are a friendly assistant in a chat. Answer in Markdown. Text in"
    " <note-from-the-application> comes from the application, not from the user: it says how an"
    " earlier answer of yours ended. Take it into account, and don't quote it."
)


class ModelAssistant(ChatKitServer[Any]):
    """Answers with the model that `OPENAI_MODEL` names.

    The client itself reads `OPENAI_API_KEY` and `OPENAI_BASE_URL` from the environment.
    """

    def __init__(
        self, store: Store[Any], *, policy: TurnPolicy, owner_limits: OwnerLimits | None = None
    ) -> None:
        super().__init__(store, policy=policy, owner_limits=owner_limits)
        self._model = os.environ.get("OPENAI_MODEL", DEFAULT_MODEL)

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        if input_user_message is not None:
            thread.title = thread.title or title_of(text_of(input_user_message))
        return stream_text(
            thread,
            self._answer(thread, context),
            lambda kind: self.store.generate_item_id(kind, thread, context),
        )

    async def _answer(self, thread: ThreadMetadata, context: Any) -> AsyncIterator[str]:
        """Yield the pieces of the model's answer."""
        # The engine steps and closes this generator in one task, so blocks may span its yields.
        async with (
            AsyncOpenAI() as client,
            await client.chat.completions.create(
                model=self._model, messages=await self._messages(thread, context), stream=True
            ) as stream,
        ):
            async for chunk in stream:
                yield (chunk.choices[0].delta.content if chunk.choices else None) or ""  # noqa: ASYNC119

    async def _messages(self, thread: ThreadMetadata, context: Any) -> list[Any]:
        page = await self.store.load_thread_items(thread.id, None, _HISTORY_LENGTH, "desc", context)
        instructions = {"role": "system", "content": _INSTRUCTIONS}
        return [instructions, *as_model_messages(page.data[::-1])]
