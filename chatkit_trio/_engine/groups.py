"""What comes out of a nursery, seen as if there were no nursery.

Trio wraps errors in groups, and a group may hold a cancellation beside a real error. The engine
takes them apart here, once, at its border to user code.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from chatkit_trio.errors import BaseStreamError

from .foreign import own_error


class StrayCancellation(RuntimeError):
    """A cancellation came out of `respond` that isn't the turn's: a scope was left half open."""

    @classmethod
    def of(cls, cancelled: BaseException) -> StrayCancellation:
        """Return the error that says so of this cancellation."""
        error = cls(
            "a cancel scope in respond() was open across a yield of a generator that another one"
            " iterates, and ended there; open it inside of the outermost generator instead"
        )
        error.__cause__ = cancelled
        return error


def ends_process(error: BaseException) -> bool:
    """Say whether it is Ctrl-C or an exit; everything else in user code is that turn's failure."""
    return any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in _leaves(error))


def split_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Return the cancellations in an exception, and the rest of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


def unwrapped(error: BaseException) -> BaseException:
    """Return what a nursery's group stands for, so that nurseries don't show in what users raise.

    That is its only exception, or the first that says what to tell the client. An error of
    openai-chatkit's that says so is returned as ours.
    """
    leaves = [own_error(leaf) for leaf in _leaves(error)]
    told = (leaf for leaf in leaves if isinstance(leaf, BaseStreamError))
    return leaves[0] if len(leaves) == 1 else next(told, error)


def is_several(error: BaseException) -> bool:
    """Say whether this is a group of more than one exception."""
    return len(list(_leaves(error))) > 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
