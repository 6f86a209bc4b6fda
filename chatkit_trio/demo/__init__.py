"""The demo: a chat that works offline, or with a model if `OPENAI_API_KEY` is set.

`python -m chatkit_trio demo` serves it. Try to stop an answer, reload the page, or kill the server.
"""

from ._assistant import demo_app, demo_server, who_answers

__all__ = ["demo_app", "demo_server", "who_answers"]
