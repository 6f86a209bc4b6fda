"""Descriptors that a forked child doesn't keep.

The lock of a file, and the session of a database server, last as long as any process has their
descriptor, and a child that user code forks has all of them (`multiprocessing` forks by default on
Linux before Python 3.14). The turns of a process that has died would be taken for live until its
children have ended too. So a child lets go of what is named here. The numbers are /dev/null's then:
what the child has of the objects may still close them, and mustn't close another file.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import Protocol


class Descriptor(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int:
        """Return its descriptor; raises an `Exception` while it has none."""
        ...


_own: weakref.WeakSet[Descriptor] = weakref.WeakSet()


def keep_from_forks(descriptor: Descriptor) -> None:
    """Have children that are forked from now on let go of the descriptor that it has then."""
    _own.add(descriptor)


def _let_go() -> None:
    numbers: set[int] = set()
    for each in _own:
        with suppress(Exception):
            number = each.fileno()
            os.close(number)  # no more: to unlock the file would unlock it for the parent too
            numbers.add(number)
    if numbers:
        null = os.open(os.devnull, os.O_RDWR)
        for number in numbers - {null}:
            os.dup2(null, number, inheritable=False)
        if null not in numbers:
            os.close(null)


os.register_at_fork(after_in_child=_let_go)
