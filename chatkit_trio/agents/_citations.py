"""Citations as providers send them, made into what the OpenAI client's classes say they are.

Providers leave out titles and positions, and the client doesn't validate what it parses: a citation
may be a dict, of a wrong class, or without half of its fields.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ._extras import require

logger = logging.getLogger(__name__)

_CLASSES = {
    "url_citation": "AnnotationURLCitation",
    "file_citation": "AnnotationFileCitation",
    "container_file_citation": "AnnotationContainerFileCitation",
}


def citation_of(raw: Any) -> Any:
    """Return a citation as an object of the client's class; None if it can't be shown.

    A page without a title gets the name of its host. A position that isn't given is None, which
    the class itself doesn't allow.
    """
    given = _fields(raw)
    kind = str(given.get("type"))
    if kind == "file_path":
        return None  # tells of a file that was made, and cites nothing
    # Some providers put the fields one level down, as chat completions do.
    if isinstance(inner := given.get(kind), Mapping):
        given = {**inner, "type": kind}
    fields = {
        "type": kind,
        **{name: _text(given, name) for name in ("file_id", "filename", "container_id")},
        **{name: _position(given, name) for name in ("index", "start_index", "end_index")},
    }
    if kind == "url_citation":
        url = fields["url"] = _text(given, "url")
        fields["title"] = _text(given, "title") or _host(url)
        is_known = bool(url)
    else:
        is_known = kind in _CLASSES
    if not is_known:
        logger.warning(
            "a citation without a source, or of an unknown kind (%s), was left out", kind
        )
        return None
    cls = getattr(require("openai.types.responses.response_output_text"), _CLASSES[kind])
    return cls.model_construct(**{name: fields[name] for name in cls.model_fields})


def _fields(raw: Any) -> dict[str, Any]:
    if isinstance(raw, Mapping):
        return dict(raw)
    dump = getattr(raw, "model_dump", None)
    # Without its warnings: the object may well be of the wrong class.
    return dump(warnings=False) if dump is not None else dict(getattr(raw, "__dict__", {}))


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    return value.strip() if isinstance(value, str) else ""


def _position(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url
