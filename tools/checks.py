"""Run checks, one after the other or several at a time, and sum up what came of them."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from programs import call, kill_all, outer_environment

# pytest's own order; junit's errors are what pytest calls so, its failures what pytest calls failed.
OUTCOMES = ("failed", "passed", "skipped", "errors")


@dataclass(frozen=True, slots=True)
class Check:
    """One command, and the commands that make its environment, if these are not part of it.

    A suite is a pytest command, whose outcomes are counted; any other command counts as one test.
    """

    name: str
    command: Sequence[str]
    before: Sequence[Sequence[str]] = ()
    suite: bool = False


@dataclass(slots=True)
class Report:
    """What came of one check."""

    name: str
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    note: str = ""

    @property
    def ok(self) -> bool:
        return not (self.counts["failed"] or self.counts["errors"]) and self.counts["passed"] > 0


# -- one check -----------------------------------------------------------------------------------------------


def read_junit(file: Path) -> Counter[str]:
    """The outcomes that pytest wrote; none if it wrote nothing that can be read."""
    counts: Counter[str] = Counter()
    try:
        suites = list(ET.parse(file).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        return counts
    for suite in suites:
        failed, errors, skipped = (int(suite.get(name, 0)) for name in ("failures", "errors", "skipped"))
        counts.update(failed=failed, errors=errors, skipped=skipped)
        counts["passed"] += int(suite.get("tests", 0)) - failed - errors - skipped
    return counts


def outcomes(status: int, junit: Path) -> tuple[Counter[str], str]:
    """The counts of a suite, with one error if it failed without saying of what; and a remark."""
    counts = read_junit(junit)
    if status == 0 and counts["passed"]:
        return counts, ""
    if not (counts["failed"] or counts["errors"]):
        counts["errors"] += 1
    return counts, f"exit status {status}" if status else "nothing ran"


def start(command: Sequence[str], out: IO[str] | None) -> int:
    """Run one command. What another Python runs must not find the programs of this one."""
    return call(command, env=None if command[0] == sys.executable else outer_environment(), out=out)


def run(check: Check, out: IO[str] | None = None) -> Report:
    """Run a check with its output shown, or written to ``out``."""
    print(f"\n{f' {check.name} ':-^80}", file=out, flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weft-junit-") as folder:
        junit = Path(folder, "junit.xml")
        for command in check.before:
            if status := start(command, out):
                note = f"exit status {status} of {' '.join(map(str, command))}"
                return Report(check.name, time.monotonic() - begin, Counter(errors=1), note)
        status = start([*check.command, f"--junitxml={junit}"] if check.suite else check.command, out)
        if check.suite:
            counts, note = outcomes(status, junit)
        else:
            counts, note = Counter(failed=1) if status else Counter(passed=1), f"exit status {status}"
    report = Report(check.name, time.monotonic() - begin, counts)
    report.note = "" if report.ok else note
    return report


# -- many checks ---------------------------------------------------------------------------------------------


def run_in_turn(checks: Iterable[Check]) -> Iterator[Report]:
    """Run one check after the other."""
    return map(run, checks)


def run_together(checks: Sequence[Check], width: int) -> Generator[Report, None, None]:
    """Run ``width`` checks at a time, begun in the order given; each is shown when it is done."""
    if len(checks) < 2 or width < 2:
        yield from run_in_turn(checks)
        return
    print(f"\n{width} at a time: {', '.join(check.name for check in checks)}", flush=True)
    runs: dict[Future[Report], Path] = {}
    pool = ThreadPoolExecutor(width)
    try:
        with tempfile.TemporaryDirectory(prefix="weft-output-") as folder:
            for number, check in enumerate(checks):
                file = Path(folder, str(number))
                runs[pool.submit(run_to_file, check, file)] = file
            for done in as_completed(runs):
                with runs[done].open(encoding="utf-8", errors="replace") as output:
                    shutil.copyfileobj(output, sys.stdout)
                sys.stdout.flush()
                yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # Again and again, because a check may be between two commands. What never began is done, but `wait`
        # would not say so.
        while begun := [run for run in runs if not run.done()]:
            kill_all()
            wait(begun, timeout=0.1)


def run_to_file(check: Check, file: Path) -> Report:
    """Run a check with its output in a file."""
    with file.open("w", encoding="utf-8") as out:
        return run(check, out)


# -- summary -------------------------------------------------------------------------------------------------


def counted(counts: Counter[str]) -> str:
    """Counts in pytest's words: ``1 failed, 511 passed, 2 errors``."""
    words = [f"{counts[name]} {name}" for name in OUTCOMES if counts[name]]
    text = ", ".join(words) or "no tests ran"
    return text.removesuffix("s") if counts["errors"] == 1 else text


def duration(seconds: float) -> str:
    """A time as pytest prints it."""
    minutes, rest = divmod(int(seconds), 60)
    clock = f" ({minutes // 60}:{minutes % 60:02}:{rest:02})" if seconds >= 60 else ""
    return f"{seconds:.2f}s{clock}"


def print_table(reports: Iterable[Report]) -> None:
    """One line for each check, by name, what failed last."""
    print(f"\n{' all checks ':=^80}")
    for report in sorted(reports, key=lambda report: (not report.ok, report.name)):
        state = "ok  " if report.ok else "FAIL"
        note = f"  ({report.note})" if report.note else ""
        print(f"{state} {report.name:<30} {report.seconds:8.1f} s  {counted(report.counts)}{note}")


def print_summary(reports: Sequence[Report], seconds: float) -> int:
    """The closing line; the exit status."""
    total = sum((report.counts for report in reports), Counter[str]())
    print_table(reports)
    print(f"{f' {counted(total)} in {duration(seconds)} ':=^80}", flush=True)
    return 0 if reports and all(report.ok for report in reports) else 1
