"""What is public, frozen: a name that comes or goes is a decision, with a line in the changelog."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "chatkit_trio.server": [
        "DEFAULT_PAGE_SIZE",
        "CancelReason",
        "ChatKitServer",
        "FramesLost",
        "NonStreamingResult",
        "StreamingResult",
        "Turn",
        "TurnPolicy",
        "current_turn",
        "diff_widget",
        "ending_note",
        "stream_text",
        "stream_widget",
    ],
    "chatkit_trio.store": [
        "AttachmentStore",
        "Journal",
        "JournalEntry",
        "NotFoundError",
        "RequestRecord",
        "Settlement",
        "Store",
        "StoreItemType",
        "UnstorableItem",
        "default_generate_id",
    ],
    "chatkit_trio.stores": ["DiskAttachmentStore", "MemoryStore", "SQLiteStore"],
    "chatkit_trio.web": ["ChatPage", "chatkit_blueprint", "create_app", "serve"],
    "chatkit_trio.agents": [
        "AgentContext",
        "AgentRun",
        "ClientToolCall",
        "EventStream",
        "ModelError",
        "ModelRun",
        "PydanticAIRun",
        "ResponseStreamConverter",
        "Runner",
        "ThreadItemConverter",
        "Tool",
        "accumulate_text",
        "run_model",
        "run_on_asyncio",
        "run_on_trio",
        "run_pydantic_ai",
        "simple_to_agent_input",
        "stream_agent_response",
        "stream_response",
        "stream_widget",
        "tool",
    ],
    "chatkit_trio.testing": [
        "EVERY_REASON",
        "EVERY_TROUBLE",
        "Aftermath",
        "CancellationBroken",
        "ChatClient",
        "ClientTurn",
        "Exploration",
        "FaultyStore",
        "JumpClock",
        "RequestRefused",
        "Scene",
        "ScriptedModel",
        "ScriptedRespond",
        "ScriptedServer",
        "SlowStore",
        "Step",
        "StoreConformance",
        "StoreWrapper",
        "do",
        "emit",
        "explore_cancellations",
        "fail",
        "pause",
        "say",
        "scripted_server",
        "set_title",
        "show_widget",
        "work",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(PUBLIC[module])
