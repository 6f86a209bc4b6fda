"""The web edge: a ChatKit server behind Quart-Trio, with a chat page if wanted.

`asgi_app` is mounted in an app of FastAPI or Starlette, and `chatkit_blueprint` adds the endpoint
to one of Quart-Trio; `create_app` makes a whole app, and `serve` runs any of them. `AsyncioApp`
serves an app that needs asyncio beside it. No lower layer knows HTTP; docs/reference/http.md says
what goes over the wire.
"""

from ._app import create_app
from ._asgi_app import asgi_app
from ._asyncio_app import AsyncioApp
from ._blueprint import chatkit_blueprint
from ._page import ChatPage
from ._serving import serve

__all__ = ["AsyncioApp", "ChatPage", "asgi_app", "chatkit_blueprint", "create_app", "serve"]
