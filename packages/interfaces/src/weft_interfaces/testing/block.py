"""What every executor must show whose workers arrive in blocks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import CancelledError

from ..block import BlockExecutor, Blocks
from ..call import Call
from ..errors import BlockLostError
from ..executor import Executor
from ..provider import JobState, JobStatus
from ..resources import Resources
from . import calls
from .check import aside, eventually
from .executor import ExecutorSuite

__all__ = ["BlockExecutorSuite"]


class BlockExecutorSuite(ExecutorSuite):
    """All of :class:`ExecutorSuite`, with a block up, and what blocks add to it.

    ``make_executor`` returns a :class:`BlockExecutor`. ``start_block`` runs the executor's command on this
    machine; override it, with ``stop_block``, where that is not how a manager starts.
    """

    def make_executor(self) -> BlockExecutor:
        """A new executor, not started."""
        raise NotImplementedError(f"{type(self).__name__}.make_executor: write it, to return what is tested")

    def start_block(self, executor: BlockExecutor, block_id: str) -> None:
        """Have one manager come up in this block."""
        argv, data = executor.command(block_id)
        process = subprocess.Popen(list(argv), stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()
        self._processes()[block_id] = process

    def stop_block(self, executor: BlockExecutor, block_id: str) -> None:
        """End what ``start_block`` started, as a batch system does."""
        process = self._processes().pop(block_id)
        process.kill()
        process.wait(self.timeout)

    def _processes(self) -> dict[str, subprocess.Popen[bytes]]:
        """The managers that run, by their blocks."""
        running: dict[str, subprocess.Popen[bytes]] = self.__dict__.setdefault("_running", {})
        return running

    def conclude(self) -> None:
        processes = self._processes()
        late = []
        while processes:
            block_id, process = processes.popitem()
            try:
                process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(self.timeout)
                late.append(block_id)
        assert not late, f"managers end when their executor is shut down, but not those of {late}"

    def prepare(self, executor: Executor) -> None:
        assert isinstance(executor, BlockExecutor), (
            f"it lacks methods of the BlockExecutor contract: {executor!r}"
        )
        self.start_block(executor, "block-0")

    def end(self, executor: BlockExecutor, block_id: str, reason: str) -> None:
        """The block's job ends, and the executor is told."""
        self.stop_block(executor, block_id)
        executor.block_ended(block_id, JobStatus(state=JobState.FAILED, reason=reason, exit_code=1))

    # -- blocks come ----------------------------------------------------------------------------------------

    def test_it_says_which_blocks_it_wants(self) -> None:
        executor = self.make_executor()
        assert isinstance(executor.blocks, Blocks), f"blocks: its Blocks settings, not {executor.blocks!r}"

    def test_calls_wait_for_a_block(self) -> None:
        with self.started(prepared=False) as (running, context):
            executor = as_block_executor(running)
            executor.submit([Call(i, calls.echo, (i,)) for i in range(5)])
            demand = executor.demand()
            assert demand.queued == 5, f"demand: five calls of one slot wait, but queued is {demand.queued}"
            assert demand.running == 0, (
                f"demand: no call has begun without a block, but running is {demand.running}"
            )
            assert not demand.blocks, f"demand: no block has registered, but blocks is {demand.blocks}"
            assert not context.outcomes, (
                f"calls wait for a block, but these have an outcome: {context.outcomes}"
            )
            self.start_block(executor, "block-1")
            self.await_outcomes(context, range(5))
            seen = eventually(lambda: "block-1" in executor.demand().blocks, self.timeout)
            assert seen, (
                f"demand: a block whose manager registered is in it, but there is {executor.demand()}"
            )
            settled = eventually(lambda: executor.demand()[:2] == (0, 0), self.timeout)
            assert settled, f"demand: all calls have had their outcome, but it is {executor.demand()}"

    def test_its_command_may_be_asked_for_twice(self) -> None:
        with self.started() as (running, context):
            executor = as_block_executor(running)
            first, second = executor.command("block-9"), executor.command("block-9")
            assert all(isinstance(word, str) for word in first.argv), (
                f"command: words were promised, not {first.argv}"
            )
            assert list(first.argv) == list(second.argv), "command: asked for twice, it is the same command"
            secrets = [word for word in first.argv if first.input and first.input.decode("latin-1") in word]
            assert not secrets, "command: what is for the standard input (keys) never stands in the arguments"
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])

    def test_slots_per_block_are_at_least_one(self) -> None:
        with self.started(prepared=False) as (running, _):
            demand = as_block_executor(running).demand()
        assert demand.slots_per_block >= 1, (
            f"demand: a block has at least one slot, not {demand.slots_per_block}"
        )

    def test_resources_of_the_block_shape_are_not_refused(self) -> None:
        executor = self.make_executor()
        shape = executor.blocks.shape
        words = executor.refusal(Resources(nodes=shape.nodes, gpus=shape.gpus or 0))
        assert words is None, f"what a block has is not refused, but it says: {words}"

    # -- blocks go ------------------------------------------------------------------------------------------

    def test_a_block_that_ends_loses_its_begun_calls_with_a_certificate(self) -> None:
        with calls.Gate() as gate, self.started(prepared=False) as (running, context):
            executor = as_block_executor(running)
            executor.submit([Call(1, calls.pass_gate, (gate.address,))])
            aside(self.start_block, executor, "block-1")
            gate.wait_begun(self.timeout)
            self.end(executor, "block-1", "NODE_FAIL")
            error = self.await_outcomes(context, [1])[1].error
            gate.open()
            assert isinstance(error, BlockLostError), (
                f"a begun call of a block that ended is lost with it, not {error!r}"
            )
            certificate = error.certificate
            assert certificate is not None, f"a BlockLostError carries a death certificate: {error}"
            assert "NODE_FAIL" in certificate.reason, (
                f"the certificate has the batch system's reason: {certificate!r}"
            )
            assert certificate.block_id == "block-1", (
                f"the certificate names the block, block-1: {certificate!r}"
            )

    def test_waiting_calls_outlive_a_block(self) -> None:
        with calls.Gate() as gate, self.started(prepared=False) as (running, context):
            executor = as_block_executor(running)
            executor.submit([Call(i, calls.pass_gate, (gate.address, i)) for i in range(200)])
            aside(self.start_block, executor, "block-1")
            gate.wait_begun(self.timeout)
            self.end(executor, "block-1", "PREEMPTED")
            gate.open()
            aside(self.start_block, executor, "block-2")
            outcomes = self.await_outcomes(context, range(200))
        wrong = [
            o for o in outcomes.values() if o.error is not None and not isinstance(o.error, BlockLostError)
        ]
        assert not wrong, f"calls of an ended block are lost or go elsewhere, but one got {wrong[0].error!r}"
        survivors = [outcome for outcome in outcomes.values() if outcome.error is None]
        assert survivors, "calls that had not begun go elsewhere when a block ends, but all were lost"

    def test_a_draining_block_gets_no_new_calls(self) -> None:
        with self.started() as (running, context):
            executor = as_block_executor(running)
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])
            executor.drain(["block-0", "a block that never was"])
            executor.submit([Call(2, calls.echo, ("two",))])
            early = not context.wait([2], min(self.timeout, 0.2))
            assert not early, "a draining block gets no new calls, and there is no other, but a call was run"
            self.start_block(executor, "block-1")
            outcome = self.await_outcomes(context, [2])[2]
            assert outcome.error is None, (
                f"a call that a draining block did not take goes elsewhere, not {outcome}"
            )

    def test_calls_never_wait_for_blocks_that_never_come(self) -> None:
        with self.started(prepared=False) as (running, context):
            executor = as_block_executor(running)
            executor.submit([Call(1, calls.echo), Call(2, calls.echo)])
            executor.block_ended("block-1", JobStatus(state=JobState.FAILED, reason="InvalidAccount"))
            executor.no_more_blocks("InvalidAccount: no such account")
            self.check_reason(context.wait([1, 2], self.timeout), [context.outcomes.get(i) for i in (1, 2)])
            executor.submit([Call(3, calls.echo)])
            self.check_reason(context.wait([3], self.timeout), [context.outcomes.get(3)])
            self.start_block(executor, "block-2")
            executor.submit([Call(4, calls.echo)])
            outcome = self.await_outcomes(context, [4])[4]
            assert outcome.error is None, (
                f"a block that came after all is used, but a call got {outcome.error!r}"
            )

    def check_reason(self, missing: Iterable[int], outcomes: Iterable[object]) -> None:
        """All failed, with the reason in words."""
        assert not list(missing), "no block is there and none will come, but calls wait for ever"
        for outcome in outcomes:
            error = getattr(outcome, "error", None)
            assert error is not None, f"a call without a block cannot succeed, but this came: {outcome}"
            assert not isinstance(error, CancelledError), (
                "a call that finds no block was not cancelled: it failed"
            )
            assert "InvalidAccount" in str(error), (
                f"the error says why no block came, InvalidAccount, but is {error!r}"
            )

    def test_the_end_of_an_unknown_block_does_no_harm(self) -> None:
        with self.started() as (running, context):
            executor = as_block_executor(running)
            executor.block_ends("a block that never was", 4e9)
            executor.block_ended("a block that never was", JobStatus(state=JobState.GONE))
            executor.submit([Call(1, calls.echo)])
            outcome = self.await_outcomes(context, [1])[1]
            assert outcome.error is None, (
                f"the end of another block costs no call, but one got {outcome.error!r}"
            )


def as_block_executor(executor: Executor) -> BlockExecutor:
    """The executor, which must have the methods of one with blocks."""
    assert isinstance(executor, BlockExecutor), (
        f"it lacks methods of the BlockExecutor contract: {executor!r}"
    )
    return executor
