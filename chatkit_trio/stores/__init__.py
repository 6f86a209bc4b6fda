"""The stores that come with chatkit_trio."""

from .attachments import DiskAttachmentStore
from .memory import MemoryCluster, MemoryStore
from .sqlite import SQLiteStore

__all__ = ["DiskAttachmentStore", "MemoryCluster", "MemoryStore", "SQLiteStore"]
