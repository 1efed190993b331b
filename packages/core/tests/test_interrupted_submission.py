"""Ctrl-C may strike while a task is being submitted: nobody has its future, so nothing may wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from weft_core import Kernel, TaskSpec
from weft_interfaces import Call
from weft_interfaces.memory import ManualExecutor

SPEC = TaskSpec(function=abs)


class Interrupted(ManualExecutor):
    """Is interrupted while it takes calls, before or after it has them."""

    def __init__(self, *, takes_them: bool) -> None:
        super().__init__()
        self.takes_them = takes_them
        self.strikes = True

    def submit(self, calls: Sequence[Call]) -> None:
        if self.takes_them or not self.strikes:
            super().submit(calls)
        if self.strikes:
            raise KeyboardInterrupt


@pytest.mark.parametrize("takes_them", [False, True])
def test_an_interrupted_submission_leaves_nothing_to_wait_for(tmp_path: Path, takes_them: bool) -> None:
    executor = Interrupted(takes_them=takes_them)
    kernel = Kernel([executor], directory=tmp_path)
    kernel.start()
    with pytest.raises(KeyboardInterrupt):
        kernel.submit(SPEC, (1,))
    assert kernel.wait_idle(0)
    assert not executor.held
    assert kernel.counts()._asdict() | {"cancelled": 0} == dict.fromkeys(kernel.counts()._fields, 0)
    executor.strikes = False
    future = kernel.submit(SPEC, (-2,))
    executor.run_all()
    assert future.result(5) == 2
    assert kernel.close() == []


def test_an_interrupted_launch_of_a_dependent_task_is_withdrawn(tmp_path: Path) -> None:
    executor = Interrupted(takes_them=False)
    executor.strikes = False
    kernel = Kernel([executor], directory=tmp_path)
    kernel.start()
    first = kernel.submit(SPEC, (-1,))
    executor.run_all()
    assert first.result(5) == 1
    executor.strikes = True
    with pytest.raises(KeyboardInterrupt):
        kernel.submit(SPEC, (first,))
    assert kernel.wait_idle(0)
    assert kernel.close() == []
