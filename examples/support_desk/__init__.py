"""The desk of a bicycle workshop, which takes files and dictation.

python -m examples.support_desk
"""

from .server import SupportDesk, app, make_app

__all__ = ["SupportDesk", "app", "make_app"]
