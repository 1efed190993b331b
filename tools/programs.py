"""Where the programs are that these tools start, and how they are started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


def outer_environment() -> dict[str, str]:
    """The environment variables as they were before hatch activated the environment that this runs in."""
    environment = {k: v for k, v in os.environ.items() if k not in {"HATCH_ENV_ACTIVE", "VIRTUAL_ENV"}}
    inner = Path(sys.prefix, "bin")
    folders = [folder for folder in os.get_exec_path() if Path(folder) != inner]
    return {**environment, "PATH": os.pathsep.join(folders)}


def hatch() -> list[str]:
    """The command that starts the hatch that started this."""
    found = shutil.which("hatch", path=outer_environment()["PATH"])
    # A hatch that is not on PATH was called by its path, which shells export, or as `python -m hatch`.
    last = os.environ.get("_", "")
    if found is None and Path(last).name == "hatch":
        found = last
    return [found] if found else [getattr(sys, "_base_executable", sys.executable), "-m", "hatch"]


def uv() -> str:
    """The uv that hatch uses."""
    found = os.environ.get("HATCH_UV") or shutil.which("uv")
    if not found:
        sys.exit("uv is not on PATH. Start this through hatch, which brings it: hatch run test")
    return found


_running: set[int] = set()  # process groups


def call(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    out: IO[str] | None = None,
    limit: float = 1500,
) -> int:
    """Run a command in the root of the repository, with its output shown, or written to ``out``.

    Returns its exit status. It is killed with everything that it started when it takes longer than ``limit``
    seconds (status 124, as ``timeout`` has it), and when this process is interrupted.
    """
    errors = None if out is None else subprocess.STDOUT
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        print(f"{command[0]}: {error}", file=out, flush=True)
        return 127
    _running.add(process.pid)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"killed after {limit:.0f} s: {' '.join(command)}", file=out, flush=True)
        return 124
    finally:
        _running.discard(process.pid)
        if process.poll() is None:
            kill(process.pid)
            process.wait()


def kill(group: int) -> None:
    """Kill a process group, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def kill_all() -> None:
    """Kill whatever other threads run."""
    for group in list(_running):
        kill(group)
