"""The base of the models of this package, and how they take in models of other packages.

A model of another package is one of openai-chatkit, because of an import that was forgotten or of a
library that makes its events. It has the fields of ours, so that ours can be made of what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError


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
