"""Fewer and shorter garbage collections while a server serves.

In a collection no stream goes on. One that goes through all that is loaded takes some 40 ms, and
a request with many values sets one off. Short ones would come with every round of a hundred
streams, which make and drop as many objects as begin one by default.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MADE = 20_000
"""How many more objects have been made than dropped when a collection begins."""


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Have Python collect garbage less often; it is as before at the end.

    But where the app has frozen objects itself, all stay frozen: Python can't tell which are whose.
    """
    before, had_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.set_threshold(_MADE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not had_frozen:
            gc.unfreeze()


def keep_out_what_is_loaded() -> None:
    """Have collections pass over all objects that there are now, until `fewer_collections` ends."""
    gc.collect()
    gc.freeze()
