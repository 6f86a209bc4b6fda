"""Attachments in a dictionary, uploaded in a second step to a route of the app."""

from __future__ import annotations

from typing import Any

from chatkit.store import AttachmentStore
from chatkit.types import (
    Attachment,
    AttachmentCreateParams,
    AttachmentUploadDescriptor,
    FileAttachment,
    ImageAttachment,
)
from fastapi import HTTPException
from memory_store import MemoryStore
from pydantic import AnyUrl

MOST_BYTES = 1000


class LocalAttachmentStore(AttachmentStore[dict[str, Any]]):
    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.files: dict[str, bytes] = {}

    async def create_attachment(
        self, input: AttachmentCreateParams, context: dict[str, Any]
    ) -> Attachment:
        if input.size > MOST_BYTES:
            raise HTTPException(413, f"{input.name} is too large")
        attachment_id = self.generate_attachment_id(input.mime_type, context)
        request = context["request"]
        upload = str(request.url_for("upload", attachment_id=attachment_id))
        fields: dict[str, Any] = {
            "id": attachment_id,
            "name": input.name,
            "mime_type": input.mime_type,
            "upload_descriptor": AttachmentUploadDescriptor(
                url=AnyUrl(upload), method="POST", headers={}
            ),
        }
        attachment: Attachment
        if input.mime_type.startswith("image/"):
            preview = AnyUrl(str(request.url_for("content", attachment_id=attachment_id)))
            attachment = ImageAttachment(**fields, preview_url=preview)
        else:
            attachment = FileAttachment(**fields)
        await self.store.save_attachment(attachment, context)
        return attachment

    async def delete_attachment(self, attachment_id: str, context: dict[str, Any]) -> None:
        self.files.pop(attachment_id, None)
