"""Stand-ins for what has no free implementation: Cray's aprun and IBM's jsrun, as their manuals say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Options with a value, and without. aprun: Cray S-2496, "Using the aprun Command", and HPE a00114008, "Run
# Applications Using the aprun Command"; jsrun: IBM LSF Job Step Manager, "jsrun command".
_MANUALS = {
    "aprun": {
        "values": "-a -cc -cp -d -D -e -F -j -L -m -n -N -p -r -R -S -sl -sn -t",
        "flags": "-b -B -C -q -ss -T",
        "rank": "ALPS_APP_PE",
    },
    "jsrun": {
        "values": "-a --tasks_per_rs -c --cpu_per_rs -g --gpu_per_rs -n --nrs -p --np -r --rs_per_host "
        "-b --bind "
        "-d --launch_distribution -e --stdio_mode -E --env -l --latency_priority -m --memory_per_rs "
        "-o --stdio_stdout -k --stdio_stderr -t --stdio_input -I --stdin_rank -X --exit_on_error -h --chdir",
        "flags": "-i --immediate",
        "rank": "JSM_NAMESPACE_RANK",
    },
}

# Both give the standard input to the first process alone, and pass on the environment. aprun refuses a
# number of processes for which it has no nodes, jsrun more resource sets than hosts.
_PROGRAM = """\
#!{python}
import json, os, subprocess, sys

VALUES, FLAGS, RANK, LOG = {values!r}.split(), {flags!r}.split(), {rank!r}, {log!r}
words, options = sys.argv[1:], {{}}
while words and words[0].startswith("-"):
    word = words.pop(0)
    name, equals, value = word.partition("=")
    if name in VALUES:
        value = value if equals else words.pop(0)
    elif word not in FLAGS:
        sys.exit(f"unknown option {{word}}")
    if name in options:
        sys.exit(f"{{name}} was given twice")
    options[name] = value
if not words:
    sys.exit("nothing to run")
if ":" in words:
    sys.exit("several programs at once")
json.dump(options, open(LOG, "w"))
if RANK == "ALPS_APP_PE":
    number = int(options["-n"])
    assert number % int(options["-N"]) == 0
else:
    assert options["--rs_per_host"] == "1"
    number = int(options["--nrs"]) * int(options["--tasks_per_rs"])
running = [
    subprocess.Popen(
        words, env={{**os.environ, RANK: str(rank)}}, stdin=None if rank == 0 else subprocess.DEVNULL
    )
    for rank in range(number)
]
statuses = [process.wait() for process in running]
sys.exit(next((status for status in statuses if status), 0))
"""


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where they are, first on PATH; each leaves the options that it got in ``<name>.json``."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for name, manual in _MANUALS.items():
        log = str(folder / f"{name}.json")
        (folder / name).write_text(_PROGRAM.format(python=sys.executable, log=log, **manual))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for variable in ("WEFT_JOB_INPUT", "WEFT_JOB_DIRECTORY", "WEFT_BLOCK_ID", "WEFT_NODE_RANK"):
        monkeypatch.delenv(variable, raising=False)
    for variable in (
        "SLURM_JOB_NODELIST",
        "PBS_NODEFILE",
        "PE_HOSTFILE",
        "LSB_DJOB_HOSTFILE",
        "LSB_MCPU_HOSTS",
    ):
        monkeypatch.delenv(variable, raising=False)
    return folder
