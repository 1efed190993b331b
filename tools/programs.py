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


def call(command: Sequence[str], *, env: Mapping[str, str] | None = None, limit: float = 900) -> int:
    """Run a command in the root of the repository, with its output shown; its exit status.

    It is killed with everything that it started when it takes longer than ``limit`` seconds (status 124, as
    ``timeout`` has it), and when this process is interrupted.
    """
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return 127
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"killed after {limit:.0f} s: {' '.join(command)}", file=sys.stderr)
        return 124
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
