"""`threads`: look into what is stored, carry it elsewhere, delete it. For operators."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import click
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.stores._records import encode_item, encode_thread
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    WorkflowItem,
)

from ._database_file import belongs_to
from ._export_file import STDOUT, export_file
from ._plain import json_text, one_line, plain, plural
from ._stored import StoredThread, StoredThreads, is_url, store_of, stored_threads
from ._transfer import Importer, exported

_EXCERPT = 60  # characters around what was found


class _Threads(click.Group):
    """Also takes the form that there was first: `threads DATABASE [THREAD_ID]`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            shows = len(args) > 1 and not args[1].startswith("-")
            args = ["show" if shows else "list", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Threads)
def threads() -> None:
    """Look into a database, carry threads elsewhere, delete them.

    DATABASE is the file of an SQLiteStore, or the URL of a PostgreSQLStore. Servers may be using it
    meanwhile. The threads of all owners are shown.
    """


_database = click.argument("database")
_schema = click.option(
    "--schema",
    default="chatkit_trio",
    show_default=True,
    help="Of PostgreSQL: where the tables are.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


@threads.command("list")
@_database
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@_schema
@_json
def list_threads(database: str, limit: int, schema: str, as_json: bool) -> None:
    """List the newest threads, the newest first."""
    with stored_threads(database, schema) as stored:
        found = list(stored.newest(limit))
    if as_json:
        _print_json([_summary(thread) for thread in found])
        return
    if not found:
        click.echo(f"There are no threads in {stored.name}", err=True)
    for thread in found:
        owner = f" of {thread.owner}" if thread.owner else ""
        title = thread.title or "(no title)"
        click.echo(one_line(thread.id) + f"  {thread.created_at[:16]}  " + one_line(title + owner))
        click.echo(f"    {plural(thread.item_count, 'item')}")


@threads.command("show")
@_database
@click.argument("thread_id")
@_schema
@_json
def show(database: str, thread_id: str, schema: str, as_json: bool) -> None:
    """Show a thread with its items, also those that only the model sees."""
    with stored_threads(database, schema) as stored:
        thread = stored.thread(thread_id)
        items = list(stored.items(thread_id))
    if as_json:
        fields = json.loads(encode_thread(thread.metadata))
        told = [json.loads(encode_item(item)) for item in items]
        _print_json({"owner": thread.owner, "thread": fields, "items": told})
        return
    for item in items:
        click.echo(as_text(item))


@threads.command("search")
@_database
@click.argument("words")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@_schema
@_json
def search(database: str, words: str, limit: int, schema: str, as_json: bool) -> None:
    """Find messages and titles that contain WORDS.

    The newest threads come first, and case doesn't matter. Reads everything, so it takes its time
    in a large database.
    """
    found: list[dict[str, Any]] = []
    with stored_threads(database, schema) as stored:
        threads = list(stored.newest())
        with _progress(threads, len(threads), "Searching") as each_thread:
            for thread in each_thread:
                texts = [("", thread.title or "")]
                texts += [(item.id, _said(item)) for item in stored.items(thread.id)]
                found += [
                    {**_summary(thread), "item_id": item_id or None, "text": _excerpt(text, words)}
                    for item_id, text in texts
                    if words.casefold() in text.casefold()
                ]
                if len(found) >= limit:
                    break
    if as_json:
        _print_json(found[:limit])
        return
    for each in found[:limit]:
        where = f"{each['id']}  {each['item_id'] or '(title)'}"
        click.echo(f"{one_line(where)}\n    {one_line(each['text'])}")
    if not found:
        click.echo("Nothing was found", err=True)


@threads.command("export")
@_database
@click.argument("thread_ids", nargs=-1, metavar="[THREAD_ID]...")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default=STDOUT,
    help="The file.  [default: standard output]",
)
@_schema
def export(database: str, thread_ids: Sequence[str], output: str, schema: str) -> None:
    """Write threads as lines of JSON.

    All of them, unless some are named. The lines are for `threads import`. Files of attachments
    aren't among them. A file that is there is replaced when the export is complete. What isn't
    settled yet of an answer is left out, and standard error says so.
    """
    if not is_url(database) and output != STDOUT and belongs_to(Path(output), Path(database)):
        problem = f"{output} belongs to the database: name another file"
        raise click.BadParameter(problem, param_hint="--output")
    with stored_threads(database, schema) as stored:
        if thread_ids:
            chosen = [stored.thread(thread_id) for thread_id in dict.fromkeys(thread_ids)]
        else:
            chosen = list(stored.oldest_first())
        hides = output == STDOUT and sys.stdout.isatty()  # it would stand among the lines
        with (
            export_file(output) as file,
            _progress(chosen, len(chosen), "Exporting", hides=hides) as each_thread,
        ):
            for line in exported(stored, each_thread, all=not thread_ids):
                file.write(f"{line}\n")
        _tell_what_is_left_out(stored, {thread.id for thread in chosen} if thread_ids else None)


def _tell_what_is_left_out(stored: StoredThreads, ids: Container[str] | None) -> None:
    """Say what an export of these threads, or of all, hasn't got."""
    unsettled, refused = (
        sum(1 for thread_id in found if ids is None or thread_id in ids)
        for found in (stored.unsettled(), stored.refused())
    )
    if unsettled:
        click.echo(
            f"Left out: what isn't settled yet of {plural(unsettled, 'answer')}, which a server is"
            " producing or a dead process has left. To have all of it, end the servers, start one"
            " again and end it, and export again",
            err=True,
        )
    if refused:
        what = plural(refused, "item")
        text = f"Left out: {what} that the store has refused; the text is in the table `unstorable`"
        click.echo(text, err=True)


@threads.command("import")
@_database
@click.argument("file", type=click.File("rb"), default="-")
@_schema
@_json
def import_threads(database: str, file: BinaryIO, schema: str, as_json: bool) -> None:
    """Add threads that an export has written.

    FILE is standard input unless you name one. What is there already stays as it is, so that doing
    it twice changes nothing. An SQLite file is made if there is none.
    """

    async def run() -> None:
        async with store_of(database, schema) as store:
            importer = Importer(store)
            with _counting(_size(file), "Importing") as tell:
                await importer.run(file, getattr(file, "name", "<stdin>"), tell)
        done = importer.done
        if as_json:
            _print_json(done.as_dict())
        else:
            click.echo(done.as_text())

    _in_store(run)


@threads.command("delete")
@_database
@click.argument("thread_ids", nargs=-1, required=True, metavar="THREAD_ID...")
@click.option("--yes", is_flag=True, help="Don't ask.")
@_schema
@_json
def delete(database: str, thread_ids: Sequence[str], yes: bool, schema: str, as_json: bool) -> None:
    """Delete threads with all their items, for good.

    Asks before it does. Nothing is deleted if one of them isn't there. Files of attachments stay.
    """
    with stored_threads(database, schema) as stored:
        chosen = [stored.thread(thread_id) for thread_id in dict.fromkeys(thread_ids)]
    items = sum(thread.item_count for thread in chosen)
    if not yes:
        what = f"Delete {plural(len(chosen), 'thread')} with {plural(items, 'item')} for good?"
        click.confirm(what, abort=True, err=True)

    async def run() -> None:
        async with store_of(database, schema) as store:
            with _progress(chosen, len(chosen), "Deleting") as each_thread:
                for thread in each_thread:
                    await store.delete_thread(thread.id, thread.owner)

    _in_store(run)
    if as_json:
        _print_json({"threads": len(chosen), "items": items})
    else:
        click.echo(f"{plural(len(chosen), 'thread')} deleted")


def as_text(item: ThreadItem) -> str:
    """Return an item as text, below a line that says whose it is."""
    match item:
        case UserMessageItem():
            who = "user"
        case AssistantMessageItem():
            who = "assistant"
        case HiddenContextItem() | SDKHiddenContextItem():
            who = "hidden, for the model only"
        case _:
            who = item.type
    time = f"{item.created_at:%Y-%m-%d %H:%M:%S}"
    return f"--- {one_line(who)}, {time}\n{plain(_said(item) or item.id)}\n"


def _said(item: ThreadItem) -> str:
    """Return the text of an item, if it has one."""
    match item:
        case UserMessageItem() | AssistantMessageItem():
            return "".join(content.text for content in item.content)
        case HiddenContextItem() | SDKHiddenContextItem():
            return str(item.content)
        case WorkflowItem():
            return f"{len(item.workflow.tasks)} steps"
    return ""


def _excerpt(text: str, words: str) -> str:
    place = _place(text, text.casefold().find(words.casefold()))
    cut = text[max(0, place - _EXCERPT) : place + len(words) + _EXCERPT]
    return " ".join(cut.split())


def _place(text: str, folded_place: int) -> int:
    """Return where a place in the folded text is in the text: some letters are longer folded."""
    lengths = accumulate((len(letter.casefold()) for letter in text), initial=0)
    return next((place for place, length in enumerate(lengths) if length >= folded_place), 0)


def _summary(thread: StoredThread) -> dict[str, Any]:
    return {
        "id": thread.id,
        "owner": thread.owner,
        "title": thread.title,
        "created_at": thread.created_at,
        "items": thread.item_count,
    }


def _print_json(value: object) -> None:
    click.echo(json_text(value, indent=2))


def _in_store(run: Callable[[], Any]) -> None:
    try:
        trio.run(run)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _progress(
    threads: Iterable[StoredThread], length: int, label: str, *, hides: bool = False
) -> Iterator[Iterable[StoredThread]]:
    """Show how far it is, on a terminal."""
    if hides or not sys.stderr.isatty():
        yield threads
        return
    with click.progressbar(threads, length, label, file=sys.stderr) as bar:
        yield bar


@contextmanager
def _counting(length: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Show how far it is, on a terminal, if that is known."""
    if length is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def _size(file: BinaryIO) -> int | None:
    """Return about how long a file is, None if nobody knows."""
    if not file.seekable():
        return None
    size = file.seek(0, 2)
    file.seek(0)
    return size
