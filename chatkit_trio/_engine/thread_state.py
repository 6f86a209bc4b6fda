"""The thread's own fields: copying them, and noticing that `respond` has changed them."""

from __future__ import annotations

from typing import Any

from chatkit_trio._model import deep_copy
from chatkit_trio.types import ThreadMetadata


def as_metadata(thread: ThreadMetadata) -> ThreadMetadata:
    """Return a deep copy of the thread's own fields: never a subclass with items in it.

    Everything that the engine saves of a thread passes here. Raises `ValueError` for fields that
    `respond` has set to what they can't be: stored, they would make the thread unreadable.
    """
    # Not by model_validate(), which refuses a status of another package's class.
    return ThreadMetadata(**deep_copy(_fields(thread)))


def _fields(thread: ThreadMetadata) -> dict[str, Any]:
    return {name: getattr(thread, name) for name in ThreadMetadata.model_fields}


def _as_stored(thread: ThreadMetadata) -> str:
    return thread.model_dump_json()


class ThreadWatch:
    """Compares a thread with what the store has of it."""

    def __init__(self, thread: ThreadMetadata) -> None:
        self.thread = thread
        self._status: object = None
        """The thread's own status, once it was found to be as the store has it."""
        self._saved = deep_copy(_fields(thread))

    def changed(self) -> bool:
        """Say whether the thread differs from what the store has.

        Raises `ValueError`, and sets the id back, if the id has changed: the thread would be saved
        as a second one.
        """
        fields = self.thread.__dict__  # asked after every event: no dictionary is built for it
        for name, value in self._saved.items():
            if name == "status":
                if not self._has_status(fields[name], value):
                    break
            elif fields[name] != value:
                break
        else:
            return False
        if fields["id"] != self._saved["id"]:
            wrong, self.thread.id = self.thread.id, self._saved["id"]
            raise ValueError(f"the id of thread {self.thread.id} was changed to {wrong!r}")
        return self._is_stored_otherwise()

    def _is_stored_otherwise(self) -> bool:
        """Say whether a store would get something else of the thread than it has.

        What was set may mean the same in another form, such as a time without a zone. If that
        counted as a change, the thread would be saved for ever.
        """
        try:
            return _as_stored(as_metadata(self.thread)) != _as_stored(self.as_saved())
        except Exception:
            return True  # who saves it is told what is wrong

    def _has_status(self, status: Any, saved: Any) -> bool:
        # By its fields: comparing it as an object of pydantic's takes longer than all the rest.
        if status is self._status:
            return bool(status.__dict__ == saved.__dict__)
        if status != saved:
            return False
        self._status = status
        return True

    def as_saved(self) -> ThreadMetadata:
        """Return the thread as the store has it."""
        return ThreadMetadata.model_validate(deep_copy(self._saved))

    def saved(self, snapshot: ThreadMetadata) -> None:
        """Note that the store has this state of the thread."""
        self._saved = _fields(snapshot)
        self._status = None
