"""Try out what happens to an answer that is cut short, under each policy.

The words of a message choose the policy of its turn. The next answer reports how the previous one
ended; the model knows that from the hidden note that was stored with the previous answer.

| say, or press | the turn's policy | then |
|---|---|---|
| "Count" | the default | press stop; or kill the server, and start it again |
| "... while I reload" | `on_disconnect="finish"` | reload: the answer goes on |
| "... stop when I leave" | `on_disconnect="cancel"` | reload: it was cut at once |
| "... wait 5 seconds" | `on_disconnect=5` | close the page, and come back soon, or late |
| "... 3 seconds at most" | `turn_timeout=3` | wait |
| a rival (panel) | `on_busy="supersede"`, `"queue"`, `"reject"` | see which message wins |
| don't read (panel) | `stall_timeout=3` | a client that is connected and reads nothing |
"""

from __future__ import annotations

import re
from pathlib import Path

from chatkit_trio.agents import AgentContext, run_model, simple_to_agent_input
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import (
    ProgressUpdateEvent,
    ThreadItemUpdatedEvent,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
)
from chatkit_trio.web import ChatPage, create_app
from examples._model import MODEL, Asked, Say, open_model

INSTRUCTIONS = (
    "You count aloud, from 1 to 400, in figures with a space between them, when asked to count."
    " A note says how your previous answer ended: if there is one, first tell the user in one"
    " sentence what happened and how far you had got. Asked to go on, go on from there."
)
POLICIES = {
    "while i reload": TurnPolicy(on_disconnect="finish"),
    "when i leave": TurnPolicy(on_disconnect="cancel"),
    "wait 5 seconds": TurnPolicy(on_disconnect=5.0),
    "3 seconds at most": TurnPolicy(turn_timeout=3.0),
    "supersede": TurnPolicy(on_busy="supersede", on_disconnect="finish"),
    "queue": TurnPolicy(on_busy="queue", on_disconnect="finish"),
    "reject": TurnPolicy(on_busy="reject", on_disconnect="finish"),
    "flood": TurnPolicy(stall_timeout=3.0, max_unread_bytes=64 * 1024),
}
FLOOD = ProgressUpdateEvent(text="Flooding" + " " * 64 * 1024)
FLOODS = 20  # for each number; soon more than a browser and two kernels buffer for the page


class CancelLab(ChatKitServer[None]):
    """Counts, and remembers why it stopped."""

    def get_turn_policy(self, request, context):
        words = words_of(request).lower()
        fitting = (policy for phrase, policy in POLICIES.items() if phrase in words)
        return next(fitting, self.policy)

    async def respond(self, thread, input_user_message, context):
        thread.title = thread.title or words_of(input_user_message)[:40]
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=INSTRUCTIONS,
                input=await simple_to_agent_input(page.data[::-1]),
            )
            is_flooded = "flood" in words_of(input_user_message).lower()
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)
                if is_flooded and isinstance(event, ThreadItemUpdatedEvent):
                    for _ in range(FLOODS):
                        yield FLOOD  # noqa: ASYNC119


def words_of(request: object) -> str:
    """Return the user's words in a request or an item; other requests have none."""
    if isinstance(request, ThreadsCreateReq | ThreadsAddUserMessageReq):
        request = request.params.input
    return "".join(part.text for part in getattr(request, "content", []))


CAUSES = {
    "user stopped": "You stopped me",
    "user cancelled": "You left, or the connection did",
    "stalled": "You were connected, and read nothing",
    "time limit": "My time was up",
    "restarted": "I was restarted",
    "something new": "Somebody spoke while I was counting",
    "error": "Something broke",
    "server failed": "The server died under me",
}


def offline(asked: Asked) -> list[Say]:
    """Do what a model would: report, then count or go on counting."""
    numbers = re.findall(r"\d+", asked.previous_answer)
    last = int(numbers[-1]) if numbers else 0
    report = _report(asked, last)
    if asked.mentions("go on", "continue"):
        return [Say(report + _count(last + 1))]
    if asked.mentions("count", "flood"):
        return [Say(report + _count(1))]
    if asked.mentions("rival"):
        return [Say(report + "It's my turn, then.")]
    return [Say(report or "My last answer came to its end, or there was none. Ask me to count!")]


def _report(asked: Asked, last: int) -> str:
    causes = [cause for note in asked.notes for words, cause in CAUSES.items() if words in note]
    if not causes:
        return ""
    return f"{causes[-1]}: I had got to **{last}**.\n\n" if last else f"{causes[-1]}.\n\n"


def _count(start: int) -> str:
    return " ".join(str(number) for number in range(start, 401))


app = create_app(
    CancelLab(SQLiteStore("cancel-lab.sqlite3")),
    page=ChatPage(
        name="Cancel lab",
        greeting="How shall it end?",
        prompts=[
            "Count, and I'll press stop",
            "Count on while I reload the page",
            "Count, and stop when I leave",
            "Count, and wait 5 seconds for me",
            "Count for 3 seconds at most",
            "What happened to your last answer?",
        ],
        scripts=[Path(__file__).with_name("panel.js")],
    ),
)
