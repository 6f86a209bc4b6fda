"""What `chatkit-trio serve` is given to see its metrics: a server that says a word, and who has."""

from __future__ import annotations

import os

from quart import Response

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app

store = SQLiteStore(os.environ["TALKER_DATABASE"], owner=lambda context: context)
server = scripted_server(store, [say("Hello")])
app = create_app(server, context=lambda request: "ann", metrics_path="/metrics")


@app.after_request
async def tell_who_answers(response: Response) -> Response:
    response.headers["Worker"] = str(os.getpid())
    return response
