from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

WHAT_FINDS_IT = {
    "AbandonsWrites": "a_cancel_at_any_checkpoint_leaves_all_or_nothing[add_thread_item]",
    "ReadsThenWrites": "of_many_who_add_the_same_item_one_succeeds",
    "SettlesInSteps": "nobody_sees_half_a_settlement",
    "OrdersByTime": "pages_hold_every_item_once_in_order_of_insertion[1-asc]",
    "ForgetsTheOwner": "another_owner_finds_and_changes_nothing[delete_thread]",
    "KeepsTheCallersObject": "what_a_caller_does_to_its_objects_changes_nothing_in_the_store",
    "SettlesTwice": "settling_twice_is_settling_once",
    "MovesSavedItems": "a_saved_item_is_replaced_in_its_place",
}


def test_the_kit_finds_every_broken_store() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", HERE / "broken_stores.py"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    failures = set(re.findall(r"^FAILED .*::Test(\w+::test_\S+)", run.stdout, re.MULTILINE))
    expected = {f"{store}::test_{name}" for store, name in WHAT_FINDS_IT.items()}
    assert expected - failures == set()
    assert {failure.split("::")[0] for failure in failures} == set(WHAT_FINDS_IT)
