"""Writes behind the backs of those who put: in batches, in a thread of its own.

::

    put ──> the open batch ──> sealed batches ──> commit, one after the other ──> acknowledged
    get <── what is on its way ─────┘
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from weft_interfaces import MemoStoreError

from .record import Record

__all__ = ["Batch", "Writer"]

_log = logging.getLogger("weft")

_LINGER = 0.02  # seconds that an open batch waits for more, unless somebody waits for it
_PAUSES = (0.5, 30.0)  # seconds before a batch that failed is tried again: the first, and the longest
_OVERHEAD = 300  # bytes that a record takes beside its data


@dataclass
class Batch:
    """What is committed at once."""

    records: dict[bytes, Record] = field(default_factory=dict)
    texts: dict[bytes, str] = field(default_factory=dict)
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.records or self.texts)


class Writer:
    """Hands batches to ``commit``, which raises where one could not be kept.

    A batch that failed is tried again: by ``flush`` at once, else after a while. ``limit``: bytes that may
    wait; who puts more waits. ``largest``: records and bytes of one batch. Threads may use it at once.
    """

    def __init__(
        self,
        commit: Callable[[Batch], None],
        name: str,
        *,
        limit: int = 64_000_000,
        largest: tuple[int, int] = (4_000, 16_000_000),
    ) -> None:
        self._commit = commit
        self._name = name
        self._limit = limit
        self._largest = largest
        self.reset()

    def reset(self) -> None:
        """Begin again with nothing: what a forked child does, whose parent writes what is on its way."""
        self._condition = threading.Condition()
        self._alone = threading.Lock()  # who writes where there is no thread for it
        self._batches: list[Batch] = []
        self._latest: dict[bytes, Record] = {}
        self._size = 0
        self._opened = 0.0  # when the last batch was opened
        self._done = self._sealed = 0  # numbers of batches
        self._urgent = 0  # the number of the batch that somebody waits for
        self._failures = 0
        self._error: BaseException | None = None
        self._untold = False
        self._pause = self._not_before = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def find(self, key: bytes) -> Record | None:
        """The latest record of this key that is on its way."""
        return self._latest.get(key)

    def records(self) -> list[Record]:
        """All records that are on their way, the latest last."""
        with self._condition:
            return list(self._latest.values())

    def text(self, digest: bytes) -> str | None:
        """The text of this digest that is on its way."""
        with self._condition:
            return next((b.texts[digest] for b in self._batches if digest in b.texts), None)

    def put(self, record: Record) -> None:
        """Take a record. Raises :class:`MemoStoreError`, and takes nothing, when an earlier batch could not
        be kept and nobody was told so far, and when nothing more may wait.
        """
        size = len(record.data or b"") + _OVERHEAD
        with self._condition:
            self._make_room(size)
            batch = self._open_batch()
            batch.records[record.key] = record
            self._latest.pop(record.key, None)
            self._latest[record.key] = record
            self._added(batch, size)

    def describe(self, texts: Mapping[bytes, str]) -> None:
        """Take texts, by digest; they are dropped when nothing more may wait."""
        size = sum(map(len, texts.values())) + _OVERHEAD
        with self._condition:
            if self._size + size <= self._limit and not self._closing:
                batch = self._open_batch()
                for digest, text in texts.items():
                    batch.texts.setdefault(digest, text)
                self._added(batch, size)

    def flush(self) -> None:
        """Wait until all that was taken is committed. Raises :class:`MemoStoreError` if it cannot be now: it
        is kept, and tried again.
        """
        with self._condition:
            target = self._done + len(self._batches)
            failures, self._untold = self._failures, False
            self._seal()
            self._urgent = max(self._urgent, target)
            self._condition.notify_all()
            alone = self._thread is None
        if alone:
            self._write_here()
        with self._condition:
            self._condition.wait_for(lambda: self._done >= target or self._failures > failures)
            if self._done < target:
                self._raise()

    def close(self) -> None:
        """Flush, and stop. What could not be written by then is lost, and raised."""
        try:
            self.flush()
        finally:
            with self._condition:
                self._closing = True
                thread, self._thread = self._thread, None
                self._condition.notify_all()
            if thread is not None:
                thread.join()

    def _make_room(self, size: int) -> None:
        if self._closing:
            raise MemoStoreError(f"{self._name} is closed")
        if self._untold:
            self._raise()
        if self._is_full(size):
            self._seal()
            self._condition.notify_all()
            if self._thread is None:
                return  # more waits than should, but it cannot be written before the flush
            self._condition.wait_for(lambda: not self._is_full(size) or self._error is not None)
            if self._error is not None and self._is_full(size):
                self._raise()

    def _is_full(self, size: int) -> bool:
        return bool(self._batches) and self._size + size > self._limit

    def _raise(self) -> None:
        self._untold = False
        assert self._error is not None
        waiting = sum(len(batch.records) for batch in self._batches)
        message = f"{self._name}: {waiting} results could not be written: {self._error}"
        raise MemoStoreError(message) from self._error

    def _open_batch(self) -> Batch:
        if self._sealed == self._done + len(self._batches):
            self._batches.append(Batch())
            self._opened = time.monotonic()
            self._condition.notify_all()
        return self._batches[-1]

    def _added(self, batch: Batch, size: int) -> None:
        batch.size += size
        self._size += size
        if len(batch.records) + len(batch.texts) >= self._largest[0] or batch.size >= self._largest[1]:
            self._seal()
            self._condition.notify_all()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="weft-memo-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending and starts no threads: flush writes
                return
            self._thread = thread

    def _seal(self) -> None:
        self._sealed = self._done + len(self._batches)

    def _wait(self) -> float | None:
        """Seconds until the next batch is to be written; None when there is none."""
        if not self._batches:
            return None
        if self._urgent > self._done or self._closing:
            return 0.0
        now = time.monotonic()
        ready = 0.0 if self._sealed > self._done else self._opened + _LINGER
        return max(0.0, ready - now, self._not_before - now)

    def _run(self) -> None:
        while True:
            with self._condition:
                while (pause := self._wait()) != 0.0:
                    if pause is None and self._closing:
                        return
                    self._condition.wait(pause)
                if self._closing and self._error is not None:
                    return  # close has said that these are lost
                batch = self._batches[0]
                self._sealed = max(self._sealed, self._done + 1)
            try:
                self._commit(batch)
            except Exception as error:  # noqa: BLE001  kept, and raised where it can be heard
                self._failed(error)
            else:
                self._written(batch)

    def _write_here(self) -> None:
        """Write all that waits, where there is no thread for it, until a batch fails."""
        with self._alone:
            while self._batches and self._thread is None:
                with self._condition:
                    self._seal()
                batch = self._batches[0]
                try:
                    self._commit(batch)
                except Exception as error:  # noqa: BLE001  flush raises it
                    self._failed(error)
                    return
                self._written(batch)

    def _written(self, batch: Batch) -> None:
        with self._condition:
            del self._batches[0]
            self._done += 1
            self._size -= batch.size
            for key, record in batch.records.items():
                if self._latest.get(key) is record:
                    del self._latest[key]
            self._error, self._untold, self._not_before = None, False, 0.0
            self._condition.notify_all()

    def _failed(self, error: BaseException) -> None:
        first, longest = _PAUSES
        with self._condition:
            again = self._error is not None
            pause = min(longest, 2 * self._pause) if again else first
            self._pause = pause
            self._not_before = time.monotonic() + pause
            self._error, self._untold = error, True
            self._failures += 1
            self._urgent = self._done
            self._condition.notify_all()
        if not again:
            _log.warning("%s: results could not be written, and will be tried again: %s", self._name, error)
