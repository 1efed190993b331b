"""Jobs that an agent has asked for which is gone: what becomes of them in the next one.

::

    find ── the managers come back ──> the scaler adopts them ─┐
      │ they cannot: cancelled                                 v
      └ no answer: tried again, before any block is asked for ──> the end: find, cancel what was not adopted
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft_interfaces import (
    ConfigError,
    Event,
    JobId,
    ProviderError,
    SearchableProvider,
    block_id,
    block_number,
)

if TYPE_CHECKING:
    from weft_interfaces import BlockScaler, Provider

__all__ = ["Earlier", "Heir"]

_PATIENCE = 600.0  # seconds that a batch system may take to answer: as long as a scaler's may refuse blocks
_RETRY_FIRST, _RETRY_MOST = 1.0, 60.0  # seconds between two tries; twice as long each time
_UNANSWERED = "the batch system has not answered when it was asked for jobs of an agent before this one"


class Earlier:
    """The jobs of a plan's executor that agents before this one have asked for. Its methods wait for the
    batch system, and are called by one thread at a time.

    adopted: jobs that a scaler has now.
    """

    def __init__(self, plan: Any, provider: Provider, emit: Callable[[Sequence[Event]], None]) -> None:
        self._plan = plan
        self._tag: str = plan["tag"]
        self._label: str = plan["label"]
        self._provider = provider
        self._emit = emit
        # Without the specifications, what belongs to which block is not known of elements of an array.
        self.adoptable: bool = plan["adopt"] and isinstance(provider, SearchableProvider)
        self.adopted: Mapping[str, JobId] = {}

    def sort(self, closing: threading.Event) -> Mapping[str, JobId]:
        """Give those whose managers come back, by block id; cancel the others: who waits in the queue would
        wait for nothing.

        Nothing can be asked for while the batch system does not answer. So this waits for it, within a bound
        and until the run closes.
        """
        if not self.adoptable:
            self.cancel()
            return {}
        found = self._search(closing)
        since: int = self._plan["since"]
        self.adopted = {
            block_id(self._tag, self._label, number): job for job, number in found.items() if number >= since
        }
        self._cancel([job for job, number in found.items() if number < since])
        return self.adopted

    def cancel(self) -> str:
        """Cancel those that were not adopted. Returns empty, or why that could not be done."""
        if self._plan["first"] == 1:
            return ""
        try:
            known = set(self.adopted.values())
            jobs = [job for job in self._find() if job not in known]
        except (ProviderError, ConfigError) as error:
            return self._tell_of([], error)
        return self._cancel(jobs)

    def _search(self, closing: threading.Event) -> Mapping[JobId, int]:
        deadline, pause, told = time.monotonic() + _PATIENCE, _RETRY_FIRST, ""
        while not closing.is_set():
            try:
                return self._find()
            except (ProviderError, ConfigError) as error:
                hopeless = isinstance(error, ConfigError) or time.monotonic() + pause > deadline
                words = "it is left alone until the run ends" if hopeless else "no block is asked for before"
                reason = f"what an agent that is gone has asked for could not be looked up, {words}: {error}"
            if reason != told:
                self._note("scaling.error", reason=reason)
                told = reason
            if hopeless:
                break
            closing.wait(pause)
            pause = min(2 * pause, _RETRY_MOST)
        return {}

    def _find(self) -> Mapping[JobId, int]:
        """With the numbers of their blocks; elements of an array may all have the first one's."""
        found: Mapping[JobId, int | None]
        if isinstance(self._provider, SearchableProvider):
            specs = self._provider.find_specs(self._tag)
            found = {job: block_number(spec, self._tag, self._label) for spec, job in specs.items()}
        else:
            name = re.compile(f"weft-{re.escape(self._label)}-" + r"(\d+)")
            matches = {job: name.fullmatch(words) for job, words in self._provider.find(self._tag).items()}
            found = {job: int(match[1]) if match else None for job, match in matches.items()}
        first: int = self._plan["first"]
        return {job: number for job, number in found.items() if number is not None and number < first}

    def _cancel(self, jobs: Sequence[JobId]) -> str:
        if not jobs:
            return ""
        try:
            self._provider.cancel(jobs)
        except (ProviderError, ConfigError) as error:
            return self._tell_of(jobs, error)
        return self._tell_of(jobs)

    def _tell_of(self, jobs: Sequence[JobId], error: Exception | None = None) -> str:
        reason = "an agent that is gone has asked for them"
        if error is not None:
            reason = f"what an agent that is gone has asked for could not be cancelled: {error}"
        self._note("scaling.cancelled", jobs=list(jobs), reason=reason)
        return "" if error is None else reason

    def _note(self, kind: str, **data: Any) -> None:
        self._emit([Event(time.time(), kind, self._label, data)])


class Heir:
    """A scaler that has adopted jobs of an agent before it; in the end it cancels others of that agent's,
    too: those that were not found, and what was just being submitted when it ended.
    """

    def __init__(self, scaler: BlockScaler, earlier: Earlier) -> None:
        self._scaler = scaler
        self._earlier = earlier

    def start(self) -> None:
        """See :meth:`weft_interfaces.BlockScaler.start`, as for the others."""
        self._scaler.start()

    def wake(self) -> None:
        self._scaler.wake()

    def freeze(self, reason: str = "the run is closing") -> None:
        self._scaler.freeze(reason)

    def close(self, timeout: float = 10.0, *, tidy: bool = True) -> list[str]:
        deadline = time.monotonic() + timeout
        left = self._scaler.close(timeout, tidy=tidy)
        if left:  # its provider hangs perhaps, and takes one caller at a time
            return [*left, "jobs that an agent before this one has asked for were not looked for"]
        answers: list[str] = []
        # In a thread of its own: nobody is to wait for longer than was said.
        search = threading.Thread(
            target=lambda: answers.append(self._earlier.cancel()), name="weft-blocks-earlier", daemon=True
        )
        search.start()
        search.join(max(0.0, deadline - time.monotonic()))
        return [words for words in answers or [_UNANSWERED] if words]
