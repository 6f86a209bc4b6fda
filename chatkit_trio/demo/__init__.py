"""The demo: a chat that works offline, or with a model when there is a key for one.

`python -m chatkit_trio demo` serves it. It is here to be seen, stopped, reloaded and killed.
"""

from ._assistant import demo_app, demo_server

__all__ = ["demo_app", "demo_server"]
