"""What is known of a site's jobs, shared by all who ask the same batch system over the same channel.

::

    provider ─┐                    ┌─ one query per interval, for all jobs; less often while it fails or
    provider ─┼─> status: the Queue┤  while the batch system is slow
    provider ─┘                    └─ what has ended stays ended
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from weft_interfaces import Channel, ConfigError, JobId, JobStatus, ProviderError

from .job import JobFiles, ListedJob

__all__ = ["Queue", "Watched", "queue_of"]

_EARLY = 0.9  # of the interval: two askers with the same interval are not to wait for each other's
_LONGEST_PAUSE = 60.0  # seconds between two queries that fail, unless the interval is longer
_COURTESY = 5.0  # times as long as a query took is waited until the next

Listing = Mapping[JobId, ListedJob]


@dataclass(slots=True, eq=False)
class Watched:
    """A job that somebody asks for.

    since: when it was submitted, of :func:`time.monotonic`. files: where it writes, if that is known.
    seen: its last place in the queue. missed: in how many queries that worked it was missing, since then;
    looked_up: the last of them. cancelled: whether its end was asked for. ended: how it ended.
    """

    since: float = -math.inf
    files: JobFiles | None = None
    seen: ListedJob | None = None
    missed: int = 0
    looked_up: int = 0
    cancelled: bool = False
    ended: JobStatus | None = None


@dataclass(eq=False)
class Queue:
    """The last answer of a batch system, and its jobs.

    lock: to be held while any of it is used. submitting: held while a job is submitted, so that a hanging
    submission keeps nobody from asking.
    listing: the last answer; number: how many there were; asked_at: when the last query began.
    trouble: why the last query failed, empty if it did not.
    accounting: whether there is accounting; None while that is not known.
    jobs, by_spec: what somebody has submitted or asked for. uncertain: when the answer to a submission of
    this specification was lost.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    submitting: threading.Lock = field(default_factory=threading.Lock)
    listing: Listing = field(default_factory=dict)
    number: int = 0
    answered_at: float = -math.inf
    asked_at: float = -math.inf
    trouble: str = ""
    accounting: bool | None = None
    jobs: dict[JobId, Watched] = field(default_factory=dict)
    by_spec: dict[str, JobId] = field(default_factory=dict)
    uncertain: dict[str, float] = field(default_factory=dict)
    _failures: int = 0
    _took: float = 0.0

    def watched(self, job_id: JobId) -> Watched:
        """What is known of a job."""
        return self.jobs.setdefault(job_id, Watched())

    def refresh(self, query: Callable[[Sequence[JobId]], Listing], interval: float | None) -> None:
        """Query, unless the last answer is not older than the interval, or than a site in trouble wants.

        None: whatever was asked before.
        """
        if interval is not None and time.monotonic() - self.asked_at < _EARLY * self._pause(interval):
            return
        self.asked_at = begun = time.monotonic()
        try:
            listing = query([job_id for job_id, job in self.jobs.items() if job.ended is None])
        except (ProviderError, ConfigError) as error:
            self.trouble = str(error)
            self._failures += 1
        else:
            self.listing, self.trouble, self._failures = listing, "", 0
            self.answered_at = begun
            self.number += 1
        self._took = time.monotonic() - begun

    def _pause(self, interval: float) -> float:
        if self._failures:
            return max(interval, min(interval * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE))
        return max(interval, _COURTESY * self._took)


_QUEUES: weakref.WeakKeyDictionary[Channel, dict[Hashable, Queue]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def queue_of(channel: Channel, key: Hashable) -> Queue:
    """The queue of all who use this channel, or one that equals it, with the same key."""
    try:
        with _LOCK:
            return _QUEUES.setdefault(channel, {}).setdefault(key, Queue())
    except TypeError:  # it cannot be hashed, or not be referred to weakly: then it is not shared
        return Queue()
