"""Measures one contender in an interpreter of its own, and ends all that it started.

``python benchmarks/alone.py NAME SECTION SIZES`` prints what it found as JSON. It starts one more interpreter
for what is measured, and adopts what that leaves behind: the contenders' daemons outlive a parent that broke.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cases import Case, Contender, nap, noop, touch
from contenders import OWN, PEERS, Entrant
from lines import FIRST, LAST, SECTIONS, Sizes

__all__ = ["Found", "measure", "measure_alone", "warm_up"]

PATIENCE = 60.0  # seconds that one round of a line may take
GRACE = 5.0  # seconds in which what was started may end by itself
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Found:
    """Figures by line; what came of it if it broke; what it left running."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None
    left: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What went wrong, if anything did."""
        left = f"left behind, and ended: {', '.join(self.left)}" if self.left else ""
        return "; ".join(filter(None, [self.error, left]))


def measure_alone(name: str, section: str, sizes: Sizes) -> Found:
    """What is found for this contender. A contender that breaks is no error here."""
    command = [sys.executable, __file__, name, section, json.dumps(asdict(sizes))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Found(**json.loads(output))


def measure(case: Case, contender: Contender) -> float:
    """One figure. Raises :class:`TimeoutError` if that takes too long."""
    with time_limit(PATIENCE):
        return case(contender)


def warm_up(contender: Contender) -> None:
    """All workers are there, and have imported what the cases need."""
    import numpy

    few, many = contender.bind(nap), contender.bind(noop)
    contender.gather([few(0.05) for _ in range(10)])
    contender.gather([many() for _ in range(100)])
    reader = contender.bind(touch)
    contender.gather([reader(numpy.zeros(1, numpy.uint8)) for _ in range(20)])


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """:class:`TimeoutError` in the main thread, which this must be, when they are over."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the interpreter that watches ----------------------------------------------------------------------------


def watch(name: str, section: str, sizes: Sizes) -> Found:
    """Measure in a folder of its own, as some write files to the present one."""
    adopt_orphans()
    entrant = {**OWN, **PEERS}[name]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        if section == "start":
            return starts(entrant, sizes.starts, directory)
        lines = SECTIONS[section](sizes)
        most = 2 * PATIENCE + sum(line.rounds for line in lines) * PATIENCE
        command = [sys.executable, __file__, name, section, json.dumps(asdict(sizes)), "inside"]
        output, errors = Path(directory, "output"), Path(directory, "errors")
        found = Found()
        # Files and no pipes: these would stay open for as long as there is a daemon that has them.
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = start(command, directory, stdout=stdout, stderr=stderr)
            try:
                code = process.wait(most)
            except subprocess.TimeoutExpired:
                code, found.error = -1, f"it took more than {most:g} s"
            finally:
                found.left = sweep(process)
        for text in output.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # what others print
                line, value = json.loads(text)
                found.samples.setdefault(line, []).append(value)
        if code and not found.error:
            found.error = last_words(errors) or f"exit code {code}"
        return found


def last_words(errors: Path) -> str:
    """The last line of what was said on the standard error, which names the exception."""
    said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else ""


def adopt_orphans() -> None:
    """From now on, what a descendant leaves behind becomes a child of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")


def starts(entrant: Entrant, rounds: int, directory: str) -> Found:
    """How soon a fresh interpreter has the first result, and how long it takes to end then."""
    found = Found()
    for _ in range(rounds):
        began = time.perf_counter()
        command, errors = [sys.executable, "-c", entrant.program], Path(directory, "errors")
        with errors.open("wb") as stderr:
            process = start(command, directory, stdout=subprocess.PIPE, stderr=stderr)
        try:
            with time_limit(PATIENCE):
                first, ended = follow(process)
        except Exception as error:
            found.error = last_words(errors) or str(error)
            break
        finally:
            found.left += sweep(process)
        found.samples.setdefault(FIRST, []).append(first - began)
        found.samples.setdefault(LAST, []).append(ended - first)
    return found


def follow(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """When it says that it has the first result, and when it ends."""
    assert process.stdout is not None
    while process.stdout.readline() != b"first\n":
        if process.poll() is not None:
            raise RuntimeError(f"exit code {process.returncode}, and no result")
    first = time.perf_counter()
    if code := process.wait():
        raise RuntimeError(f"exit code {code}")
    return first, time.perf_counter()


def start(command: list[str], directory: str, **streams: Any) -> subprocess.Popen[bytes]:
    """Start it in a session and a folder of its own. Its workers find the cases; scripts of its packages are
    found, whether the environment is activated or not.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {
        **os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parent), "TMPDIR": directory
    }  # fmt: skip
    return subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **streams)


def sweep(process: subprocess.Popen[bytes]) -> list[str]:
    """End what is left of it; the names of what did not end by itself."""
    deadline = time.monotonic() + GRACE
    if process.poll() is None:
        process.kill()
        process.wait()
        deadline = time.monotonic()
    left: list[str] = []
    while children := living():
        if time.monotonic() >= deadline:
            left += [name for name in children.values() if name not in left]
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return left


def living() -> dict[int, str]:
    """The children of this process, by their names. Those that have ended are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = {}
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            found[int(pid)] = Path("/proc", pid, "comm").read_text(encoding="utf-8").strip()
    return found


# -- the interpreter that measures ---------------------------------------------------------------------------


def inside(name: str, section: str, sizes: Sizes) -> None:
    """Print a line for each figure, as soon as it is there."""
    with time_limit(PATIENCE):
        opened = {**OWN, **PEERS}[name].open()
        contender = opened.__enter__()
    try:
        with time_limit(PATIENCE):
            warm_up(contender)
        for line in SECTIONS[section](sizes):
            if line.case is None or (line.sharing and contender.share is None):
                continue
            for _ in range(line.rounds if line.peers or name in OWN else 0):
                print(json.dumps([line.name, measure(line.case, contender)]), flush=True)
    except BaseException as error:
        opened.__exit__(type(error), error, error.__traceback__)
        raise
    with time_limit(PATIENCE):
        opened.__exit__(None, None, None)


def main(name: str, section: str, sizes: str, where: str = "") -> None:
    """Watch, or measure."""
    given = Sizes(**json.loads(sizes))
    if where == "inside":
        inside(name, section, given)
    else:
        print(json.dumps(asdict(watch(name, section, given))))


if __name__ == "__main__":
    main(*sys.argv[1:])
