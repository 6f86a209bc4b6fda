"""A shop that gives money back only if a person says so.

`needs_approval` makes a question of a tool call: the answer ends with it, and goes on when somebody
has answered, however much later: after a reload, a restart of the server, in another process.
Amounts up to 10 € need no approval. Writing a message instead of answering refuses.

    python -m examples.ask_first
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import trio
from pydantic import Field

from chatkit_trio.agents import (
    AgentContext,
    ApprovalWords,
    run_model,
    simple_to_agent_input,
    tool,
)
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.web import ChatPage, create_app
from examples._model import MODEL, Asked, Call, Say, open_model
from examples._run import run

ORDERS = {"A1": 30.0, "B2": 120.0, "C3": 5.0}
Order = Annotated[str, Field(description="The order's number, such as A1")]

paid_back: list[str] = []
"""What was paid back, in the order of the payments: a real shop has a bank."""


def is_much(context: AgentContext, arguments: dict[str, Any]) -> bool:
    """Say whether a person has to approve this."""
    return arguments["amount"] > 10


@tool(needs_approval=is_much)
async def refund(order: Order, amount: float) -> str:
    """Pay money back for an order."""
    await trio.sleep(0.5)  # a request to the bank
    paid_back.append(order)
    return f"{amount:.2f} € are on their way"


@tool
async def price(order: Order) -> float:
    """Look up what was paid for an order."""
    await trio.sleep(0.2)  # a look into the shop's books
    return ORDERS[order]


class Words(ApprovalWords):
    """Asks as a cashier would."""

    approve = "Yes, pay it back"
    refuse = "No"

    def question(self, tool: str, arguments: dict[str, Any]) -> str:
        return f"Shall I pay back {arguments['amount']:.2f} € for order {arguments['order']}?"


class Shop(ChatKitServer[None]):
    """Pays back what was paid for one of three orders."""

    async def respond(self, thread, input_user_message, context):
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=f"You refund orders of a shop. These exist: {', '.join(ORDERS)}.",
                input=await simple_to_agent_input(page.data[::-1]),
                tools=[price, refund],
                approval_words=Words(),
            )
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)


def offline(asked: Asked) -> list[Say | Call]:
    """Do what a model would: look up the prices, ask for the refunds, sum up."""
    orders = list(dict.fromkeys(re.findall("|".join(ORDERS), asked.message.upper())))
    if not orders:
        return [Say(f"Which order is it? There are {', '.join(ORDERS)}.")]
    if "price" not in asked.results:
        return [Call("price", {"order": order}) for order in orders]
    if "refund" not in asked.results:
        amounts = zip(orders, asked.results["price"], strict=True)
        return [Call("refund", {"order": o, "amount": float(amount)}) for o, amount in amounts]
    results = zip(orders, asked.results["refund"], strict=True)
    return [Say("\n".join(f"- **{order}**: {result}" for order, result in results))]


app = create_app(
    Shop(SQLiteStore("ask-first.sqlite3")),
    page=ChatPage(
        name="Refunds",
        greeting="What went wrong?",
        prompts=["I want my money back for A1", "Refund A1 and B2", "Refund C3, it was broken"],
    ),
)

if __name__ == "__main__":
    run(app)
