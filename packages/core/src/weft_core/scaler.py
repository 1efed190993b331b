"""Asks providers for blocks, follows their jobs, and gives blocks back.

The life of a block, with the events that tell of it::

    policy: add ──> submit ── block.requested ──> PENDING ↔ HELD ──> RUNNING ── block.registered ──> up
                      │ block.refused: again, later   (block.running, .held, ...)  │ none in time   │ policy
                      v                                                            v                v
                 block.ended <── terminal status <── block.cancelling <── block.unregistered, block.draining

One that an earlier scaler of the run has asked for begins with ``block.adopted`` as ``PENDING``. If the first
query finds it running, or ended, it was of use perhaps before: its end counts neither for nor against it.

An ``UNKNOWN`` status, a query that fails or a provider that is away for an hour ends no block.

Asking stops, and is never an endless loop of submissions, when

- a request is wrong (:class:`ConfigError`), or was accepted and can never run (``status.stuck``): for good;
- the provider refused all submissions for ``patience`` seconds in which the executor had no block: for good;
- ``failures`` blocks in a row ended before they had *proved* themselves, which a block does when a call
  begins in it or when its managers stay registered for ``settle`` seconds. As long as a proven block lives,
  one more is tried after each pause (``retry_most`` seconds, then twice as long each time); a block that
  proves itself ends the matter.

Once asking has stopped and no block is left, the executor hears :meth:`BlockExecutor.no_more_blocks` with the
reasons; from then on nothing is asked for in this run.
"""

from __future__ import annotations

import itertools
import logging
import math
import shlex
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ._interfaces import (
    ArrayProvider,
    BlockLoad,
    Blocks,
    BlockView,
    DirectLauncher,
    Event,
    ExecutorDemand,
    InputError,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    Provider,
    Scalable,
    ScalingPolicy,
    ScalingState,
    TidyProvider,
    block_id,
    block_number,
    far_directory,
)
from .scaling import LoadScalingPolicy

__all__ = ["ExecutorBlocks", "Scaler", "ScalerLimits"]

_log = logging.getLogger("weft")

_NO_LOAD = BlockLoad()
_SUBMITTED = JobStatus(state=JobState.PENDING)
_NOT_SUBMITTED = JobStatus(state=JobState.PENDING, reason="not submitted yet")
_TAIL_LINES = 20
_MUTE = 5.0  # seconds after which a job without managers has more to tell than that the run was short
_MOST_OUTPUTS = 20  # blocks that failed, and whose output is kept when the files there are removed
_LONGEST_PAUSE = 3600.0
_MOVED = 2.0  # seconds by which an end must move to be worth an event: batch systems round


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerLimits:
    """How patient a scaler is. Times are in seconds.

    failures: blocks in a row that may end without having proved themselves.
    settle: how long managers must stay registered for their block to have proved itself.
    patience: how long a provider may refuse submissions while there is no block.
    retry_first, retry_most: what is waited after a refusal, at first and at most; it doubles each time.
    drain_grace: the least time between draining a block and cancelling its job.
    post_mortem: how long a diagnosed block's job may take to end, for its stderr.
    recancel: when a job whose cancellation was accepted is still there, how long until it is asked for again.
    spacing: the least time between two ticks; what happens in between is seen at once.
    """

    failures: int = 3
    settle: float = 60.0
    patience: float = 600.0
    retry_first: float = 1.0
    retry_most: float = 60.0
    drain_grace: float = 1.0
    post_mortem: float = 30.0
    recancel: float = 60.0
    spacing: float = 0.05

    def pause(self, tries: int) -> float:
        """What is waited after so many refusals in a row."""
        return min(self.retry_first * 2.0 ** min(tries - 1, 60), self.retry_most)


class ExecutorBlocks(NamedTuple):
    """One executor's blocks, for people who look on.

    demand: as of the last tick, None before the first.
    blocks: those that have not ended. jobs: their jobs' ids, once known.
    decision: the policy's last, in words. stopped: why no more blocks are asked for, empty if they are.
    ended: how many blocks have ended. now: what the clock of ``requested_at`` says.
    """

    label: str
    demand: ExecutorDemand | None
    blocks: Mapping[str, BlockView]
    jobs: Mapping[str, JobId]
    decision: str
    stopped: str
    ended: int
    now: float


class Scaler:
    """Gets block executors their blocks; one for each run, with one thread.

    executors: whose blocks these are; started. Those that share a provider object share its queries.
    emit: takes events, from any thread, without waiting or raising. ``source`` is the executor's label.
    run_id: names the run. tag: goes with all jobs and begins their ids, so it must be unique over all runs
    and users; the run id if None.
    directory: where the jobs' scripts and output go. On the far side of a channel they go to
    ``.weft/runs/<run id>``, below its home, as they do everywhere when this is empty. There they are removed
    in the end; what blocks wrote that failed is then given to ``keep``, by the names of its files, which
    writes it to ``directory`` unless said.
    first: the number of the first block: two scalers of one run must not give their blocks the same.
    adopt: jobs that an earlier scaler of this run has asked for, by block id; they are followed as if this
    one had. Raises :class:`ValueError` for an id that is no block's of these executors.
    policy, limits: what is asked for when. clock: seconds that never run backwards.

    :meth:`start` starts the thread; without it, call :meth:`tick`, from one thread at a time. Executors, the
    policy and ``emit`` are called with no lock held, so they may call :meth:`wake` and :meth:`view`.
    """

    def __init__(
        self,
        executors: Sequence[Scalable],
        *,
        emit: Callable[[Sequence[Event]], None],
        run_id: str,
        directory: str = "",
        first: int = 1,
        tag: str | None = None,
        policy: ScalingPolicy | None = None,
        limits: ScalerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[Mapping[str, bytes]], None] | None = None,
        adopt: Mapping[str, JobId] = MappingProxyType({}),
    ) -> None:
        self._emit = emit
        self._run_id = run_id
        self._tag = run_id if tag is None else tag
        self._directory = directory
        self._keep = keep or self._write_outputs
        self._policy = policy or LoadScalingPolicy()
        self._limits = limits or ScalerLimits()
        self._clock = clock
        self._numbers = itertools.count(first)
        self._sites, self._fleets = _sort_by_provider(executors, self._limits)
        self._frozen = ""
        self._lock = threading.Lock()  # guards who reports what; held for moments
        self._alarm = threading.Condition()
        self._woken = False
        self._closing = False
        self._tidy = True
        self._silent = False
        self._last_try = math.inf
        self._thread: threading.Thread | None = None
        for block, job in adopt.items():
            self._adopt(block, job)

    # -- what the kernel calls ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, which asks for the first blocks at once. Without executors it starts nothing."""
        if self._fleets and self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name=f"weft-scaler-{self._run_id}", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Demand has changed: decide anew, soon. Cheap, from any thread; many calls are one."""
        # Read without the lock: while it is true, the tick that is to come has not yet asked for the demand.
        if self._woken:
            return
        with self._alarm:
            self._woken = True
            self._alarm.notify_all()

    def freeze(self, reason: str = "the run is closing") -> None:
        """From now on ask for no block and give none back; jobs are still followed. It cannot be undone.

        To be called before the executors shut down: the blocks that their managers leave are not to be
        replaced. No executor hears any more that no block will come: its shutdown ends its calls.
        """
        self._frozen = reason
        self.wake()

    def let_go(self, executors: Sequence[object]) -> None:
        """The blocks of these live on without this process: from now on they are not looked at. After
        ``freeze``.
        """
        for site in self._sites:
            if any(fleet.executor in executors for fleet in site.fleets):
                site.directory = ""
            site.fleets = [fleet for fleet in site.fleets if fleet.executor not in executors]
        self._fleets = [fleet for fleet in self._fleets if fleet.executor not in executors]

    def close(self, timeout: float = 10.0, *, tidy: bool = True) -> list[str]:
        """Cancel every job that has not ended, tell the executors of each block's end, close the providers,
        remove the files on other hosts where no job is left, unless they are to stay (``tidy``).

        Returns within ``timeout`` seconds, even if a provider hangs in a call. What could not be done is in
        the returned list, in words. Nothing is emitted or reported after it returned; should a hanging call
        come back later, its thread still cancels that provider's jobs. Closing again does nothing; when a
        first close was interrupted, a second goes on.
        """
        deadline = time.monotonic() + timeout
        with self._alarm:
            if self._silent:
                return []
            # The last fifth of the time is for what was begun to come to its end.
            self._last_try = deadline - timeout / 5
            self._closing = True
            self._tidy = tidy
            self._alarm.notify_all()
        threads = self._start_finishers()
        if self._thread is not None:
            threads.append(self._thread)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        leftovers = [words for site in self._sites for words in site.leftovers(self._tag)]
        self._report_closed()
        self._silent = True
        return leftovers

    def view(self) -> list[ExecutorBlocks]:
        """Each executor's blocks, from memory: cheap, from any thread."""
        now = self._clock()
        return [fleet.summary(now) for fleet in self._fleets]

    def describe(self) -> list[str]:
        """The same in words, one text for each executor."""
        return [_in_words(blocks) for blocks in self.view()]

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        delay = 0.0
        while not self._closing:
            try:
                self.tick()
                delay = self.delay()
            except Exception:  # noqa: BLE001 - without this thread, calls would wait for ever
                _log.exception("a tick of the scaler failed, which is a bug in Weft")
                delay = self._limits.retry_most
            self._wait(delay)
        for site in self._sites:
            self._finish(site)

    def _wait(self, delay: float) -> None:
        spacing = self._limits.spacing
        with self._alarm:
            self._alarm.wait_for(lambda: self._closing, spacing)
            self._alarm.wait_for(lambda: self._closing or self._woken, max(0.0, delay - spacing))

    def tick(self) -> None:
        """Do what is due: query, decide, submit, drain, cancel. One thread at a time."""
        self._woken = False
        try:
            for site in self._sites:
                self._query(site)
            for fleet in self._fleets:
                self._step(fleet)
            for site in self._sites:
                self._cancel_due(site)
        except _ClosingError:
            return

    def delay(self) -> float:
        """Seconds until the next tick is due, unless it is woken: at most the shortest poll interval."""
        now, least = self._clock(), self._limits.spacing
        due = [now + max(site.poll_interval, least) for site in self._sites]
        due += [moment for fleet in self._fleets for moment in fleet.moments(now)]
        return max(min(due, default=now + _LONGEST_PAUSE) - now, least)

    # -- jobs of an earlier scaler --------------------------------------------------------------------------

    def _adopt(self, name: str, job: JobId) -> None:
        owners = (each for each in self._fleets if block_number(name, self._tag, each.label) is not None)
        fleet = next(owners, None)
        if fleet is None:
            labels = ", ".join(repr(each.label) for each in self._fleets) or "none"
            raise ValueError(
                f"adopt: {name!r} is no block of the tag {self._tag!r} and of one of the executors {labels}"
            )
        block = _Block(name, fleet, self._clock(), job=job, status=_SUBMITTED, begun_before=None)
        fleet.add(block)
        self._directory_for(fleet.site)  # its files are there
        self._tell("block.adopted", block)

    # -- following jobs -------------------------------------------------------------------------------------

    def _query(self, site: _Site) -> None:
        blocks = {block.job: block for block in site.blocks() if block.job is not None}
        if not blocks or self._clock() < site.query_at:
            return
        with self._calling(site, "a status query"):
            answer = _status_of(site.provider, list(blocks))
        now = self._clock()
        site.queried(now, all(status.state is JobState.UNKNOWN for status in answer.values()))
        for job, block in blocks.items():
            self._observe(block, answer[job], now)

    def _observe(self, block: _Block, status: JobStatus, now: float) -> None:
        before, block.status = block.status, status
        if block.begun_before is None and status.state is not JobState.UNKNOWN:
            block.begun_before = status.state not in (JobState.PENDING, JobState.HELD)
        if status.state.terminal:
            self._report(block, _last_status(block, status), now)
            self._forget(block, now)
            return
        if status.state is not before.state:
            waited = now - block.requested_at
            self._tell(f"block.{status.state.value}", block, waited=waited, **_facts(status))
        self._note_end(block, status)
        if status.stuck and not block.leaving:
            self._abandon(block, status, now)

    def _abandon(self, block: _Block, status: JobStatus, now: float) -> None:
        """The job would wait for ever, as would the next one."""
        reason = f"job {block.job} of block {block.id} was accepted, but can never run: {status.reason}"
        block.leave(reason, now)
        block.given_back, block.cancel_at = True, now
        self._tell("block.stuck", block, reason=status.reason)
        self._report(block, JobStatus(state=JobState.FAILED, reason=reason), now)
        if not block.fleet.final:
            self._stop(block.fleet, reason, final=True)

    def _note_end(self, block: _Block, status: JobStatus) -> None:
        """The batch system knows when the block ends, which may have been asked for otherwise, or moved."""
        ends_at, before = status.ends_at, block.ends_at
        if ends_at is None or status.state is not JobState.RUNNING or ends_at == before:
            return
        block.ends_at = ends_at
        fleet = block.fleet
        if before is not None and abs(ends_at - before) >= _MOVED:
            self._tell("block.end_moved", block, ends_at=ends_at, by=ends_at - before)
        self._guard(fleet, lambda: fleet.executor.block_ends(block.id, ends_at))

    def _report(self, block: _Block, status: JobStatus, now: float) -> None:
        """Tell of the block's end, unless that has been done."""
        fleet = block.fleet
        with self._lock:
            if block.reported:
                return
            block.reported = True
            fleet.ended += 1
        self._tell("block.ended", block, stderr_tail=status.stderr_tail, **_facts(status))
        self._guard(fleet, lambda: fleet.executor.block_ended(block.id, status))
        expected = self._closing or fleet.final or block.given_back or block.begun_before
        if not expected and not block.has_proved_itself(now, self._limits):
            self._count_failure(block, status, now)
        if not (self._closing or block.given_back) and status.state is not JobState.COMPLETED:
            fleet.site.failed.append(block.id)

    def _forget(self, block: _Block, now: float) -> None:
        block.fleet.remove(block)
        block.fleet.restart_patience(now)

    def _count_failure(self, block: _Block, status: JobStatus, now: float) -> None:
        fleet = block.fleet
        fleet.failures += 1
        fleet.endings.append((block.id, _ending(status)))
        if fleet.failures >= self._limits.failures:
            fleet.pause_trials(now)
            self._stop(fleet, _in_a_row(fleet.failures, fleet.endings))

    # -- one executor ---------------------------------------------------------------------------------------

    def _step(self, fleet: _Fleet) -> None:
        if self._frozen and not fleet.final:
            self._stop(fleet, fleet.stopped or self._frozen, final=True)
        if self._guard(fleet, lambda: self._look_and_act(fleet)):
            fleet.errors = 0
        elif fleet.errors >= self._limits.failures and not fleet.final:
            self._stop(fleet, f"scaling does not work: {fleet.error}", final=True)
        self._conclude(fleet)

    def _look_and_act(self, fleet: _Fleet) -> None:
        fleet.demand = demand = fleet.executor.demand()
        fleet.settings = fleet.executor.blocks
        now = self._clock()
        for block in fleet.live():
            self._look_at(block, demand.blocks.get(block.id, _NO_LOAD), now)
        if not self._frozen:
            self._decide(fleet, demand, now)
        self._submit_all(fleet)

    def _look_at(self, block: _Block, load: BlockLoad, now: float) -> None:
        before, block.load = block.load, load
        if load.managers and block.registered_at is None:
            block.registered_at = now
        if load.managers != before.managers:
            kind = "block.registered" if load.managers > before.managers else "block.managers_left"
            nodes, waited = block.fleet.settings.nodes, now - block.requested_at
            self._tell(kind, block, managers=load.managers, nodes=nodes, waited=waited)
        if not block.proved and load.managers and block.has_proved_itself(now, self._limits):
            self._prove(block)
        if block.leaving:
            self._see_off(block, now)
        elif block.absent_for(now) >= float(block.fleet.settings.register_timeout):
            self._diagnose(block, now)

    def _prove(self, block: _Block) -> None:
        block.proved = True
        fleet = block.fleet
        fleet.forgive(self._limits)
        if fleet.stopped and not fleet.final:
            fleet.stopped = ""
            self._note("scaling.resumed", fleet, reason=f"block {block.id} works")

    def _diagnose(self, block: _Block, now: float) -> None:
        """The job runs, its managers do not come: give it up, but let it end first, for its stderr."""
        block.leave(_diagnosis(block, now), now)
        block.diagnosed, block.cancel_at = True, now
        self._tell("block.unregistered", block, reason=block.leaving, hosts=list(block.status.hosts))
        block.fleet.executor.drain([block.id])

    def _see_off(self, block: _Block, now: float) -> None:
        gone_for = now - block.leaving_since
        if block.diagnosed:
            if gone_for >= max(self._limits.post_mortem, 2 * block.fleet.site.poll_interval):
                self._report(block, _last_status(block, block.status), now)
        elif block.cancel_at is None and not block.load.running and gone_for >= self._limits.drain_grace:
            block.cancel_at = now

    def _stop(self, fleet: _Fleet, reason: str, *, final: bool = False) -> None:
        """Ask for no more blocks. What was not accepted yet is not tried again."""
        fleet.stopped, fleet.final = reason, fleet.final or final
        self._note("scaling.stopped", fleet, reason=reason, final=final)
        for block in fleet.live():
            if block.job is None:
                self._drop(block, f"not submitted: {reason}")

    def _drop(self, block: _Block, reason: str) -> None:
        block.given_back = True
        now = self._clock()
        self._report(block, JobStatus(state=JobState.FAILED, reason=reason), now)
        self._forget(block, now)

    def _conclude(self, fleet: _Fleet) -> None:
        """Nothing is there and nothing will come: say so, once."""
        with self._lock:
            if not fleet.stopped or fleet.told or fleet.live() or self._frozen or self._closing:
                return
            fleet.told = fleet.final = True
        self._note("scaling.no_more_blocks", fleet, reason=fleet.stopped)
        self._guard(fleet, lambda: fleet.executor.no_more_blocks(fleet.stopped))

    # -- deciding -------------------------------------------------------------------------------------------

    def _decide(self, fleet: _Fleet, demand: ExecutorDemand, now: float) -> None:
        blocks = {block.id: block.view() for block in fleet.live()}
        state = ScalingState(fleet.label, fleet.settings_now(), demand, blocks, now)
        decision = self._policy.decide(state)
        fleet.begun, fleet.decision = True, decision.reason
        add = max(0, min(decision.add, fleet.room(now)))
        drain = [block for block in fleet.live() if block.id in decision.drain and not block.leaving]
        if add or drain:
            load = {
                "queued": demand.queued,
                "running": demand.running,
                "slots_per_block": demand.slots_per_block,
            }
            changes = {"add": add, "drain": [block.id for block in drain], "blocks": len(blocks)}
            self._note("scaling.decision", fleet, reason=decision.reason, **changes, **load)
        for _ in range(add):
            self._request(fleet, now)
        if drain:
            self._give_back(fleet, drain, decision.reason, now)

    def _request(self, fleet: _Fleet, now: float) -> None:
        fleet.add(_Block(block_id(self._tag, fleet.label, next(self._numbers)), fleet, now))

    def _give_back(self, fleet: _Fleet, blocks: Sequence[_Block], reason: str, now: float) -> None:
        for block in blocks:
            block.leave(_farewell(block, now), now)
            block.given_back = True
            self._tell("block.draining", block, reason=reason)
        submitted = [block.id for block in blocks if block.job is not None]
        if submitted:
            fleet.executor.drain(submitted)
        for block in blocks:
            if block.job is None:
                self._drop(block, block.leaving)

    # -- submitting -----------------------------------------------------------------------------------------

    def _may_submit(self, block: _Block) -> bool:
        waiting = block.job is None and not block.reported
        return waiting and not self._frozen and self._clock() >= block.fleet.submit_at

    def _submit_all(self, fleet: _Fleet) -> None:
        """What waits for it: by one, or as many at once as the batch system takes."""
        provider = fleet.site.provider
        size = max(1, provider.array_size) if isinstance(provider, ArrayProvider) else 1
        waiting = [block for block in fleet.live() if self._may_submit(block)]
        for start in range(0, len(waiting), size):
            # An earlier refusal may have put off, or ended, those that come after it.
            some = [block for block in waiting[start : start + size] if self._may_submit(block)]
            if some:
                self._submit(fleet, some)

    def _submit(self, fleet: _Fleet, blocks: Sequence[_Block]) -> None:
        what, was = f"block {blocks[0].id}", "was"
        if len(blocks) > 1:
            what, was = f"{len(blocks)} blocks, {blocks[0].id} to {blocks[-1].id},", "were"
        with self._calling(fleet.site, f"the submission of {what}"):
            refusal = self._try_to_submit(fleet, blocks)
        if refusal is None:
            fleet.accepted()
            for block in blocks:
                self._tell("block.requested", block, reason=fleet.decision, nodes=fleet.settings.nodes)
        elif isinstance(refusal, InputError):
            self._stop(fleet, f"{what} {was} refused for good: {refusal}", final=True)
        else:
            self._refused(fleet, blocks, _words(refusal))

    def _try_to_submit(self, fleet: _Fleet, blocks: Sequence[_Block]) -> Exception | None:
        provider = fleet.site.provider
        try:
            for block in blocks:
                # The same specification each time: should the last answer have been lost, the job is found.
                block.spec = block.spec or self._spec(block)
            specs = [block.spec for block in blocks if block.spec is not None]
            if len(specs) > 1 and isinstance(provider, ArrayProvider):
                jobs = dict(provider.submit_array(specs))
            else:
                jobs = {spec.id: provider.submit(spec) for spec in specs}
            for block in blocks:
                block.job = jobs[block.id]
        except Exception as error:  # noqa: BLE001 - a provider's bug must not end the thread
            for block in blocks:
                block.job = None
            return error
        for block in blocks:
            block.status = _SUBMITTED
        return None

    def _refused(self, fleet: _Fleet, blocks: Sequence[_Block], reason: str) -> None:
        now = self._clock()
        refused_for = fleet.refused(now, self._limits)
        for block in blocks:
            block.status = replace(_NOT_SUBMITTED, reason=f"submission refused: {reason}")
            self._tell("block.refused", block, reason=reason, retry_in=fleet.submit_at - now)
        if refused_for >= self._limits.patience and not any(other.job for other in fleet.live()):
            tried = f"{fleet.refusals} submissions in {refused_for:.0f} s were refused"
            self._stop(fleet, f"{tried}; the last one: {reason}", final=True)

    def _spec(self, block: _Block) -> JobSpec:
        settings = block.fleet.settings
        command = block.fleet.executor.command(block.id)
        launcher = settings.launcher or DirectLauncher()
        return JobSpec(
            id=block.id,
            name=f"weft-{block.fleet.label}-{block.id.rpartition('-')[2]}",
            command=launcher.wrap(command.argv, settings.shape),
            shape=settings.shape,
            directory=self._directory_for(block.fleet.site),
            tag=self._tag,
            environment={"WEFT_BLOCK_ID": block.id, "WEFT_RUN_ID": self._run_id},
            input=command.input,
        )

    def _directory_for(self, site: _Site) -> str:
        channel = site.provider.channel
        if self._directory and (channel is None or not channel.remote):
            return self._directory
        # Not the run's own: other providers may lead to the same host.
        site.directory = far_directory(self._run_id, site.fleets[0].label)
        return site.directory

    # -- cancelling and closing -----------------------------------------------------------------------------

    def _cancel_due(self, site: _Site) -> None:
        now = self._clock()
        due = [block for block in site.blocks() if block.job is not None and block.cancel_due(now)]
        if not due:
            return
        with self._calling(site, f"the cancellation of {len(due)} jobs"):
            trouble = _cancel(site.provider, due)
        site.cancel_refusals = site.cancel_refusals + 1 if trouble else 0
        wait = self._limits.pause(site.cancel_refusals) if trouble else self._limits.recancel
        for block in due:
            block.cancel_at = self._clock() + wait
            self._tell("block.cancelling", block, reason=block.leaving, refused=trouble)

    def _start_finishers(self) -> list[threading.Thread]:
        """One for each provider: one that hangs must not keep the jobs of another from being cancelled."""
        threads = []
        for number, site in enumerate(self._sites):
            name = f"weft-scaler-{self._run_id}-close-{number}"
            thread = threading.Thread(target=self._finish, args=(site,), name=name, daemon=True)
            try:
                thread.start()
                threads.append(thread)
            except RuntimeError:  # no threads any more: the interpreter is on its way out
                self._finish(site)
        return threads

    def _finish(self, site: _Site) -> None:
        """Cancel and close, once. While a call hangs, its thread has the lock, and does this afterwards."""
        if not site.lock.acquire(timeout=max(0.0, self._last_try - time.monotonic())):
            return
        try:
            if not site.finished:
                site.finished = True
                self._cancel_all(site)
                site.close()
                self._remove_files(site)
        finally:
            site.doing = ""
            site.lock.release()

    def _cancel_all(self, site: _Site) -> None:
        blocks = [block for block in site.blocks() if block.job is not None]
        pause = 0.1
        while blocks:
            site.busy_with(f"the cancellation of {len(blocks)} jobs")
            site.trouble = _cancel(site.provider, blocks)
            if not site.trouble or time.monotonic() + pause > self._last_try:
                return
            time.sleep(pause)
            pause *= 2

    def _remove_files(self, site: _Site) -> None:
        """What is at another host, unless a job may still need it; the output of failed blocks is kept."""
        left = site.trouble or site.close_trouble or not self._tidy
        if not site.directory or left or not isinstance(site.provider, TidyProvider):
            return
        site.busy_with(f"the removal of {site.directory!r}")
        now = self._clock()
        waited = [block for block in site.blocks() if block.absent_for(now) >= _MUTE]
        mute = [block.id for block in waited if block.registered_at is None]
        wanted = [*reversed(site.failed), *mute][:_MOST_OUTPUTS]
        try:
            outputs = site.provider.remove_files(site.directory, wanted)
            if outputs:
                self._keep(outputs)
        except Exception as error:  # noqa: BLE001 - what is left is told, not raised
            site.file_trouble = _words(error)

    def _write_outputs(self, outputs: Mapping[str, bytes]) -> None:
        directory = Path(self._directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in outputs.items():
            (directory / name).touch(0o600)
            (directory / name).write_bytes(data)

    def _report_closed(self) -> None:
        now = self._clock()
        for fleet in self._fleets:
            for block in fleet.live():
                self._report(block, _closed_status(block), now)

    # -- small things ---------------------------------------------------------------------------------------

    @contextmanager
    def _calling(self, site: _Site, what: str) -> Iterator[None]:
        """For a call to the provider.

        Only closing holds its lock as well: then nothing more is to be asked.
        """
        if self._closing or not site.lock.acquire(blocking=False):
            raise _ClosingError
        try:
            if site.finished:
                raise _ClosingError
            site.busy_with(what)
            yield
        finally:
            site.doing = ""
            site.lock.release()

    def _guard(self, fleet: _Fleet, act: Callable[[], None]) -> bool:
        """Whether it worked.

        What executors and policies raise becomes an event; it must not end the thread.
        """
        try:
            act()
        except _ClosingError:
            raise
        except Exception as error:  # noqa: BLE001 - as the docstring says
            fleet.errors += 1
            if _words(error) != fleet.error:
                fleet.error = _words(error)
                _log.exception("scaling of executor %r failed", fleet.label)
                self._note("scaling.error", fleet, reason=fleet.error)
            return False
        return True

    def _tell(self, kind: str, block: _Block, **data: Any) -> None:
        self._note(kind, block.fleet, block=block.id, job=block.job, **data)

    def _note(self, kind: str, fleet: _Fleet, **data: Any) -> None:
        if not self._silent:
            self._emit([Event(time.time(), kind, fleet.label, data)])


# -- what is remembered -------------------------------------------------------------------------------------


class _ClosingError(Exception):
    """The scaler is closing: the tick ends here."""


@dataclass(slots=True, eq=False)
class _Block:
    """A block that was asked for and whose job is not known to have ended.

    leaving: why it is to end. cancel_at: when its job's cancellation is due; cancelled: the provider accepted
    it.
    reported: its end has been told, although its job may still be there.
    begun_before: its job had left the queue before this scaler saw it, so that what it was of use for is not
    known; None while that is open.
    """

    id: str
    fleet: _Fleet
    requested_at: float
    spec: JobSpec | None = None
    job: JobId | None = None
    status: JobStatus = _NOT_SUBMITTED
    load: BlockLoad = _NO_LOAD
    ends_at: float | None = None
    registered_at: float | None = None
    absent_since: float | None = None
    proved: bool = False
    leaving: str = ""
    leaving_since: float = 0.0
    diagnosed: bool = False
    given_back: bool = False
    cancel_at: float | None = None
    cancelled: bool = False
    reported: bool = False
    begun_before: bool | None = False

    def has_proved_itself(self, now: float, limits: ScalerLimits) -> bool:
        if self.proved or self.load.running > 0:
            return True
        return self.registered_at is not None and now - self.registered_at >= limits.settle

    def absent_for(self, now: float) -> float:
        """How long its job has been seen to run without any manager."""
        if self.status.state is JobState.UNKNOWN:
            return 0.0
        if self.status.state is not JobState.RUNNING or self.load.managers:
            self.absent_since = None
            return 0.0
        if self.absent_since is None:
            self.absent_since = now
        return now - self.absent_since

    def leave(self, reason: str, now: float) -> None:
        self.leaving, self.leaving_since = reason, now

    def cancel_due(self, now: float) -> bool:
        return self.cancel_at is not None and self.cancel_at <= now

    def view(self) -> BlockView:
        managers, running, idle_for = self.load
        return BlockView(self.status, self.requested_at, managers, running, idle_for, bool(self.leaving))


class _Fleet:
    """One executor's blocks, and how asking for them goes."""

    def __init__(self, executor: Scalable, site: _Site, limits: ScalerLimits) -> None:
        self.executor = executor
        self.label = executor.label
        self.settings = executor.blocks
        self.site = site
        # Replaced, never changed: the ticking thread writes it, others read it without a lock.
        self.blocks: Mapping[str, _Block] = {}
        self.demand: ExecutorDemand | None = None
        self.begun = False
        self.decision = ""
        self.ended = 0
        self.stopped = ""
        self.final = self.told = False
        self.errors = 0
        self.error = ""
        self.endings: deque[tuple[str, str]] = deque(maxlen=limits.failures)
        self.submit_at = -math.inf
        self.refusals = 0
        self.refused_since: float | None = None
        self.forgive(limits)

    def add(self, block: _Block) -> None:
        self.blocks = {**self.blocks, block.id: block}

    def remove(self, block: _Block) -> None:
        self.blocks = {block_id: other for block_id, other in self.blocks.items() if other is not block}

    def live(self) -> list[_Block]:
        """The blocks whose end has not been told."""
        return [block for block in self.blocks.values() if not block.reported]

    def settings_now(self) -> Blocks:
        """The settings; for the first decision, the blocks at the start are the least that is allowed."""
        return self.settings if self.begun else replace(self.settings, min=self.settings.init)

    def room(self, now: float) -> int:
        """How many blocks may be asked for: all their jobs together are never more than ``max``."""
        jobs = sum(1 for block in self.blocks.values() if not (block.reported and block.cancelled))
        room = self.settings.max - jobs
        if self.stopped:
            return min(room, 1) if self._may_try(now) else 0
        return room

    def _may_try(self, now: float) -> bool:
        """After failures: beside blocks that work, and one at a time."""
        live = self.live()
        works = bool(live) and all(block.proved for block in live)
        return works and not self.final and now >= self.try_again_at

    def forgive(self, limits: ScalerLimits) -> None:
        self.failures = 0
        self.endings.clear()
        self.try_again_at = -math.inf
        self.next_pause = limits.retry_most

    def pause_trials(self, now: float) -> None:
        self.try_again_at = now + self.next_pause
        self.next_pause = min(2 * self.next_pause, _LONGEST_PAUSE)

    def accepted(self) -> None:
        self.refusals, self.refused_since, self.submit_at = 0, None, -math.inf

    def refused(self, now: float, limits: ScalerLimits) -> float:
        """For how many seconds there have been nothing but refusals."""
        self.refusals += 1
        self.submit_at = now + limits.pause(self.refusals)
        if self.refused_since is None:
            self.refused_since = now
        return now - self.refused_since

    def restart_patience(self, now: float) -> None:
        """A block was there until now."""
        if self.refused_since is not None:
            self.refused_since = now

    def moments(self, now: float) -> Iterator[float]:
        """When something is due, apart from queries."""
        for block in self.blocks.values():
            if block.job is None:
                yield self.submit_at
            elif block.cancel_at is not None:
                yield block.cancel_at
            elif block.leaving:
                yield now + 1.0
            else:
                yield now + self._until_change(block, now)

    def _until_change(self, block: _Block, now: float) -> float:
        """Until it is diagnosed or idle for too long.

        When that is past, only a query or a call changes things.
        """
        if block.absent_since is not None:
            left = block.absent_since + float(self.settings.register_timeout) - now
        elif block.load.managers and not block.load.running:
            left = float(self.settings.idle_timeout) - block.load.idle_for
        else:
            return math.inf
        return left if left > 0 else math.inf

    def summary(self, now: float) -> ExecutorBlocks:
        live = self.live()
        blocks = {block.id: block.view() for block in live}
        jobs = {block.id: block.job for block in live if block.job is not None}
        return ExecutorBlocks(
            self.label, self.demand, blocks, jobs, self.decision, self.stopped, self.ended, now
        )


class _Site:
    """A provider, when it may be asked again, and what it is doing. ``lock`` is held during each call.

    directory: of its jobs on another host, once there may be one. failed: the last blocks that ended unasked.
    """

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.fleets: list[_Fleet] = []
        self.lock = threading.Lock()
        self.query_at = -math.inf
        self.misses = 0
        self.cancel_refusals = 0
        self.doing = ""
        self.doing_since = 0.0
        self.finished = False
        self.directory = ""
        self.failed: deque[str] = deque(maxlen=_MOST_OUTPUTS)
        self.trouble = ""
        self.file_trouble = ""
        self.close_trouble = ""

    @property
    def poll_interval(self) -> float:
        return float(self.provider.poll_interval)

    def blocks(self) -> list[_Block]:
        return [block for fleet in self.fleets for block in fleet.blocks.values()]

    def queried(self, now: float, missed: bool) -> None:
        """A batch system that does not answer is asked less often, up to an eighth."""
        self.misses = self.misses + 1 if missed else 0
        self.query_at = now + self.poll_interval * 2.0 ** min(self.misses, 3)

    def busy_with(self, what: str) -> None:
        self.doing, self.doing_since = what, time.monotonic()

    def close(self) -> None:
        self.busy_with("close()")
        try:
            self.provider.close()
        except Exception as error:  # noqa: BLE001 - what is left is told, not raised
            self.close_trouble = _words(error)

    def leftovers(self, tag: str) -> list[str]:
        """What could not be done, in words."""
        who = f"provider {type(self.provider).__name__}"
        doing, since = self.doing, self.doing_since
        left = []
        if doing:
            waited = time.monotonic() - since
            left.append(f"{who} has not answered {doing} for {waited:.1f} s; its jobs have the tag {tag!r}")
        if self.file_trouble:
            left.append(f"{who} could not remove its jobs' files: {self.file_trouble}")
        if self.close_trouble:
            left.append(f"{who} could not be closed: {self.close_trouble}")
        why = f": {self.trouble}" if self.trouble else ""
        jobs = [block for block in self.blocks() if block.job is not None and not block.cancelled]
        left += [
            f"{who} did not cancel job {block.job} (block {block.id}), it may still run{why}"
            for block in jobs
        ]
        return left


def _sort_by_provider(
    executors: Sequence[Scalable], limits: ScalerLimits
) -> tuple[list[_Site], list[_Fleet]]:
    sites: dict[int, _Site] = {}
    fleets = []
    for executor in executors:
        provider = executor.blocks.provider
        site = sites.setdefault(id(provider), _Site(provider))
        fleets.append(_Fleet(executor, site, limits))
        site.fleets.append(fleets[-1])
    return list(sites.values()), fleets


def _status_of(provider: Provider, jobs: list[JobId]) -> Mapping[JobId, JobStatus]:
    """What is known of each of these jobs, whatever the provider does."""
    try:
        answer = provider.status(jobs)
    except Exception as error:  # noqa: BLE001 - a query that fails says nothing about the jobs
        return dict.fromkeys(jobs, JobStatus(state=JobState.UNKNOWN, reason=f"no answer: {_words(error)}"))
    unnamed = JobStatus(state=JobState.UNKNOWN, reason="the provider's answer does not name the job")
    return {job: answer.get(job, unnamed) for job in jobs}


def _cancel(provider: Provider, blocks: Sequence[_Block]) -> str:
    """Empty, or why they could not be cancelled."""
    try:
        provider.cancel([block.job for block in blocks if block.job is not None])
    except Exception as error:  # noqa: BLE001 - it is tried again, and told if that does not help
        return _words(error)
    for block in blocks:
        block.cancelled = True
    return ""


# -- in words -----------------------------------------------------------------------------------------------


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _facts(status: JobStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "reason": status.reason,
        "exit_code": status.exit_code,
        "hosts": list(status.hosts),
        "ends_at": status.ends_at,
    }


def _ending(status: JobStatus) -> str:
    code = "" if status.exit_code is None else f", exit code {status.exit_code}"
    reason = f": {status.reason}" if status.reason else ""
    tail = "\n".join(status.stderr_tail.strip().splitlines()[-_TAIL_LINES:])
    return f"{status.state.value}{code}{reason}" + (f"\nthe end of its stderr:\n{tail}" if tail else "")


def _in_a_row(count: int, endings: Iterable[tuple[str, str]]) -> str:
    """Why nothing more is asked for; what several blocks have left is said once."""
    blocks: dict[str, list[str]] = {}
    for block, words in endings:
        blocks.setdefault(words, []).append(block)
    headline = f"{count} blocks in a row ended before they were of use; the last of them:"
    return "\n".join([headline, *(f"block {' and '.join(ids)}: {words}" for words, ids in blocks.items())])


def _diagnosis(block: _Block, now: float) -> str:
    settings = block.fleet.settings
    absent = now - (now if block.absent_since is None else block.absent_since)
    hosts = f" on {', '.join(block.status.hosts)}" if block.status.hosts else ""
    managers = "its manager" if settings.nodes == 1 else f"any of its {settings.nodes} managers"
    what = "registered" if block.registered_at is None else "was left of those that had registered"
    if block.spec is None:
        start = "what was submitted for this run before reaches it"
    else:
        start = f"`{_short(shlex.join(block.spec.command))}` starts there, and reaches this run,"
    return (
        f"job {block.job} runs{hosts}, but for {absent:.0f} s not {managers} {what}; expected: "
        f"{start} within {float(settings.register_timeout):g} s"
    )


def _farewell(block: _Block, now: float) -> str:
    if block.registered_at is None:
        return f"given up after {now - block.requested_at:.0f} s, in which it did not come up"
    return f"given back after {block.load.idle_for:.0f} s without a call"


def _short(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _last_status(block: _Block, status: JobStatus) -> JobStatus:
    """What the executor hears: the batch system's words, with ours if the block was made to end."""
    if not block.leaving:
        return status
    reason = f"{block.leaving} (the batch system says: {status.reason})" if status.reason else block.leaving
    return replace(status, state=JobState.FAILED if block.diagnosed else status.state, reason=reason)


def _closed_status(block: _Block) -> JobStatus:
    if block.cancelled or block.job is None:
        return replace(block.status, state=JobState.CANCELLED, reason="cancelled: the run is closed")
    reason = f"the run is closed, and its job {block.job} could not be cancelled"
    return replace(block.status, state=JobState.GONE, reason=reason)


def _in_words(blocks: ExecutorBlocks) -> str:
    states = Counter(_state(view) for view in blocks.blocks.values())
    count = ", ".join(f"{number} {state}" for state, number in states.items()) or "none"
    parts = [f"blocks: {count}" + (f", {blocks.ended} ended" if blocks.ended else "")]
    if blocks.demand is not None:
        parts.append(f"{blocks.demand.queued} slots wanted by waiting calls, {blocks.demand.running} taken")
    if blocks.stopped:
        parts.append(f"no more blocks are asked for: {blocks.stopped}")
    elif blocks.decision:
        parts.append(f"last decision: {blocks.decision}")
    return f"{blocks.label}: {'; '.join(parts)}"


def _state(view: BlockView) -> str:
    if view.draining:
        return "draining"
    if view.status.state is JobState.RUNNING and not view.managers:
        return "running without a manager"
    state = view.status.state.value
    return f"{state} ({view.status.reason})" if view.status.reason else state
