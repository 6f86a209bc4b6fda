"""The base of the models of this package, and how they take in models of other packages.

A model of another package is one of openai-chatkit, because of an import that was forgotten or of a
library that makes its events. It has the fields of ours, so that ours can be made of what it says.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ValidationError

_NEVER_CHANGES = frozenset((str, int, float, bool, type(None), datetime))

_set = object.__setattr__  # a model's own would look whether its class has such a field


class Model(BaseModel):
    """A model whose fields may be given as another package's models of the same fields."""

    if not TYPE_CHECKING:

        def __init__(self, /, **fields: Any) -> None:
            # What pydantic's own method does; called from here it would cost every event a frame.
            validate = self.__pydantic_validator__.validate_python
            try:
                validate(fields, self_instance=self)
                return
            except ValidationError:
                plain = _without_models(fields)
                if plain == fields:
                    raise
            validate(plain, self_instance=self)

        # Validation makes instances without it, as it does with the method of pydantic's own.
        __init__.__pydantic_base_init__ = True

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Do as pydantic's own method does, but by `deep_copy`, which is faster."""
        if getattr(self, "__pydantic_private__", None) is not None:
            return super().__deepcopy__(memo)
        memo = {} if memo is None else memo
        kind = type(self)
        memo[id(self)] = copy = kind.__new__(kind)
        _set(copy, "__dict__", deep_copy(self.__dict__, memo))
        _set(copy, "__pydantic_extra__", deep_copy(self.__pydantic_extra__, memo))
        _set(copy, "__pydantic_fields_set__", set(self.__pydantic_fields_set__))
        _set(copy, "__pydantic_private__", None)
        return copy


def deep_copy(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Do as `copy.deepcopy` does, faster for the values that models have.

    `memo` has what was copied before, by the id of its original.
    """
    kind = type(value)
    if kind in _NEVER_CHANGES:
        return value
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    if kind is list:
        entries: list[Any] = []
        memo[id(value)] = entries  # first: it may hold itself
        entries += [deep_copy(entry, memo) for entry in value]
        return entries
    if kind is dict:
        fields: dict[Any, Any] = {}
        memo[id(value)] = fields
        fields |= {deep_copy(name, memo): deep_copy(field, memo) for name, field in value.items()}
        return fields
    return value.__deepcopy__(memo) if isinstance(value, Model) else deepcopy(value, memo)


def fields_of(model: BaseModel) -> dict[str, Any]:
    """Return all that a model says, as plain values; fields that its class doesn't know, too."""
    return model.model_dump(by_alias=True, warnings=False)


def _without_models(value: Any) -> Any:
    """Return a value whose models, but those of this package, are plain values."""
    match value:
        case Model():
            return value
        case BaseModel():
            return fields_of(value)
        case dict():
            return {key: _without_models(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_without_models(entry) for entry in value]
        case _:
            return value
