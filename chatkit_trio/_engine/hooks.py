"""The hooks of a server: what an application overrides, with their defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Generic

from chatkit_trio.actions import Action
from chatkit_trio.errors import InvalidRequestError
from chatkit_trio.limits import RequestLimits
from chatkit_trio.store import AttachmentStore, Store, TContext
from chatkit_trio.types import (
    AudioInput,
    ChatKitReq,
    FeedbackKind,
    StreamOptions,
    SyncCustomActionResponse,
    ThreadItem,
    ThreadMetadata,
    ThreadsAddClientToolOutputReq,
    ThreadsAddStructuredInputReq,
    ThreadsCustomActionReq,
    ThreadStreamEvent,
    TranscriptionResult,
    UserMessageItem,
    WidgetItem,
)

from .foreign import ForeignModels
from .journal import JournalWriter
from .live import LiveTurns
from .owner_limits import Owners
from .pace import BigWork
from .policy import TurnPolicy
from .story import Story
from .turn import current_turn

_ANSWERS = ThreadsAddClientToolOutputReq | ThreadsAddStructuredInputReq | ThreadsCustomActionReq
"""Requests that react to what is there already. They don't supersede a live turn by default."""


def must_override(server: object, what: str) -> NotImplementedError:
    """Return the error of a hook that is needed and isn't there."""
    return NotImplementedError(f"{type(server).__name__} must override {what}")


class ServerHooks(ABC, Generic[TContext]):
    """What a `ChatKitServer` is asked by its requests and turns."""

    store: Store[TContext]
    attachment_store: AttachmentStore[TContext] | None
    policy: TurnPolicy
    limits: RequestLimits
    """How much one request may hold."""
    big_work: BigWork
    """Lets what is long be read and encoded by one task at a time."""
    live_turns: LiveTurns
    """The turns in progress in this process."""
    owners: Owners
    """The limits of owners, and what each has used."""
    foreign_models: ForeignModels
    """Reads the models of other packages that hooks yield or return."""
    journal_writer: JournalWriter | None
    """Writes the store's journal, if it has one."""
    turn_story: Story
    """Tells the log and the observers what happens."""

    @abstractmethod
    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: TContext
    ) -> AsyncIterator[ThreadStreamEvent]:
        """Yield the events that answer a message.

            async def respond(self, thread, input_user_message, context):
                async for event in stream_text(thread, self.model.ask(input_user_message)):
                    yield event

        Called for a new message, a retry, a client tool's output and answered questions; for the
        latter two `input_user_message` is None. Write it as an async generator, a
        `trio.as_safe_channel` one, or return any async iterable. It may await anything on trio and
        open nurseries and cancel scopes; `current_turn().nursery` is for tasks that outlive a
        `yield`. Changes to `thread` are saved after the event that follows them.

        When the turn is cut short it sees `trio.Cancelled`, also at a `yield`. What it has yielded
        is stored without its help, before its cleanup is waited for.

        Raise `CustomStreamError` to tell the user something; any other error is logged, and the
        user is offered a retry. An object that can't be read as an event, and an item begun
        with the id of another one, end the turn with an error.
        """

    def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: TContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        """Yield the events that a widget's action causes; works as `respond` does."""
        raise must_override(self, "action() to handle widget actions")

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: TContext,
    ) -> SyncCustomActionResponse:
        """Return what an action with `streaming=False` changes; may run beside a live turn.

        An `updated_item` that is in the thread is saved.
        """
        raise must_override(self, "sync_action() to handle actions that don't stream")

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: FeedbackKind, context: TContext
    ) -> None:
        """Take note of feedback on items of a thread of the caller's. The default ignores it."""

    async def transcribe(self, audio_input: AudioInput, context: TContext) -> TranscriptionResult:
        """Return the text of a recording."""
        raise must_override(self, "transcribe() to support dictation")

    def get_stream_options(self, thread: ThreadMetadata, context: TContext) -> StreamOptions:
        """Return the options of a turn: `allow_cancel=False` means that clients can't end it."""
        return StreamOptions(allow_cancel=True)

    def get_owner(self, context: TContext) -> str:
        """Return who a request's use is counted for; see `OwnerLimits`.

            def get_owner(self, context):
                return context.tenant_id

        The default is the owner whose threads the store shows, "" if the store has no owners. Must
        not wait.
        """
        return self.store.get_owner(context)

    def get_turn_policy(self, request: ChatKitReq, context: TContext) -> TurnPolicy:
        """Return the policy of the turn that this request starts.

            def get_turn_policy(self, request, context):
                if request.type == "threads.retry_after_item":
                    return replace(self.policy, on_busy="reject")
                return super().get_turn_policy(request, context)

        The default is `policy`, but only messages and retries supersede a live turn. Actions and
        answers (of a client tool, of a person who was asked) queue behind it instead: a second
        click on a button must not cut short what the first one has begun.

        Called before the request is checked; must not wait. What it raises is the answer to the
        request.
        """
        if isinstance(request, _ANSWERS) and self.policy.on_busy == "supersede":
            return replace(self.policy, on_busy="queue")
        return self.policy

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: TContext
    ) -> None:
        """Store what is worth keeping of a turn that ended early.

            async def handle_stream_cancelled(self, thread, pending_items, context):
                log.info("cut: %s", current_turn().cancel_reason)
                await super().handle_stream_cancelled(thread, pending_items, context)

        `pending_items` were begun and not done. Called once, for every early end, with
        `current_turn().cancel_reason` telling which (for `failed` only if there is something to
        keep); shielded from cancellation for the policy's `settle_timeout` seconds. The default
        keeps all that has content and adds a hidden note for the model, in one atomic step. If an
        override raises or takes too long without having called the default, the default rule is
        applied.
        """
        await current_turn().keep(pending_items)

    def on_recovered(
        self, thread: ThreadMetadata, partial: list[ThreadItem], context: TContext
    ) -> AsyncIterator[ThreadStreamEvent]:
        """Yield the events that go on with an answer which a crash has cut short.

            async def on_recovered(self, thread, partial, context):
                async for event in stream_text(thread, self.model.go_on(thread, partial)):
                    yield event

        Off by default: override it to have it called. `partial` are the items that were cut, as
        they are stored; it is empty if nothing had been begun. What it yields comes behind them and
        the hidden note, as a turn of its own, which works as one of `respond` does and is finished
        also if nobody reads it.

        Called when a client opens the thread, because only then there is a context, or when the
        server calls `continue_answer`. Once for each cut answer, and at most
        `TurnPolicy.max_continuations` times in a row for one message of the user. Not called when
        the user has written meanwhile.
        """
        raise must_override(self, "on_recovered() to go on with answers that were cut")

    @property
    def goes_on(self) -> bool:
        """Whether `on_recovered` is overridden."""
        return type(self).on_recovered is not ServerHooks.on_recovered

    def required_attachment_store(self) -> AttachmentStore[TContext]:
        """Return the attachment store. Raises `InvalidRequestError` if the server has none."""
        if self.attachment_store is None:
            raise InvalidRequestError(
                "this server takes no attachments: it was made without an attachment_store"
            )
        return self.attachment_store
