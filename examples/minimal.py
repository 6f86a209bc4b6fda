"""The shortest sensible server: a model, its history, and a page to talk to it.

python -m examples.minimal
"""

from chatkit_trio.agents import AgentContext, run_model, simple_to_agent_input
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import create_app
from examples._model import MODEL, Asked, Say, open_model
from examples._run import run


class Minimal(ChatKitServer[None]):
    async def respond(self, thread, input_user_message, context):
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        conversation = await simple_to_agent_input(page.data[::-1])
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            async for event in run_model(agent, model, model=MODEL, input=conversation):
                yield event  # noqa: ASYNC119 (the turn closes this generator)


def offline(asked: Asked) -> list[Say]:
    """Answer without a model."""
    return [Say(f"You said: “{asked.message}”. With OPENAI_API_KEY set, a model would answer.")]


app = create_app(Minimal(MemoryStore()))

if __name__ == "__main__":
    run(app)
