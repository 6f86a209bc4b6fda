from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from chatkit_trio.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    StoreError,
    TooLargeError,
)
from chatkit_trio.store import default_generate_id
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.stores._media_types import agrees, is_accepted, media_type
from chatkit_trio.stores.attachments import (
    DiskAttachmentStore,
    ForbiddenError,
    GoneError,
    UnsupportedTypeError,
)
from chatkit_trio.types import Attachment, AttachmentCreateParams, ThreadMetadata
from tests.stores.test_instance_lock import no_descriptor_left

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
HTML = b"<!doctype html><script>alert(1)</script>"
DAY = 24 * 3600
SECRET = "a secret of tests only"


@dataclass(frozen=True)
class User:
    name: str


ANN, BOB = User("ann"), User("bob")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def name_of(user: User) -> str:
    return user.name


def make_files(directory: Path, metadata: Any, **options: Any) -> DiskAttachmentStore[User]:
    options = {"secret": SECRET, "owner": name_of, "accept": ["image/*", "text/*"], **options}
    return DiskAttachmentStore(
        directory, metadata=metadata, base_url="https://example.org/attachments", **options
    )


@asynccontextmanager
async def opened(tmp_path: Path, **options: Any) -> AsyncIterator[DiskAttachmentStore[User]]:
    metadata = MemoryStore[User](owner=name_of)
    async with metadata, make_files(tmp_path / "files", metadata, **options) as files:
        yield files


async def create(
    files: DiskAttachmentStore[User],
    name: str = "cat.png",
    mime_type: str = "image/png",
    size: int = len(PNG),
    user: User = ANN,
) -> Attachment:
    """Do what the server does for `attachments.create`."""
    params = AttachmentCreateParams(name=name, size=size, mime_type=mime_type)
    attachment = await files.create_attachment(params, user)
    await files.metadata.save_attachment(attachment, user)
    return attachment


def query_of(url: object) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(str(url)).query).items()}


def upload_query(attachment: Attachment) -> dict[str, str]:
    assert attachment.upload_descriptor is not None
    return query_of(attachment.upload_descriptor.url)


class Pieces:
    """A body that comes in pieces; `before` is called with the number of each before it comes."""

    def __init__(
        self, *pieces: bytes, before: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        self._pieces = pieces
        self._before = before
        self.taken = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.taken == len(self._pieces):
            raise StopAsyncIteration
        if self._before is not None:
            await self._before(self.taken)
        self.taken += 1
        return self._pieces[self.taken - 1]


def caller(user: User) -> Callable[[], Awaitable[User]]:
    async def context() -> User:
        await trio.lowlevel.checkpoint()
        return user

    return context


async def nobody() -> User:
    await trio.lowlevel.checkpoint()
    raise AssertionError("the caller must not be asked for")


async def upload(
    files: DiskAttachmentStore[User],
    attachment: Attachment,
    body: AsyncIterator[bytes] | None = None,
    ask: Callable[[], Awaitable[User]] | None = None,
) -> Attachment:
    body = Pieces(PNG) if body is None else body
    return await files.receive_upload(
        attachment.id, **upload_query(attachment), chunks=body, caller=ask or caller(ANN)
    )


def stored(tmp_path: Path) -> list[str]:
    """The files of attachments, without the lock of the open store."""
    return sorted(p.name for p in (tmp_path / "files").iterdir() if p.suffix)


# --- Two phases


async def test_uploaded_bytes_are_read_back_and_the_answer_has_no_descriptor(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        taken = await upload(files, created, Pieces(PNG[:5], PNG[5:]))
        assert await files.read_attachment(created.id, ANN) == PNG
        assert taken == created.model_copy(update={"upload_descriptor": None})


async def test_a_message_has_an_attachment_without_its_descriptor_once_the_bytes_are_there(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        with pytest.raises(NotFoundError, match="has not been uploaded yet"):
            await files.check_attachment(created, ANN)
        await upload(files, created)
        named = await files.check_attachment(created, ANN)
        assert named == created.model_copy(update={"upload_descriptor": None})
        assert await files.check_attachment(named, ANN) == named


class MeddledStore(MemoryStore[User]):
    """Lets something else happen after each attachment it reads and before each it writes."""

    meddle: Callable[[], Awaitable[None]] | None = None

    async def load_attachment(self, attachment_id: str, context: User) -> Attachment:
        attachment = await super().load_attachment(attachment_id, context)
        await self._let_happen()
        return attachment

    async def save_attachment(self, attachment: Attachment, context: User) -> None:
        await self._let_happen()
        await super().save_attachment(attachment, context)

    async def _let_happen(self) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            await meddle()
            self.meddle = meddle


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("goes_to_a_twin_too", [False, True])
async def test_a_message_sent_at_any_moment_of_an_upload_is_refused_or_keeps_its_file(
    tmp_path: Path, goes_to_a_twin_too: bool, moment: int
) -> None:
    clock = Clock()
    metadata = MeddledStore(owner=name_of)
    options: dict[str, Any] = {"clock": clock, "context_for_owner": User}
    async with (
        metadata,
        make_files(tmp_path / "files", metadata, **options) as files,
        make_files(tmp_path / "files", metadata, **options) as twin,
    ):
        created = await create(files)
        sent: list[Attachment] = []
        moments = itertools.count()

        async def send_message() -> None:
            if next(moments) >= moment and not sent:
                with suppress(NotFoundError):
                    named = await files.check_attachment(created, ANN)
                    sent.append(named)
                    await send_in_thread(files, named)

        async def meanwhile(number: int) -> None:
            if goes_to_a_twin_too and number == 1:
                await upload(twin, created)
            await send_message()

        metadata.meddle = send_message
        with suppress(ConflictError):
            await upload(files, created, Pieces(PNG, b"", before=meanwhile))
        while not sent:
            await send_message()
        clock.now += DAY
        assert await files.collect_orphans() == []
        assert await files.read_attachment(created.id, ANN) == PNG


@pytest.mark.parametrize(
    ("name", "mime_type", "content"),
    [
        ("x.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("x.html", "text/html", HTML),
        ("x.txt", "text/plain", b"hello"),
    ],
)
async def test_what_could_carry_a_script_has_no_preview_and_is_only_downloaded(
    tmp_path: Path, name: str, mime_type: str, content: bytes
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files, name, mime_type, len(content))
        await upload(files, created, Pieces(content))
        signature = query_of(files.view_url(created.id))["signature"]
        download = await files.open_download(created.id, signature, caller(ANN))
        assert (created.type, download.is_inline) == ("file", False)


async def test_an_upload_url_works_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        await upload(files, created)
        with pytest.raises(ConflictError, match="has been uploaded already"):
            await upload(files, created, Pieces(PNG[::-1]))
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_two_uploads_at_once_to_one_url_leave_one_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        outcomes: list[str] = []

        async def try_to_upload() -> None:
            try:
                await upload(files, created)
                outcomes.append("taken")
            except ConflictError:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_to_upload)
            nursery.start_soon(try_to_upload)
        assert sorted(outcomes) == ["refused", "taken"]
        assert stored(tmp_path) == [f"{created.id}.bin", f"{created.id}.json"]


async def test_of_two_processes_that_receive_one_upload_only_one_keeps_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as files, make_files(tmp_path / "files", files.metadata) as twin:
        created = await create(files)

        async def upload_to_twin_first(number: int) -> None:
            if number == 1:
                await upload(twin, created)

        with pytest.raises(ConflictError):
            await upload(files, created, Pieces(PNG, b"", before=upload_to_twin_first))
        assert await files.read_attachment(created.id, ANN) == PNG
        assert stored(tmp_path) == [f"{created.id}.bin", f"{created.id}.json"]


async def test_an_upload_url_expires_and_can_be_used_until_then(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock, upload_lifetime=60) as files:
        late, in_time = await create(files), await create(files)
        clock.now += 59
        await upload(files, in_time)
        clock.now += 1
        with pytest.raises(GoneError):
            await upload(files, late)


@pytest.mark.parametrize("field", ["expires", "signature"])
async def test_a_changed_upload_url_is_refused(tmp_path: Path, field: str) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        query = upload_query(created)
        query[field] += "0"
        with pytest.raises(ForbiddenError):
            await files.receive_upload(created.id, **query, chunks=Pieces(PNG), caller=nobody)


async def test_a_url_to_see_is_no_url_to_upload_and_the_other_way_round(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        view_signature = query_of(files.view_url(created.id))["signature"]
        with pytest.raises(ForbiddenError):
            await files.open_download(created.id, upload_query(created)["signature"], nobody)
        with pytest.raises(ForbiddenError):
            await files.receive_upload(created.id, "", view_signature, Pieces(PNG), nobody)


async def test_another_secret_makes_the_urls_invalid(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        other = make_files(tmp_path / "files", files.metadata, secret="another secret of tests")
        async with other:
            with pytest.raises(ForbiddenError):
                await upload(other, created)


# --- What is refused


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (PNG + b"x", TooLargeError),
        (PNG[:-1], InvalidRequestError),
        (HTML.ljust(len(PNG)), UnsupportedTypeError),
        (b"", UnsupportedTypeError),
    ],
)
async def test_a_refused_upload_leaves_nothing_and_may_be_repeated(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)
        with pytest.raises(error):
            await upload(files, created, Pieces(content))
        assert stored(tmp_path) == [f"{created.id}.json"]
        await upload(files, created)
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_a_disguised_file_is_refused_before_all_of_it_has_come(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files, size=1_000_000)
        body = Pieces(*[HTML.ljust(1000)] * 1000)
        with pytest.raises(UnsupportedTypeError, match="the file's content is not image/png"):
            await upload(files, created, body)
        assert body.taken == 5


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"size": 101}, TooLargeError),
        ({"size": -1}, InvalidRequestError),
        ({"mime_type": "video/mp4"}, UnsupportedTypeError),
        ({"mime_type": "application/octet-stream", "name": "program.exe"}, UnsupportedTypeError),
        ({"mime_type": "image"}, InvalidRequestError),
        ({"mime_type": "image/png\r\nSet-Cookie: x"}, InvalidRequestError),
    ],
)
async def test_what_would_be_refused_gets_no_upload_url(
    tmp_path: Path, params: dict[str, Any], error: type[Exception]
) -> None:
    async with opened(tmp_path, max_bytes=100) as files:
        with pytest.raises(error):
            await create(files, **{"size": 100, **params})
        assert stored(tmp_path) == []


async def test_a_type_the_browser_does_not_know_is_told_by_the_name(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files, "notes.md", "application/octet-stream", 5)
        assert created.mime_type == "text/markdown"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("tab\tand\nnewline", "tab and newline"),
        ("日本 語.txt", "日本 語.txt"),
        ("broken\udcff", "broken"),
        ("/", "file"),
        ("n" * 300 + ".png", "n" * 251 + ".png"),
    ],
)
async def test_a_name_keeps_what_is_a_name_and_no_file_is_called_by_it(
    tmp_path: Path, given: str, kept: str
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files, given)
        assert created.name == kept
        assert stored(tmp_path) == [f"{created.id}.json"]


@pytest.mark.parametrize("attachment_id", ["../x", "a/b", "A", "", ".", "x" * 101, "a\n", "a.json"])
async def test_an_id_that_is_no_id_is_not_found(tmp_path: Path, attachment_id: str) -> None:
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "x.bin").write_bytes(b"not yours")
    async with opened(tmp_path) as files:
        signature = query_of(files.view_url(attachment_id))["signature"]
        with pytest.raises(NotFoundError):
            await files.open_download(attachment_id, signature, caller(ANN))
        with pytest.raises(NotFoundError):
            await files.read_attachment(attachment_id, ANN)
        await files.delete_attachment(attachment_id, ANN)
    assert (tmp_path / "x.bin").read_bytes() == b"not yours"


async def test_an_id_that_could_name_another_file_is_an_error_of_the_subclass(
    tmp_path: Path,
) -> None:
    class Careless(DiskAttachmentStore[User]):
        def generate_attachment_id(self, mime_type: str, context: User) -> str:
            return "../" + default_generate_id("attachment")

    async with MemoryStore[User](owner=name_of) as metadata:
        files = Careless(
            tmp_path / "files", metadata=metadata, base_url="https://x/a", secret=SECRET
        )
        async with files:
            with pytest.raises(ValueError, match="generate_attachment_id returned"):
                await create(files)


# --- Owners


async def test_another_owners_attachment_is_not_found_in_any_way(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        waiting, there = await create(files), await create(files)
        await upload(files, there)
        signature = query_of(files.view_url(there.id))["signature"]
        with pytest.raises(NotFoundError):
            await upload(files, waiting, ask=caller(BOB))
        with pytest.raises(NotFoundError):
            await files.check_attachment(there, BOB)
        with pytest.raises(NotFoundError):
            await files.open_download(there.id, signature, caller(BOB))
        with pytest.raises(NotFoundError):
            await files.read_attachment(there.id, BOB)
        await files.delete_attachment(there.id, BOB)
        assert await files.read_attachment(there.id, ANN) == PNG
        assert stored(tmp_path) == sorted(
            [f"{there.id}.bin", f"{there.id}.json", f"{waiting.id}.json"]
        )


async def test_a_bearer_url_is_good_for_whoever_has_it(tmp_path: Path) -> None:
    async with opened(tmp_path, context_for_owner=User, bearer_urls=True) as files:
        created = await create(files)
        await upload(files, created, ask=nobody)
        signature = query_of(files.view_url(created.id))["signature"]
        download = await files.open_download(created.id, signature, nobody)
        assert download.size == len(PNG)


async def test_contexts_that_do_not_lead_back_to_the_owner_are_noticed_at_once(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, context_for_owner=lambda owner: BOB) as files:
        created = await create(files)
        with pytest.raises(RuntimeError, match="each must undo the other"):
            await upload(files, created)
        assert stored(tmp_path) == [f"{created.id}.json"]


# --- Direct uploads


async def test_a_direct_upload_saves_its_metadata(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        taken = await files.receive_direct("cat.png", "image/png", Pieces(PNG), caller(ANN))
        assert await files.metadata.load_attachment(taken.id, ANN) == taken
        assert await files.read_attachment(taken.id, ANN) == PNG
        with pytest.raises(NotFoundError):
            await files.metadata.load_attachment(taken.id, BOB)


@pytest.mark.parametrize(
    ("content", "error"), [(b"a" * 101, TooLargeError), (PNG[:50], UnsupportedTypeError)]
)
async def test_a_refused_direct_upload_leaves_nothing(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    async with opened(tmp_path, max_bytes=100) as files:
        with pytest.raises(error):
            await files.receive_direct("a.txt", "text/plain", Pieces(content), caller(ANN))
        assert stored(tmp_path) == []


class FailingStore(MemoryStore[User]):
    """Saves and loads no attachment while `fails`."""

    fails = False

    async def save_attachment(self, attachment: Attachment, context: User) -> None:
        if self.fails:
            raise StoreError("disk full")
        await super().save_attachment(attachment, context)

    async def load_attachment(self, attachment_id: str, context: User) -> Attachment:
        if self.fails:
            raise StoreError("disk full")
        return await super().load_attachment(attachment_id, context)


async def test_an_upload_whose_metadata_cannot_be_used_leaves_nothing(tmp_path: Path) -> None:
    metadata = FailingStore(owner=name_of)
    async with metadata, make_files(tmp_path / "files", metadata) as files:
        created = await create(files)
        metadata.fails = True
        with pytest.raises(StoreError):
            await upload(files, created)
        with pytest.raises(StoreError):
            await files.receive_direct("cat.png", "image/png", Pieces(PNG), caller(ANN))
        assert stored(tmp_path) == [f"{created.id}.json"]
        metadata.fails = False
        await upload(files, created)
        assert stored(tmp_path) == [f"{created.id}.bin", f"{created.id}.json"]


class Quota:
    """Counts the bytes of uploads, and refuses them when there are too many."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.users: list[User] = []

    @asynccontextmanager
    async def meter(self, user: User) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
        self.users.append(user)
        yield self._count

    async def _count(self, size: int) -> None:
        await trio.lowlevel.checkpoint()
        self.left -= size
        if self.left < 0:
            raise TooLargeError("enough for today")


async def test_uploads_are_metered_while_they_come(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        quota = Quota(2 * len(PNG))
        created = await create(files)
        await files.receive_upload(
            created.id,
            **upload_query(created),
            chunks=Pieces(PNG),
            caller=caller(ANN),
            meter=quota.meter,
        )
        taken = await files.receive_direct(
            "a.png", "image/png", Pieces(PNG), caller(ANN), meter=quota.meter
        )
        with pytest.raises(TooLargeError, match="enough for today"):
            await files.receive_direct(
                "b.png", "image/png", Pieces(PNG), caller(ANN), meter=quota.meter
            )
        assert (quota.left, quota.users) == (-len(PNG), [ANN] * 3)
        kept = sorted([created.id, taken.id])
        assert stored(tmp_path) == [f"{each}.{kind}" for each in kept for kind in ("bin", "json")]


# --- Cancelling, deleting, crashing


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope just before the task in it runs for the n-th time."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.step = step
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.step -= 1
            if self.step == 0:
                self.scope.cancel()


@contextmanager
def cancelled_at(step: int) -> Iterator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def test_an_upload_cancelled_anywhere_is_whole_or_leaves_nothing(tmp_path: Path) -> None:
    content = PNG + bytes(400_000)  # more than is held before it is written
    pieces = [content[n : n + 200_000] for n in range(0, len(content), 200_000)]
    async with opened(tmp_path) as files:
        for step in range(1, 100):
            created = await create(files, size=len(content))
            with cancelled_at(step) as scope:
                await upload(files, created, Pieces(*pieces))
            is_there = (tmp_path / "files" / f"{created.id}.bin").exists()
            assert is_there != scope.cancelled_caught
            if not scope.cancel_called:
                break
            await files.delete_attachment(created.id, ANN)
            assert stored(tmp_path) == []
        assert step > 15
        assert await files.read_attachment(created.id, ANN) == content


async def test_a_direct_upload_cancelled_anywhere_is_whole_or_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as files:
        for step in range(1, 100):
            taken: Attachment | None = None
            with cancelled_at(step) as scope:
                taken = await files.receive_direct("a.png", "image/png", Pieces(PNG), caller(ANN))
            if taken is None:
                assert stored(tmp_path) == []
            else:
                assert await files.read_attachment(taken.id, ANN) == PNG
                assert await files.metadata.load_attachment(taken.id, ANN) == taken
                await files.delete_attachment(taken.id, ANN)
            if not scope.cancel_called:
                break
        assert step > 10


async def test_deleting_removes_the_bytes_and_makes_the_urls_not_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        there, waiting = await create(files), await create(files)
        await upload(files, there)
        await files.delete_attachment(there.id, ANN)
        await files.delete_attachment(waiting.id, ANN)
        await files.delete_attachment(there.id, ANN)
        assert stored(tmp_path) == []
        with pytest.raises(NotFoundError):
            await upload(files, waiting)


async def test_deleting_while_it_is_uploaded_ends_the_upload(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)

        async def delete_it(number: int) -> None:
            await files.delete_attachment(created.id, ANN)

        with pytest.raises(NotFoundError):
            await upload(files, created, Pieces(PNG, before=delete_it))
        assert stored(tmp_path) == []


KILLED_UPLOAD = """
import os, signal, sys, trio
from chatkit_trio.stores import MemoryStore
from chatkit_trio.stores.attachments import DiskAttachmentStore

async def chunks():
    yield b"a" * 1_000_000  # over what is held before it is written
    names = os.listdir(sys.argv[1])
    assert any(name.endswith(".part") for name in names), names
    os.kill(os.getpid(), signal.SIGKILL)

async def caller():
    return None

async def main():
    async with MemoryStore() as metadata:
        async with DiskAttachmentStore(
            sys.argv[1], metadata=metadata, base_url="http://x/a", secret="x" * 16
        ) as files:
            await files.receive_direct("a.txt", "text/plain", chunks(), caller)

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
async def test_a_killed_upload_leaves_no_visible_file_and_the_next_start_removes_its_remains(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "files"
    command = [sys.executable, "-c", KILLED_UPLOAD, os.fspath(directory)]
    died = await trio.run_process(command, check=False)
    assert died.returncode == -9
    suffixes = sorted(path.suffix for path in directory.iterdir() if path.suffix)
    assert suffixes == [".json", ".part"]
    async with opened(tmp_path) as files:
        [attachment_id] = files._files.record_ids()
        assert stored(tmp_path) == [f"{attachment_id}.json"]
        with pytest.raises(NotFoundError):
            await files.open_download(
                attachment_id,
                query_of(files.view_url(attachment_id))["signature"],
                caller(User("")),
            )


async def test_a_directory_that_cannot_be_listed_does_not_look_empty(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        with no_descriptor_left(), pytest.raises(StoreError, match="Too many open files"):
            files._files.record_ids()


async def test_a_start_leaves_the_uploads_of_living_processes_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)

        async def start_another(number: int) -> None:
            async with make_files(tmp_path / "files", files.metadata):
                pass

        await upload(files, created, Pieces(PNG[:10], PNG[10:], before=start_another))
        assert await files.read_attachment(created.id, ANN) == PNG


async def test_a_start_removes_bytes_whose_record_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "files" / "atc_1.bin").write_bytes(b"left over")
    async with opened(tmp_path):
        assert stored(tmp_path) == []


async def test_a_full_disk_is_a_store_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as files:
        created = await create(files)

        def fail(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="free some space"):
            await upload(files, created)
        monkeypatch.undo()
        assert stored(tmp_path) == [f"{created.id}.json"]
        await upload(files, created)


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    async with MemoryStore[User](owner=name_of) as metadata:
        files = make_files(tmp_path, metadata)
        with pytest.raises(RuntimeError, match="isn't open"):
            await create(files)


async def test_the_directory_stays_open_until_the_last_who_entered_leaves(tmp_path: Path) -> None:
    async with opened(tmp_path) as files:
        async with files:
            pass
        created = await create(files)
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert names == {"store", f"{created.id}.json"}


# --- Orphans


async def send_in_thread(files: DiskAttachmentStore[User], attachment: Attachment) -> str:
    """Do what the server does when a message carries an attachment."""
    thread = ThreadMetadata(id=f"thr_{attachment.id}", created_at=datetime.now(UTC))
    await files.metadata.save_thread(thread, ANN)
    sent = attachment.model_copy(update={"thread_id": thread.id, "upload_descriptor": None})
    await files.metadata.save_attachment(sent, ANN)
    return thread.id


async def test_orphans_are_collected_once_they_are_old_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        SQLiteStore[User](tmp_path / "chat.db", owner=name_of) as metadata,
        make_files(tmp_path / "files", metadata, clock=clock, context_for_owner=User) as files,
    ):
        never_uploaded, never_sent, sent, thread_gone = [await create(files) for _ in range(4)]
        for each in (never_sent, sent, thread_gone):
            await upload(files, each)
        await send_in_thread(files, sent)
        await metadata.delete_thread(await send_in_thread(files, thread_gone), ANN)
        clock.now += DAY - 1
        assert await files.collect_orphans() == []
        clock.now += 1
        young = await create(files)
        orphans = sorted([never_uploaded.id, never_sent.id, thread_gone.id])
        assert await files.collect_orphans() == orphans
        assert stored(tmp_path) == sorted([f"{sent.id}.bin", f"{sent.id}.json", f"{young.id}.json"])
        for orphan in orphans:
            with pytest.raises(NotFoundError):
                await metadata.load_attachment(orphan, ANN)
        assert await metadata.load_attachment(sent.id, ANN)


async def test_without_contexts_only_what_was_never_uploaded_is_collected(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as files:
        never_uploaded, never_sent = await create(files), await create(files)
        await upload(files, never_sent)
        clock.now += DAY
        assert await files.collect_orphans() == [never_uploaded.id]
        assert await files.read_attachment(never_sent.id, ANN) == PNG


async def test_files_without_metadata_are_kept_for_as_long_as_they_are_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was begun with another database by mistake, or before that was filled."""
    clock = Clock()
    async with (
        SQLiteStore[User](tmp_path / "chat.db", owner=name_of) as metadata,
        make_files(tmp_path / "files", metadata, clock=clock, context_for_owner=User) as files,
    ):
        created = await create(files)
        await upload(files, created)
        await send_in_thread(files, created)
    clock.now += 10 * DAY
    async with (
        SQLiteStore[User](tmp_path / "another.db", owner=name_of) as another,
        make_files(tmp_path / "files", another, clock=clock, context_for_owner=User) as files,
    ):
        assert await files.collect_orphans() == []
        clock.now += DAY - 1
        assert await files.collect_orphans() == []
        assert caplog.text.count("has bytes, and no metadata in this store") == 1
        clock.now += 1
        assert await files.collect_orphans() == [created.id]


async def test_an_attachment_that_cannot_be_collected_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()

    def user(name: str) -> User:
        if name == ANN.name:
            raise KeyError(name)
        return User(name)

    async with SQLiteStore[User](tmp_path / "chat.db", owner=name_of) as metadata:
        async with make_files(tmp_path / "files", metadata, clock=clock) as files:
            created = [await create(files, user=each) for each in (ANN, BOB) * 3]
        clock.now += DAY
        async with make_files(
            tmp_path / "files", metadata, clock=clock, context_for_owner=user
        ) as files:
            collected = await files.collect_orphans()

    assert sorted(collected) == sorted(each.id for each in created[1::2])
    assert caplog.text.count("can't be collected") == 3


class FailingOnce(DiskAttachmentStore[User]):
    """Notes when it is asked to collect; the first time it can't."""

    def __init__(self, directory: Path) -> None:
        metadata = MemoryStore[User]()
        super().__init__(directory, metadata=metadata, base_url="https://x/a", secret=SECRET)
        self.asked_at: list[float] = []

    async def collect_orphans(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) == 1:
            raise StoreError("disk on fire")
        return []


async def test_collecting_goes_on_after_an_error(
    tmp_path: Path, autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    files = FailingOnce(tmp_path)
    start = trio.current_time()
    with trio.move_on_after(250):
        await files.keep_collecting(interval=100)
    assert [at - start for at in files.asked_at] == [0, 100, 200]
    assert "disk on fire" in caplog.text


# --- Settings


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"secret": "short"}, ValueError),
        ({"bearer_urls": True}, ValueError),
        ({"accept": "image/*"}, TypeError),
        ({"orphan_age": 10}, ValueError),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_files(tmp_path, MemoryStore[User](), **options)


@pytest.mark.parametrize("base_url", ["/attachments", "example.org/a", "ftp://x/a", "http://x/a?b"])
def test_a_base_url_that_a_browser_could_not_use_is_refused(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be a whole URL"):
        DiskAttachmentStore(tmp_path, metadata=MemoryStore(), base_url=base_url, secret=SECRET)


# --- Media types


@pytest.mark.parametrize(
    ("mime_type", "head"),
    [
        ("image/png", PNG),
        ("image/jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
        ("image/gif", b"GIF89a\x01\x00"),
        ("image/webp", b"RIFF\x24\x00\x00\x00WEBPVP8 "),
        ("image/avif", b"\x00\x00\x00\x1cftypavif"),
        ("application/pdf", b"%PDF-1.7\n%\xe2\xe3"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", b"PK\x03\x04"),
        ("text/plain", "Grüße, 日本\r\n\t".encode()),
        ("text/plain", "Grüße".encode("utf-16")),
        ("text/plain", b""),
        ("image/svg+xml", b"<svg/>"),
        ("application/json", b"{}"),
        ("application/x-unheard-of", b"\x00anything"),
    ],
)
def test_a_file_agrees_with_its_own_type(mime_type: str, head: bytes) -> None:
    assert agrees(mime_type, head)


@pytest.mark.parametrize(
    ("mime_type", "head"),
    [
        ("image/png", HTML),
        ("image/png", b"GIF89a\x01\x00"),
        ("image/png", b""),
        ("image/jpeg", PNG),
        ("image/x-unheard-of", HTML),
        ("application/pdf", b"MZ\x90\x00"),
        ("text/plain", PNG),
        ("text/plain", b"MZ\x90\x00\x03"),
        ("text/plain", b"%PDF-1.7\n"),
        ("image/svg+xml", PNG),
    ],
)
def test_a_file_disagrees_with_another_type(mime_type: str, head: bytes) -> None:
    assert not agrees(mime_type, head)


@pytest.mark.parametrize(
    ("declared", "name", "plain"),
    [
        ("IMAGE/PNG; x=y", "a", "image/png"),
        ("image/jpg", "a", "image/jpeg"),
        ("", "a.csv", "text/csv"),
        ("application/octet-stream", "a.unheard", "application/octet-stream"),
        ("text/plain, text/html", "a", None),
        ("text", "a", None),
    ],
)
def test_a_declared_type_becomes_its_plain_form(
    declared: str, name: str, plain: str | None
) -> None:
    assert media_type(declared, name) == plain


@pytest.mark.parametrize(
    ("mime_type", "accept", "expected"),
    [
        ("image/png", ["image/*"], True),
        ("image/png", ["image/png"], True),
        ("video/mp4", ["*/*"], True),
        ("video/mp4", ["image/*", "text/*"], False),
        ("imagex/png", ["image/*"], False),
        ("image/png", [], False),
    ],
)
def test_accepted_types_may_be_patterns(mime_type: str, accept: list[str], expected: bool) -> None:
    assert is_accepted(mime_type, accept) is expected
