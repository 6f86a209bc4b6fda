"""The stores that come with chatkit_trio."""

from .attachments import DiskAttachmentStore
from .memory import MemoryStore
from .sqlite import SQLiteStore

__all__ = ["DiskAttachmentStore", "MemoryStore", "SQLiteStore"]
