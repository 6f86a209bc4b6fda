"""The original with the same answers: `uvicorn tests.protocol.original_app:app`."""

from __future__ import annotations

import asyncio

import chatkit
import chatkit.errors
import chatkit.server
import chatkit.types
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tests.samples.memory_store import MemoryStore

from .answers import answering_server

server = answering_server(chatkit, asyncio.sleep)(MemoryStore())
app = FastAPI()


@app.post("/chatkit")
async def endpoint(request: Request) -> Response:
    result = await server.process(await request.body(), {})
    if isinstance(result, chatkit.server.StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream")
    return Response(result.json, media_type="application/json")
