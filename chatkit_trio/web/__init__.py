"""The web edge: a ChatKit server behind Quart-Trio, with a chat page if wanted.

`chatkit_blueprint` adds the endpoint to an app of yours; `create_app` makes a whole one. HTTP is
known here and nowhere below: docs/reference/http.md says what goes over the wire.
"""

from ._app import create_app
from ._blueprint import EXTENSION, chatkit_blueprint, servers_of

__all__ = ["EXTENSION", "chatkit_blueprint", "create_app", "servers_of"]
