"""What user code hands over that isn't of this package's classes: read as ours, or refused.

A forgotten import gives a model or an error of openai-chatkit's, and so does a library that makes
its events. What was let past as it is would be shown to the client and be strange to all that
stores it. So behind this border there are only classes of ours. Nothing here waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from chatkit_trio._model import Model, fields_of
from chatkit_trio.errors import BaseStreamError, CustomStreamError, ErrorCode, StreamError
from chatkit_trio.types import ThreadItem, ThreadItemUpdate, ThreadStreamEvent

from .wire import describe

logger = logging.getLogger(__name__)

T = TypeVar("T")

_EVENT: TypeAdapter[ThreadStreamEvent] = TypeAdapter(ThreadStreamEvent)
_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_EVENT_CLASSES: tuple[type[BaseModel], ...] = get_args(get_args(ThreadStreamEvent)[0])
_ITEM_CLASSES: tuple[type[BaseModel], ...] = get_args(get_args(ThreadItem)[0])
_UPDATE_CLASSES: tuple[type[BaseModel], ...] = get_args(ThreadItemUpdate)
_EVENT_TYPES, _ITEM_TYPES, _UPDATE_TYPES = (
    frozenset(each.model_fields["type"].default for each in classes)
    for classes in (_EVENT_CLASSES, _ITEM_CLASSES, _UPDATE_CLASSES)
)


def is_event(value: object) -> bool:
    """Say whether this is an event of our classes. What it holds may be of others all the same."""
    return isinstance(value, _EVENT_CLASSES)


class ForeignModels:
    """Reads models of other packages as ours, and tells the log of each class once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def own_event(self, event: object) -> ThreadStreamEvent:
        """Return an event of our classes, with all that it holds.

        Raises `TypeError` for what isn't an event, and for what can't be read as one.
        """
        if not isinstance(event, BaseModel) or getattr(event, "type", None) not in _EVENT_TYPES:
            raise _refusal(event)
        return self._read(_EVENT, event, "respond() yielded")

    def own(self, kind: type[T], value: object, source: str) -> T:
        """Return what a hook has returned as one of our classes. Raises `TypeError`."""
        if isinstance(value, kind):
            return value
        if not isinstance(value, BaseModel):
            raise TypeError(f"{source} returned {_name(value)} and not a {kind.__name__}")
        return self._read(TypeAdapter(kind), value, f"{source} returned")

    def _read(self, kind: TypeAdapter[T], model: BaseModel, what: str) -> T:
        try:
            own = kind.validate_python(fields_of(model))
        except ValidationError as error:
            raise TypeError(
                f"{what} {_name(model)}, which can't be read as a model of chatkit_trio.types:"
                f" {describe(error)}"
            ) from None  # it would tell the values, and this is logged
        for name in _foreign_classes(model):
            if name not in self._told:
                self._told.add(name)
                logger.warning(
                    "%s isn't a class of this package; it was read as the one of chatkit_trio that"
                    " has the same fields. Import that one instead",
                    name,
                )
        return own


def read_event(event: object) -> ThreadStreamEvent | None:
    """Return an event as one of our classes, or None if it can't be read as one."""
    if is_event(event):
        return cast(ThreadStreamEvent, event)
    if isinstance(event, BaseModel) and getattr(event, "type", None) in _EVENT_TYPES:
        try:
            return _EVENT.validate_python(fields_of(event))
        except ValidationError:
            pass
    return None


def read_item(item: object) -> ThreadItem | None:
    """Return an item as one of our classes, or None if it can't be read as one."""
    if isinstance(item, _ITEM_CLASSES):
        return cast(ThreadItem, item)
    if isinstance(item, BaseModel) and getattr(item, "type", None) in _ITEM_TYPES:
        try:
            return _ITEM.validate_python(fields_of(item))
        except ValidationError:
            pass
    return None


def own_items(items: Iterable[object], taker: str) -> list[ThreadItem]:
    """Return items as ones of our classes. Raises `TypeError` for what can't be read as one."""
    own: list[ThreadItem] = []
    for item in items:
        read = read_item(item)
        if read is None:
            raise TypeError(f"{taker} takes items of chatkit_trio.types, and got {_name(item)}")
        own.append(read)
    return own


def not_events(returned: object) -> TypeError:
    """Say what `respond` has returned instead of events, and what to write."""
    if returned is None:
        what, way_out = "None", "yield events in it, or return stream_text(thread, text)"
    elif isinstance(returned, str):
        what, way_out = "a str", "return stream_text(thread, text), which makes events of a text"
    elif is_event(returned):
        what, way_out = f"one {type(returned).__name__}", "write yield instead of return"
    elif isinstance(returned, Iterable):
        what = f"a plain {type(returned).__name__}"
        way_out = "yield events in an async def, or return stream_text(thread, texts)"
    else:
        what, way_out = f"a {_name(returned)}", "write it as an async generator"
    return TypeError(
        f"respond() has to return an async iterable of events, and returned {what}: {way_out}."
        " stream_text is in chatkit_trio.server"
    )


def own_error(error: BaseException) -> BaseException:
    """Return an error that user code has raised; in place of one of openai-chatkit's, ours."""
    if isinstance(error, BaseStreamError):
        return error
    given = cast(Any, error)
    own: BaseStreamError | None = None
    try:
        match next(filter(None, map(_name_in_original, type(error).__mro__)), None):
            case "CustomStreamError":
                own = CustomStreamError(given.message, allow_retry=bool(given.allow_retry))
            case "StreamError":
                own = StreamError(ErrorCode(given.code.value), allow_retry=bool(given.allow_retry))
    except Exception:
        return error  # it only looks like one, or can't be looked at
    if own is None:
        return error
    own.__cause__ = error
    return own


def _name_in_original(kind: type) -> str | None:
    """Return the name of a class of openai-chatkit's errors, or of a copy in another package."""
    package, _, module = kind.__module__.rpartition(".")
    is_original = module == "errors" and package.rpartition(".")[2] == "chatkit"
    return kind.__name__ if is_original else None


def _foreign_classes(value: object) -> Iterator[str]:
    """Yield the outermost classes in a value that aren't ours."""
    match value:
        case Model():
            for field in vars(value).values():
                yield from _foreign_classes(field)
        case BaseModel():
            yield _name(value)
        case list() | tuple():
            for entry in value:
                yield from _foreign_classes(entry)


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _refusal(value: object) -> TypeError:
    """Say what `respond` has yielded instead of an event, and what to do."""
    kind = getattr(value, "type", None) if isinstance(value, BaseModel) else None
    if kind in _ITEM_TYPES:
        way_out = "wrap an item in an event, such as ThreadItemDoneEvent(item=...)"
    elif kind in _UPDATE_TYPES:
        way_out = "wrap an update in ThreadItemUpdatedEvent(item_id=..., update=...)"
    elif isinstance(value, str):
        way_out = "stream_text() makes the events of a message from text"
    else:
        way_out = "yield the event classes of chatkit_trio.types"
    return TypeError(
        f"respond() yielded {_name(value)}, which is not an event of this package: {way_out}"
    )
