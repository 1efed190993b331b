"""The calls that wait for a worker, in the order in which they are to be sent."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from .catalogue import Entry

__all__ = ["Backlog"]


class Backlog:
    """Higher priority first, equal ones first in, first out.

    What is ``done`` is passed over. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._plain: deque[Entry] = deque()
        self._prior: list[tuple[int, int, Entry]] = []
        self._order = itertools.count()
        self._reverse = itertools.count(-1, -1)
        self._done = 0

    def __len__(self) -> int:
        return len(self._plain) + len(self._prior) - self._done

    def add(self, entries: Iterable[Entry]) -> None:
        """Put calls behind those of their priority."""
        for entry in entries:
            if entry.options.priority:
                heapq.heappush(self._prior, (-entry.options.priority, next(self._order), entry))
            else:
                self._plain.append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put calls, which are in order, before those of their priority."""
        for entry in reversed(entries):
            entry.worker = None
            if entry.options.priority:
                heapq.heappush(self._prior, (-entry.options.priority, next(self._reverse), entry))
            else:
                self._plain.appendleft(entry)

    def dismiss(self, entry: Entry) -> None:
        """Forget a call that is in here."""
        entry.done = True
        entry.arguments, entry.blobs = b"", ()  # it may take long until its turn
        self._done += 1

    def first(self) -> Entry:
        """The call that is to be sent next. There must be one."""
        self._pass_over()
        return self._prior[0][2] if self._is_prior_next() else self._plain[0]

    def pop(self) -> Entry:
        """Take the call that is to be sent next. There must be one."""
        self._pass_over()
        return heapq.heappop(self._prior)[2] if self._is_prior_next() else self._plain.popleft()

    def _is_prior_next(self) -> bool:
        return bool(self._prior) and (self._prior[0][0] < 0 or not self._plain)

    def _pass_over(self) -> None:
        while self._plain and self._plain[0].done:
            self._plain.popleft()
            self._done -= 1
        while self._prior and self._prior[0][2].done:
            heapq.heappop(self._prior)
            self._done -= 1

    def __iter__(self) -> Iterator[Entry]:
        yield from (entry for entry in self._plain if not entry.done)
        yield from (entry for _, _, entry in self._prior if not entry.done)
