"""The base of all models: copying one goes as with pydantic, and takes a part of the time."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from pydantic import BaseModel, PrivateAttr

from chatkit_trio._model import Model, deep_copy
from chatkit_trio.testing._store_samples import ITEM_KINDS, full_thread, item_of_kind
from chatkit_trio.widgets import Card, Text

SAMPLES: dict[str, Any] = {kind: item_of_kind(kind, "thr_1") for kind in ITEM_KINDS} | {
    "thread": full_thread("thr_1"),
    "unknown prop": Card(children=[Text(value="Hi")], glow={"colors": ["red"]}),
}


def changeable(value: Any) -> list[Any]:
    """Return all that can be changed in a value, itself first."""
    match value:
        case BaseModel():
            parts = [value.__dict__, value.__pydantic_extra__, value.__pydantic_fields_set__]
            return [value, *(each for part in parts for each in changeable(part))]
        case dict():
            return [value, *(each for entry in value.values() for each in changeable(entry))]
        case list() | set():
            return [value, *(each for entry in value for each in changeable(entry))]
    return []


@pytest.mark.parametrize("name", SAMPLES)
def test_a_copy_is_as_pydantics_and_shares_nothing_that_changes(name: str) -> None:
    original = SAMPLES[name]
    copied = original.model_copy(deep=True)

    assert copied == BaseModel.__deepcopy__(original) == original
    assert type(copied) is type(original)
    assert copied.model_fields_set == original.model_fields_set
    assert copied.model_dump_json(by_alias=True) == original.model_dump_json(by_alias=True)
    assert {*map(id, changeable(copied))} & {*map(id, changeable(original))} == set()


def test_what_is_in_a_value_twice_is_in_its_copy_twice() -> None:
    text = Text(value="Hi")
    values: list[Any] = [{"a": text}, text]
    values += [values[0], values]

    copied = deep_copy(values)

    assert copied[0]["a"] is copied[1] is not text
    assert copied[0] is copied[2]
    assert copied[3] is copied


class Named(Model):
    names: list[Any] = []  # noqa: RUF012
    _seen: list[str] = PrivateAttr(default_factory=list)


def test_private_attributes_are_copied_too() -> None:
    named = Named()
    named._seen.append("once")
    copied = deepcopy(named)
    named._seen.append("twice")

    assert copied._seen == ["once"]


def test_a_class_that_copies_in_its_own_way_does_so_inside_of_others() -> None:
    class Counted(Model):
        copies: int = 0

        def __deepcopy__(self, memo: Any = None) -> Counted:
            return Counted(copies=self.copies + 1)

    class Plain(BaseModel):
        name: str

    named = Named.model_construct(names=[Counted(), Plain(name="Ada"), {1, 2}, ("a",)])

    copied = named.model_copy(deep=True)

    assert copied.names == [Counted(copies=1), Plain(name="Ada"), {1, 2}, ("a",)]
    assert copied.names[1] is not named.names[1]
