"""An image that a model makes is an item of the thread, whatever library has asked the model."""

from __future__ import annotations

from typing import Any

import pytest

from chatkit_trio.agents import ResponseStreamConverter, run_pydantic_ai
from chatkit_trio.types import GeneratedImageItem
from tests.transcript import transcript

from . import script
from .model_endpoint import ModelEndpoint
from .ways import PydanticAgent, PydanticAI, Server, asked, every_way

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def answer() -> list[Any]:
    return script.answer(
        *script.message("m_1", "Here it is:"),
        *script.image("ig_1", PIXEL, result=PIXEL),
        *script.message("m_2", "Do you like it?"),
    )


@every_way
async def test_an_image_is_shown_between_the_words_around_it(way: type[Server]) -> None:
    async with way(ModelEndpoint(answer())) as server:
        turn = await asked(server)
        items = [e.item for e in turn.events if e.type == "thread.item.done"][1:]  # not the user's
        stored = await server.store.load_thread_items(turn.thread_id, None, 50, "asc", None)

    assert turn.error is None
    kinds = ["assistant_message", "generated_image", "assistant_message"]
    assert [item.type for item in items] == kinds
    assert items[1].image.url == f"data:image/png;base64,{PIXEL}"
    assert [item.id for item in stored.data[1:]] == [item.id for item in items]


async def test_the_images_of_pydantic_ai_can_be_kept_elsewhere() -> None:
    kept = []

    class Kept(ResponseStreamConverter):
        async def base64_image_to_url(
            self, image_id: str, base64_image: str, partial_image_index: int | None = None
        ) -> str:
            kept.append(base64_image)
            return f"https://images.test/{len(kept)}.png"

    class Chat(PydanticAI):
        options = {"converter": Kept()}  # noqa: RUF012

    async with Chat(ModelEndpoint(answer())) as server:
        turn = await asked(server)
        page = await server.store.load_thread_items(turn.thread_id, None, 50, "asc", None)

    images = [item for item in page.data if isinstance(item, GeneratedImageItem)]
    assert [image.image and image.image.url for image in images] == ["https://images.test/1.png"]
    assert kept == [PIXEL]


async def test_a_file_that_is_no_image_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread has no item for it, and the words around it stay."""
    messages = pytest.importorskip("pydantic_ai.messages")
    function = pytest.importorskip("pydantic_ai.models.function")

    async def says(_messages: Any, info: Any) -> Any:
        yield "Here is "
        yield "a song."

    part = messages.FilePart(messages.BinaryContent(b"la la", media_type="audio/mpeg"))
    original = function.FunctionStreamedResponse._get_event_iterator

    async def with_a_file(self: Any) -> Any:
        yield self._parts_manager.handle_part(vendor_part_id="file", part=part)
        async for event in original(self):
            yield event

    monkeypatch.setattr(function.FunctionStreamedResponse, "_get_event_iterator", with_a_file)

    class Chat(PydanticAI):
        def start(self, context: Any, agent_input: Any) -> Any:
            agent = PydanticAgent(function.FunctionModel(stream_function=says))
            return run_pydantic_ai(context, agent, "hi")

    async with Chat(ModelEndpoint()) as server:
        turn = await asked(server)
        said = await transcript(server.store, turn.thread_id)

    assert (turn.error, said[1:]) == (None, ["assistant: Here is a song."])
    assert "audio/mpeg" in caplog.text
