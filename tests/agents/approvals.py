"""A server whose model may only call what the user has approved, and what tests do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from chatkit_trio.agents import AgentContext, run_model, simple_to_agent_input, tool
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import ChatClient, ClientTurn
from chatkit_trio.types import (
    ApprovalCall,
    SDKHiddenContextItem,
    StructuredInputItem,
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)


class Desk(ChatKitServer[None]):
    """A server with a tool that needs approval, and a list of the calls that were made."""

    def __init__(self, store: Store[None], client: Any, made: list[str], **options: Any) -> None:
        super().__init__(store)
        self.client = client
        self.made = made
        self.options = options

    def tools(self) -> Sequence[Any]:
        made = self.made

        @tool(needs_approval=True)
        async def refund(order: str, amount: int) -> str:
            """Give money back."""
            made.append(f"refund {order} {amount}")
            return f"refunded {amount}"

        @tool
        async def look_up(order: str) -> str:
            """Look an order up."""
            made.append(f"look_up {order}")
            return "paid by card"

        return [refund, look_up]

    def agent_context(self, thread: ThreadMetadata, context: None) -> AgentContext[None]:
        return AgentContext(thread=thread, store=self.store, request_context=context)

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        newest = await self.store.load_thread_items(thread.id, None, 20, "desc", context)
        events = run_model(
            self.agent_context(thread, context),
            self.client,
            model="scripted",
            input=await simple_to_agent_input(newest.data[::-1]),
            **({"tools": self.tools()} | self.options),
        )
        async for event in events:
            yield event


def sqlite(path: Path) -> SQLiteStore[None]:
    return SQLiteStore(path)


async def send(client: ChatClient, text: str, thread_id: str | None = None) -> ClientTurn:
    async with client.send(text, thread_id) as turn:
        await turn.read()
    return turn


async def answer(
    client: ChatClient, question: StructuredInputItem, *answers: str | None, comment: str = ""
) -> ClientTurn:
    """Answer the calls in their order; None leaves one out."""
    given = {str(number): [each] for number, each in enumerate(answers) if each is not None}
    if comment:
        given["comment"] = [comment]
    async with client.send_answers(question.thread_id, question.id, given) as turn:
        await turn.read()
    return turn


async def items_of(store: Store[None], thread_id: str) -> list[ThreadItem]:
    return (await store.load_thread_items(thread_id, None, 100, "asc", None)).data


async def question_in(store: Store[None], thread_id: str) -> StructuredInputItem:
    """Return the thread's last question."""
    items = await items_of(store, thread_id)
    return [item for item in items if isinstance(item, StructuredInputItem)][-1]


async def calls_in(store: Store[None], thread_id: str) -> list[ApprovalCall]:
    """Return what the thread's newest note says of the calls."""
    return (await note_in(store, thread_id)).approval.calls  # type: ignore[union-attr]


async def note_in(store: Store[None], thread_id: str) -> SDKHiddenContextItem:
    notes = [
        item
        for item in await items_of(store, thread_id)
        if isinstance(item, SDKHiddenContextItem) and item.approval is not None
    ]
    return notes[-1]
