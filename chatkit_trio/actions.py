"""What happens when a user presses something in a widget.

An `ActionConfig` travels to the client as part of a widget; an `Action` is what the client sends
back when the user triggers it.
"""
# ruff: noqa: N815  (props are named as on the wire)

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar, cast, get_args, get_origin

from pydantic import ConfigDict, Field, model_validator

from ._model import Model

__all__ = [
    "DEFAULT_HANDLER",
    "DEFAULT_LOADING_BEHAVIOR",
    "Action",
    "ActionConfig",
    "Handler",
    "LoadingBehavior",
    "TPayload",
    "TType",
]

Handler = Literal["client", "server"]
"""Who handles an action: code in the page, or the server's `action` or `sync_action` hook."""

LoadingBehavior = Literal["auto", "none", "self", "container"]
"""What shows that an action is running: nothing, the pressed component, or its container."""

DEFAULT_HANDLER: Handler = "server"
DEFAULT_LOADING_BEHAVIOR: LoadingBehavior = "auto"


class ActionConfig(Model):
    """An action as a widget declares it.

    With `streaming=False` the client sends it as `threads.sync_custom_action`, which works while an
    answer streams and returns one updated item.
    """

    # A client newer than this release may send more fields; the store must keep them.
    model_config = ConfigDict(extra="allow")

    type: str
    payload: Any = None
    handler: Handler = DEFAULT_HANDLER
    loadingBehavior: LoadingBehavior = DEFAULT_LOADING_BEHAVIOR
    streaming: bool = True


TType = TypeVar("TType", bound=str)
TPayload = TypeVar("TPayload")


class Action(Model, Generic[TType, TPayload]):
    """An action a user triggered, with its payload.

    Narrow it to describe one action, then use it on both ends:

        class Book(BaseModel):
            seat: str

        BookAction = Action[Literal["book"], Book]
        Button(onClickAction=BookAction.create(Book(seat="4A")))   # to the client
        BookAction.model_validate(action.model_dump()).payload     # from the client
    """

    # Required, except in a class that names one type; the cast is for type checkers.
    type: TType = Field(default=cast("Any", ...), frozen=True)
    # Actions without a payload are common; their type is Action[..., None].
    payload: TPayload = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    @model_validator(mode="before")
    @classmethod
    def _fill_in_type(cls, data: Any) -> Any:
        only_type = cls._only_type()
        if only_type is not None and isinstance(data, dict) and "type" not in data:
            return {"type": only_type, **data}
        return data

    @classmethod
    def create(
        cls,
        payload: TPayload,
        handler: Handler = DEFAULT_HANDLER,
        loading_behavior: LoadingBehavior = DEFAULT_LOADING_BEHAVIOR,
        streaming: bool = True,
    ) -> ActionConfig:
        """Return the configuration to put in a widget.

        Raises `TypeError` unless the class names one action, as `Action[Literal["book"], Book]`.
        """
        only_type = cls._only_type()
        if only_type is None:
            raise TypeError(
                f'{cls.__name__} names no single action type; use Action[Literal["..."], ...]'
            )
        return ActionConfig(
            type=only_type,
            payload=payload,
            handler=handler,
            loadingBehavior=loading_behavior,
            streaming=streaming,
        )

    @classmethod
    def _only_type(cls) -> str | None:
        annotation = cls.model_fields["type"].annotation
        values = get_args(annotation) if get_origin(annotation) is Literal else ()
        return values[0] if len(values) == 1 and isinstance(values[0], str) else None
