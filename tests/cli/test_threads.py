"""`threads`: what an operator sees, carries elsewhere, and deletes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime

import pytest
import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.cli._stored import store_of
from chatkit_trio.store import JournalEntry, UnstorableItem
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores._sqlite_schema import APPLICATION_ID, MIGRATIONS
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    FileAttachment,
    InferenceOptions,
    SDKHiddenContextItem,
    ThreadMetadata,
    TurnEnding,
    UserMessageItem,
    UserMessageTextContent,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
FILE = FileAttachment(id="atc_1", name="notes.txt", mime_type="text/plain")


def thread(number: int, title: str | None = None) -> ThreadMetadata:
    return ThreadMetadata(id=f"thr_{number}", title=title, created_at=NOW)


def conversation(number: int, answer: str):
    ids = {"thread_id": f"thr_{number}", "created_at": NOW}
    yield UserMessageItem(
        id=f"msg_{number}q",
        content=[UserMessageTextContent(text="What of Köln?\nAnd \u2028 the\x00rest?")],
        attachments=[FILE] if number == 1 else [],
        inference_options=InferenceOptions(),
        **ids,
    )
    yield AssistantMessageItem(
        id=f"msg_{number}a", content=[AssistantMessageContent(text=answer)], **ids
    )
    ending = TurnEnding(turn_id="turn_1", reason="stopped", item_ids=[f"msg_{number}a"])
    yield SDKHiddenContextItem(id=f"shcx_{number}", content="It was stopped", ending=ending, **ids)


async def fill(store) -> None:
    async with store:
        for number, owner, title in [(1, "ada", "A talk"), (2, "", None), (3, "bo", "Ümläut")]:
            await store.save_thread(thread(number, title), owner)
            for item in conversation(number, f'Answer {number}, "quoted" \U0001f600'):
                await store.add_thread_item(item.thread_id, item, owner)
        await store.save_attachment(FILE, "ada")
        other = FILE.model_copy(update={"id": "atc_2"})
        await store.save_attachment(other, "bo")


@pytest.fixture
def database(tmp_path):
    """A file with threads of three owners."""
    path = tmp_path / "chat.sqlite3"
    trio.run(fill, SQLiteStore(path, owner=lambda owner: owner))
    return path


@pytest.fixture
def run():
    def invoke(*arguments, exit_code: int = 0, **settings):
        result = CliRunner().invoke(main, ["threads", *map(str, arguments)], **settings)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


# --- Looking -------------------------------------------------------------------------------------


def test_a_list_is_the_same_in_the_old_form_and_has_everybodys_threads(run, database):
    listed = run("list", database).stdout

    assert listed == run(database).stdout
    assert listed.splitlines()[:2] == ["thr_3  2026-05-04T12:00  Ümläut of bo", "    3 items"]
    assert run("list", database, "--limit", 1).stdout == run(database, "--limit", "1").stdout


def test_a_limit_beyond_any_number_of_threads_shows_all(run, database):
    everything = run("list", database).stdout

    assert run("list", database, "--limit", 10**20).stdout == everything


def test_machines_get_json(run, database):
    (newest,) = json.loads(run("list", database, "--json", "--limit", 1).stdout)
    shown = json.loads(run("show", database, "thr_1", "--json").stdout)

    assert newest == {
        "id": "thr_3",
        "owner": "bo",
        "title": "Ümläut",
        "created_at": "2026-05-04T12:00:00Z",
        "items": 3,
    }
    assert (shown["owner"], shown["thread"]["title"]) == ("ada", "A talk")
    assert [item["id"] for item in shown["items"]] == ["msg_1q", "msg_1a", "shcx_1"]


def test_a_thread_is_shown_in_both_forms(run, database):
    assert run("show", database, "thr_2").stdout == run(database, "thr_2").stdout


def test_search_finds_messages_and_titles_whatever_their_case(run, database):
    found = json.loads(run("search", database, 'ANSWER 2, "QUOTED', "--json").stdout)
    titles = json.loads(run("search", database, "ÜMLÄ", "--json").stdout)
    limited = json.loads(run("search", database, "köln", "--json", "--limit", 2).stdout)
    nothing = run("search", database, "nowhere")

    assert [(each["id"], each["item_id"]) for each in found] == [("thr_2", "msg_2a")]
    assert [(each["id"], each["item_id"], each["text"]) for each in titles] == [
        ("thr_3", None, "Ümläut")
    ]
    assert [each["id"] for each in limited] == ["thr_3", "thr_2"]
    assert (nothing.stdout, nothing.stderr) == ("", "Nothing was found\n")


def test_what_is_found_is_shown_behind_letters_that_are_longer_folded(run, tmp_path):
    path = tmp_path / "chat.sqlite3"

    async def fill_it() -> None:
        async with SQLiteStore(path) as store:
            await store.save_thread(thread(1, "ß" * 400 + " A Word Here"), None)

    trio.run(fill_it)

    assert " A Word Here" in run("search", path, "word").stdout


# --- Carrying ------------------------------------------------------------------------------------


def exported(run, database, *ids) -> bytes:
    return run("export", database, *ids).stdout_bytes


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_is_exported_comes_back_byte_for_byte_and_once(run, database, tmp_path, kind, request):
    other = tmp_path / "other.sqlite3"
    if kind == "postgresql":
        other = request.getfixturevalue("postgresql_url")
        CliRunner().invoke(main, ["migrate", other])
    lines = exported(run, database)
    (tmp_path / "threads.jsonl").write_bytes(lines)

    first = json.loads(run("import", other, tmp_path / "threads.jsonl", "--json").stdout)
    second = json.loads(run("import", other, "--json", input=lines).stdout)

    added = {"threads": 3, "items": 9, "attachments": 2}
    there = {f"{name}_there": count for name, count in added.items()}
    assert first == {**added, **dict.fromkeys(there, 0)}
    assert second == {**dict.fromkeys(added, 0), **there}
    assert exported(run, other) == lines
    assert len(lines.decode().split("\n")) == 1 + 3 + 9 + 2 + 1
    assert run("list", other).stdout == run("list", database).stdout
    assert run("show", other, "thr_1").stdout == run("show", database, "thr_1").stdout
    if kind == "postgresql":
        run("delete", other, "thr_1", "--yes")
        assert [each["id"] for each in json.loads(run("list", other, "--json").stdout)] == [
            "thr_3",
            "thr_2",
        ]
        assert len(json.loads(run("search", other, "Köln", "--json").stdout)) == 2


async def leave_something(store) -> None:
    """Leave the answer of a process that has died, and an item that the store has refused."""
    async with store:
        await store.save_thread(thread(1), "ada")
        partial = list(conversation(1, "so far"))[1]
        await store.journal.begin("turn_1", "thr_1", "ada")
        await store.journal.checkpoint([JournalEntry("turn_1", "thr_1", (partial,))])
        refused = UnstorableItem("thr_1", "msg_refused", "turn_2", "so far", "it was refused")
        await store.set_aside(refused, "ada")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_export_says_what_it_has_not_got(run, tmp_path, kind, request):
    other = tmp_path / "other.sqlite3"
    if kind == "postgresql":
        other = request.getfixturevalue("postgresql_url")
        CliRunner().invoke(main, ["migrate", other])
    trio.run(leave_something, store_of(str(other), "chatkit_trio"))

    told = run("export", other).stderr.splitlines()

    assert [line.partition(",")[0] for line in told] == [
        "Left out: what isn't settled yet of 1 answer",
        "Left out: 1 item that the store has refused; the text is in the table `unstorable`",
    ]


def test_an_export_of_some_threads_says_what_they_have_not_got(run, database):
    trio.run(leave_something, SQLiteStore(database, owner=lambda owner: owner))

    assert run("export", database, "thr_2").stderr == ""
    assert "what isn't settled yet of 1 answer" in run("export", database, "thr_1", "thr_2").stderr


def test_an_export_of_a_file_of_the_first_version_has_nothing_to_say(run, tmp_path):
    path = tmp_path / "chat.sqlite3"
    with closing(sqlite3.connect(path)) as old:
        MIGRATIONS[0](old)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")

    assert run("export", path).stderr == ""


def test_one_thread_goes_with_its_attachments_only(run, database):
    lines = exported(run, database, "thr_1", "thr_1").decode().split("\n")[:-1]

    kinds = [next(iter({*json.loads(line)} - {"owner"})) for line in lines[1:]]
    assert kinds == ["thread", "item", "item", "item", "attachment"]
    assert json.loads(lines[-1])["attachment"]["id"] == "atc_1"


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("chat.sqlite3", "chat.sqlite3"),
        ("chat.sqlite3", "dir/../chat.sqlite3"),
        ("chat.sqlite3", "dir/link"),
        ("dir/link", "chat.sqlite3"),
        ("chat.sqlite3", "hard-link"),
        ("chat.sqlite3", "chat.sqlite3-wal"),
        ("chat.sqlite3", "chat.sqlite3-shm"),
        ("dir/link", "chat.sqlite3-journal"),
        ("chat.sqlite3", "dir/../chat.sqlite3-instance-0"),
    ],
)
def test_an_export_does_not_overwrite_its_own_database(run, database, tmp_path, given, output):
    lines = exported(run, database)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "link").symlink_to(database)
    (tmp_path / "hard-link").hardlink_to(database)

    result = run("export", tmp_path / given, "--output", tmp_path / output, exit_code=2)

    assert f"{tmp_path / output} belongs to the database: name another file" in result.stderr
    assert exported(run, database) == lines


def test_an_export_that_fails_leaves_the_older_one(run, database, tmp_path):
    backup = tmp_path / "backup.jsonl"
    backup.write_text("older")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE items SET data = '{' WHERE id = 'msg_3a'")
    connection.close()

    run("export", database, "--output", backup, exit_code=1)

    assert backup.read_text() == "older"
    left = {each.name for each in tmp_path.iterdir() if not each.name.startswith(database.name)}
    assert left == {"backup.jsonl"}


def test_an_export_is_for_its_owner_only_unless_its_file_is_there(run, database, tmp_path):
    shared, made = tmp_path / "shared.jsonl", tmp_path / "made.jsonl"
    shared.touch()
    shared.chmod(0o640)

    for output in (shared, made):
        run("export", database, "--output", output)

    assert made.read_bytes() == shared.read_bytes() == exported(run, database)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(shared.stat().st_mode) == 0o640


def test_an_export_goes_where_a_link_leads(run, database, tmp_path):
    link, backup = tmp_path / "newest.jsonl", tmp_path / "monday.jsonl"
    link.symlink_to(backup)

    for _ in range(2):
        run("export", database, "--output", link)

        assert link.is_symlink()
        assert backup.read_bytes() == exported(run, database)


def test_an_export_goes_into_a_pipe(run, database, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run("export", database, "--output", pipe)
        told = os.read(reader, 1_000_000)
    finally:
        os.close(reader)

    assert pipe.is_fifo()
    assert told == exported(run, database)


def test_an_export_that_cannot_be_made_there_is_told(run, database, tmp_path):
    output = tmp_path / "nowhere" / "backup.jsonl"

    result = run("export", database, "--output", output, exit_code=1)

    assert result.stderr == f"Error: {output} can't be written: No such file or directory\n"


def test_an_import_that_was_cut_short_can_be_done_again(run, database, tmp_path):
    lines = exported(run, database)
    other = tmp_path / "other.sqlite3"
    half = lines[: len(lines) // 2]

    told = run("import", other, input=half, exit_code=1).stderr
    run("import", other, input=lines)

    number = half.count(b"\n") + 1
    assert f"line {number} of <stdin> is not a line of an export" in told
    assert exported(run, other) == lines


def test_two_exports_in_one_file_are_counted_once(run, database, tmp_path):
    lines = exported(run, database)
    counts = {"threads": 3, "items": 9, "attachments": 2}

    both = run("import", tmp_path / "other.sqlite3", "--json", input=lines + lines).stdout

    assert json.loads(both) == counts | {f"{name}_there": count for name, count in counts.items()}
    assert exported(run, tmp_path / "other.sqlite3") == lines


def test_what_has_been_said_since_is_kept(run, database):
    lines = exported(run, database)

    async def go_on():
        async with SQLiteStore(database, owner=lambda owner: owner) as store:
            await store.save_thread(thread(1, "Another title"), "ada")
            more = next(conversation(1, "")).model_copy(update={"id": "msg_more"})
            await store.add_thread_item("thr_1", more, "ada")

    trio.run(go_on)
    before = exported(run, database)

    run("import", database, input=lines)

    assert exported(run, database) == before != lines


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no json", "is not a line of an export: it is no JSON: Expecting value"),
        ("[]", "is not a line of an export: it is no JSON object"),
        ('{"format": "chatkit-trio threads", "version": 9}', "this release reads version 1"),
        ('{"format": "other"}', "this release reads version 1 of 'chatkit-trio threads'"),
        ('{"thread": {"id": "thr_9"}, "owner": ""}', "is not a line of an export: created_at"),
        ('{"thread": {"id": "thr_9", "created_at": "2026-05-04T12:00:00Z"}}', "has no 'owner'"),
        (
            '{"thread": {"id": "thr_1", "created_at": "2026-05-04T12:00:00Z"}, "owner": "eve"}',
            "what it names belongs to another owner here",
        ),
        ("ITEM", "no line before it is the thread thr_2"),
    ],
)
def test_a_line_that_is_none_is_told_and_changes_nothing(run, database, line, told):
    lines = exported(run, database)
    item = next(each for each in lines.decode().split("\n") if '"msg_2q"' in each)

    result = run("import", database, input=line.replace("ITEM", item), exit_code=1)

    assert told in result.stderr
    assert result.stderr.startswith("Error: line 1 of <stdin> ")
    assert exported(run, database) == lines


# --- Deleting ------------------------------------------------------------------------------------


def test_delete_asks_and_then_deletes_for_good(run, database):
    refused = run("delete", database, "thr_1", "thr_2", input="n\n", exit_code=1)
    kept = run("list", database).stdout
    run("delete", database, "thr_1", "thr_2", input="y\n")

    assert "Delete 2 threads with 6 items for good? [y/N]" in refused.stderr
    assert kept.count("items") == 3
    assert [each["id"] for each in json.loads(run("list", database, "--json").stdout)] == ["thr_3"]
    assert run("show", database, "thr_1", exit_code=1).stderr == (
        f"Error: {database} has no thread thr_1\n"
    )


def test_without_an_answer_nothing_is_deleted(run, database):
    run("delete", database, "thr_1", exit_code=1)

    assert len(json.loads(run("list", database, "--json").stdout)) == 3


def test_if_one_is_not_there_none_is_deleted(run, database):
    result = run("delete", database, "thr_1", "thr_9", "--yes", exit_code=1)

    assert "has no thread thr_9" in result.stderr
    assert len(json.loads(run("list", database, "--json").stdout)) == 3


def test_machines_are_told_what_was_deleted(run, database):
    told = json.loads(run("delete", database, "thr_1", "--yes", "--json").stdout)

    assert told == {"threads": 1, "items": 3}


# --- What can't be read --------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_not_made(run, tmp_path):
    result = run("list", tmp_path / "chat.sqlite3", exit_code=1)

    assert f"there is no file {tmp_path / 'chat.sqlite3'}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_be_reached_is_told_without_its_password(run):
    result = run("list", "postgresql://ada:secret@127.0.0.1:1/chat", exit_code=1)

    assert "can't use postgresql://127.0.0.1:1/chat" in result.stderr
    assert "secret" not in result.stderr


def test_a_schema_that_cannot_be_is_a_wrong_call(run):
    run("list", "postgresql://127.0.0.1:1/chat", "--schema", "No Name", exit_code=2)
