"""A laboratory for answers that are cut short.

python -m examples.cancel_lab
"""

from .server import CancelLab, app

__all__ = ["CancelLab", "app"]
