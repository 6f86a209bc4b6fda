"""The cats, and how they are doing: a dict for each lounge. Nothing here knows about chats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Breed:
    fur: str
    about: str


KITTEN = "the kitten"
CATS = {
    "Pepper": Breed("#5b6470", "Grey, grave, and fond of laps."),
    "Saffron": Breed("#d98a3d", "Ginger. Talks back."),
    KITTEN: Breed("#b9a999", "Found last week, still without a name."),
}
NAMES = ["Biscuit", "Comet", "Juniper", "Waffle"]
MOODS = ["grumpy", "bored", "content", "happy", "purring"]
COLORS = ["danger", "warning", "secondary", "info", "success"]


def card_data(lounge: dict[str, Any], cat: str) -> dict[str, Any]:
    """Return what `profile.widget` wants to know of a cat."""
    state = state_of(lounge, cat)
    mood = mood_of(state)
    name = display_name(lounge, cat)
    return {
        "cat": cat,
        "name": name[0].upper() + name[1:],
        "about": CATS[cat].about,
        "mood": MOODS[mood],
        "color": COLORS[mood],
        "picture": picture(CATS[cat].fur),
        "meals": state["meals"],
        "strokes": state["strokes"],
    }


def feed(lounge: dict[str, Any], cat: str) -> int:
    """Give a cat something to eat, and return how much it has had."""
    state_of(lounge, cat)["meals"] += 1
    return state_of(lounge, cat)["meals"]


def stroke(lounge: dict[str, Any], cat: str) -> None:
    state_of(lounge, cat)["strokes"] += 1


def mood_of(state: dict[str, int]) -> int:
    """Return a place in `MOODS`: food helps, up to three; strokes help a fed cat."""
    helped = min(state["meals"], 3) + (min(state["strokes"], 3) if state["meals"] else 0)
    return min(1 + helped, len(MOODS) - 1) if state["meals"] <= 3 else 1


def state_of(lounge: dict[str, Any], cat: str) -> dict[str, int]:
    return lounge.setdefault(cat, {"meals": 0, "strokes": 0})


def display_name(lounge: dict[str, Any], cat: str) -> str:
    return lounge.get("kitten's name", cat) if cat == KITTEN else cat


def named(text: str) -> str | None:
    """Return the cat that a text is about."""
    found = re.search("|".join(["kitten", *CATS]), text, re.IGNORECASE)
    if found is None:
        return None
    return KITTEN if "kitten" in found[0].lower() else found[0].title()


def picture(fur: str) -> str:
    """Draw a cat, as a data URL."""
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'>"
        f"<path fill='{fur}' d='M10 8l14 10h16L54 8v28c0 13-10 22-22 22S10 49 10 36z'/>"
        "<circle cx='23' cy='34' r='4' fill='#fff'/><circle cx='41' cy='34' r='4' fill='#fff'/>"
        "<circle cx='24' cy='35' r='2'/><circle cx='40' cy='35' r='2'/>"
        "<path d='M29 43h6l-3 4z' fill='#e88'/></svg>"
    )
    return "data:image/svg+xml," + svg.replace("#", "%23").replace("<", "%3C").replace(">", "%3E")
