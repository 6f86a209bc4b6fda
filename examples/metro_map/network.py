"""A small metro: its stations, its lines, and ways through it. Nothing here knows about chats."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Station:
    id: str
    name: str
    x: int
    y: int
    note: str


STATIONS = {
    station.id: station
    for station in [
        Station("harbour", "Harbour", 40, 250, "Ferries to the islands, and the fish market."),
        Station("mill", "Old Mill", 110, 250, "A flea market on Sundays."),
        Station("market", "Market", 190, 170, "All three lines meet here."),
        Station("library", "Library", 190, 90, "Open until midnight; the reading room is round."),
        Station("garden", "Garden", 190, 30, "Palm houses and a maze."),
        Station("theatre", "Theatre", 270, 170, "Lifts to all platforms."),
        Station("hill", "Castle Hill", 340, 110, "The longest escalator of the city."),
        Station("airport", "Airport", 340, 40, "Trains every ten minutes, also at night."),
        Station("bridge", "Iron Bridge", 190, 250, "A view of the river, best at sunset."),
        Station("stadium", "Stadium", 190, 330, "Extra trains after matches."),
        Station("park", "Park Gate", 95, 100, "The quiet end of the park."),
        Station("works", "Glassworks", 40, 60, "Studios, and a kiln that is still in use."),
    ]
}
LINES = {
    "Blue": ["harbour", "mill", "market", "theatre", "hill", "airport"],
    "Green": ["garden", "library", "market", "bridge", "stadium"],
    "Amber": ["works", "park", "market"],
}
COLORS = {"Blue": "#2f6fdb", "Green": "#2f9461", "Amber": "#d98a1f"}


def as_json() -> dict[str, object]:
    """Return what the page draws."""
    return {
        "stations": [asdict(station) for station in STATIONS.values()],
        "lines": [
            {"name": name, "color": COLORS[name], "stations": ids} for name, ids in LINES.items()
        ],
    }


def lines_at(station: Station) -> list[str]:
    """Return the names of the lines that stop at a station."""
    return [name for name, ids in LINES.items() if station.id in ids]


def named(text: str) -> list[Station]:
    """Return the stations that a text names, in its order, each once."""
    return list(dict.fromkeys(station for station, _end in mentions(text)))


def mentions(text: str) -> Iterator[tuple[Station, int]]:
    """Yield each mention of a station, and where in the text it ends."""
    by_name = {station.name.lower(): station for station in STATIONS.values()}
    pattern = "|".join(rf"\b{re.escape(name)}\b" for name in by_name)
    for match in re.finditer(pattern, text, re.IGNORECASE):
        yield by_name[match[0].lower()], match.end()


def route(start: Station, end: Station) -> list[Station]:
    """Return the stations on the shortest way, both ends included."""
    before: dict[str, str | None] = {start.id: None}
    waiting = deque([start.id])
    while waiting and end.id not in before:
        here = waiting.popleft()
        for there in _neighbours(here):
            if there not in before:
                before[there] = here
                waiting.append(there)
    way: list[Station] = []
    here: str | None = end.id
    while here is not None:
        way.append(STATIONS[here])
        here = before[here]
    return way[::-1]


def _neighbours(station_id: str) -> Iterator[str]:
    for ids in LINES.values():
        if station_id in ids:
            place = ids.index(station_id)
            yield from ids[max(0, place - 1) : place]
            yield from ids[place + 1 : place + 2]
