"""A lounge with three cats, run through widgets.

python -m examples.cat_lounge
"""

from .server import CatLounge, app

__all__ = ["CatLounge", "app"]
