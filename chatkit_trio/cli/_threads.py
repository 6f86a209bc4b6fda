"""`threads`: list the threads of a database, or show one as text."""

from __future__ import annotations

from pathlib import Path

import click

from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    WorkflowItem,
)

from ._database_file import database_file


@click.command()
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("thread_id", required=False)
@click.option("--limit", default=20, show_default=True, help="How many threads to list.")
def threads(database: Path, thread_id: str | None, limit: int) -> None:
    """List the newest threads in an SQLite file, or show a thread with its hidden items."""
    with database_file(database) as file:
        if not file.is_ours:
            raise click.ClickException(f"{database} isn't the file of a SQLiteStore")
        if thread_id is None:
            for thread in file.threads(limit):
                owner = f" of {thread.owner}" if thread.owner else ""
                title = thread.title or "(no title)"
                click.echo(f"{thread.id}  {thread.created_at[:16]}  {title}{owner}")
                click.echo(f"    {thread.item_count} items")
        elif not file.has_thread(thread_id):
            raise click.ClickException(f"{database} has no thread {thread_id}")
        else:
            for item in file.items(thread_id):
                click.echo(as_text(item))


def as_text(item: ThreadItem) -> str:
    """Return an item as text, below a line that says whose it is."""
    match item:
        case UserMessageItem():
            who, what = "user", "".join(content.text for content in item.content)
        case AssistantMessageItem():
            who, what = "assistant", "".join(content.text for content in item.content)
        case HiddenContextItem() | SDKHiddenContextItem():
            who, what = "hidden, for the model only", str(item.content)
        case WorkflowItem():
            who, what = "workflow", f"{len(item.workflow.tasks)} steps"
        case _:
            who, what = item.type, item.id
    time = f"{item.created_at:%Y-%m-%d %H:%M:%S}"
    return f"--- {who}, {time}\n{what}\n"
