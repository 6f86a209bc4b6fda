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
    "DeletesTwenty": "deleting_after_an_item_deletes_however_many_there_are",
    "IgnoresCaseOfItems": "ids_that_differ_in_case_are_different_ids",
    "IgnoresCaseOfThreads": "ids_that_differ_in_case_are_different_ids",
    "IgnoresCaseOfAttachments": "ids_that_differ_in_case_are_different_ids",
    "ForgetsStatus": "everything_a_thread_has_comes_back",
    "ForgetsTheEnding": "an_item_of_each_kind_comes_back_as_it_was_stored[sdk_hidden_context]",
    "WritesWhatItCantRead": "what_is_stored_can_be_loaded[nested]",
    "DropsMicroseconds": "an_item_of_each_kind_comes_back_as_it_was_stored[task]",
    "NumbersAreFloats": "everything_a_thread_has_comes_back",
    "IgnoresSpacesBehindIds": "an_odd_id_that_isnt_there_is_not_found[a space behind]",
    "RefusesNul": "an_odd_id_that_isnt_there_is_not_found[nul]",
    "EndsPagesEarly": "a_page_that_is_the_last_one_has_all_that_there_is",
    "KeepsHalfOfARefusal": "a_settlement_that_is_refused_leaves_nothing[an item]",
    "SavesTheThreadApart": "a_settlement_that_is_refused_leaves_nothing[the thread]",
    "UpdateInserts": "updating_a_thread_that_is_gone_is_not_found_and_makes_none",
    "UpdatesInSteps": "an_update_beside_a_deletion_brings_no_thread_back",
    "ItemUpdateInserts": "updating_an_item_that_is_gone_is_not_found_and_makes_none",
    "UpdatesItemsInSteps": "an_update_beside_a_deletion_brings_no_item_back",
    "UpdateForgetsTheOwner": "another_owner_finds_and_changes_nothing[update_thread]",
    "SettleForgetsStatusAndMetadata": "settling_stores_everything_that_items_and_thread_have",
    "Blocks": "no_operation_holds_up_the_event_loop[load_thread_items]",
    "NeverGivesWay": "other_tasks_get_to_run_beside_the_store",
    "SetAsideRaises": "whatever_is_set_aside_raises_nothing[lone surrogate]",
    "SetAsideWantsAThread": "whatever_is_set_aside_raises_nothing[empty]",
    "LooksThenRecords": "of_many_who_send_the_same_request_one_is_new",
    "RecordsForAll": "two_owners_may_use_the_same_key",
    "KeepsRequestsForEver": "a_request_older_than_the_window_is_a_new_one",
    "ForgetsRequests": "a_request_is_recorded_once_and_comes_back_as_it_was",
    "AnswersAreText": "a_request_that_is_only_begun_has_no_answer",
    "RequestsIgnoreCase": "any_key_is_its_own",
    "UpdatesTheAnswerOnly": "an_updated_request_is_replaced_whole",
    "UpdateRequestInserts": "updating_a_request_that_is_gone_makes_none",
    "RecordsWhenCancelled": "a_cancelled_request_is_recorded_or_not_as_it_says",
    "RequestsInMemory": "a_request_is_there_after_opening_again",
    "JournalsOneItem": "everything_that_a_checkpoint_holds_is_found",
    "JournalsNoChanges": "everything_that_a_checkpoint_holds_is_found",
    "JournalsNoReason": "everything_that_a_checkpoint_holds_is_found",
    "JournalsTheFirstCheckpoint": "a_checkpoint_replaces_all_of_the_one_before",
    "JournalsTheLastTurnOnly": "everything_that_a_checkpoint_holds_is_found",
    "OneBadItemStopsAll": "an_item_that_cant_be_stored_keeps_no_other_turn_out_of_the_journal",
    "AllHaveSettledIt": "of_many_who_settle_an_abandoned_turn_one_is_told_so",
    "SettlesNoPart": "an_abandoned_turn_may_be_settled_in_part[empty]",
    "RecoversTheNoteOnly": "an_abandoned_turn_is_settled_with_all_that_it_has",
    "RecoversNoChanges": "an_abandoned_turn_is_settled_with_all_that_it_has",
    "RecoversNoThread": "an_abandoned_turn_is_settled_with_all_that_it_has",
    "FindsTurnsOfAllThreads": "the_abandoned_turns_of_one_thread_are_found_by_its_id",
    "KeepsATurnForItself": "the_last_checkpoint_of_an_unsettled_turn_is_found_by_all",
    "ReturnsATurnOnce": "a_claimed_turn_is_returned_until_it_is_settled",
    "LateTextIsLost": "a_turn_that_another_has_settled_as_crashed_is_completed_once",
    "LateNoteIsDoubled": "a_turn_that_another_has_settled_as_crashed_is_completed_once",
    "OneNoteAThread": "a_late_settlement_leaves_other_turns_notes_alone",
    "LeavesTheClaimOpen": "a_turn_that_another_has_claimed_only_is_settled_once",
    "NoFence": "a_turn_that_was_taken_for_dead_writes_nothing[save_item]",
    "NoFenceForAttachments": "a_turn_that_is_settled_writes_nothing[save_attachment]",
    "NoFenceForRequests": "a_turn_that_is_settled_changes_no_request",
    "FenceAsksFirst": "nothing_is_written_behind_the_settlement_of_another",
    "FenceOfAnyNode": "a_turn_that_is_live_elsewhere_writes_nothing_here",
    "FenceUntilSettled": "a_turn_that_was_taken_for_dead_writes_nothing[add_thread_item]",
    "LosesTheMarked": "a_turn_that_another_has_only_marked_is_settled_whole_by_its_node",
    "FenceIsNeverLifted": "a_turn_whose_fence_is_lifted_writes_as_anybody",
    "FenceAsksOnce": "what_is_on_its_way_when_its_turn_settles_itself_is_written",
    "LooksThenBegins": "of_many_who_begin_on_one_thread_one_is_let_in",
    "BeginsBlindly": (
        "a_turn_doesnt_begin_on_a_thread_that_has_changed_since_it_was_looked_at[it was locked]"
    ),
    "WritesThenRecords": "a_turn_that_cant_make_a_first_write_leaves_nothing[an id that is there]",
    "RecordsThenWrites": "a_cancelled_beginning_is_made_whole_or_not_at_all",
    "BeginsWhenCancelled": "a_cancelled_beginning_is_made_whole_or_not_at_all",
    "BeginsTwice": "a_turn_that_has_begun_here_begins_once",
    "ForgetsTheSettled": "a_turn_that_wrote_nothing_at_first_doesnt_begin_again_either",
    "NoLine": "who_comes_to_a_free_thread_waits_behind_those_who_wait",
    "LastComesFirst": "turns_that_wait_begin_in_the_order_in_which_they_came",
    "LosesItsPlace": "turns_that_wait_begin_in_the_order_in_which_they_came",
    "OneLineForAllThreads": "the_line_of_one_thread_holds_up_no_other",
    "NeverWithdraws": "a_place_that_is_given_up_is_waited_for_no_more",
    "LinesUpNobody": "who_comes_later_waits_behind_a_turn_that_has_lined_up",
    "LinesUpAgain": "who_comes_later_waits_behind_a_turn_that_has_lined_up",
    "LinesUpTheLive": "a_live_turn_that_lines_up_gets_no_place",
    "WithdrawsForOthers": "no_node_gives_up_the_place_of_another",
    "WithdrawEndsTheTurn": "withdrawing_doesnt_end_a_live_turn",
    "PlacesOfTheSilentCount": "the_places_of_a_silent_node_dont_count",
    "TurnsOfTheDeadDontCount": (
        "the_turn_of_a_node_that_left_holds_its_thread_until_it_is_settled"
    ),
    "RecordHidesTheAbandoned": (
        "the_turn_of_a_node_that_left_holds_its_thread_until_it_is_settled"
    ),
    "SilentIsAlive": "the_turn_of_a_silent_node_is_abandoned_and_settled_once",
    "LeaseByWallClock": "the_turn_of_a_silent_node_is_abandoned_and_settled_once",
    "JudgesInItsSleep": (
        "a_node_that_was_silent_as_long_as_the_others_takes_none_for_dead[nothing]"
    ),
    "JudgesAsItWakes": (
        "a_node_that_was_silent_as_long_as_the_others_takes_none_for_dead[its news]"
    ),
    "ForgivesForEver": "who_stays_silent_behind_a_silence_of_all_is_dead_in_the_end",
    "NewsRenewsNothing": "the_turns_of_nodes_that_ask_for_news_are_never_abandoned",
    "ForgetsWhoWasTakenForDead": "a_node_that_was_taken_for_dead_learns_it_from_its_news",
    "AbandonsNothing": "a_turn_that_is_given_up_is_abandoned_though_its_node_lives",
    "AbandonsForOthers": "no_node_abandons_the_turn_of_another",
    "TellsTheTurnsOfAll": "news_tells_which_turns_are_live_here",
    "KnowsThoseWhoLeft": "the_nodes_are_those_that_are_open",
    "KnowsTheSilent": "a_silent_node_isnt_among_the_nodes",
    "KnowsItselfOnly": "the_nodes_are_those_that_are_open",
    "HearsTwice": "messages_arrive_once_and_in_order",
    "LosesWhatIsHeard": "who_is_cancelled_while_it_asks_for_news_loses_none",
    "LooksThenDeletes": "of_many_who_post_and_ask_each_message_is_heard_once",
    "MessagesHaveNoOrder": "messages_arrive_once_and_in_order",
    "PostsToAll": "messages_arrive_once_and_in_order",
    "CountsByItself": "what_one_node_lets_an_owner_spend_is_missing_to_all",
    "LookingCosts": "what_one_node_lets_an_owner_spend_is_missing_to_all",
    "LooksThenSpends": "of_many_who_spend_at_once_no_more_is_let_pass_than_there_is",
    "RefusedIsSpent": "what_one_node_lets_an_owner_spend_is_missing_to_all",
    "OneRateForAll": "rates_of_other_owners_and_kinds_are_others",
    "NothingIsEnough": "more_than_a_rate_has_is_spent_when_nothing_was",
    "FreesNothing": "the_slots_that_one_node_has_taken_are_missing_to_all",
    "SlotsOutliveTheirNode": "the_slots_of_a_node_that_left_are_free",
    "CountsWhatIsReplaced": "a_slot_that_another_replaces_isnt_counted",
    "OneMoreSlot": "of_many_who_take_slots_at_once_no_more_get_one_than_there_are",
    "BeginForgetsTheOwner": "another_owners_thread_is_not_found_whoever_holds_it",
    "TurnIdsHaveNoOwner": "the_id_of_another_owners_turn_is_a_conflict",
    "DeletionKeepsTheTurn": "deleting_a_thread_ends_its_turn_and_its_line",
    "CheckpointsStayAtHome": "every_node_sees_what_a_live_turn_has_checkpointed",
    "SettlesBesideTheRecord": "a_settlement_stores_the_answer_and_ends_the_record",
    "RefusesToRepeat": "a_settlement_that_is_repeated_is_stored_once",
    "SettlesWhatOthersSettled": "a_turn_that_another_has_settled_is_refused_or_completed",
    "ActivityIsCreation": "the_thread_with_the_newest_message_comes_first",
    "RenamingIsActivity": "a_new_title_a_changed_item_and_a_hidden_note_are_no_activity",
    "HiddenNotesAreActivity": "a_new_title_a_changed_item_and_a_hidden_note_are_no_activity",
    "ActivityOfAll": "another_owners_activity_is_not_seen",
    "CursorIsAThread": "a_page_by_activity_goes_on_whatever_becomes_of_its_last_thread",
    "FindsOthers": "another_owner_finds_nothing",
    "FindsHidden": "hidden_context_is_never_found",
    "FindsStoredText": "of_all_kinds_of_items_only_messages_are_found",
    "IndexesOnce": "what_is_replaced_is_found_by_its_new_text_only",
    "DeletedThreadsStayFound": "what_is_deleted_is_not_found_any_more",
    "IndexesNoSettlements": "what_a_turn_begins_and_settles_with_is_found",
    "QueriesAreCode": 'each_word_has_to_begin_a_word_of_the_text["-finds36]',
    "FindsEachMessage": "the_newest_message_that_matches_is_shown",
    "TakesLongQueries": "a_query_that_is_too_long_is_refused",
}


def test_the_kit_finds_every_broken_store() -> None:
    tests = [f"{HERE / 'broken_stores.py'}::Test{s}::test_{t}" for s, t in WHAT_FINDS_IT.items()]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", *tests]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    outcomes = re.findall(r"^([A-Z]+) .*::Test(\w+)::test_\S+", run.stdout, re.MULTILINE)
    assert {store: outcome for outcome, store in outcomes} == dict.fromkeys(WHAT_FINDS_IT, "FAILED")


def test_every_broken_store_is_in_the_table() -> None:
    text = (HERE / "broken_stores.py").read_text(encoding="utf-8")
    assert re.findall(r"^class Test(\w+)", text, re.MULTILINE) == list(WHAT_FINDS_IT)
