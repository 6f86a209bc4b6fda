"""A map and a chat that talk to each other.

python -m examples.metro_map
"""

from .server import MetroMap, app

__all__ = ["MetroMap", "app"]
