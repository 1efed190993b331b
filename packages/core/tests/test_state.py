"""The table of transitions is the life of a task, and nothing else is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import weft_core.state
from weft_core import Kernel, TaskSpec, TaskState
from weft_core.state import FINAL, TRANSITIONS, check
from weft_core.task import Task
from weft_interfaces.memory import ManualExecutor

README = Path(__file__).parents[1] / "README.md"
STATES = list(TaskState)


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(STATES)
    assert {state for state in STATES if state >= TaskState.DONE} == FINAL
    for state in STATES:
        assert (TaskState.CANCELLED in TRANSITIONS[state]) == (state not in FINAL), "cancelled from anywhere"
        assert state not in TRANSITIONS[state]
        assert all(TRANSITIONS[state].values()), "each has its reason"


def test_every_state_is_reached_and_every_life_ends() -> None:
    reached = {TaskState.PENDING}
    while new := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= new
    assert reached == set(STATES)
    ends = set(FINAL)
    while new := {state for state in STATES if set(TRANSITIONS[state]) & ends} - ends:
        ends |= new
    assert ends == set(STATES)


@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
def test_only_the_table_counts(old: TaskState, new: TaskState, tmp_path: Path) -> None:
    allowed = new in TRANSITIONS[old]
    assert check(old, new) is allowed
    kernel = Kernel([ManualExecutor()], directory=tmp_path)
    task = Task(kernel, 7, TaskSpec(function=print), (), {})
    task.state = old
    if allowed:
        task.move(new)
        assert task.state is new
    else:
        with pytest.raises(AssertionError, match=f"task 7: no transition from {old.name} to {new.name}"):
            task.move(new)


@pytest.mark.parametrize(
    "text", [README.read_text("utf-8"), weft_core.state.__doc__ or ""], ids=["README", "state"]
)
def test_the_pictures_show_every_state(text: str) -> None:
    assert {state.name for state in STATES} <= set(re.findall(r"[A-Z_]{4,}", text))
