"""Events of the Responses API, written down: what a model says, for whoever plays it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

_ADAPTER: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

Json = dict[str, Any]


def parsed(events: Iterable[Json]) -> list[Any]:
    """Return the events as objects of the client library's."""
    return [_ADAPTER.validate_python(event) for event in events]


def text_part(text: str, annotations: Iterable[Json] = ()) -> Json:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": []}


def refusal_part(text: str) -> Json:
    return {"type": "refusal", "refusal": text}


def message_item(model_id: str, *parts: Json, status: str = "completed") -> Json:
    return {
        "type": "message",
        "id": model_id,
        "role": "assistant",
        "status": status,
        "content": list(parts),
    }


def item_added(item: Json) -> Json:
    return {
        "type": "response.output_item.added",
        "output_index": 0,
        "sequence_number": 0,
        "item": item,
    }


def item_done(item: Json) -> Json:
    return {**item_added(item), "type": "response.output_item.done"}


def at_once(item: Json) -> list[Json]:
    """Return an item that is whole when it is added."""
    return [item_added(item), item_done(item)]


def _in_part(kind: str, model_id: str, **fields: Any) -> Json:
    return {
        "type": kind,
        "item_id": model_id,
        "output_index": 0,
        "content_index": 0,
        "sequence_number": 0,
        **fields,
    }


def part_added(model_id: str, part: Json, content_index: int = 0) -> Json:
    return _in_part("response.content_part.added", model_id, part=part, content_index=content_index)


def text_delta(model_id: str, delta: str, content_index: int = 0) -> Json:
    return _in_part(
        "response.output_text.delta",
        model_id,
        delta=delta,
        logprobs=[],
        content_index=content_index,
    )


def text_done(model_id: str, text: str) -> Json:
    return _in_part("response.output_text.done", model_id, text=text, logprobs=[])


def refusal_delta(model_id: str, delta: str) -> Json:
    return _in_part("response.refusal.delta", model_id, delta=delta)


def refusal_done(model_id: str, text: str) -> Json:
    return _in_part("response.refusal.done", model_id, refusal=text)


def annotation_added(model_id: str, index: int, annotation: Json) -> Json:
    return _in_part(
        "response.output_text.annotation.added",
        model_id,
        annotation_index=index,
        annotation=annotation,
    )


def annotation_as_dict(model_id: str, index: int, annotation: Json) -> Any:
    """Return what clients have made of this event before they had classes for it."""
    [event] = parsed([annotation_added(model_id, index, annotation)])
    event.annotation = annotation
    return event


def message(model_id: str, *pieces: str) -> list[Json]:
    """Return a whole message that streams in these pieces."""
    text = "".join(pieces)
    return [
        item_added(message_item(model_id, status="in_progress")),
        part_added(model_id, text_part("")),
        *(text_delta(model_id, piece) for piece in pieces),
        text_done(model_id, text),
        item_done(message_item(model_id, text_part(text))),
    ]


def reasoning_item(model_id: str, *summaries: str) -> Json:
    return {
        "type": "reasoning",
        "id": model_id,
        "summary": [{"type": "summary_text", "text": text} for text in summaries],
    }


def thought_delta(model_id: str, delta: str, summary_index: int = 0) -> Json:
    return {
        "type": "response.reasoning_summary_text.delta",
        "item_id": model_id,
        "output_index": 0,
        "summary_index": summary_index,
        "sequence_number": 0,
        "delta": delta,
    }


def thought_done(model_id: str, text: str, summary_index: int = 0) -> Json:
    return {
        "type": "response.reasoning_summary_text.done",
        "item_id": model_id,
        "output_index": 0,
        "summary_index": summary_index,
        "sequence_number": 0,
        "text": text,
    }


def reasoning(model_id: str, *thoughts: tuple[str, ...]) -> list[Json]:
    """Return reasoning whose thoughts stream in these pieces."""
    events = [item_added(reasoning_item(model_id))]
    for index, pieces in enumerate(thoughts):
        events += [thought_delta(model_id, piece, index) for piece in pieces]
        events.append(thought_done(model_id, "".join(pieces), index))
    texts = ["".join(pieces) for pieces in thoughts]
    return [*events, item_done(reasoning_item(model_id, *texts))]


def image_item(model_id: str, result: str | None) -> Json:
    return {
        "type": "image_generation_call",
        "id": model_id,
        "status": "completed",
        "result": result,
    }


def partial_image(model_id: str, index: int, image: str) -> Json:
    return {
        "type": "response.image_generation_call.partial_image",
        "item_id": model_id,
        "output_index": 0,
        "sequence_number": 0,
        "partial_image_index": index,
        "partial_image_b64": image,
    }


def image(model_id: str, *previews: str, result: str) -> list[Json]:
    """Return an image with its previews."""
    return [
        item_added(image_item(model_id, None)),
        *(partial_image(model_id, index, preview) for index, preview in enumerate(previews)),
        item_done(image_item(model_id, result)),
    ]


def call_item(name: str, arguments: str, call_id: str = "call_1", model_id: str = "fc_1") -> Json:
    return {
        "type": "function_call",
        "id": model_id,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def call(name: str, arguments: str = "{}", call_id: str = "call_1") -> list[Json]:
    """Return a call of a function."""
    return at_once(call_item(name, arguments, call_id, f"fc_{call_id}"))


def response(events: Iterable[Any], status: str = "completed") -> Json:
    """Return the response object that has the items these events finish."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "scripted",
        "status": status,
        "output": [
            event["item"]
            for event in events
            if isinstance(event, dict) and event["type"] == "response.output_item.done"
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def answer(*events: Any) -> list[Any]:
    """Return a whole answer: created, these events, completed."""
    return [
        {
            "type": "response.created",
            "sequence_number": 0,
            "response": response([], "in_progress"),
        },
        *events,
        {"type": "response.completed", "sequence_number": 0, "response": response(events)},
    ]
