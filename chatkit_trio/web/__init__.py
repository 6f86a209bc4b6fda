"""The web edge: a ChatKit server behind Quart-Trio, with a chat page if wanted.

`chatkit_blueprint` adds the endpoint to your own app; `create_app` makes a whole app, and `serve`
runs it; `AsyncioApp` serves an app that needs asyncio beside it. No lower layer knows HTTP;
docs/reference/http.md says what goes over the wire.
"""

from ._app import create_app
from ._asyncio_app import AsyncioApp
from ._blueprint import chatkit_blueprint
from ._page import ChatPage
from ._serving import serve

__all__ = ["AsyncioApp", "ChatPage", "chatkit_blueprint", "create_app", "serve"]
