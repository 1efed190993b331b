"""Run every check of this workspace, each in its environment, and close with one summary of them all.

``hatch run test`` runs everything; ``hatch run test unit lint`` runs these steps alone. A step that fails
does not stop the later ones. The closing line has pytest's own format, counted over all suites; a check that
is no pytest suite (lint, types, boundaries, an environment that cannot be created) counts as one test.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from check_boundaries import find_packages
from interpreters import find_interpreters
from programs import ROOT, call, hatch, outer_environment, uv

# pytest's own order; what junit calls errors and failures is told apart.
OUTCOMES = ("failed", "passed", "skipped", "errors")


@dataclass(slots=True)
class Report:
    """What one command did."""

    name: str
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    note: str = ""

    @property
    def ok(self) -> bool:
        return not (self.counts["failed"] or self.counts["errors"]) and self.counts["passed"] > 0


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


def heading(name: str) -> None:
    """Say which step begins."""
    print(f"\n{f' {name} ':-^80}", flush=True)


def in_hatch(environment: str, *command: str) -> list[str]:
    """A command in another environment of hatch.toml."""
    return [*hatch(), "run", f"{environment}:{command[0]}", *command[1:]]


def run_check(name: str, command: Sequence[str]) -> Report:
    """Run a command that counts as one test."""
    heading(name)
    begin = time.monotonic()
    # What another Python runs must not find the programs of this one.
    status = call(command, env=None if command[0] == sys.executable else outer_environment())
    seconds = time.monotonic() - begin
    if status:
        return Report(name, seconds, Counter(failed=1), f"exit status {status}")
    return Report(name, seconds, Counter(passed=1))


def run_pytest(name: str, command: Sequence[str]) -> Report:
    """Run a pytest command, and count its outcomes; one error if it failed without saying of what."""
    with tempfile.TemporaryDirectory(prefix="weft-junit-") as folder:
        junit = Path(folder, "junit.xml")
        report = run_check(name, [*command, f"--junitxml={junit}"])
        counts = read_junit(junit)
    if report.ok and counts["passed"]:
        note = ""
    else:
        note = report.note or "nothing ran"
        if not (counts["failed"] or counts["errors"]):
            counts["errors"] += 1
    return Report(name, report.seconds, counts, note)


# -- steps ---------------------------------------------------------------------------------------------------


def lint() -> Iterator[Report]:
    """ruff: findings and format."""
    yield run_check("ruff check", in_hatch("lint", "ruff", "check"))
    yield run_check("ruff format", in_hatch("lint", "ruff", "format", "--check"))


def types() -> Iterator[Report]:
    """mypy, strict, over all source trees at once."""
    yield run_check("mypy", in_hatch("types", "check"))


def boundaries() -> Iterator[Report]:
    """Who may import whom."""
    yield run_check("boundaries", [sys.executable, "tools/check_boundaries.py"])


def tools() -> Iterator[Report]:
    """The tests of these tools."""
    yield run_pytest("tools", [sys.executable, "-m", "pytest", "tools/tests"])


def unit() -> Iterator[Report]:
    """Every package in an environment of its own, with what it declares and nothing else."""
    for package in find_packages(ROOT):
        name = "-".join(package.folder.relative_to(ROOT / "packages").parts)
        yield run_pytest(f"unit.{name}", in_hatch(f"unit.{name}", "check"))


def pythons() -> Iterator[Report]:
    """The same tests on every other CPython of this machine."""
    own = sys.version_info[:2]
    found = find_interpreters()
    print(f"\nunit tests ran on {own[0]}.{own[1]}; further Pythons here:", end=" ")
    print(", ".join(f"{a}.{b}" for a, b in found if (a, b) != own) or "none", flush=True)
    for version, python in found.items():
        if version != own:
            yield run_python(f"python{version[0]}.{version[1]}", python)


def run_python(name: str, python: Path) -> Report:
    """The unit tests of all packages with another Python, in a fresh environment."""
    venv = ROOT / ".venvs" / name
    editable = [argument for package in find_packages(ROOT) for argument in ("-e", str(package.folder))]
    create = [uv(), "venv", "--quiet", "--clear", "--python", str(python), str(venv)]
    install = [uv(), "pip", "install", "--quiet", "--python", str(venv), "--group", "test", *editable]
    for command in (create, install):
        report = run_check(f"{name}: {' '.join(command[1:3])}", command)
        if not report.ok:
            return report
    return run_pytest(name, [str(venv / "bin" / "python"), "-m", "pytest", "packages"])


def floor() -> Iterator[Report]:
    """The unit tests with the lowest versions that the packages declare."""
    yield run_pytest("floor", in_hatch("floor", "check"))


def dist() -> Iterator[Report]:
    """The wheels, installed, with nothing editable."""
    built = run_check("wheels", in_hatch("dist", "wheels"))
    yield built
    if built.ok:
        yield run_pytest("dist", in_hatch("dist", "pytest", "-m", "smoke or wheels", "integration-tests"))


def integration() -> Iterator[Report]:
    """The system as a whole, and the examples of every README."""
    command = [sys.executable, "-m", "pytest", "-m", "not wheels", "integration-tests"]
    yield run_pytest("integration", command)


STEPS: dict[str, Callable[[], Iterator[Report]]] = {
    step.__name__: step for step in (lint, types, boundaries, tools, unit, integration, dist, floor, pythons)
}


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
    """One line for each command, what failed last."""
    print(f"\n{' all steps ':=^80}")
    for report in sorted(reports, key=lambda report: not report.ok):
        state = "ok  " if report.ok else "FAIL"
        note = f"  ({report.note})" if report.note else ""
        print(f"{state} {report.name:<24} {report.seconds:8.1f} s  {counted(report.counts)}{note}")


def print_summary(reports: Sequence[Report], seconds: float) -> int:
    """The closing line; the exit status."""
    total = sum((report.counts for report in reports), Counter[str]())
    print_table(reports)
    print(f"{f' {counted(total)} in {duration(seconds)} ':=^80}", flush=True)
    return 0 if reports and all(report.ok for report in reports) else 1


def main(arguments: Sequence[str]) -> int:
    """Run the steps that are named, or all."""
    parser = argparse.ArgumentParser(prog="hatch run test", description=__doc__.partition("\n")[0])
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(STEPS)} (default: all)")
    names = parser.parse_args(arguments).steps or list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        parser.error(f"no step is called {unknown[0]!r}. The steps are {', '.join(STEPS)}")
    os.chdir(ROOT)
    begin = time.monotonic()
    reports: list[Report] = []
    try:
        for name in names:
            reports.extend(STEPS[name]())  # keeps what came before an interruption
    except KeyboardInterrupt:
        reports.append(Report("interrupted", 0, Counter(errors=1)))
    return print_summary(reports, time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
