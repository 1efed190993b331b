"""Keeps the first blocks of an executor that no kernel scales."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from .block import BlockExecutor
from .errors import ProviderError, WeftError
from .launcher import DirectLauncher
from .provider import JobId, JobSpec, JobState, JobStatus

__all__ = ["BlockKeeper"]

_END = 10.0  # seconds that jobs may take to end when they were cancelled


class BlockKeeper:
    """Asks for ``init`` blocks (one at least), tells the executor of those that end, and gives them back.

    It asks for no others, unlike the kernel's scaler: once the last one has ended, the executor hears that no
    more will come, and why. Jobs write to ``directory``.
    """

    def __init__(self, executor: BlockExecutor, directory: Path) -> None:
        self._executor = executor
        self._directory = directory
        self._provider = executor.blocks.provider
        self._jobs: dict[JobId, str] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"{executor.label}-blocks", daemon=True)

    def start(self) -> None:
        """Submit the jobs. Raises what the provider raises for the first one; then nothing was left."""
        tag = f"weft-{uuid.uuid4().hex[:12]}"
        settings = self._executor.blocks
        launcher = settings.launcher or DirectLauncher()
        try:
            for number in range(max(1, settings.init)):
                block = f"{tag}-{number}"
                command = self._executor.command(block)
                spec = JobSpec(
                    id=block,
                    name=f"weft-{self._executor.label}-{number}",
                    command=launcher.wrap(command.argv, settings.shape),
                    shape=settings.shape,
                    directory=str(self._directory),
                    tag=tag,
                    environment={"WEFT_BLOCK_ID": block},
                    input=command.input,
                )
                self._jobs[self._provider.submit(spec)] = block
        except WeftError:
            self._give_back()
            raise
        self._thread.start()

    def close(self) -> list[str]:
        """Give back what is left, when the executor has been shut down. Returns the jobs that do not end."""
        self._closing.set()
        self._thread.join()
        return self._give_back()

    def _watch(self) -> None:
        while self._jobs and not self._closing.wait(self._provider.poll_interval):
            for job, status in self._ended().items():
                self._executor.block_ended(self._jobs.pop(job), status)
                if not self._jobs:
                    self._executor.no_more_blocks(_words(status))

    def _ended(self) -> Mapping[JobId, JobStatus]:
        statuses = self._provider.status(list(self._jobs))
        for job, status in statuses.items():
            if status.ends_at is not None and not status.state.terminal:
                self._executor.block_ends(self._jobs[job], status.ends_at)
        return {job: status for job, status in statuses.items() if status.state.terminal}

    def _give_back(self) -> list[str]:
        deadline = time.monotonic() + _END
        try:
            self._provider.cancel(list(self._jobs))
            while self._jobs and time.monotonic() < deadline:
                for job in self._ended():
                    del self._jobs[job]
                if self._jobs:
                    threading.Event().wait(min(0.1, self._provider.poll_interval))
        except ProviderError as error:
            return [f"job {job} could not be cancelled: {error}" for job in self._jobs]
        finally:
            self._provider.close()
        return [f"job {job} does not end" for job in self._jobs]


def _words(status: JobStatus) -> str:
    """Why a block ended."""
    reason = status.reason or (
        "its job is over" if status.state is JobState.COMPLETED else status.state.value
    )
    tail = status.stderr_tail.strip()
    return f"{reason}\nthe end of its stderr:\n{tail}" if tail else reason
