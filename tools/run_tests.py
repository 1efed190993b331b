"""Run every check of this workspace, each in its environment, and close with one summary of them all.

``hatch run test`` runs everything; ``hatch run test unit lint`` runs these steps alone. Most steps run beside
each other; the output of a check is shown when it is done, in one piece. A check that fails does not stop the
others. The closing line has pytest's own format, counted over all suites; a check that is no pytest suite
(lint, types, boundaries, an environment that cannot be created) counts as one test.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from check_boundaries import find_packages
from checks import Check, Report, print_summary, run_in_turn, run_together
from interpreters import find_interpreters
from programs import ROOT, hatch, uv


def in_hatch(environment: str, *command: str) -> list[str]:
    """A command in another environment of hatch.toml."""
    return [*hatch(), "run", f"{environment}:{command[0]}", *command[1:]]


def lint() -> list[Check]:
    """ruff: findings and format."""
    return [
        Check("ruff check", in_hatch("lint", "ruff", "check")),
        Check("ruff format", in_hatch("lint", "ruff", "format", "--check")),
    ]


def types() -> list[Check]:
    """mypy, strict, over all source trees at once, and the tests of what users' type checkers see."""
    checks = [Check("mypy", in_hatch("types", "check"))]
    files = [str(file.relative_to(ROOT)) for file in ROOT.glob("packages/**/tests/test_typing.py")]
    return [*checks, Check("typing", in_hatch("types", "pytest", *files), suite=True)] if files else checks


def boundaries() -> list[Check]:
    """Who may import whom."""
    return [Check("boundaries", [sys.executable, "tools/check_boundaries.py"])]


def tools() -> list[Check]:
    """The tests of these tools."""
    return [Check("tools", [sys.executable, "-m", "pytest", "tools/tests"], suite=True)]


def bulk(*files: Path) -> int:
    """How much there is to run, roughly: the longest checks begin first, so that none is left for the end."""
    return sum(file.stat().st_size for file in files)


def unit() -> list[Check]:
    """Every package in an environment of its own, with what it declares and nothing else."""
    folders = [package.folder for package in find_packages(ROOT)]
    folders.sort(key=lambda folder: bulk(*folder.glob("tests/*.py")), reverse=True)
    names = ["unit." + "-".join(folder.relative_to(ROOT / "packages").parts) for folder in folders]
    return [Check(name, in_hatch(name, "check"), suite=True) for name in names]


def tensors() -> list[Check]:
    """Digests of tensors, with the build of PyTorch for processors alone: the other has gigabytes."""
    venv = ROOT / ".venvs" / "tensors"
    folders = [str(ROOT / "packages" / name) for name in ("interfaces", "memo")]
    install = [uv(), "pip", "install", "--quiet", "--python", str(venv)]
    kept = [Path(folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split()]
    wheels = sorted(wheel for folder in kept for wheel in folder.glob("torch-*+cpu-*.whl"))
    torch = [str(wheels[-1])] if wheels else ["--torch-backend", "cpu", "torch"]
    before = [
        [uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)],
        [*install, "--group", "test", *(argument for folder in folders for argument in ("-e", folder))],
        [*install, *torch],
    ]
    command = [str(venv / "bin" / "python"), "-m", "pytest", "packages/memo/tests/tensors"]
    return [Check("tensors", command, before=before, suite=True)]


def integration() -> list[Check]:
    """The system as a whole, each file on servers of its own, and the examples of every README."""
    command = [sys.executable, "-m", "pytest", "-m", "not wheels"]
    files = sorted((ROOT / "integration-tests").glob("test_*.py"), key=bulk, reverse=True)
    names = [file.stem.replace("test_", "integration.", 1) for file in files]
    return [Check(name, [*command, str(file)], suite=True) for name, file in zip(names, files, strict=True)]


def dist() -> list[Check]:
    """The wheels, installed, with nothing editable."""
    build = in_hatch("dist", "wheels")
    command = in_hatch("dist", "pytest", "-m", "smoke or wheels", "integration-tests")
    return [Check("dist", command, before=[build], suite=True)]


def floor() -> list[Check]:
    """The unit tests with the lowest versions that the packages declare, but those that need run but once."""
    return [Check("floor", in_hatch("floor", "check"), suite=True)]


def pythons() -> list[Check]:
    """The same as ``floor`` on every other CPython of this machine."""
    own = sys.version_info[:2]
    others = {version: python for version, python in find_interpreters().items() if version != own}
    names = ", ".join(f"{major}.{minor}" for major, minor in others)
    print(f"\nThis is Python {own[0]}.{own[1]}. Further ones on this machine: {names or 'none'}.", flush=True)
    return [with_python(f"python{major}.{minor}", python) for (major, minor), python in others.items()]


def with_python(name: str, python: Path) -> Check:
    """The unit tests of all packages with another Python, in a fresh environment."""
    venv = ROOT / ".venvs" / name
    editable = [argument for package in find_packages(ROOT) for argument in ("-e", str(package.folder))]
    create = [uv(), "venv", "--quiet", "--clear", "--python", str(python), str(venv)]
    install = [uv(), "pip", "install", "--quiet", "--python", str(venv), "--group", "test", *editable]
    command = [str(venv / "bin" / "python"), "-m", "pytest", "-m", "not once", "packages"]
    return Check(name, command, before=[create, install], suite=True)


STEPS: dict[str, Callable[[], list[Check]]] = {
    step.__name__: step
    for step in (lint, types, boundaries, tools, unit, tensors, integration, dist, floor, pythons)
}

# Quick, and their checks share an environment: one after the other, before anything else.
IN_TURN = ("lint", "types", "boundaries", "tools")

# Wait for their servers more than they compute: they alternate with those that compute.
WAITING = ("integration",)

# Take longest, so that they begin before the others: see bulk().
LONG = ("pythons", "floor")


def run_steps(names: Sequence[str], width: int) -> Iterator[Report]:
    """Run steps: a few in turn, then the checks of all others, ``width`` at a time."""
    for name in names:
        if name in IN_TURN:
            yield from run_in_turn(STEPS[name]())
    others = sorted((name for name in names if name not in IN_TURN), key=lambda name: name not in LONG)
    waiting = [check for name in others if name in WAITING for check in STEPS[name]()]
    computing = [check for name in others if name not in WAITING for check in STEPS[name]()]
    alternating = [check for pair in zip_longest(waiting, computing) for check in pair if check]
    yield from run_together(alternating, width)


def main(arguments: Sequence[str]) -> int:
    """Run the steps that are named, or all."""
    parser = argparse.ArgumentParser(prog="hatch run test", description=__doc__.partition("\n")[0])
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(STEPS)} (default: all)")
    width = max(3, (os.cpu_count() or 1) // 2)
    more = f"how many checks run at a time (default: half as many as processors, but 3; here {width})"
    parser.add_argument("-j", "--jobs", type=int, default=width, metavar="N", help=more)
    options = parser.parse_args(arguments)
    names = options.steps or list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        parser.error(f"no step is called {unknown[0]!r}. The steps are {', '.join(STEPS)}")
    os.chdir(ROOT)
    # Also where a script starts this in the background: it would ignore Ctrl-C, and so would every test.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    begin = time.monotonic()
    reports: list[Report] = []
    try:
        reports.extend(run_steps(names, options.jobs))  # keeps what came before an interruption
    except KeyboardInterrupt:
        reports.append(Report("interrupted", 0, Counter(errors=1)))
    return print_summary(reports, time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
