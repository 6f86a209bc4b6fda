"""What a model takes as input of an answer that was cut: nothing that waits for something.

The Responses API refuses a call of a tool without its output, and reasoning without the item that
followed it. A turn that is cut while tools run leaves both behind, wherever its history is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

_OUTPUT_OF = {
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "function_call": "function_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
}
"""The type of the item that answers a call, by the type of the call."""


def waits_for_output(output: Sequence[Any]) -> bool:
    """Say whether the API wants something in an answer answered before it goes on from there."""
    asks = any(_get(item, "type") == "mcp_approval_request" for item in output)
    return asks or bool(open_calls(output))


def open_calls(items: Sequence[Any]) -> list[Any]:
    """Return the calls among these items whose outputs aren't among them.

    What the provider runs itself, for example a shell of its own, comes with its output.
    """
    answered = {(_get(item, "type"), _call_id(item)) for item in items}
    return [
        item
        for item in items
        if (output := _OUTPUT_OF.get(_get(item, "type"))) is not None
        and (output, _call_id(item)) not in answered
    ]


def without_open_calls(items: Sequence[Any]) -> list[Any]:
    """Return input items without the calls that have no output, and the reasoning behind these.

    Reasoning that has led to several calls stays while one of them does.
    """
    dropped = {id(call) for call in open_calls(items)}
    kept: list[Any] = []
    led_to_dropped = False
    for item in reversed(items):
        if id(item) in dropped:
            led_to_dropped = not (kept and _is_model_output(kept[-1]))
        elif not (led_to_dropped and _get(item, "type") == "reasoning"):
            kept.append(item)
            led_to_dropped = False
    kept.reverse()
    if dropped:
        logger.info("left %s tool calls without an output out of a model's input", len(dropped))
    return kept


def _is_model_output(item: Any) -> bool:
    """Say whether an item is what reasoning leads to."""
    return _get(item, "role") == "assistant" or str(_get(item, "type")).endswith("_call")


def _call_id(item: Any) -> Any:
    return _get(item, "call_id") or _get(item, "id")


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
