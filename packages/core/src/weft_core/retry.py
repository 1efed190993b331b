"""The default decision on whether a task is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from ._interfaces import Failure, InputError, LostError, RetryDecision, WorkerLostError

__all__ = ["BackoffRetryPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffRetryPolicy:
    """Tries again up to the task's ``retries``, at once the first time, then after delays that double.

    Wrong input is not tried again. A try that was lost with its manager, block or interchange is no fault of
    the task: it costs no retry. One that was lost with its worker does, since tasks are what kills workers.
    After ``max_losses`` lost tries of any kind a task fails, whatever its retries.

    delay, max_delay: seconds before the second retry, and at most.
    """

    delay: float = 0.1
    max_delay: float = 30.0
    max_losses: int = 5

    def decide(self, failure: Failure) -> RetryDecision:
        """See :meth:`RetryPolicy.decide`."""
        error = failure.error
        if isinstance(error, InputError):
            return RetryDecision(False, reason="wrong input stays wrong")
        if failure.losses > self.max_losses:
            return RetryDecision(False, reason=f"it was lost {failure.losses} times")
        if isinstance(error, LostError) and not isinstance(error, WorkerLostError):
            return RetryDecision(True, self._delay(failure.losses), "it was lost through no fault of its own")
        if failure.failures > failure.retries:
            return RetryDecision(
                False, reason=f"it failed {failure.failures} times and has {failure.retries} retries"
            )
        return RetryDecision(
            True, self._delay(failure.failures), f"retry {failure.failures} of {failure.retries}"
        )

    def _delay(self, tries: int) -> float:
        return 0.0 if tries <= 1 else min(self.max_delay, self.delay * 2.0 ** min(tries - 2, 60))
