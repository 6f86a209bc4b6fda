"""What examples/support_desk shows."""

import pytest

from chatkit_trio.testing import ChatClient, RequestRefused
from chatkit_trio.testing._asgi import ASGITransport
from chatkit_trio.types import HiddenContextItem, LockedStatus
from chatkit_trio.web._blueprint import servers_of
from examples.support_desk import make_app
from examples.support_desk.server import SPOKEN

ORIGIN = "http://127.0.0.1:8000"


@pytest.fixture
def desk(tmp_path):
    return make_app(tmp_path, ORIGIN)


async def ask(client, message, thread_id=None, **more):
    async with client.send(message, thread_id, **more) as turn:
        await turn.read()
    return turn


async def upload(desk, client, name, content, mime_type):
    """Do what the page does with a file, and return its id."""
    attachment = await client.create_attachment(name, len(content), mime_type)
    place = attachment.upload_descriptor
    path = str(place.url).removeprefix(ORIGIN)
    async with ASGITransport(desk, "", []).exchange(
        place.method, path, content, [*place.headers.items(), ("Content-Type", mime_type)]
    ) as response:
        assert response.status == 200, await response.body()
    return attachment.id


async def test_the_model_knows_the_customer_and_the_page_does_not(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        turn = await ask(client, "Hello")
        await ask(client, "Hello again", turn.thread_id)
        shown = await client.items(turn.thread_id)
        (server,) = servers_of(desk)
        page = await server.store.load_thread_items(turn.thread_id, None, 20, "asc", "ines")

    (note,) = [item for item in page.data if isinstance(item, HiddenContextItem)]
    assert note.content.startswith("Customer ines. order 1042")
    assert {item.type for item in shown} == {"user_message", "assistant_message"}
    assert "order 1042" not in b"".join(turn.frames).decode()  # an id may have its digits


async def test_customers_see_only_their_own(jump_clock, desk):
    async with ChatClient.of_app(desk) as ines:
        turn = await ask(ines, "Where is order 1077?")
        guest = ASGITransport(desk, "/chatkit", [("Cookie", "customer=guest")])
        other = ChatClient(guest)
        with pytest.raises(RequestRefused) as refusal:
            await other.thread(turn.thread_id)
        their_order = await ask(other, "Where is order 1077?")

    assert refusal.value.status == 404
    assert turn.text.endswith("pannier bags: packed, leaves tomorrow")
    assert their_order.text.endswith("no such order")


async def test_a_file_goes_to_the_model(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        file_id = await upload(desk, client, "noises.txt", b"squeak\nsqueak", "text/plain")
        turn = await ask(client, "Here are my notes.", attachments=[file_id])

    assert turn.text == "Thank you, I've read *noises.txt*. It begins: “squeak”"


async def test_other_kinds_of_files_are_refused(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        with pytest.raises(RequestRefused) as refusal:
            await client.create_attachment("run.exe", 10, "application/x-msdownload")

    assert refusal.value.status == 415


async def test_speech_becomes_text(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        heard = await client.transcribe(b"\x1aE\xdf\xa3", "audio/webm;codecs=opus")

    assert heard.text == SPOKEN


async def test_a_repair_is_booked_and_names_the_thread(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        turn = await ask(client, SPOKEN)

    assert turn.text == "Bring it in on **Thursday at 9:30**. Is there anything else?"
    assert turn.thread.title == "Repair: My rear brake squeals when it rains"


async def test_a_closed_case_takes_no_more_messages(jump_clock, desk):
    async with ChatClient.of_app(desk) as client:
        turn = await ask(client, "Thanks, that's all!")
        with pytest.raises(RequestRefused) as refusal:
            await ask(client, "One more thing", turn.thread_id)
        thread = await client.thread(turn.thread_id)

    assert turn.text == "Glad it's settled. I've closed this case; ride well!"
    assert thread.status == LockedStatus(reason="This case is closed.")
    assert refusal.value.status == 409
