"""What is known of an attachment besides its bytes, and what its bytes have to be.

Plain data and plain rules: nothing here waits, or knows where anything is kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from urllib.parse import quote

from chatkit_trio.errors import (
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnsupportedTypeError,
)

from ._media_types import SNIFFED_BYTES, agrees

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_MAX_NAME_LENGTH = 255


def is_id(attachment_id: str) -> bool:
    """Say whether this can be the id of an attachment here.

    Small letters only: file systems that ignore case must keep any two apart.
    """
    return _ID.fullmatch(attachment_id) is not None


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of an attachment. `size` is as declared, None if it wasn't."""

    id: str
    owner: str
    name: str
    mime_type: str
    size: int | None
    created_at: float

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Record | None:
        """Return the record, or None for what is none, such as a file of another program."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None


def plain_name(name: str) -> str:
    """Return the last part of a file's name without what could deceive a reader."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = (c if c.isprintable() else " " if c.isspace() else "" for c in last)
    return "".join(printable).strip()[-_MAX_NAME_LENGTH:] or "file"


def disposition(name: str, *, is_inline: bool) -> str:
    """Return the `Content-Disposition` under which a browser gets a file."""
    kind = "inline" if is_inline else "attachment"
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}"


def check_size(record: Record, size: int) -> None:
    """Refuse a file whose size isn't the declared one."""
    if record.size is not None and size > record.size:
        raise TooLargeError(f"the file is larger than the {record.size} bytes declared")
    if record.size is not None and size != record.size:
        raise InvalidRequestError(f"{record.size} bytes were declared, and {size} came")


def check_head(record: Record, head: bytes) -> None:
    """Refuse a file whose first bytes don't fit its type."""
    if not agrees(record.mime_type, head[:SNIFFED_BYTES]):
        raise UnsupportedTypeError(f"the file's content is not {record.mime_type}")


class ContentCheck:
    """Follows a file that is being received, and refuses it as soon as it must."""

    def __init__(self, record: Record, max_bytes: int) -> None:
        self._record = record
        self._max_bytes = max_bytes
        self._size = 0
        self._head = bytearray()
        self._is_head_checked = False

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._check_limit()
        if not self._is_head_checked:
            self._head += chunk[:SNIFFED_BYTES]
            if len(self._head) >= SNIFFED_BYTES:
                self._check_head()

    def end(self) -> None:
        if not self._is_head_checked:
            self._check_head()
        check_size(self._record, self._size)

    def _check_limit(self) -> None:
        if self._record.size is not None and self._size > self._record.size:
            check_size(self._record, self._size)
        if self._record.size is None and self._size > self._max_bytes:
            raise TooLargeError(f"the file is larger than the {self._max_bytes} bytes allowed")

    def _check_head(self) -> None:
        self._is_head_checked = True
        check_head(self._record, bytes(self._head))


def not_found(attachment_id: str) -> NotFoundError:
    return NotFoundError(f"there is no attachment {attachment_id[:100]}")


def not_arrived(record: Record) -> NotFoundError:
    return NotFoundError(f"attachment {record.id} has not been uploaded yet")
