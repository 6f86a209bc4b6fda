"""Tools: trio functions a model may call, and the schemas that their signatures make."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio.errors import BaseStreamError

from ._context import AgentContext
from ._telling import told_call

logger = logging.getLogger(__name__)

_WITHOUT_NAME = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)

_FAILED = "The tool failed. Do without it, or tell the user."

NeedsApproval: TypeAlias = (
    bool | Callable[[AgentContext[Any], dict[str, Any]], bool | Awaitable[bool]]
)
"""Whether a person has to be asked first: always, never, or what a function of the turn's context
and the arguments says; it may be async."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function a model may call; made by `tool`, or by hand for a schema of your own."""

    name: str
    description: str
    parameters: dict[str, Any]
    """The JSON schema of the arguments."""
    call: Callable[[AgentContext[Any], str], Awaitable[str]]
    """Takes the turn's context and the arguments as JSON text; returns the text for the model."""
    needs_approval: NeedsApproval = False
    check: Callable[[str], object] | None = None
    """Raises `ValidationError` for arguments, as JSON text, that `call` would refuse. So nobody is
    asked about a call that can't be made."""

    def param(self) -> dict[str, Any]:
        """Return the tool as the Responses API wants it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": False,
        }

    async def asks_first(self, context: AgentContext[Any], arguments: str) -> bool:
        """Say whether a person has to approve this call before it is made.

        If the function that decides fails, a person is asked.
        """
        if self.needs_approval is False:
            return False
        if not self._accepts(arguments):
            return False  # `answer` tells the model what is wrong
        if self.needs_approval is True:
            return True
        try:
            needs = self.needs_approval(context, json.loads(arguments or "{}"))
            return await needs if inspect.isawaitable(needs) else needs
        except Exception:
            logger.exception("needs_approval of tool %s failed, so the user is asked", self.name)
            return True

    async def answer(
        self, context: AgentContext[Any], arguments: str, call_id: str | None = None
    ) -> str:
        """Call the function and return the text for the model.

        If the arguments don't fit, the text says why; for any other error it only says that the
        tool failed. A `StreamError` or `CustomStreamError` is raised, and ends the answer.
        `call_id` is the model's name for the call, for observers.
        """
        try:
            with told_call("tool", self.name, self._facts(call_id)):
                return await self.call(context, arguments)
        except Exception as error:
            # The function may validate something else, such as what a service has answered.
            is_fit = self.check is not None and self._accepts(arguments)
            if isinstance(error, ValidationError) and not is_fit:
                problems = error.json(include_url=False, include_input=False)
                return f"The arguments don't fit the tool's schema: {problems}"
            # A tool with a nursery of its own raises a group.
            cause = unwrapped(error)
            if isinstance(cause, BaseStreamError):
                raise cause from error
            logger.exception("tool %s failed", self.name)
            return _FAILED

    def _accepts(self, arguments: str) -> bool:
        """Say whether `check` has nothing against these arguments."""
        if self.check is not None:
            try:
                self.check(arguments)
            except ValidationError:
                return False
        return True

    def _facts(self, call_id: str | None) -> dict[str, Any]:
        facts = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": self.name,
            "gen_ai.tool.type": "function",
        }
        return facts if call_id is None else facts | {"gen_ai.tool.call.id": call_id}


@overload
def tool(function: Callable[..., Awaitable[Any]], /) -> Tool: ...


@overload
def tool(
    *, needs_approval: NeedsApproval = False
) -> Callable[[Callable[..., Awaitable[Any]]], Tool]: ...


def tool(
    function: Callable[..., Awaitable[Any]] | None = None,
    /,
    *,
    needs_approval: NeedsApproval = False,
) -> Tool | Callable[[Callable[..., Awaitable[Any]]], Tool]:
    """Make a tool of an async function that runs on trio.

        @tool
        async def weather(context: AgentContext, city: str) -> str:
            \"\"\"Look up the weather in a city.\"\"\"

    The tool gets the function's name, its docstring as the description, and the schema of the
    arguments from the annotations (`Annotated[..., Field(description=...)]` describes an argument).
    Raises `TypeError` for a parameter that a model can't give by its name, such as `*args`.
    A parameter annotated with `AgentContext`, or a subclass, gets the turn's context. A result that
    isn't a string is given to the model as JSON.

    With `needs_approval=True` the user is asked before each call, and `run_model` calls the tool
    when they have approved. A function of the context and the arguments asks for some calls only:

        @tool(needs_approval=True)
        async def refund(order: str, amount: float) -> str: ...

        def is_much(context: AgentContext, arguments: dict[str, Any]) -> bool:
            return arguments["amount"] > 100

        @tool(needs_approval=is_much)
        async def credit(account: str, amount: float) -> str: ...
    """
    if function is None:
        return lambda decorated: _made_of(decorated, needs_approval)
    return _made_of(function, needs_approval)


def _made_of(function: Callable[..., Awaitable[Any]], needs_approval: NeedsApproval) -> Tool:
    hints = get_type_hints(function, include_extras=True)
    context_name, parameters = _parameters(function, hints)
    name: str = function.__name__
    # A field's name must not begin with `_`, nor be one that every model has, such as `copy`. So
    # the fields have names of their own, and the parameters' names are their aliases.
    names = {f"argument_{number}": parameter for number, parameter in enumerate(parameters)}
    config = ConfigDict(extra="forbid", alias_generator=names.__getitem__)
    fields: dict[str, Any] = {field: parameters[names[field]] for field in names}
    arguments_model = create_model(name, __config__=config, **fields)

    def check(arguments: str) -> Any:
        return arguments_model.model_validate_json(arguments or "{}")

    async def call(context: AgentContext[Any], arguments: str) -> str:
        given = check(arguments)
        values = {names[field]: getattr(given, field) for field in names}
        if context_name is not None:
            values[context_name] = context
        return _as_text(await function(**values))

    return Tool(
        name,
        inspect.getdoc(function) or "",
        arguments_model.model_json_schema(),
        call,
        needs_approval,
        check,
    )


def _parameters(
    function: Callable[..., Any], hints: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the parameter for the context, and the fields for the others.

    Raises `TypeError` for a parameter that can't be given by its name, as a model gives it.
    """
    context_name: str | None = None
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in _WITHOUT_NAME:
            raise TypeError(
                f"tool {function.__name__} can't have the parameter {parameter}: a model gives"
                " each argument by its name"
            )
        if _is_context(hints.get(name)):
            context_name = name
        else:
            is_needed = parameter.default is inspect.Parameter.empty
            fields[name] = (hints.get(name, Any), ... if is_needed else parameter.default)
    return context_name, fields


def _is_context(hint: Any) -> bool:
    """Say whether this is the context, also if it is annotated or may be None."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return any(map(_is_context, get_args(hint)))
    return isinstance(hint, type) and issubclass(hint, AgentContext)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return pydantic_core.to_json(value, fallback=str).decode()
