"""What a subclass of the server overrides: refused where it would do nothing, or stop everything.

A server that was written for openai-chatkit may override the insides of that package's server. Here
nobody would call such a method; if it was there to refuse somebody something, they would get it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_INSIDES_OF_THE_ORIGINAL = (
    "_apply_assistant_message_update",
    "_apply_structured_input_submission",
    "_build_user_message_item",
    "_cleanup_pending_client_tool_call",
    "_get_attachment_store",
    "_load_full_thread",
    "_paginate_thread_items_reverse",
    "_process_events",
    "_process_new_thread_item_respond",
    "_process_non_streaming",
    "_process_streaming",
    "_process_streaming_impl",
    "_process_sync_custom_action",
    "_serialize",
    "_to_thread_response",
    "_update_pending_items",
)


def check_overrides(server: type[Any], process: Callable[..., Any]) -> None:
    """Raise `TypeError` for a subclass of the server that can't work as it is meant.

    `process` is the server's own method of that name.
    """
    for name in _INSIDES_OF_THE_ORIGINAL:
        if hasattr(server, name):
            raise TypeError(
                f"{server.__qualname__}.{name}() would never be called: it is one of the insides of"
                " openai-chatkit's server, which this one doesn't have. Refuse or answer a request"
                " where its context is made, or in `async def process(self, request, context,"
                " **options)`; change what is sent in respond() and action(). If it is a method of"
                " your own, give it another name"
            )
    given = inspect.signature(server.process).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in given):
        return
    names = {each.name for each in given}
    options = [
        each.name
        for each in inspect.signature(process).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if missing := [name for name in options if name not in names]:
        raise TypeError(
            f"{server.__qualname__}.process() takes no {', '.join(missing)}: write `async def"
            " process(self, request, context, **options)`, and pass the options on to"
            " `super().process(request, context, **options)`"
        )
