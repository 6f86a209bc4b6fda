"""The original's own tests, run against this package through an import alias.

They come with the published archive of its source. Where that is, the variable
`CHATKIT_TRIO_ORIGINAL_SDIST` says; without it these tests are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHIVE = os.environ.get("CHATKIT_TRIO_ORIGINAL_SDIST")

SENTENCES = "asserts a sentence that the original says to a model, a user or a developer"
IDS = "asserts that items have the model's ids: ours have the store's"
BARE = "gives an update of a message that was never begun: ours begins it"
ASYNCIO = "needs asyncio: a future, or its CancelledError in respond"
REFUSALS = "expects RuntimeError, or nothing, where ours refuses with 400 or 404"
NOT_REFUSED = "expects a refusal of what ours can do"
ITS_STORE = "needs the store of those tests, which isn't in the archive"
ITS_FILES = "needs a file of those tests that isn't in the archive"
SHAPES = "asserts another form of the same: a null that is left out, an item that isn't empty"

DIFFERENT = {
    "test_agents.py": {
        "test_client_tool_call_uses_raw_function_call_id": IDS,
        "test_accumulate_text": ASYNCIO,
        "test_input_item_converter_quotes_last_user_message": SENTENCES,
        "test_input_item_converter_to_input_items_mixed": SHAPES,
        "test_input_item_converter_user_input_with_tags": SENTENCES,
        "test_input_item_converter_generated_image_item": SENTENCES,
        "test_input_item_converter_for_hidden_context_with_string_content": SENTENCES,
        "test_input_item_converter_for_hidden_context_with_non_string_content": NOT_REFUSED,
        "test_input_item_converter_with_client_tool_call": SENTENCES,
        "test_input_item_converter_with_structured_input": SENTENCES,
        "test_stream_agent_response_yields_context_events_without_streaming_events": ASYNCIO,
        "test_stream_agent_response_maps_events": BARE,
        "test_event_mapping": BARE,
        "test_stream_agent_response_emits_annotation_added_events": BARE,
        "test_stream_agent_response_annotation_added_normalizes_annotations": BARE,
        "test_custom_annotation_conversion_used_by_stream_agent_response": BARE,
        "test_stream_agent_response_yields_item_removed_event": IDS,
        "test_stream_agent_response_assistant_message_content_types": BARE,
        "test_stream_agent_response_image_generation_events": IDS,
        "test_stream_agent_response_image_generation_events_with_custom_converter": IDS,
        "test_stream_agent_response_image_generation_partial_progress": IDS,
        "test_existing_workflow_summary_not_overwritten_on_automatic_end": SHAPES,
    },
    "test_chatkit_server.py": {
        "test_stream_cancellation_persists_pending_assistant_message_and_hidden_context": ASYNCIO,
        "test_stream_cancellation_does_not_persist_pending_empty_assistant_message": ASYNCIO,
        "test_create_file_without_filestore": REFUSALS,
        "test_delete_file": REFUSALS,
        "test_delete_file_without_filestore": REFUSALS,
        "test_delete_thread": SENTENCES,
        "test_custom_id_generators_on_server": ITS_STORE,
    },
    "test_store.py": {"test_thread_items_isolation_by_user": ITS_STORE},
    "test_widgets.py": {
        "test_widget_template_from_file": ITS_FILES,
        "test_widget_template_build_with_basic_root": ITS_FILES,
        "test_widget_template_build_basic_is_deprecated": ITS_FILES,
    },
    "test_icons.py": {},
}
"""The tests that fail here, and why. All others pass."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """The original's tests by their outcome, for each of its files."""
    if ARCHIVE is None:
        pytest.skip("CHATKIT_TRIO_ORIGINAL_SDIST doesn't name the archive of the original")
    folder = tmp_path_factory.mktemp("original")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    [inside] = folder.iterdir()
    (inside / "tests" / "__init__.py").touch()
    (inside / "pytest.ini").write_text("[pytest]\nmarkers = asyncio\n")
    shutil.copy(Path(__file__).with_name("original_tests_plugin.py"), inside)
    plugins = ["-p", "original_tests_plugin", "-p", "no:trio"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-W", "ignore", *plugins, "tests"],
        cwd=inside,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(inside), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[str, set[str]]] = {}
    pattern = r"^(PASSED|FAILED|ERROR) tests/(\w+\.py)\S*::(\w+)"
    for outcome, file, test in re.findall(pattern, run.stdout, re.MULTILINE):
        kind = "passed" if outcome == "PASSED" else "failed"
        found.setdefault(file, {"passed": set(), "failed": set()})[kind].add(test)
    assert found, run.stdout + run.stderr
    return found


def test_no_file_of_theirs_is_forgotten(outcomes: dict[str, dict[str, set[str]]]) -> None:
    assert set(outcomes) == set(DIFFERENT)


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_originals_tests_pass_but_for_those_that_are_named(
    name: str, outcomes: dict[str, dict[str, set[str]]]
) -> None:
    assert outcomes[name]["failed"] == set(DIFFERENT[name])
    assert outcomes[name]["passed"] - outcomes[name]["failed"]
