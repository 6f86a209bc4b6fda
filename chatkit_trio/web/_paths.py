"""Where things are on a site: at a path and below it."""

from __future__ import annotations

from collections.abc import Iterable


def is_at(place: str, path: str) -> bool:
    """Say whether a path is this place, or below it."""
    return path == place or path.startswith(f"{place}/")


def place_of(path: str, places: Iterable[str]) -> str | None:
    """Return the place that a path is at: the longest that fits, None if none does."""
    return max((each for each in places if is_at(each, path)), key=len, default=None)
