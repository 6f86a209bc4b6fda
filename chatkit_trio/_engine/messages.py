"""What nodes that share a store say to each other, as JSON in their boxes. Nothing here waits."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter

from chatkit_trio._foreign_text import sendable_json
from chatkit_trio.types import ThreadItem, ThreadMetadata

from .keeping import CancelReason

Deed: TypeAlias = Literal["end", "look", "rename", "replace", "watch", "tell"]


class Ask(BaseModel):
    """A node wants something of another node, most often of a turn; the answer is a `Reply`."""

    kind: Literal["ask"] = "ask"
    id: str
    sender: str
    """The node that asks."""
    turn_id: str = ""
    """The turn that it is about; none if the node shall "tell" something."""
    do: Deed
    reason: CancelReason | None = None
    """Why to end the turn. None: only say whether it is ending."""
    by_client: bool = False
    """Whether a turn whose client may not end it goes on."""
    title: str = ""
    item: ThreadItem | None = None
    """An item as a request has stored it: the turn may be changing it."""
    about: str = ""
    """What to tell."""
    start: int | None = None
    """The first frame to watch; None: the next one, behind `Reply.state`."""
    component_updates: bool = False
    """Whether the watcher's client can take updates of single components of widgets."""


class Reply(BaseModel):
    """What a node says to an `Ask`, whose id it bears."""

    kind: Literal["reply"] = "reply"
    id: str
    found: bool = True
    """Whether the turn is live on that node, and not about to be settled."""
    allowed: bool = True
    """Whether the turn may be ended by its client."""
    number: int = 0
    """The number of the first frame that follows."""
    state: str = ""
    """Frames that rebuild what the turn has told before that one."""
    new: list[ThreadItem] = []
    """The items that clients have seen and the store lacks."""
    changed: list[ThreadItem] = []
    """The items of which the store has an older state."""
    thread: ThreadMetadata | None = None
    """The thread with its new title."""
    told: list[str] = []
    """What those have told who tell something on this node."""
    slot: str = ""
    """The id of the turn's slot among its owner's, if a new message may supersede the turn."""
    error: str = ""
    """Why it couldn't be done."""


class Frames(BaseModel):
    """Frames of a watched turn; the watcher says `Taken` before more are sent."""

    kind: Literal["frames"] = "frames"
    id: str
    """The id of the `Ask`."""
    first: int
    frames: list[str]


class Over(BaseModel):
    """The end of a watched stream."""

    kind: Literal["over"] = "over"
    id: str
    reason: str = ""
    """How the turn ended; empty if the watcher has fallen too far behind."""


class Taken(BaseModel):
    """The watcher has taken the frames, or leaves."""

    kind: Literal["taken"] = "taken"
    id: str
    leaves: bool = False


Message: TypeAlias = Annotated[Ask | Reply | Frames | Over | Taken, Field(discriminator="kind")]

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def decode(message: bytes) -> Ask | Reply | Frames | Over | Taken:
    """Return what a message says. Raises `ValueError` for what no node of this version says."""
    return _MESSAGE.validate_json(message)


def encode(message: BaseModel) -> bytes:
    """Return a message as bytes, with its texts repaired."""
    return sendable_json(message.__pydantic_serializer__, message, by_alias=True)
