"""What happens to a server's turns, told to the log and to the server's observers.

The log's records are those of the logger `chatkit_trio.turns`; docs/reference/logs.md tells their
fields. There is nothing in them of what was said. `chatkit_trio.observe` has the events.
"""

from __future__ import annotations

import logging

from chatkit_trio._settings import check_plain_function
from chatkit_trio.observe import (
    Event,
    Observer,
    TurnBegan,
    TurnEnded,
    TurnInfo,
    TurnRecovered,
    owner_hash,
)

logger = logging.getLogger("chatkit_trio.turns")
_own_logger = logging.getLogger(__name__)


class Story:
    """Tells of one server's turns. Nothing is told but to the log while nobody watches."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._failed: set[int] = set()

    @property
    def is_watched(self) -> bool:
        """Whether anyone but the log is told."""
        return bool(self._observers)

    @property
    def is_heard(self) -> bool:
        """Whether anyone is told, if only the log."""
        return bool(self._observers) or logger.isEnabledFor(logging.INFO)

    def add(self, observer: Observer) -> None:
        """Tell an observer from now on. Raises `TypeError` for what can't be one."""
        check_plain_function("an observer", observer, "an event")
        self._observers.append(observer)

    def tell(self, event: Event) -> None:
        """Tell the log and all observers. Never raises but at the end of the process."""
        _log(event)
        for observer in self._observers:
            try:
                observer(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: ASYNC103 (an observer can't be cancelled: it never waits)
                self._note_failure(observer)

    def _note_failure(self, observer: Observer) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            _own_logger.exception(
                "the observer %r raised an error; it still gets the events that follow, but no more"
                " of its errors are logged",
                observer,
            )


def _log(event: Event) -> None:
    match event:
        case TurnBegan(turn=turn):
            _tell("turn.began", "%s of thread %s begins", turn)
        case TurnEnded(turn=turn, reason=reason, seconds=seconds, events=events):
            text = "%s of thread %s ended: %s, after %.2f s"
            told = {"reason": reason, "seconds": round(seconds, 6)}
            _tell("turn.ended", text, turn, told, events=events)
        case TurnRecovered(turn_id=turn_id, thread_id=thread_id, reason=reason):
            text = "%s of thread %s is recovered: %s"
            _tell_of("turn.recovered", text, turn_id, thread_id, {"reason": reason})


def _tell(
    event: str, text: str, turn: TurnInfo, told: dict[str, object] | None = None, **more: object
) -> None:
    if logger.isEnabledFor(logging.INFO):
        more |= {"request": turn.request, "owner_hash": owner_hash(turn.owner)}
        _tell_of(event, text, turn.turn_id, turn.thread_id, told or {}, **more)


def _tell_of(
    event: str, text: str, turn_id: str, thread_id: str, told: dict[str, object], **more: object
) -> None:
    """Log a record; `told` are fields that its text has too."""
    thread_id = thread_id.encode("unicode_escape").decode()  # a client may have chosen it
    extra = {"event": event, "turn_id": turn_id, "thread_id": thread_id, **told, **more}
    logger.info(text, turn_id, thread_id, *told.values(), extra=extra)
