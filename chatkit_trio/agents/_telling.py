"""Telling a server's observers of the calls that a turn makes: of models and of tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import trio

from chatkit_trio.observe import CallBegan, CallEnded
from chatkit_trio.server import Turn, current_turn


def turn_in_progress() -> Turn[Any] | None:
    """Return the turn of the calling task, None outside of turns."""
    try:
        return current_turn()
    except RuntimeError:
        return None


@contextmanager
def told_call(
    kind: Literal["model", "tool"], name: str, facts: dict[str, Any]
) -> Iterator[dict[str, Any] | None]:
    """Tell of the call that the block makes; it may add to the dict what it learns of it.

    There is no dict if nobody is told.
    """
    turn = turn_in_progress()
    if turn is None or not turn.story.is_watched:
        yield None
        return
    learned: dict[str, Any] = {}
    call = CallBegan(turn.info, kind, name, facts)
    began_at = trio.current_time()
    error: BaseException | None = None
    turn.story.tell(call)
    try:
        yield learned
    except BaseException as raised:
        error = raised
        raise
    finally:
        seconds = trio.current_time() - began_at
        turn.story.tell(CallEnded(call, seconds, learned, error))


def facts_of_request(client: Any, model: str) -> dict[str, Any]:
    """Return what is known of a call to an OpenAI client before it is made."""
    place = urlsplit(str(getattr(client, "base_url", "")))
    facts: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "server.address": place.hostname,
        "server.port": place.port or {"http": 80, "https": 443}.get(place.scheme),
    }
    return {name: fact for name, fact in facts.items() if fact}


def facts_of_response(response: Any) -> dict[str, Any]:
    """Return what a whole response of the Responses API tells of itself, but nothing it says."""

    def known(path: str) -> Any:
        found = response
        for name in path.split("."):
            found = getattr(found, name, None)  # not every provider tells all
        return found

    facts: dict[str, Any] = {
        "gen_ai.response.id": known("id"),
        "gen_ai.response.model": known("model"),
        "gen_ai.response.finish_reasons": [known("incomplete_details.reason") or known("status")],
        "gen_ai.usage.input_tokens": known("usage.input_tokens"),
        "gen_ai.usage.output_tokens": known("usage.output_tokens"),
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, [None])}
