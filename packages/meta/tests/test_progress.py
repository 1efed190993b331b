from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import weft
from weft import _progress, _settings
from weft._progress import summary
from weft_core import Counts


@weft.task
def wait_for(event: threading.Event) -> bool:
    return event.wait(30)


def test_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wait_until: Any
) -> None:
    monkeypatch.setattr(_progress, "_FIRST_LINE", 0.01)
    monkeypatch.setattr(_progress, "_LINE_INTERVAL", 0.01)
    monkeypatch.setenv("WEFT_PROGRESS", "")
    event = threading.Event()
    said = ""

    def read() -> str:
        nonlocal said
        said += capfd.readouterr().err
        return said

    with weft.run(run_dir=tmp_path, progress=True):
        wait_for(event)
        wait_until(lambda: "weft: 0 of 1 tasks done, 1 with an executor (" in read())
        event.set()
    assert "weft: 1 of 1 tasks done (" in read()
    assert "\x1b" not in said
    counted = [line.rpartition(" (")[0] for line in said.splitlines()]
    assert len(counted) == len(set(counted)) + (counted[-1] == counted[-2])  # the end is always shown
    assert not [thread for thread in threading.enumerate() if thread.name == "weft-progress"]


def test_it_is_silent_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with weft.run(run_dir=tmp_path):
        event = threading.Event()
        event.set()
        wait_for(event).result()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("environment", "quiet", "command_line", "configured", "shown"),
    [
        ("", False, False, None, False),
        ("", False, False, True, True),
        ("", False, True, None, True),
        ("", False, True, False, False),
        ("", True, True, True, False),
        ("0", False, True, True, False),
        ("off", False, True, True, False),
        ("1", False, False, False, True),
        ("1", True, False, True, False),
    ],
)
def test_who_decides(
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
    quiet: bool,
    command_line: bool,
    configured: bool | None,
    shown: bool,
) -> None:
    monkeypatch.setenv("WEFT_PROGRESS", environment)
    monkeypatch.setattr(_settings, "_quiet", quiet)
    monkeypatch.setattr(_settings, "_progress", command_line)
    assert _settings.shows_progress(configured) is shown


def test_the_line_names_what_is_not_done() -> None:
    counts = Counts(1, 2, 3, done=4, failed=5, dependency_failed=6, cancelled=7, retries=8)
    assert summary(counts) == (
        "4 of 28 tasks done, 5 failed, 6 not run because another failed, 7 cancelled, 1 waiting, "
        "2 with an executor, 3 joining, 8 retries"
    )


def test_the_line_says_how_many_were_remembered() -> None:
    counts = Counts(0, 0, 0, done=4, failed=1, dependency_failed=0, cancelled=0, retries=0, memo_hits=3)
    assert summary(counts) == "4 of 5 tasks done, 3 remembered, 1 failed"
