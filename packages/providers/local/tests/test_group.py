"""What the kernel says of processes, in moments in which it says little."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from weft_provider_local import group

pytestmark = pytest.mark.skipif(not group.SEARCHABLE, reason="there is no /proc")


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Whoever starts a process is on the processor that the new one needs to load its program."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_processor")
def test_a_process_that_has_just_been_started_has_its_variables() -> None:
    """Without care, one of ten has none."""
    for number in range(200):
        variables = {"NUMBER": str(number)}
        with subprocess.Popen(["sleep", "600"], start_new_session=True, env=variables) as process:
            try:
                assert group.environment(process.pid) == variables
            finally:
                process.kill()


def test_a_process_without_variables_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_LOADING", 600.0)
    command = [sys.executable, "-c", "print('loaded', flush=True); input()"]
    with subprocess.Popen(command, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"loaded\n"
            assert group.environment(process.pid) == {}
        finally:
            process.kill()
