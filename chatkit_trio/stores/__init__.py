"""The stores that come with chatkit_trio."""

from typing import TYPE_CHECKING

from .attachments import DiskAttachmentStore
from .memory import MemoryCluster, MemoryStore
from .sqlite import SQLiteStore

if TYPE_CHECKING:
    from ._on_asyncio import AsyncioStore
    from .postgresql import PostgreSQLStore
    from .s3 import S3AttachmentStore

__all__ = [
    "AsyncioStore",
    "DiskAttachmentStore",
    "MemoryCluster",
    "MemoryStore",
    "PostgreSQLStore",
    "S3AttachmentStore",
    "SQLiteStore",
]


def __getattr__(name: str) -> object:
    """Import what needs an extra, or the agents, when it is asked for.

    Raises `ImportError` without the extra.
    """
    if name == "AsyncioStore":
        from ._on_asyncio import AsyncioStore

        return AsyncioStore
    if name == "PostgreSQLStore":
        from .postgresql import PostgreSQLStore

        return PostgreSQLStore
    if name == "S3AttachmentStore":
        from .s3 import S3AttachmentStore

        return S3AttachmentStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
