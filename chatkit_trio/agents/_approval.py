"""Asking a person before a tool is called: the question, the record of it, and the way back.

A run that has to ask ends. The thread then has a note that no client sees, with all that the run
needs to go on, and behind it a structured input with the questions. The answer begins a turn whose
`respond` starts the same run again; `Approvals.look` finds the note and the run goes on from it.

The note comes first, so there is no question whose run is lost. Every step of a call is stored
before the next one is taken, so a call is never made twice without anybody knowing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import trio

from chatkit_trio.types import (
    Approval,
    ApprovalCall,
    SDKHiddenContextItem,
    StructuredInput,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputMultipleChoiceOption,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadStreamEvent,
    UserMessageItem,
)

from ._context import AgentContext

_PAGE_SIZE = 20
_COMMENT_ID = "comment"

_RECORD_TIMEOUT = 5.0
"""How long, in seconds, a cancelled turn still waits for the record of what a tool has returned."""

_LONGEST_OUTPUT_IN_NOTE = 2000
"""Later turns are told what a call has returned, but not all of a long text."""

_WROTE_INSTEAD = "The user wrote a message instead of answering."
_CAME_LATE = "The answer came too late: the conversation had gone on without it."


class ApprovalWords:
    """The words in which a person is asked; override them for another language, or to say more.

        class Words(ApprovalWords):
            approve, refuse, comment = "Ja", "Nein", None

            def question(self, tool, arguments):
                return f"Soll ich {arguments['amount']} € erstatten?"

        run_model(..., approval_words=Words())

    `approve` and `refuse` are the choices; the client lets people answer in their own words too,
    which refuses the call and tells the model why. `comment` is the question for a remark about all
    calls together; None leaves it out.
    """

    approve: str = "Approve"
    refuse: str = "Refuse"
    comment: str | None = "Anything to add? (optional)"

    def question(self, tool: str, arguments: dict[str, Any]) -> str:
        """Return the question about one call. Show everything that the decision depends on."""
        name = tool.replace("_", " ").strip() or tool
        given = "; ".join(f"{key.replace('_', ' ')}: {_shown(arguments[key])}" for key in arguments)
        return f"May I do this: {name} ({given})?" if given else f"May I do this: {name}?"


DEFAULT_WORDS = ApprovalWords()


@dataclass(frozen=True, slots=True)
class ApprovalWanted:
    """The last event of a run that waits for a person: what about, and how it goes on.

    It goes through what an application has put around a run, which may ask for its `type`.
    """

    type: ClassVar[str] = "approval_wanted"
    calls: Sequence[ApprovalCall]
    state: str


class Approvals:
    """What one run has to do with a person's decisions.

    `run` names the run, so that another one in the same turn doesn't go on in its place. After
    `look` at most one of two is set: `resumed` for a run that goes on, `dropped` for one that
    won't, because the conversation has.
    """

    def __init__(self, context: AgentContext[Any], run: str, words: ApprovalWords) -> None:
        self._context = context
        self._run = run
        self._words = words
        self._note: SDKHiddenContextItem | None = None
        self._writing = trio.Lock()
        self.resumed: Approval | None = None
        self.dropped: Approval | None = None
        self.approved: list[ApprovalCall] = []
        """The calls of a resumed run that are to be made now."""

    async def look(self) -> list[ThreadStreamEvent]:
        """Find out whether the run goes on; return the events for a question nobody answered.

        Raises what the store raises. When it returns, the approved calls are stored as begun.
        """
        events: list[ThreadStreamEvent] = []
        found = await self._find()
        for open_note in found:
            if open_note.is_behind:
                events += self._drop(open_note)
        if not found or found[-1].is_behind:
            return events
        note, approval, question = found[-1].note, found[-1].approval, found[-1].question
        if question.status == "pending":
            return []  # asked by an earlier run of this very turn
        _decide(approval, question)
        self._note, self.resumed = note, approval
        self.approved = [call for call in approval.calls if call.state == "asked"]
        if self.approved or any(call.state == "refused" for call in approval.calls):
            for call in self.approved:
                call.state = "begun"
            await self._save()
        return []

    def ask(self, wanted: ApprovalWanted) -> list[ThreadStreamEvent]:
        """Return the events that ask about these calls."""
        context = self._context
        now = datetime.now(UTC)
        question = StructuredInputItem(
            id=context.generate_id("message"),
            thread_id=context.thread.id,
            created_at=now,
            inputs=self._questions(wanted.calls),
        )
        approval = Approval(
            item_id=question.id, run=self._run, calls=list(wanted.calls), state=wanted.state
        )
        note = SDKHiddenContextItem(
            id=context.generate_id("sdk_hidden_context"),
            thread_id=context.thread.id,
            created_at=now,
            content=_told(approval),
            approval=approval,
        )
        return [ThreadItemDoneEvent(item=note), ThreadItemDoneEvent(item=question)]

    async def done(self, call: ApprovalCall, output: str) -> None:
        """Store what an approved call has returned.

        A cancellation doesn't reach the write for five seconds: the tool has run, and the next turn
        should know.
        """
        call.state, call.output = "done", output
        with trio.move_on_after(_RECORD_TIMEOUT, shield=True):
            await self._save()

    async def done_by_id(self, call_id: str, output: str) -> None:
        """Do as `done` for the approved call of this id, if there is one that hasn't returned."""
        for call in self.approved:
            if call.id == call_id and call.state == "begun":
                await self.done(call, output)

    def finish(self, *, was_cut: bool) -> list[ThreadStreamEvent]:
        """Return the events that end a resumed run which has come to its end.

        After a cut nobody knows what has become of a call without a result.
        """
        if self._note is None:
            return []
        for call in self.approved:
            # Some tools report no result of their own; the model has had it all the same.
            if not was_cut:
                call.state = "done"
        return [ThreadItemReplacedEvent(item=_closed(self._note))]

    def _questions(self, calls: Sequence[ApprovalCall]) -> list[StructuredInput]:
        words = self._words
        options = [
            StructuredInputMultipleChoiceOption(value=value)
            for value in (words.approve, words.refuse)
        ]
        questions: list[StructuredInput] = [
            StructuredInputMultipleChoice(
                id=str(number), question=self._question(call), options=options
            )
            for number, call in enumerate(calls)
        ]
        if words.comment is not None:
            questions.append(StructuredInputFreeform(id=_COMMENT_ID, question=words.comment))
        return questions

    def _question(self, call: ApprovalCall) -> str:
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            arguments = {"arguments": call.arguments}
        return self._words.question(call.name, arguments)

    def _drop(self, dropped: _OpenNote) -> list[ThreadStreamEvent]:
        """Refuse what nobody has decided in time, and end the run for good."""
        note, approval, question = dropped.note, dropped.approval, dropped.question
        events: list[ThreadStreamEvent] = []
        is_open = question.status == "pending"
        for call in approval.calls:
            if call.state == "asked":
                call.state = "refused"
                call.comment = _WROTE_INSTEAD if is_open else _CAME_LATE
        if is_open:
            skipped = question.model_copy(update={"status": "skipped"})
            events.append(ThreadItemReplacedEvent(item=skipped))
        if approval.run == self._run and self.dropped is None:
            self.dropped = approval
        return [*events, ThreadItemReplacedEvent(item=_closed(note))]

    async def _save(self) -> None:
        assert self._note is not None
        assert self._note.approval is not None
        # One at a time: an older state must not overtake a newer one.
        async with self._writing:
            self._note.content = _told(self._note.approval)
            note = self._note.model_copy(deep=True)
            await self._context.store.save_item(
                self._context.thread.id, note, self._context.request_context
            )

    async def _find(self) -> list[_OpenNote]:
        """Return the open notes of approvals that matter to this run, the newest first.

        That is its own newest one, or all that a message of the user's is behind. Looks at the
        pages from the thread's end to the first with such a message.
        """
        context = self._context
        questions: dict[str, StructuredInputItem] = {}
        found: list[_OpenNote] = []
        is_behind = False
        after: str | None = None
        while True:
            page = await context.store.load_thread_items(
                context.thread.id, after, _PAGE_SIZE, "desc", context.request_context
            )
            for item in page.data:
                if isinstance(item, StructuredInputItem):
                    questions[item.id] = item
                open_note = _open_note(item, questions, is_behind)
                if open_note is not None and is_behind:
                    found.append(open_note)
                elif open_note is not None and open_note.approval.run == self._run:
                    return [open_note]
                is_behind = is_behind or isinstance(item, UserMessageItem)
            if is_behind or not page.has_more:
                return found
            after = page.after


@dataclass(frozen=True, slots=True)
class _OpenNote:
    """The note of an approval whose run may go on, and its question."""

    note: SDKHiddenContextItem
    approval: Approval
    question: StructuredInputItem
    is_behind: bool
    """Whether a message of the user's is behind it."""


def _open_note(
    item: ThreadItem, questions: dict[str, StructuredInputItem], is_behind: bool
) -> _OpenNote | None:
    if not isinstance(item, SDKHiddenContextItem) or item.approval is None:
        return None
    # Without the question nobody was asked: the process died between the two writes.
    question = questions.get(item.approval.item_id)
    if not item.approval.state or question is None:
        return None
    return _OpenNote(item, item.approval, question, is_behind)


def outcome(call: ApprovalCall) -> str:
    """Return what the model gets as the result of a call that isn't made, or was made before."""
    if call.state == "done":
        return call.output
    if call.state == "begun":
        return (
            "This call was begun and cut short: nobody knows whether it took effect. Don't make it"
            " again before you know. Tell the user."
        )
    reason = f" The user said: {call.comment}" if call.comment else ""
    return f"The user was asked and didn't allow this call.{reason} Don't repeat it unasked."


def with_comment(output: str, call: ApprovalCall) -> str:
    """Return a tool's output with what the user has said to the call."""
    said = f"\n\n(The user allowed this and said: {call.comment})" if call.comment else ""
    return f"{output}{said}"


def _decide(approval: Approval, question: StructuredInputItem) -> None:
    """Note the user's answers. Approved calls stay `asked`; all others are refused."""
    asked = {each.id: each for each in question.inputs}
    remark = _values(asked.get(_COMMENT_ID))
    for number, call in enumerate(approval.calls):
        if call.state != "asked":
            continue  # decided when this run went on the first time
        each = asked.get(str(number))
        values = _values(each)
        options = each.options if isinstance(each, StructuredInputMultipleChoice) else []
        choices = [option.value for option in options]
        # The options are those that were shown: the words may have changed since.
        if not choices or values != choices[:1]:
            call.state = "refused"
        own_words = [value for value in values if value not in choices]
        call.comment = " ".join([*own_words, *remark])


def _values(question: StructuredInput | None) -> list[str]:
    if question is None or question.answer is None or question.answer.skipped:
        return []
    return question.answer.values


def _closed(note: SDKHiddenContextItem) -> SDKHiddenContextItem:
    """Return the note for the later turns: what has become of the calls, and nothing to go on."""
    approval = note.approval
    assert approval is not None
    calls = [call.model_copy(update={"output": ""}) for call in approval.calls]
    closed = approval.model_copy(update={"calls": calls, "state": ""})
    return note.model_copy(update={"content": _told(approval), "approval": closed})


def _told(approval: Approval) -> str:
    """Return what a model in later turns is told."""
    return "\n".join(_told_about(approval.calls))


def _told_about(calls: Iterable[ApprovalCall]) -> Iterable[str]:
    for call in calls:
        what = f"{call.name}({call.arguments})"
        said = f" The user said: {call.comment}" if call.comment else ""
        match call.state:
            case "asked":
                yield f"The agent asked the user before calling {what}. It hasn't been called."
            case "refused":
                yield f"The user was asked about {what}, and it wasn't called.{said}"
            case "begun":
                yield (
                    f"The user approved {what}.{said} The call was begun, and nobody knows whether"
                    " it took effect. Don't repeat it before you know, and tell the user."
                )
            case "done":
                output = call.output
                if len(output) > _LONGEST_OUTPUT_IN_NOTE:
                    output = f"{output[:_LONGEST_OUTPUT_IN_NOTE]}…"
                returned = f" It returned: {output}" if output else ""
                yield f"The user approved {what}, and it was called.{said}{returned}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
