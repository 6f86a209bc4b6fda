"""Events as JSON that can be compared: no times, no ids of images, other ids by order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def plain(events: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the events as JSON, each id replaced by a number of its own."""
    names: dict[str, str] = {}
    return [_plain(event.model_dump(mode="json", exclude_none=True), names) for event in events]


def _plain(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_plain(entry, names) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {key: entry for key, entry in value.items() if key != "created_at"}
    if "image" in kept:
        kept["image"] = {"url": kept["image"]["url"]}
    return {
        key: names.setdefault(entry, f"id{len(names)}")
        if key in {"id", "item_id"}
        else _plain(entry, names)
        for key, entry in kept.items()
    }
