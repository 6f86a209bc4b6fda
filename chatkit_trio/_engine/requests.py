"""One class a streaming request, one function any other, and the two tables that route them.

A streaming request is checked by reads only, before the stream begins and again when its turn is
admitted; then its first writes are made. Any other request is answered at once. Every request loads
its thread with the caller's context first, so that another owner's thread is not found.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Never

import trio
from pydantic import BaseModel

from chatkit_trio.errors import (
    ConflictError,
    ErrorCode,
    InvalidRequestError,
    NotFoundError,
    StoreTimeoutError,
    StreamError,
)
from chatkit_trio.limits import RequestLimits
from chatkit_trio.store import Opening, Store, is_random_id
from chatkit_trio.types import (
    AnswerEnding,
    Attachment,
    AttachmentsCreateReq,
    AttachmentsDeleteReq,
    AudioInput,
    ClientToolCallItem,
    InputTranscribeReq,
    ItemsFeedbackReq,
    ItemsListParams,
    ItemsListReq,
    Page,
    SDKHiddenContextItem,
    StructuredInput,
    StructuredInputAnswer,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputSubmission,
    SyncCustomActionResponse,
    Thread,
    ThreadAddUserMessageParams,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadRetryAfterItemParams,
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
    TurnEnding,
    UserMessageInput,
    UserMessageItem,
    WidgetItem,
    is_hidden,
)

from .endings import (
    answer_ending,
    behind_last_message,
    ends_search,
    may_go_on,
    note_at_the_end,
    notes_of_page,
)
from .hooks import ServerHooks
from .keeping import CancelReason
from .loading import load_item, load_thread
from .naming import first_words
from .node import Beside
from .opening import CheckedRequest, PreparedRequest
from .pages import CutPage, PagedAnswer, cut_items, cut_threads, encode_items
from .reading import decode_audio
from .replay import load_latest
from .thread_state import as_metadata
from .wire import thread_answer

logger = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE = 20

_NAMED_BY_THE_FIRST = 5
"""A thread is named by the first message of the user, if that is among so many items."""


class Nothing(BaseModel):
    """The empty answer."""


# --- Streaming requests ------------------------------------------------------------------------


class _StreamingRequest(CheckedRequest):
    """A request with the server that carries it out and the caller's context."""

    is_looked_up = False
    """Whether somebody else looks whether the ids of what the request makes are free."""

    def __init__(self, server: ServerHooks[Any], request: Any, context: Any) -> None:
        self.server = server
        self.store = server.store
        self.params = request.params
        self.kind = request.type
        self.context = context
        self.thread_id = self._thread_id()

    def _thread_id(self) -> str:
        thread_id: str = self.params.thread_id
        return thread_id

    async def load_thread(self) -> ThreadMetadata:
        return await load_thread(self.store, self.thread_id, self.context)

    async def refresh(self, thread: ThreadMetadata) -> None:
        if not self.makes_thread:
            stored = await self.load_thread()
            for name in ThreadMetadata.model_fields:
                setattr(thread, name, getattr(stored, name))

    def respond(self, thread: ThreadMetadata, message: UserMessageItem | None) -> Callable[[], Any]:
        return partial(self.server.respond, thread, message, self.context)

    async def user_message(self, thread: ThreadMetadata) -> UserMessageItem:
        user_input: UserMessageInput = self.params.input
        attachments = await _load_attachments(self.server, user_input, self.context)
        return UserMessageItem(
            id=self.message_id or _new_message_id(self.store, thread, self.context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=user_input.content,
            attachments=[
                attachment.model_copy(update={"thread_id": thread.id}) for attachment in attachments
            ],
            quoted_text=user_input.quoted_text,
            inference_options=user_input.inference_options,
        )

    async def refuse_taken_ids(self) -> None:
        """Raise `ConflictError` if an id that was given for something new is taken."""
        if not self.has_given_ids:
            return
        if self.message_id and await self.store.has_item(
            self.thread_id, self.message_id, self.context
        ):
            raise ConflictError(f"thread {self.thread_id} has an item {self.message_id} already")

    def opening_with(self, message: UserMessageItem, turn_id: str) -> Opening:
        # A message that was named before may be there, from a try that failed. With coordination it
        # is there only if its turn has begun, and then this one mustn't: adding it is refused.
        is_named_again = bool(self.message_id) and not self.has_given_ids
        may_be_there = is_named_again and self.store.coordination is None
        return Opening(
            self.thread_id,
            turn_id,
            attachments=tuple(message.attachments),
            new_items=() if may_be_there else (message,),
            changed_items=(message,) if may_be_there else (),
        )


class ThreadsCreate(_StreamingRequest):
    makes_thread = True

    def _thread_id(self) -> str:
        return self.store.generate_thread_id(self.context)

    async def refuse_taken_ids(self) -> None:
        """Raise `ConflictError` if the thread's id is taken: two would become one.

        It may have been given, and a store that makes ids of its own may make one again.
        """
        is_new = not self.has_given_ids and is_random_id("thread", self.thread_id)
        if is_new or self.is_looked_up:
            return
        try:
            thread = await self.load_thread()
        except NotFoundError:
            return
        if self.has_given_ids or not await self._may_have_made(thread):
            raise ConflictError(f"there is a thread {self.thread_id} already")

    async def _may_have_made(self, thread: ThreadMetadata) -> bool:
        """Say whether an earlier try of this request, which has a key then, may have made it."""
        if not self.message_id:
            return False
        if self.store.coordination is not None:
            # All of its first writes were made; its turn can't begin again, says the store.
            return await self.store.has_item(self.thread_id, self.message_id, self.context)
        page = await self.store.load_thread_items(self.thread_id, None, 2, "asc", self.context)
        is_bare = thread.title is None and not thread.metadata
        return is_bare and all(item.id == self.message_id for item in page.data)

    async def name_message(self) -> None:
        thread = ThreadMetadata(id=self.thread_id, created_at=datetime.now(UTC))
        self.message_id = _new_message_id(self.store, thread, self.context)

    async def check(self) -> None:
        await self.refuse_taken_ids()
        await _load_attachments(self.server, self.params.input, self.context)

    async def prepare(self, turn_id: str) -> PreparedRequest:
        await self.refuse_taken_ids()
        thread = Thread(id=self.thread_id, created_at=datetime.now(UTC), items=Page())
        message = await self.user_message(thread)
        metadata = ThreadMetadata(id=thread.id, created_at=thread.created_at)
        opening = replace(self.opening_with(message, turn_id), new_thread=metadata)
        created = ThreadCreatedEvent(thread=thread_answer(thread))
        done = ThreadItemDoneEvent(item=message)
        return PreparedRequest(opening, thread, self.respond(thread, message), [created, done])


class ThreadsAddUserMessage(_StreamingRequest):
    async def name_message(self) -> None:
        thread = await self.load_thread()
        self.message_id = _new_message_id(self.store, thread, self.context)

    async def check(self) -> None:
        _require_active(await self.load_thread())
        await self.refuse_taken_ids()
        await _load_attachments(self.server, self.params.input, self.context)

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = _require_active(await self.load_thread())
        await self.refuse_taken_ids()
        message = await self.user_message(thread)
        opening = replace(self.opening_with(message, turn_id), needs_active=True)
        done = ThreadItemDoneEvent(item=message)
        return PreparedRequest(opening, thread, self.respond(thread, message), [done])


class NamedMessage(CheckedRequest):
    """A message whose client has named it and its thread: what it comes to is known when it begins.

    It begins the thread, or is added to one that is there. One that is there itself is answered
    again, as by a retry, if it says the same.
    """

    def __init__(self, new: _StreamingRequest) -> None:
        self.kind = new.kind
        self.thread_id = new.thread_id
        self.message_id = new.message_id
        # Not refused: another process may store them between the look here and one there.
        new.has_given_ids = False
        new.is_looked_up = True
        self._new = new
        self._found: _StreamingRequest = new

    async def check(self) -> None:
        await (await self._find()).check()

    async def prepare(self, turn_id: str) -> PreparedRequest:
        self._found = await self._find()
        return await self._found.prepare(turn_id)

    async def refresh(self, thread: ThreadMetadata) -> None:
        await self._found.refresh(thread)

    async def _find(self) -> _StreamingRequest:
        """Return the request that it comes to now. Raises `ConflictError` for another text."""
        new, params = self._new, self._new.params
        try:
            await new.load_thread()
        except NotFoundError:
            return new
        try:
            item = await load_item(new.store, self.thread_id, self.message_id, new.context)
        except NotFoundError:
            add = ThreadAddUserMessageParams(thread_id=self.thread_id, input=params.input)
            added = ThreadsAddUserMessage(
                new.server, ThreadsAddUserMessageReq(params=add), new.context
            )
            added.message_id = self.message_id
            return added
        if not isinstance(item, UserMessageItem) or texts_of(item) != texts_of(params.input):
            raise ConflictError(
                "a message with this id is in the thread already, with another text; send a new"
                " one, with an id of its own"
            )
        retry = ThreadRetryAfterItemParams(thread_id=self.thread_id, item_id=item.id)
        request = ThreadsRetryAfterItemReq(params=retry)
        return ThreadsRetryAfterItem(new.server, request, new.context)


def texts_of(message: UserMessageItem | UserMessageInput) -> list[str]:
    """Return the texts of a message: a tag has one too."""
    return [part.text for part in message.content]


class ThreadsAddClientToolOutput(_StreamingRequest):
    async def check(self) -> None:
        await _pending_tool_calls(self.server, self.thread_id, self.context)

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = await self.load_thread()
        last, calls = await _pending_tool_calls(self.server, self.thread_id, self.context)
        answered, *dangling = calls
        completed = answered.model_copy(
            update={"output": self.params.result, "status": "completed"}
        )
        for call in dangling:
            logger.warning("client tool call %s was never answered; it is deleted", call.id)
        opening = Opening(
            self.thread_id,
            turn_id,
            deleted_item_ids=tuple(call.id for call in dangling),
            changed_items=(completed,),
            last_item_id=last,
            unchanged_items=tuple(calls),
        )
        return PreparedRequest(opening, thread, self.respond(thread, None))


class ThreadsAddStructuredInput(_StreamingRequest):
    async def check(self) -> None:
        await self._pending()

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = await self.load_thread()
        pending = await self._pending()
        answered = _answered(pending, self.params.input)
        opening = Opening(
            self.thread_id, turn_id, changed_items=(answered,), unchanged_items=(pending,)
        )
        return PreparedRequest(
            opening,
            thread,
            self.respond(thread, None),
            events_after_options=[ThreadItemReplacedEvent(item=answered)],
        )

    async def _pending(self) -> StructuredInputItem:
        item_id: str = self.params.item_id
        await self.load_thread()
        item = await load_item(self.store, self.thread_id, item_id, self.context)
        if not isinstance(item, StructuredInputItem):
            raise InvalidRequestError(f"item {item_id} is not a structured input, but {item.type}")
        if item.status != "pending":
            raise ConflictError(f"structured input {item_id} isn't pending: it is {item.status}")
        return item


class ThreadsRetryAfterItem(_StreamingRequest):
    async def check(self) -> None:
        _require_active(await self.load_thread())
        await self._edited(await self._load_user_message())

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = _require_active(await self.load_thread())
        message = await self._load_user_message()
        opening = Opening(
            self.thread_id,
            turn_id,
            delete_after=message.id,
            needs_active=True,
            unchanged_items=(message,),
        )
        if self.params.input is None:
            return PreparedRequest(opening, thread, self.respond(thread, message))
        edited = await self._edited(message)
        attachments = tuple(edited.attachments)
        opening = replace(opening, attachments=attachments, changed_items=(edited,))
        replaced = ThreadItemReplacedEvent(item=edited)
        return PreparedRequest(opening, thread, self.respond(thread, edited), [replaced])

    async def _edited(self, message: UserMessageItem) -> UserMessageItem:
        """Return the message with what the user has made of it; it keeps its id and its time."""
        user_input: UserMessageInput | None = self.params.input
        if user_input is None:
            return message
        had = {attachment.id: attachment for attachment in message.attachments}
        added = [each for each in user_input.attachments if each not in had]
        more = user_input.model_copy(update={"attachments": added})
        loaded = await _load_attachments(self.server, more, self.context)
        own = had | {
            each.id: each.model_copy(update={"thread_id": message.thread_id}) for each in loaded
        }
        return message.model_copy(
            update={
                "content": user_input.content,
                "attachments": [own[each] for each in user_input.attachments],
                "quoted_text": user_input.quoted_text,
                "inference_options": user_input.inference_options,
            }
        )

    async def _load_user_message(self) -> UserMessageItem:
        item_id: str = self.params.item_id
        item = await load_item(self.store, self.thread_id, item_id, self.context)
        if not isinstance(item, UserMessageItem):
            raise InvalidRequestError(
                f"item {item_id} is not a user message, but {item.type}: only a user message can"
                " be answered again"
            )
        return item


class ThreadsCustomAction(_StreamingRequest):
    async def check(self) -> None:
        await self.load_thread()
        await self._load_sender()

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = await self.load_thread()
        sender = await self._load_sender()
        unchanged = () if sender is None else (sender,)
        opening = Opening(self.thread_id, turn_id, unchanged_items=unchanged)
        if sender is not None and not isinstance(sender, WidgetItem):
            return PreparedRequest(opening, thread, _refuse_sender, sends_options=False)
        act = partial(self.server.action, thread, self.params.action, sender, self.context)
        return PreparedRequest(opening, thread, act)

    async def _load_sender(self) -> ThreadItem | None:
        return await _load_sender(self.server, self.thread_id, self.params.item_id, self.context)


class RecoveredAnswer(_StreamingRequest):
    """The server's own request to go on with an answer that a crash has cut."""

    kind = "recovered"

    def __init__(self, server: ServerHooks[Any], thread_id: str, context: Any) -> None:
        self.server = server
        self.store = server.store
        self.thread_id = thread_id
        self.context = context

    async def check(self) -> None:
        await self.server.live_turns.ready_to_read(self.thread_id)
        _require_active(await self.load_thread())
        await self._cut_answer()

    async def prepare(self, turn_id: str) -> PreparedRequest:
        thread = _require_active(await self.load_thread())
        note, ending, latest = await self._cut_answer()
        items = [item for item in latest if item.id in ending.item_ids]
        ending = ending.model_copy(update={"continued": True})
        # Written before anything else happens: an answer is gone on with once.
        opening = Opening(
            self.thread_id,
            turn_id,
            changed_items=(note.model_copy(update={"ending": ending}),),
            needs_active=True,
            last_item_id=latest[-1].id,
            unchanged_items=(note,),
        )
        go_on = partial(self.server.on_recovered, thread, items, self.context)
        return PreparedRequest(opening, thread, go_on)

    async def _cut_answer(self) -> tuple[SDKHiddenContextItem, TurnEnding, list[ThreadItem]]:
        latest = await _load_behind_last_message(self.server, self.thread_id, self.context)
        note = note_at_the_end(latest)
        ending = None if note is None else note.ending
        most = self.server.policy.max_continuations
        if note is None or ending is None or not may_go_on(ending, latest, most):
            raise ConflictError(f"thread {self.thread_id} has no answer to go on with")
        return note, ending, latest


# --- What streaming requests share -------------------------------------------------------------


def _require_active(thread: ThreadMetadata) -> ThreadMetadata:
    if thread.status.type != "active":
        raise ConflictError(f"thread {thread.id} is {thread.status.type}: it takes no new messages")
    return thread


async def _load_attachments(
    server: ServerHooks[Any], user_input: UserMessageInput, context: Any
) -> list[Attachment]:
    attachments = [
        await server.store.load_attachment(attachment_id, context=context)
        for attachment_id in user_input.attachments
    ]
    files = server.attachment_store
    if files is None:
        return attachments
    return [await files.check_attachment(attachment, context) for attachment in attachments]


def _new_message_id(store: Store[Any], thread: ThreadMetadata, context: Any) -> str:
    return store.generate_item_id("message", thread, context)


async def _pending_tool_calls(
    server: ServerHooks[Any], thread_id: str, context: Any
) -> tuple[str, list[ClientToolCallItem]]:
    """Return the id of the last item, and the pending calls among the latest, the newest first.

    Hidden items may have been added behind a call (the note of a cancelled turn); anything else
    behind it means that the conversation went on without the output.
    """
    await load_thread(server.store, thread_id, context)
    items = await load_latest(server.store, thread_id, DEFAULT_PAGE_SIZE, context)
    latest = next((item for item in items if not is_hidden(item)), None)
    if not isinstance(latest, ClientToolCallItem) or latest.status != "pending":
        raise ConflictError(
            f"thread {thread_id} isn't waiting for the output of a client tool:"
            " its last item is not a pending client tool call"
        )
    calls = [item for item in items if isinstance(item, ClientToolCallItem)]
    return items[0].id, [call for call in calls if call.status == "pending"]


def _answered(
    item: StructuredInputItem, submission: StructuredInputSubmission
) -> StructuredInputItem:
    unknown = submission.answers.keys() - {question.id for question in item.inputs}
    if unknown:
        # Not which: that is for the client to say, and may be anything.
        logger.warning(
            "%d answers to structured input %s are for questions that it doesn't have",
            len(unknown),
            item.id,
        )
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


async def _load_sender(
    server: ServerHooks[Any], thread_id: str, item_id: str | None, context: Any
) -> ThreadItem | None:
    if not item_id:
        return None
    return await load_item(server.store, thread_id, item_id, context)


def _refuse_sender() -> Never:
    raise StreamError(ErrorCode.STREAM_ERROR, allow_retry=False)


# --- How answers ended -------------------------------------------------------------------------


async def last_answer(
    server: ServerHooks[Any], thread_id: str, context: Any
) -> tuple[bool, AnswerEnding | None]:
    """Return whether a turn is live on a thread; if none is, how its last answer was cut.

    The two are of one moment. Waits until an answer that is being stored is.
    """
    while True:
        await server.live_turns.ready_to_read(thread_id)
        await load_thread(server.store, thread_id, context)
        if await server.live_turns.is_live(thread_id):
            return True, None
        latest = await _load_behind_last_message(server, thread_id, context)
        if not await server.live_turns.is_live(thread_id):
            note = note_at_the_end(latest)
            return False, None if note is None else answer_ending(note, latest)


async def _endings(
    server: ServerHooks[Any],
    thread_id: str,
    items: Sequence[ThreadItem],
    is_last: bool,
    context: Any,
) -> list[AnswerEnding]:
    """Return the endings of the cut answers of a page, whose items are in the thread's order.

    `is_last` says that nothing stands behind the page. The note of the page's last answer may.
    """
    behind: list[ThreadItem] = []
    if items and not is_last and not ends_search(items[-1]):
        behind = await _load_until(server, thread_id, items[-1].id, "asc", ends_search, context)
    notes = notes_of_page(items, behind)
    latest = behind_last_message(items) if is_last else None
    if latest is None and notes:
        latest = await _load_behind_last_message(server, thread_id, context)
    return [answer_ending(note, latest or ()) for note in notes]


async def _load_behind_last_message(
    server: ServerHooks[Any], thread_id: str, context: Any
) -> list[ThreadItem]:
    """Return the items behind the last message of the user, the oldest first."""

    def is_message(item: ThreadItem) -> bool:
        return isinstance(item, UserMessageItem)

    items = await _load_until(server, thread_id, None, "desc", is_message, context)
    items.reverse()
    latest = behind_last_message(items)
    return items if latest is None else latest


async def _load_until(
    server: ServerHooks[Any],
    thread_id: str,
    after: str | None,
    order: str,
    is_end: Callable[[ThreadItem], bool],
    context: Any,
) -> list[ThreadItem]:
    """Return the items behind one of a thread, up to the first for which `is_end` says yes.

    An empty list, if the one to go on from is deleted meanwhile.
    """
    items: list[ThreadItem] = []
    while True:
        try:
            page = await server.store.load_thread_items(
                thread_id, after, DEFAULT_PAGE_SIZE, order, context
            )
        except NotFoundError:
            return []
        for item in page.data:
            items.append(item)
            if is_end(item):
                return items
        if not page.has_more:
            return items
        after = page.after


# --- Non-streaming requests --------------------------------------------------------------------


async def threads_get_by_id(
    server: ServerHooks[Any], request: ThreadsGetByIdReq, context: Any
) -> PagedAnswer:
    so_far = await _thread_so_far(server, request.params.thread_id, context)
    return PagedAnswer(thread_answer(so_far.thread, so_far.cut.shell), so_far.encoded)


async def threads_get_by_id_with_endings(
    server: ServerHooks[Any], request: ThreadsGetByIdReq, context: Any
) -> PagedAnswer:
    so_far = await _thread_so_far(server, request.params.thread_id, context)
    thread, page = so_far.thread, so_far.cut.page
    answer = thread_answer(thread, so_far.cut.shell)
    items = [*page.data, *so_far.running]
    is_last = not page.has_more
    answer.items.endings = await _endings(server, thread.id, items, is_last, context)
    return PagedAnswer(answer, so_far.encoded)


@dataclass(frozen=True, slots=True)
class _ThreadSoFar:
    """A thread with its first items, those of its live turn too, as the client has seen them."""

    thread: ThreadMetadata
    cut: CutPage[ThreadItem]
    running: Sequence[ThreadItem]
    encoded: Sequence[bytes]


async def _thread_so_far(server: ServerHooks[Any], thread_id: str, context: Any) -> _ThreadSoFar:
    elsewhere = await server.live_turns.ready_to_read(thread_id)
    thread = await load_thread(server.store, thread_id, context)
    limit = page_size(None, server.limits)
    page, running = await _page_beside_turn(
        server, elsewhere, thread_id, None, limit, "asc", context
    )
    cut = await cut_items(page, server.limits.page_bytes, server.big_work)
    if cut.page.has_more:
        return _ThreadSoFar(thread, cut, (), cut.encoded)
    stored = {item.id for item in page.data}
    running = [item for item in running if item.id not in stored]
    encoded = [*cut.encoded, *await encode_items(running, server.big_work)]
    return _ThreadSoFar(thread, cut, running, encoded)


async def _page_beside_turn(
    server: ServerHooks[Any],
    elsewhere: Beside | None,
    thread_id: str,
    after: str | None,
    limit: int,
    order: str,
    context: Any,
) -> tuple[Page[ThreadItem], list[ThreadItem]]:
    """Return a page of stored items as a live turn has brought them to, and its unstored items.

    `elsewhere` is what `ready_to_read` has returned.
    """
    live = server.live_turns
    while True:
        # Snapshot first: an item may move from pending to stored during the load.
        beside = live.beside(thread_id) or elsewhere
        running, changed = ([], []) if beside is None else (beside.new, beside.changed)
        page = await server.store.load_thread_items(thread_id, after, limit, order, context)
        if beside is None or not await beside.is_over():
            break
        elsewhere = await live.ready_to_read(thread_id)
    newest = {item.id: item for item in changed}
    items = [newest.get(item.id, item) for item in page.data]
    return page.model_copy(update={"data": items}), running


async def threads_list(
    server: ServerHooks[Any], request: ThreadsListReq, context: Any
) -> PagedAnswer:
    cut = await _page_of_threads(server, request, context)
    return PagedAnswer(cut.shell, cut.encoded)


async def threads_list_with_names(
    server: ServerHooks[Any], request: ThreadsListReq, context: Any
) -> PagedAnswer:
    cut = await _page_of_threads(server, request, context)
    untitled = [thread.id for thread in cut.page.data if not thread.title]
    names = {thread_id: await name_of(server, thread_id, context) for thread_id in untitled}
    shell = cut.shell
    shell.names = {thread_id: name for thread_id, name in names.items() if name}
    return PagedAnswer(shell, cut.encoded)


async def name_of(server: ServerHooks[Any], thread_id: str, context: Any) -> str:
    """Return the first words of the user in a thread."""
    try:
        page = await server.store.load_thread_items(
            thread_id, None, _NAMED_BY_THE_FIRST, "asc", context
        )
    except NotFoundError:
        return ""  # deleted meanwhile
    return next((name for item in page.data if (name := first_words(item))), "")


async def _page_of_threads(
    server: ServerHooks[Any], request: ThreadsListReq, context: Any
) -> CutPage[ThreadMetadata]:
    params, limits = request.params, server.limits
    limit = page_size(params.limit, limits)
    page = await server.store.load_threads(
        limit=limit, after=params.after, order=params.order, context=context
    )
    return await cut_threads(page, limits.page_bytes, server.big_work)


async def items_list(server: ServerHooks[Any], request: ItemsListReq, context: Any) -> PagedAnswer:
    cut = await _page_of_items(server, request.params, context)
    return PagedAnswer(cut.shell, cut.encoded)


async def items_list_with_endings(
    server: ServerHooks[Any], request: ItemsListReq, context: Any
) -> PagedAnswer:
    params = request.params
    cut = await _page_of_items(server, params, context)
    page, answer = cut.page, cut.shell
    if params.order == "asc":
        is_last = not page.has_more
        answer.endings = await _endings(server, params.thread_id, page.data, is_last, context)
    else:
        items, is_last = page.data[::-1], params.after is None
        endings = await _endings(server, params.thread_id, items, is_last, context)
        answer.endings = endings[::-1]
    return PagedAnswer(answer, cut.encoded)


async def _page_of_items(
    server: ServerHooks[Any], params: ItemsListParams, context: Any
) -> CutPage[ThreadItem]:
    elsewhere = await server.live_turns.ready_to_read(params.thread_id)
    await load_thread(server.store, params.thread_id, context)
    limit = page_size(params.limit, server.limits)
    page, _running = await _page_beside_turn(
        server, elsewhere, params.thread_id, params.after, limit, params.order, context
    )
    return await cut_items(page, server.limits.page_bytes, server.big_work)


async def items_feedback(
    server: ServerHooks[Any], request: ItemsFeedbackReq, context: Any
) -> Nothing:
    params = request.params
    await server.live_turns.ready_to_read(params.thread_id)
    await load_thread(server.store, params.thread_id, context)
    await server.add_feedback(params.thread_id, params.item_ids, params.kind, context)
    return Nothing()


async def attachments_create(
    server: ServerHooks[Any], request: AttachmentsCreateReq, context: Any
) -> BaseModel:
    attachment = await server.required_attachment_store().create_attachment(request.params, context)
    await server.store.save_attachment(attachment, context=context)
    return attachment


async def attachments_delete(
    server: ServerHooks[Any], request: AttachmentsDeleteReq, context: Any
) -> Nothing:
    attachment_id = request.params.attachment_id
    attachments = server.required_attachment_store()
    # The metadata says who owns it; check before deleting bytes.
    await server.store.load_attachment(attachment_id, context=context)
    # Once begun it is carried out: metadata without bytes would be an attachment that fails.
    with trio.move_on_after(server.policy.settle_timeout, shield=True):
        await attachments.delete_attachment(attachment_id, context)
        await server.store.delete_attachment(attachment_id, context=context)
        return Nothing()
    await trio.lowlevel.checkpoint_if_cancelled()
    raise StoreTimeoutError(
        f"deleting attachment {attachment_id} hadn't ended after {server.policy.settle_timeout} s;"
        " it may be deleted in part: delete it again"
    )


async def threads_update(
    server: ServerHooks[Any], request: ThreadsUpdateReq, context: Any
) -> Thread:
    thread_id, title = request.params.thread_id, request.params.title
    live = server.live_turns
    await load_thread(server.store, thread_id, context)
    # A live turn holds the newest state of the thread: only its own task saves it.
    if (thread := await live.rename(thread_id, title)) is not None:
        return thread_answer(thread)
    # Keep turns from beginning: they would load the old title and save it back.
    async with live.alone(thread_id):
        if (thread := await live.rename(thread_id, title)) is not None:
            return thread_answer(thread)
        await live.ready_to_read(thread_id)
        thread = await load_thread(server.store, thread_id, context)
        renamed = as_metadata(thread).model_copy(update={"title": title})
        await server.store.update_thread(renamed, context=context)
        # A turn that has begun on another node meanwhile may have loaded the old title.
        return thread_answer(await live.rename(thread_id, title) or renamed)


async def threads_delete(
    server: ServerHooks[Any], request: ThreadsDeleteReq, context: Any
) -> Nothing:
    thread_id = request.params.thread_id
    await load_thread(server.store, thread_id, context)
    # Those that wait for their turn too: nobody wants their answers any more.
    server.live_turns.cancel_all(thread_id, CancelReason.STOPPED)
    async with server.live_turns.alone(thread_id):
        await server.live_turns.end(thread_id, CancelReason.STOPPED)
        async with server.live_turns.without_first_writes(thread_id):
            await server.store.delete_thread(thread_id, context=context)
    return Nothing()


async def input_transcribe(
    server: ServerHooks[Any], request: InputTranscribeReq, context: Any
) -> BaseModel:
    params = request.params
    data = await decode_audio(params.audio_base64, server.big_work)
    audio = AudioInput(data=data, mime_type=params.mime_type)
    return await server.transcribe(audio, context)


async def threads_sync_custom_action(
    server: ServerHooks[Any], request: ThreadsSyncCustomActionReq, context: Any
) -> SyncCustomActionResponse:
    params = request.params
    elsewhere = await server.live_turns.ready_to_read(params.thread_id)
    thread = await load_thread(server.store, params.thread_id, context)
    sender = await _load_sender(server, params.thread_id, params.item_id, context)
    if sender is not None and (beside := server.live_turns.beside(thread.id) or elsewhere):
        # As the client sees it: what a live turn has made of it isn't stored yet.
        sender = next((item for item in beside.changed if item.id == sender.id), sender)
        sender = sender.model_copy(deep=True)  # the hook may change it
    if sender is not None and not isinstance(sender, WidgetItem):
        raise InvalidRequestError(f"item {sender.id} is not a widget: it can't send an action")
    given = await server.sync_action(thread, params.action, sender, context)
    answer = server.foreign_models.own(SyncCustomActionResponse, given, "sync_action()")
    return await _stored_answer(server, thread, answer, context)


async def _stored_answer(
    server: ServerHooks[Any],
    thread: ThreadMetadata,
    answer: SyncCustomActionResponse,
    context: Any,
) -> SyncCustomActionResponse:
    """Save the updated item if the thread has it, so that a reload shows it.

    A hidden item is never returned to the client.
    """
    item = answer.updated_item
    if item is None:
        return answer
    if is_hidden(item):
        return SyncCustomActionResponse()
    if item.thread_id == thread.id:
        with suppress(NotFoundError):
            await _update_item(server, item, context)
    return answer


async def _update_item(server: ServerHooks[Any], item: ThreadItem, context: Any) -> None:
    """Save an item that the thread has. Raises `NotFoundError` if the thread hasn't got it."""
    live, thread_id = server.live_turns, item.thread_id
    while True:
        # A retry may delete the item between a look and a save. Turns may wait meanwhile, for the
        # end of an answer: that can take long.
        async with live.without_first_writes(thread_id):
            turn_id = await live.turn_id(thread_id)
            await server.store.update_item(thread_id, item, context=context)
        # A turn that is changing the item would save it as it was.
        if turn_id is None or await live.replace(turn_id, item):
            return
        await live.ready_to_read(thread_id)


def checked_request(
    server: ServerHooks[Any],
    request: Any,
    ids: tuple[str | None, str | None],
    context: Any,
    *,
    answers_again: bool,
) -> CheckedRequest:
    """Return what carries out a streaming request.

    `ids` are those that its new thread and message get, if they are given; the rest is as for
    `ChatKitServer.process`.
    """
    checked = STREAMING[type(request)](server, request, context)
    if ids != (None, None):
        checked.give_ids(*ids)
    is_message = isinstance(checked, ThreadsCreate | ThreadsAddUserMessage)
    return NamedMessage(checked) if answers_again and is_message else checked


def page_size(limit: int | None, limits: RequestLimits) -> int:
    """Return how many to load: 20 unless asked for, and no more than the limits allow."""
    if limit is not None and limit < 0:
        raise InvalidRequestError("params.limit can't be negative")
    return min(limit or DEFAULT_PAGE_SIZE, limits.page_items)


def costs(server: ServerHooks[Any], request: Any, size: int) -> dict[str, float]:
    """Return what a request costs its owner besides that it is one; `size` is its body's.

    By kind, as in `OwnerLimits`. A cost of 0 isn't named: it would have to be waited for too.
    """
    if type(request) in READS:
        return {}
    if isinstance(request, InputTranscribeReq):
        return {"upload_bytes_per_hour": len(request.params.audio_base64) * 3 // 4}
    if isinstance(request, AttachmentsCreateReq):
        due: dict[str, float] = {"uploads_per_hour": 1, "text_bytes_per_minute": size}
        files = server.attachment_store
        if files is not None and (unseen := files.bytes_past_server(request.params)) > 0:
            due["upload_bytes_per_hour"] = unseen
        return due
    return {"text_bytes_per_minute": size}


READS = frozenset((ThreadsGetByIdReq, ThreadsListReq, ItemsListReq))
"""The requests that change nothing, so that repeating them is harmless."""

STREAMING: dict[type[Any], Callable[[Any, Any, Any], _StreamingRequest]] = {
    ThreadsCreateReq: ThreadsCreate,
    ThreadsAddUserMessageReq: ThreadsAddUserMessage,
    ThreadsAddClientToolOutputReq: ThreadsAddClientToolOutput,
    ThreadsAddStructuredInputReq: ThreadsAddStructuredInput,
    ThreadsRetryAfterItemReq: ThreadsRetryAfterItem,
    ThreadsCustomActionReq: ThreadsCustomAction,
}

ANSWERED: dict[type[Any], Callable[[Any, Any, Any], Awaitable[BaseModel | PagedAnswer]]] = {
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

WITH_ENDINGS: dict[type[Any], Callable[[Any, Any, Any], Awaitable[PagedAnswer]]] = {
    ThreadsGetByIdReq: threads_get_by_id_with_endings,
    ItemsListReq: items_list_with_endings,
}

WITH_NAMES: dict[type[Any], Callable[[Any, Any, Any], Awaitable[PagedAnswer]]] = {
    ThreadsListReq: threads_list_with_names,
}
