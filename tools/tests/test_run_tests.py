"""The closing line can be trusted: it counts everything, and what failed or did not run is no success."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import checks
import interpreters
import programs
import pytest
import run_tests
from checks import Check, Report

PASSING = "def test_a(): pass\ndef test_b(): pass\n"


def suite(folder: Path, source: str) -> Check:
    """A made-up suite, away from this workspace's configuration."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_made_up.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return Check("made-up", [*command, "-c", str(folder / "pytest.ini"), str(folder)], suite=True)


def run_suite(folder: Path, source: str) -> Report:
    return checks.run(suite(folder, source))


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up suites need none, and start faster."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def closing_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


# -- one suite -----------------------------------------------------------------------------------------------


def test_a_passing_suite_is_counted(tmp_path: Path) -> None:
    report = run_suite(tmp_path, PASSING)
    assert report.ok
    assert +report.counts == Counter(passed=2)


def test_every_outcome_is_counted(tmp_path: Path) -> None:
    source = PASSING + (
        "import pytest\n"
        "def test_c(): assert 0\n"
        "def test_d(): pytest.skip('not here')\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_e(broken): pass\n"
    )
    report = run_suite(tmp_path, source)
    assert not report.ok
    assert +report.counts == Counter(passed=2, failed=1, skipped=1, errors=1)


@pytest.mark.parametrize(
    "source",
    ["", "import pytest\npytestmark = pytest.mark.skip\ndef test_a(): pass\n"],
    ids=["no tests", "all skipped"],
)
def test_a_suite_in_which_nothing_ran_is_an_error(tmp_path: Path, source: str) -> None:
    report = run_suite(tmp_path, source)
    assert not report.ok
    assert report.counts["errors"] == 1


def test_a_suite_that_dies_is_an_error(tmp_path: Path) -> None:
    source = PASSING + "def test_c():\n    import os\n    os._exit(3)\n"
    report = run_suite(tmp_path, source)
    assert not report.ok
    assert report.counts["errors"] == 1
    assert report.note == "exit status 3"


def test_a_suite_that_passes_and_then_fails_is_an_error(tmp_path: Path) -> None:
    source = PASSING + "import atexit, os\natexit.register(os._exit, 4)\n"
    report = run_suite(tmp_path, source)
    assert not report.ok
    assert +report.counts == Counter(passed=2, errors=1)


def test_a_program_that_is_missing_is_a_failure() -> None:
    report = checks.run(Check("made-up", ["/there/is/no/such/program"]))
    assert not report.ok
    assert report.note == "exit status 127"


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    begin = time.monotonic()
    try:
        assert programs.call(["sh", "-c", f"sleep 60 > {pipe} & sleep 60"], limit=0.5) == 124
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end comes when nobody holds the other side any more
    finally:
        os.close(reader)
    assert time.monotonic() - begin < 30


# -- all suites ----------------------------------------------------------------------------------------------


def test_the_summary_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [Report("a", 1, Counter(passed=500)), Report("b", 2, Counter(passed=12, skipped=3))]
    assert checks.print_summary(reports, 301.02) == 0
    assert closing_line(capsys) == " 512 passed, 3 skipped in 301.02s (0:05:01) ".center(80, "=")


def test_the_summary_names_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        Report("a", 1, Counter(passed=1, failed=2)),
        Report("b", 2, Counter(errors=1), note="exit status 5"),
    ]
    assert checks.print_summary(reports, 3.5) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == " 2 failed, 1 passed, 1 error in 3.50s ".center(80, "=")
    assert "FAIL b" in out
    assert "(exit status 5)" in out


def test_a_summary_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.print_summary([], 0.1) == 1
    assert closing_line(capsys) == " no tests ran in 0.10s ".center(80, "=")


def python(name: str, code: str, before: Sequence[Sequence[str]] = ()) -> Check:
    return Check(name, [sys.executable, "-c", code], before)


def test_an_environment_that_cannot_be_made_is_an_error() -> None:
    report = checks.run(python("made-up", "print('never')", before=[["false"], ["true"]]))
    assert not report.ok
    assert +report.counts == Counter(errors=1)
    assert report.note == "exit status 1 of false"


@pytest.mark.parametrize("in_turn", [{"good", "bad"}, {"bad"}, set()], ids=["in turn", "both", "together"])
def test_a_failing_check_does_not_stop_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_turn: set[str]
) -> None:
    steps = {
        "bad": lambda: [python("bad", "raise SystemExit(7)")],
        "good": lambda: [python("good", "pass"), python("better", "pass")],
    }
    monkeypatch.setattr(run_tests, "STEPS", steps)
    monkeypatch.setattr(run_tests, "IN_TURN", in_turn)
    assert run_tests.main([]) == 1
    out = capsys.readouterr().out
    assert "= 1 failed, 2 passed in" in out.splitlines()[-1]
    assert "(exit status 7)" in out
    assert run_tests.main(["good"]) == 0
    assert "= 2 passed in" in closing_line(capsys)


def test_what_waits_alternates_with_what_computes_and_the_longest_begin_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up = {"quick": 1, "short": 2, "waiting": 4, "long": 1}

    def checks_of(step: str) -> list[Check]:
        return [python(f"{step}{number}", "pass") for number in range(made_up[step])]

    monkeypatch.setattr(run_tests, "STEPS", {step: partial(checks_of, step) for step in made_up})
    for name, step in (("IN_TURN", "quick"), ("WAITING", "waiting"), ("LONG", "long")):
        monkeypatch.setattr(run_tests, name, (step,))
    assert run_tests.main(["--jobs=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    together = "waiting0, long0, waiting1, short0, waiting2, short1, waiting3"
    assert lines.index(f"2 at a time: {together}") > lines.index(f"{' quick0 ':-^80}")
    assert "= 8 passed in" in lines[-1]


def test_checks_that_run_together_are_shown_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = tmp_path / "opened"
    os.mkfifo(opened)
    say = "import sys; print('out {0}', flush=True); {1}; print('err {0}', file=sys.stderr)"
    made_up = [
        python("a", say.format("a", f"open({str(opened)!r}).close()")),
        python("b", say.format("b", "pass")),
        python("c", say.format("c", f"open({str(opened)!r}, 'w').close()")),
    ]
    reports = checks.run_together(made_up, 2)
    assert next(reports).name == "b"  # while the first waits
    assert {report.name for report in reports} == {"a", "c"}
    out = [line for line in capsys.readouterr().out.splitlines() if line]
    assert out[0] == "2 at a time: a, b, c"
    shown = [line.strip("- ") for line in out[1:]]
    for name in "abc":
        at = shown.index(name)
        assert shown[at : at + 3] == [name, f"out {name}", f"err {name}"]


def test_what_runs_together_is_killed_together(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wait = Check("wait", ["sh", "-c", f"exec sleep 60 > {pipe}"])
        made_up = [python("first", "pass"), wait, wait, wait, python("never", "pass")]
        reports = checks.run_together(made_up, 2)
        assert next(reports).ok
        reports.close()
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_an_interruption_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> list[Check]:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        run_tests, "STEPS", {"good": lambda: [python("good", "pass")], "interrupted": interrupted}
    )
    monkeypatch.setattr(run_tests, "IN_TURN", {"good"})
    assert run_tests.main([]) == 1
    assert "= 1 passed, 1 error in" in closing_line(capsys)


def test_a_step_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_tests.main(["unit", "lnt"])
    assert stop.value.code == 2
    assert "no step is called 'lnt'. The steps are lint, types" in capsys.readouterr().err


# -- interpreters --------------------------------------------------------------------------------------------


def fake_python(folder: Path, name: str, answer: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
    (folder / name).chmod(0o755)


def test_interpreters_are_found_by_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path / "a", "python3.10", "echo 3 10 4 /a/python3.10")
    fake_python(tmp_path / "a", "python3.9", "echo 3 9 1 /a/python3.9")
    fake_python(tmp_path / "a", "python3.12", "exit 127")
    fake_python(tmp_path / "a", "python3.13-config", "echo 3 13 1 /a/python3.13")
    fake_python(tmp_path / "b", "python3.10", "echo 3 10 13 /b/python3.10")
    fake_python(tmp_path / "b", "python3.14", "echo")
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    monkeypatch.setattr(interpreters, "FOLDERS", ())
    assert interpreters.find_interpreters() == {(3, 10): Path("/b/python3.10")}


def test_this_interpreter_is_recognised(tmp_path: Path) -> None:
    if sys.implementation.name != "cpython" or sys.version_info.releaselevel != "final":
        pytest.skip("not a released CPython")
    link = tmp_path / "python3.99"
    link.symlink_to(Path(sys.executable).resolve())
    answer = interpreters.probe(link)
    assert answer is not None
    assert answer[0] == sys.version_info[:3]
