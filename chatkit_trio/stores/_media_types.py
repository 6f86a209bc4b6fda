"""Which media type a file says it has, and whether its first bytes agree.

Only what can be told from a signature is told: a type without one is believed, unless it claims to
be an image, sound or video and reads as text. Nothing here opens a file.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable

UNKNOWN = "application/octet-stream"

INLINE_IMAGES = frozenset(
    {"image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"}
)
"""Raster formats: a browser may show them in place, since none of them can carry a script."""

DEFAULT_ACCEPT = (
    "image/*",
    "text/*",
    "application/json",
    "application/pdf",
    "application/vnd.oasis.opendocument.presentation",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
)

SNIFFED_BYTES = 4096
"""How much of a file `agrees` wants to see."""

_PDF = re.compile(rb"(\xef\xbb\xbf)?\s*%PDF-")
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06)")
_ISO_MEDIA = re.compile(rb"....ftyp", re.DOTALL)
_MATROSKA = re.compile(rb"\x1a\x45\xdf\xa3")
_OGG = re.compile(rb"OggS")

_SIGNATURES = {
    "application/gzip": re.compile(rb"\x1f\x8b"),
    "application/pdf": _PDF,
    "application/zip": _ZIP,
    "audio/flac": re.compile(rb"fLaC"),
    "audio/mp4": _ISO_MEDIA,
    "audio/mpeg": re.compile(rb"ID3|\xff[\xe0-\xff]"),
    "audio/ogg": _OGG,
    "audio/wav": re.compile(rb"RIFF....WAVE", re.DOTALL),
    "audio/webm": _MATROSKA,
    "image/avif": re.compile(rb"....ftyp(avif|avis|mif1|msf1)", re.DOTALL),
    "image/bmp": re.compile(rb"BM"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/heic": re.compile(rb"....ftyp(heic|heim|heis|heix|hevc|mif1|msf1)", re.DOTALL),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/tiff": re.compile(rb"II\*\x00|MM\x00\*"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "video/mp4": _ISO_MEDIA,
    "video/ogg": _OGG,
    "video/webm": _MATROSKA,
}
_ZIPPED = ("application/vnd.oasis.opendocument.", "application/vnd.openxmlformats-officedocument.")
_TEXTS = frozenset(
    {
        "application/javascript",
        "application/json",
        "application/toml",
        "application/x-ndjson",
        "application/x-sh",
        "application/xml",
        "application/yaml",
    }
)
_ALIASES = {
    "application/x-gzip": "application/gzip",
    "application/x-pdf": "application/pdf",
    "application/x-zip-compressed": "application/zip",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
}

_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}"
_MEDIA_TYPE = re.compile(f"{_NAME}/{_NAME}")
_UNICODE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16, whose text is full of zero bytes
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
# Without files: the machine's own tables differ from one to the next.
_EXTENSIONS = mimetypes.MimeTypes(filenames=())
for _extension in ("md", "markdown"):
    _EXTENSIONS.add_type("text/markdown", f".{_extension}")
# What browsers often have no type for, and everyone sends.
for _extension in re.findall(
    r"\w+", "c cpp cs go h ini java kt log php rb rs sql swift toml ts tsx yaml yml"
):
    _EXTENSIONS.add_type("text/plain", f".{_extension}")


def media_type(declared: str, name: str) -> str | None:
    """Return the type in its plain form (`image/png`), or None if it isn't one.

    Browsers declare nothing for an extension they don't know; then the file's name decides.
    """
    essence = declared.partition(";")[0].strip().lower() or UNKNOWN
    if essence == UNKNOWN:
        essence = _EXTENSIONS.guess_type(name)[0] or UNKNOWN
    if not _MEDIA_TYPE.fullmatch(essence):
        return None
    return _ALIASES.get(essence, essence)


def is_accepted(mime_type: str, accept: Iterable[str]) -> bool:
    """Say whether a type is one of these, which may be patterns: `image/*`, `*/*`."""
    group = mime_type.partition("/")[0]
    return any(pattern in ("*/*", f"{group}/*", mime_type) for pattern in accept)


def agrees(mime_type: str, head: bytes) -> bool:
    """Say whether a file that begins with `head` can be of the type it was declared to be."""
    signature = _signature(mime_type)
    if signature is not None:
        return signature.match(head) is not None
    if _is_text_type(mime_type):
        return _reads_as_text(head) and _PDF.match(head) is None
    return not (mime_type.startswith(("image/", "audio/", "video/")) and _reads_as_text(head))


def _signature(mime_type: str) -> re.Pattern[bytes] | None:
    return _ZIP if mime_type.startswith(_ZIPPED) else _SIGNATURES.get(mime_type)


def _is_text_type(mime_type: str) -> bool:
    return (
        mime_type.startswith("text/")
        or mime_type.endswith(("+json", "+xml", "+yaml"))
        or mime_type in _TEXTS
    )


def _reads_as_text(head: bytes) -> bool:
    return head.startswith(_UNICODE_MARKS) or _BINARY.search(head) is None
