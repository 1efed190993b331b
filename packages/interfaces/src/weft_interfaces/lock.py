"""A lock that many short holders pass on without queueing up."""

from __future__ import annotations

import time
from _thread import RLock
from typing import TYPE_CHECKING

__all__ = ["HotLock"]

_YIELDS = 100


class HotLock(RLock):  # type: ignore[misc]  # typeshed calls it final; CPython does not
    """A reentrant lock for sections of a few instructions, entered tens of thousands of times a second.

    An ordinary lock convoys under the interpreter's own: once a thread was preempted while it held it, the
    others block on it, each wakes up with the lock but without the interpreter, and from then on two threads
    switch at every entry, which triples the time of a task. A thread that finds this one taken lets others
    run instead, and blocks only when that has not helped for long.

    It can be taken again by its holder: the collector may run a finaliser, which cancels, at any point.
    """

    __slots__ = ()

    if TYPE_CHECKING:  # typeshed does not know it

        def _is_owned(self) -> bool: ...

    def __enter__(self, blocking: bool = True, timeout: float = -1) -> bool:
        held = self._is_owned()
        try:
            return self.acquire(False) or self._wait()
        except BaseException:  # Ctrl-C, just after it was acquired
            if not held and self._is_owned():
                self.release()
            raise

    def _wait(self) -> bool:
        for _ in range(_YIELDS):
            time.sleep(0)
            if self.acquire(False):
                return True
        return self.acquire()
