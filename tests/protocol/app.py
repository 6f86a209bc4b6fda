"""The server that was recorded: `chatkit-trio serve tests.protocol.app:app`."""

from __future__ import annotations

import trio

import chatkit_trio.errors
import chatkit_trio.server
import chatkit_trio.types
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import create_app

from .answers import answering_server

server = answering_server(chatkit_trio, trio.sleep)(MemoryStore())
app = create_app(server)
