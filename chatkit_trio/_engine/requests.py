"""One function a request, named as on the wire, and the two tables that route them.

A streaming request is an `Opening`: checks that only read, made before the stream begins and
again when its turn is admitted, and first writes. A non-streaming request is answered at once.
Every request loads its thread with the caller's context first, so that another owner's thread is
not found.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Never

from pydantic import BaseModel

from chatkit_trio.errors import ConflictError, ErrorCode, InvalidRequestError, StreamError
from chatkit_trio.types import (
    Attachment,
    AttachmentsCreateReq,
    AttachmentsDeleteReq,
    AudioInput,
    ClientToolCallItem,
    InputTranscribeReq,
    ItemsFeedbackReq,
    ItemsListReq,
    Page,
    StructuredInput,
    StructuredInputAnswer,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputSubmission,
    SyncCustomActionResponse,
    Thread,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadsAddClientToolOutputReq,
    ThreadsAddStructuredInputReq,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    ThreadsCustomActionReq,
    ThreadsDeleteReq,
    ThreadsGetByIdReq,
    ThreadsListReq,
    ThreadsRetryAfterItemReq,
    ThreadsSyncCustomActionReq,
    ThreadsUpdateReq,
    UserMessageInput,
    UserMessageItem,
    WidgetItem,
)

from .items import CancelReason, as_metadata, is_hidden
from .turn import Begun, Opening
from .wire import decode_audio, thread_answer, visible

if TYPE_CHECKING:
    from chatkit_trio.server import ChatKitServer

logger = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 100


class Nothing(BaseModel):
    """The empty answer."""


# --- Streaming requests ------------------------------------------------------------------------


def threads_create(server: ChatKitServer[Any], request: ThreadsCreateReq, context: Any) -> Opening:
    user_input = request.params.input

    async def check() -> None:
        await _load_attachments(server, user_input, context)

    async def begin() -> Begun:
        thread = Thread(
            id=server.store.generate_thread_id(context), created_at=datetime.now(UTC), items=Page()
        )
        attachments = await _load_attachments(server, user_input, context)
        metadata = ThreadMetadata(id=thread.id, created_at=thread.created_at)
        await server.store.save_thread(metadata, context=context)
        created = ThreadCreatedEvent(thread=thread_answer(thread))
        message = _user_message(server, user_input, attachments, thread, context)
        await _add_user_message(server, message, context)
        return Begun(
            thread,
            [created, ThreadItemDoneEvent(item=message)],
            partial(server.respond, thread, message, context),
        )

    return Opening(None, check, begin)


def threads_add_user_message(
    server: ChatKitServer[Any], request: ThreadsAddUserMessageReq, context: Any
) -> Opening:
    thread_id, user_input = request.params.thread_id, request.params.input

    async def check() -> None:
        _require_active(await server.store.load_thread(thread_id, context=context))
        await _load_attachments(server, user_input, context)

    async def begin() -> Begun:
        thread = await server.store.load_thread(thread_id, context=context)
        attachments = await _load_attachments(server, user_input, context)
        message = _user_message(server, user_input, attachments, thread, context)
        await _add_user_message(server, message, context)
        return Begun(
            thread,
            [ThreadItemDoneEvent(item=message)],
            partial(server.respond, thread, message, context),
        )

    return Opening(thread_id, check, begin)


def threads_add_client_tool_output(
    server: ChatKitServer[Any], request: ThreadsAddClientToolOutputReq, context: Any
) -> Opening:
    thread_id = request.params.thread_id

    async def check() -> None:
        await _pending_tool_calls(server, thread_id, context)

    async def begin() -> Begun:
        thread = await server.store.load_thread(thread_id, context=context)
        answered, *dangling = await _pending_tool_calls(server, thread_id, context)
        completed = answered.model_copy(
            update={"output": request.params.result, "status": "completed"}
        )
        await server.store.save_item(thread_id, completed, context=context)
        for call in dangling:
            logger.warning("client tool call %s was never answered; deleted", call.id)
            await server.store.delete_thread_item(thread_id, call.id, context=context)
        return Begun(thread, [], partial(server.respond, thread, None, context))

    return Opening(thread_id, check, begin)


def threads_add_structured_input(
    server: ChatKitServer[Any], request: ThreadsAddStructuredInputReq, context: Any
) -> Opening:
    thread_id, item_id = request.params.thread_id, request.params.item_id

    async def check() -> None:
        await _pending_structured_input(server, thread_id, item_id, context)

    async def begin() -> Begun:
        thread = await server.store.load_thread(thread_id, context=context)
        item = await _pending_structured_input(server, thread_id, item_id, context)
        answered = _answered(item, request.params.input)
        await server.store.save_item(thread_id, answered, context=context)
        return Begun(
            thread,
            [],
            partial(server.respond, thread, None, context),
            events_after_options=[ThreadItemReplacedEvent(item=answered)],
        )

    return Opening(thread_id, check, begin)


def threads_retry_after_item(
    server: ChatKitServer[Any], request: ThreadsRetryAfterItemReq, context: Any
) -> Opening:
    thread_id, item_id = request.params.thread_id, request.params.item_id

    async def check() -> None:
        _require_active(await server.store.load_thread(thread_id, context=context))
        await _load_user_message(server, thread_id, item_id, context)

    async def begin() -> Begun:
        thread = await server.store.load_thread(thread_id, context=context)
        message = await _load_user_message(server, thread_id, item_id, context)
        await server.store.delete_items_after(thread_id, item_id, context)
        return Begun(thread, [], partial(server.respond, thread, message, context))

    return Opening(thread_id, check, begin)


def threads_custom_action(
    server: ChatKitServer[Any], request: ThreadsCustomActionReq, context: Any
) -> Opening:
    thread_id, params = request.params.thread_id, request.params

    async def check() -> None:
        await server.store.load_thread(thread_id, context=context)
        if params.item_id:
            await server.store.load_item(thread_id, params.item_id, context=context)

    async def begin() -> Begun:
        thread = await server.store.load_thread(thread_id, context=context)
        sender = await _load_sender(server, thread_id, params.item_id, context)
        if sender is not None and not isinstance(sender, WidgetItem):
            return Begun(thread, [], _refuse_sender, sends_options=False)
        return Begun(thread, [], partial(server.action, thread, params.action, sender, context))

    return Opening(thread_id, check, begin)


# --- What streaming requests share -------------------------------------------------------------


def _require_active(thread: ThreadMetadata) -> None:
    if thread.status.type != "active":
        raise ConflictError(f"thread {thread.id} is {thread.status.type}: it takes no new messages")


async def _load_attachments(
    server: ChatKitServer[Any], user_input: UserMessageInput, context: Any
) -> list[Attachment]:
    return [
        await server.store.load_attachment(attachment_id, context=context)
        for attachment_id in user_input.attachments
    ]


def _user_message(
    server: ChatKitServer[Any],
    user_input: UserMessageInput,
    attachments: list[Attachment],
    thread: ThreadMetadata,
    context: Any,
) -> UserMessageItem:
    return UserMessageItem(
        id=server.store.generate_item_id("message", thread, context),
        thread_id=thread.id,
        created_at=datetime.now(UTC),
        content=user_input.content,
        attachments=[
            attachment.model_copy(update={"thread_id": thread.id}) for attachment in attachments
        ],
        quoted_text=user_input.quoted_text,
        inference_options=user_input.inference_options,
    )


async def _add_user_message(
    server: ChatKitServer[Any], message: UserMessageItem, context: Any
) -> None:
    for attachment in message.attachments:
        await server.store.save_attachment(attachment, context=context)
    await server.store.add_thread_item(message.thread_id, message, context=context)


async def _pending_tool_calls(
    server: ChatKitServer[Any], thread_id: str, context: Any
) -> list[ClientToolCallItem]:
    """Return the pending calls among the latest items, the newest first.

    Hidden items may have been added behind a call (the note of a cancelled turn); anything else
    behind it means that the conversation went on without the output.
    """
    await server.store.load_thread(thread_id, context=context)
    page = await server.store.load_thread_items(thread_id, None, DEFAULT_PAGE_SIZE, "desc", context)
    latest = next((item for item in page.data if not is_hidden(item)), None)
    if not isinstance(latest, ClientToolCallItem) or latest.status != "pending":
        raise ConflictError(
            f"thread {thread_id} isn't waiting for the output of a client tool:"
            " its last item is not a pending client tool call"
        )
    return [
        item
        for item in page.data
        if isinstance(item, ClientToolCallItem) and item.status == "pending"
    ]


async def _pending_structured_input(
    server: ChatKitServer[Any], thread_id: str, item_id: str, context: Any
) -> StructuredInputItem:
    await server.store.load_thread(thread_id, context=context)
    item = await server.store.load_item(thread_id, item_id, context=context)
    if not isinstance(item, StructuredInputItem):
        raise InvalidRequestError(f"item {item_id} is not a structured input, but {item.type}")
    if item.status != "pending":
        raise ConflictError(f"structured input {item_id} isn't pending: it is {item.status}")
    return item


def _answered(
    item: StructuredInputItem, submission: StructuredInputSubmission
) -> StructuredInputItem:
    unknown = submission.answers.keys() - {question.id for question in item.inputs}
    if unknown:
        logger.warning("structured input %s has no questions %s", item.id, sorted(unknown))
    inputs = [
        question.model_copy(update={"answer": _answer_to(question, submission)})
        for question in item.inputs
    ]
    return item.model_copy(update={"inputs": inputs, "status": submission.status})


def _answer_to(
    question: StructuredInput, submission: StructuredInputSubmission
) -> StructuredInputAnswer:
    answer = submission.answers.get(question.id)
    if submission.status == "skipped" or answer is None or answer.skipped or not answer.values:
        return StructuredInputAnswer(skipped=True)
    takes_one = isinstance(question, StructuredInputMultipleChoice) and not question.multiple
    return StructuredInputAnswer(values=answer.values[:1] if takes_one else answer.values)


async def _load_user_message(
    server: ChatKitServer[Any], thread_id: str, item_id: str, context: Any
) -> UserMessageItem:
    item = await server.store.load_item(thread_id, item_id, context=context)
    if not isinstance(item, UserMessageItem):
        raise InvalidRequestError(
            f"item {item_id} is not a user message, but {item.type}: only a user message can be"
            " answered again"
        )
    return item


async def _load_sender(
    server: ChatKitServer[Any], thread_id: str, item_id: str | None, context: Any
) -> ThreadItem | None:
    if not item_id:
        return None
    return await server.store.load_item(thread_id, item_id, context=context)


def _refuse_sender() -> Never:
    raise StreamError(ErrorCode.STREAM_ERROR, allow_retry=False)


# --- Non-streaming requests --------------------------------------------------------------------


async def threads_get_by_id(
    server: ChatKitServer[Any], request: ThreadsGetByIdReq, context: Any
) -> Thread:
    thread_id = request.params.thread_id
    await server.live_turns.wait_settled(thread_id)
    thread = await server.store.load_thread(thread_id, context=context)
    page = await _items_so_far(server, thread_id, context)
    return thread_answer(thread, page)


async def _items_so_far(
    server: ChatKitServer[Any], thread_id: str, context: Any
) -> Page[ThreadItem]:
    """Return a thread's first items with those that its live turn has begun and not finished."""
    while True:
        turn = server.live_turns.on_thread(thread_id)
        # Before the load: an item may be stored after the store has read, and before it answers.
        begun = [] if turn is None else turn.visible_items_so_far()
        page = await server.store.load_thread_items(
            thread_id, None, DEFAULT_PAGE_SIZE, "asc", context
        )
        if turn is None or not turn.settled.is_set():
            break
    if page.has_more:
        return page
    stored = {item.id for item in page.data}
    running = [item for item in begun if item.id not in stored]
    return page.model_copy(update={"data": [*page.data, *running]})


async def threads_list(
    server: ChatKitServer[Any], request: ThreadsListReq, context: Any
) -> Page[Thread]:
    params = request.params
    page = await server.store.load_threads(
        limit=_page_size(params.limit), after=params.after, order=params.order, context=context
    )
    threads = [thread_answer(thread) for thread in page.data]
    return Page[Thread](data=threads, has_more=page.has_more, after=page.after)


async def items_list(
    server: ChatKitServer[Any], request: ItemsListReq, context: Any
) -> Page[ThreadItem]:
    params = request.params
    await server.live_turns.wait_settled(params.thread_id)
    await server.store.load_thread(params.thread_id, context=context)
    page = await server.store.load_thread_items(
        params.thread_id, params.after, _page_size(params.limit), params.order, context
    )
    return visible(page)


async def items_feedback(
    server: ChatKitServer[Any], request: ItemsFeedbackReq, context: Any
) -> Nothing:
    params = request.params
    await server.store.load_thread(params.thread_id, context=context)
    await server.add_feedback(params.thread_id, params.item_ids, params.kind, context)
    return Nothing()


async def attachments_create(
    server: ChatKitServer[Any], request: AttachmentsCreateReq, context: Any
) -> BaseModel:
    attachment = await server.required_attachment_store().create_attachment(request.params, context)
    await server.store.save_attachment(attachment, context=context)
    return attachment


async def attachments_delete(
    server: ChatKitServer[Any], request: AttachmentsDeleteReq, context: Any
) -> Nothing:
    attachment_id = request.params.attachment_id
    attachments = server.required_attachment_store()
    # Whose attachment it is is known to the store of metadata: asked before bytes are deleted.
    await server.store.load_attachment(attachment_id, context=context)
    await attachments.delete_attachment(attachment_id, context)
    await server.store.delete_attachment(attachment_id, context=context)
    return Nothing()


async def threads_update(
    server: ChatKitServer[Any], request: ThreadsUpdateReq, context: Any
) -> Thread:
    thread_id = request.params.thread_id
    await server.store.load_thread(thread_id, context=context)
    if server.live_turns.on_thread(thread_id) is not None:
        return await _rename(server, request, context)
    # One that is beginning has loaded the old title, and one that begins now mustn't.
    async with server.live_turns.alone(thread_id):
        return await _rename(server, request, context)


async def _rename(server: ChatKitServer[Any], request: ThreadsUpdateReq, context: Any) -> Thread:
    thread_id, title = request.params.thread_id, request.params.title
    turn = server.live_turns.on_thread(thread_id)
    if turn is None:
        thread = await server.store.load_thread(thread_id, context=context)
    else:
        # The turn holds the newest state of the thread, and would overwrite this title with its.
        turn.rename(title)
        thread = turn.thread
    renamed = as_metadata(thread).model_copy(update={"title": title})
    await server.store.save_thread(renamed, context=context)
    return thread_answer(renamed)


async def threads_delete(
    server: ChatKitServer[Any], request: ThreadsDeleteReq, context: Any
) -> Nothing:
    thread_id = request.params.thread_id
    await server.store.load_thread(thread_id, context=context)
    # Those that wait for their turn too: nobody wants their answers any more.
    server.live_turns.cancel_all(thread_id, CancelReason.STOPPED)
    async with server.live_turns.alone(thread_id):
        await server.live_turns.end(thread_id, CancelReason.STOPPED)
        await server.store.delete_thread(thread_id, context=context)
    return Nothing()


async def input_transcribe(
    server: ChatKitServer[Any], request: InputTranscribeReq, context: Any
) -> BaseModel:
    params = request.params
    audio = AudioInput(data=decode_audio(params.audio_base64), mime_type=params.mime_type)
    return await server.transcribe(audio, context)


async def threads_sync_custom_action(
    server: ChatKitServer[Any], request: ThreadsSyncCustomActionReq, context: Any
) -> SyncCustomActionResponse:
    params = request.params
    thread = await server.store.load_thread(params.thread_id, context=context)
    sender = await _load_sender(server, params.thread_id, params.item_id, context)
    if sender is not None and not isinstance(sender, WidgetItem):
        raise InvalidRequestError(f"item {sender.id} is not a widget: it can't send an action")
    answer = await server.sync_action(thread, params.action, sender, context)
    return await _stored_answer(server, thread, answer, context)


async def _stored_answer(
    server: ChatKitServer[Any],
    thread: ThreadMetadata,
    answer: SyncCustomActionResponse,
    context: Any,
) -> SyncCustomActionResponse:
    """Save the updated item if the thread has it, so that a reload shows it; hide hidden ones."""
    item = answer.updated_item
    if item is None:
        return answer
    if is_hidden(item):
        return SyncCustomActionResponse()
    if item.thread_id == thread.id and await server.store.has_item(thread.id, item.id, context):
        await server.store.save_item(thread.id, item, context=context)
    return answer


def _page_size(limit: int | None) -> int:
    """Return how many to load: 20 unless asked for, 100 at most."""
    if limit is not None and limit < 0:
        raise InvalidRequestError(f"params.limit is {limit}: it can't be negative")
    return min(limit or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


STREAMING: dict[type[Any], Callable[[Any, Any, Any], Opening]] = {
    ThreadsCreateReq: threads_create,
    ThreadsAddUserMessageReq: threads_add_user_message,
    ThreadsAddClientToolOutputReq: threads_add_client_tool_output,
    ThreadsAddStructuredInputReq: threads_add_structured_input,
    ThreadsRetryAfterItemReq: threads_retry_after_item,
    ThreadsCustomActionReq: threads_custom_action,
}

ANSWERED: dict[type[Any], Callable[[Any, Any, Any], Awaitable[BaseModel]]] = {
    ThreadsGetByIdReq: threads_get_by_id,
    ThreadsListReq: threads_list,
    ItemsListReq: items_list,
    ItemsFeedbackReq: items_feedback,
    AttachmentsCreateReq: attachments_create,
    AttachmentsDeleteReq: attachments_delete,
    ThreadsUpdateReq: threads_update,
    ThreadsDeleteReq: threads_delete,
    InputTranscribeReq: input_transcribe,
    ThreadsSyncCustomActionReq: threads_sync_custom_action,
}
