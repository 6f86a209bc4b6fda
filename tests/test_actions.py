from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from chatkit_trio.actions import Action, ActionConfig


class Seat(BaseModel):
    number: str


BookSeat = Action[Literal["book"], Seat]


def test_an_action_creates_the_config_that_brings_it_back() -> None:
    config = BookSeat.create(
        Seat(number="4A"), handler="client", loading_behavior="self", streaming=False
    )

    assert config == ActionConfig(
        type="book",
        payload=Seat(number="4A"),
        handler="client",
        loadingBehavior="self",
        streaming=False,
    )
    sent_back = Action[str, Any].model_validate(config.model_dump(include={"type", "payload"}))
    assert BookSeat.model_validate(sent_back.model_dump()) == BookSeat(payload=Seat(number="4A"))


def test_an_action_of_one_type_knows_its_type() -> None:
    assert BookSeat(payload=Seat(number="4A")).type == "book"


@pytest.mark.parametrize("data", [{"type": "cancel"}, {"type": None}, 3])
def test_an_action_of_one_type_refuses_any_other(data: object) -> None:
    with pytest.raises(ValidationError):
        BookSeat.model_validate(data)


def test_a_general_action_must_say_its_type() -> None:
    with pytest.raises(ValidationError, match="type"):
        Action[str, Any].model_validate({"payload": 1})


@pytest.mark.parametrize(
    "general", [Action, Action[str, Any], Action[Literal["book", "cancel"], Any]]
)
def test_create_needs_a_class_that_names_one_action(general: type[Action[Any, Any]]) -> None:
    with pytest.raises(TypeError, match="names no single action type"):
        general.create(None)


def test_the_type_of_an_action_is_frozen() -> None:
    action = Action[str, Any](type="book")
    with pytest.raises(ValidationError, match="frozen"):
        action.type = "cancel"


def test_a_config_keeps_what_a_newer_client_adds() -> None:
    config = ActionConfig.model_validate({"type": "book", "confirmText": "Sure?"})

    assert config.model_dump()["confirmText"] == "Sure?"
