"""The options that launch programs get, and what launchers refuse."""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import BlockShape, ConfigError, Launcher
from weft_launchers import (
    AprunLauncher,
    GnuParallelLauncher,
    JsrunLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    SingleNodeLauncher,
    SrunLauncher,
    SrunMPILauncher,
    SshLauncher,
    WrappedLauncher,
)

THREE = BlockShape(nodes=3)


def test_srun_starts_one_process_a_node_that_has_all_of_it_and_leaves_room_for_steps() -> None:
    assert SrunLauncher().wrap(["cmd", "-x", ""], THREE) == [
        "srun",
        "--nodes=3",
        "--ntasks=3",
        "--export=ALL",
        "--mpi=none",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--overlap",
        "cmd",
        "-x",
        "",
    ]


def test_srun_takes_options_in_place_of_ours() -> None:
    launcher = SrunLauncher(
        ["--cpu-bind=cores", "--export", "NONE", "-v"], ranks_per_node=4, overlap=False, mpi="pmi2"
    )
    argv = launcher.wrap(["cmd"], THREE)
    assert argv[:4] == ["srun", "--nodes=3", "--ntasks=12", "--ntasks-per-node=4"]
    assert argv[-5:] == ["--cpu-bind=cores", "--export", "NONE", "-v", "cmd"]
    assert "--mpi=pmi2" in argv
    assert not {"--overlap", "--export=ALL", "--cpu-bind=none"} & set(argv)


def test_a_colon_would_be_another_part_of_the_job_to_srun() -> None:
    assert ":" not in SrunLauncher().wrap(["cmd", ":", "x"], THREE)


def test_overrides_may_be_a_text() -> None:
    assert SrunLauncher("--comment 'two words' -v") == SrunLauncher(["--comment", "two words", "-v"])


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        (AprunLauncher(), {"-n": "3", "-N": "1", "-cc": "none", "-b": "", "-q": ""}),
        (
            AprunLauncher(["-cc", "cpu", "-j", "1"], 4),
            {"-n": "12", "-N": "4", "-cc": "cpu", "-j": "1", "-b": "", "-q": ""},
        ),
        (
            JsrunLauncher(),
            {
                "--nrs": "3",
                "--rs_per_host": "1",
                "--tasks_per_rs": "1",
                "--cpu_per_rs": "ALL_CPUS",
                "--bind": "none",
            },
        ),
        (
            JsrunLauncher("--bind=rs -l GPU-CPU", ranks_per_node=2),
            {
                "--nrs": "3",
                "--rs_per_host": "1",
                "--tasks_per_rs": "2",
                "--cpu_per_rs": "ALL_CPUS",
                "--bind": "rs",
                "-l": "GPU-CPU",
            },
        ),
    ],
)
def test_vendors_options_are_those_of_their_manuals(
    launcher: Launcher, options: dict[str, str], stand_ins: Path
) -> None:
    argv = launcher.wrap(["true"], THREE)
    ended = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads((stand_ins / f"{argv[0]}.json").read_text()) == options


def test_jsrun_asks_for_gpus_if_the_block_has_some() -> None:
    argv = JsrunLauncher().wrap(["cmd"], BlockShape(gpus=4))
    assert argv[argv.index("--gpu_per_rs") + 1] == "ALL_GPUS"


def test_a_launcher_of_one_node_refuses_more_and_says_what_to_do() -> None:
    for launcher in (SingleNodeLauncher(), WrappedLauncher(["nice"])):
        assert launcher.wrap(["cmd"], BlockShape())[-1] == "cmd"
        with pytest.raises(
            ConfigError, match="starts one node of the 3 that a block has: set nodes=1, or use"
        ):
            launcher.wrap(["cmd"], THREE)


def test_a_wrapped_launcher_puts_its_words_before_the_command() -> None:
    launcher = WrappedLauncher("apptainer exec 'my image.sif'", SrunLauncher())
    assert launcher.wrap(["cmd"], THREE)[-4:] == ["apptainer", "exec", "my image.sif", "cmd"]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (SrunLauncher, {"overrides": "'open"}, 'overrides must be a list of words, not "\'open"'),
        (SrunMPILauncher, {"overrides": [1]}, r"overrides must be a list of words, not \[1\]"),
        (AprunLauncher, {"overrides": 5}, "overrides must be a list of words, not 5"),
        (MpiRunLauncher, {"ranks_per_node": 0}, "ranks_per_node must be a whole number of at least 1, not 0"),
        (JsrunLauncher, {"ranks_per_node": True}, "ranks_per_node must be a whole number"),
        (SrunLauncher, {"ranks_per_node": 1.5}, "ranks_per_node must be a whole number"),
        (MpiExecLauncher, {"flavor": "lam"}, "flavor must be auto, openmpi, mpich or intel, not 'lam'"),
        (SrunLauncher, {"output": "none"}, "output must be 'job' or 'files', not 'none'"),
        (SshLauncher, {"output": "none"}, "output must be 'job' or 'files', not 'none'"),
        (MpiRunLauncher, {"output": ""}, "output must be 'job' or 'files', not ''"),
        (SshLauncher, {"hosts": ["a"], "hostfile": "f"}, "hosts and hostfile both name the nodes"),
        (SshLauncher, {"hosts": ["-oProxyCommand=x"]}, "hosts must be names"),
        (GnuParallelLauncher, {"hosts": ["a b"]}, "hosts must be names"),
        (SshLauncher, {"program": []}, "program must be the words of a command"),
        (WrappedLauncher, {"prefix": None}, "prefix must be a list of words, not None"),
    ],
)
def test_what_is_wrong_is_said_at_once(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        AprunLauncher,
        GnuParallelLauncher,
        JsrunLauncher,
        MpiExecLauncher,
        MpiRunLauncher,
        SrunLauncher,
        SrunMPILauncher,
        SshLauncher,
    ],
)
def test_launchers_are_values(make: Any) -> None:
    launcher = make(overrides=["-v"])
    assert pickle.loads(pickle.dumps(launcher)) == launcher == make(overrides="-v") != make()
    assert hash(launcher) == hash(make(overrides="-v"))


def options_of(argv: Sequence[str], kind: str) -> str:
    script = argv[-1]
    (line,) = [
        after.strip().splitlines()[0] for before, _, after in [script.partition(f"    {kind})\n")] if after
    ]
    return line.removeprefix("set -- ")


@pytest.mark.parametrize("make", [MpiRunLauncher, MpiExecLauncher])
def test_mpi_programs_get_the_options_that_each_understands(make: Any) -> None:
    argv = make(ranks_per_node=2).wrap(["cmd"], THREE)
    assert argv[:2] == ["/bin/sh", "-c"]
    assert options_of(argv, "openmpi") == "-n 6 --map-by ppr:2:node:OVERSUBSCRIBE --bind-to none"
    assert options_of(argv, "mpich") == "-n 6 -ppn 2 -disable-auto-cleanup"
    assert options_of(argv, "intel") == "-n 6 -ppn 2"
    argv = make(["--bind-to", "core"]).wrap(["cmd"], THREE)
    assert options_of(argv, "openmpi") == "-n 3 --map-by ppr:1:node:OVERSUBSCRIBE --bind-to core"
