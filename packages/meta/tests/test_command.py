"""The command line, in processes of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weft.__about__ import __version__

SCRIPT = """
import sys, weft

@weft.task
def double(x):
    return 2 * x

if __name__ == "__main__":
    print(sys.argv, double(4).result(), weft.current_run().config.retries)
"""


@pytest.fixture
def weft_command(start: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run ``python -m weft`` with these arguments, beside ``script.py`` with this text."""

    def run(*arguments: str, script: str = SCRIPT, env: dict[str, str] | None = None) -> Any:
        (tmp_path / "script.py").write_text(script)
        program = start(argv=["-m", "weft", *arguments], env=env)
        program.status = program.end()
        return program

    return run


def test_what_keeps_a_run_from_its_begin_is_said_once_and_beside_the_scripts_own_line(
    weft_command: Any,
) -> None:
    script = """
import weft
with weft.SSHChannel("127.0.0.1", port=1, config=None) as channel:
    pass
"""
    program = weft_command("run", "script.py", script=script)
    assert program.status == 1
    assert program.err.count("cannot be reached: Connection refused") == 1
    assert program.err.count("  File ") == 1
    assert 'script.py", line 3, in <module>' in program.err


def test_what_a_script_raises_itself_is_shown_whole(weft_command: Any) -> None:
    script = """
import weft
try:
    1 / 0
except ZeroDivisionError as error:
    raise weft.ChannelError("lost") from error
"""
    program = weft_command("run", "script.py", script=script)
    assert "ZeroDivisionError" in program.err
    assert program.err.endswith("ChannelError: lost\n")


def test_version_and_help(weft_command: Any) -> None:
    assert weft_command("--version").out == f"weft {__version__}\n"
    assert "config" in weft_command("--help").out
    assert weft_command("config", "chek", "x").status == 2


def test_a_script_runs_as_python_runs_it(weft_command: Any, tmp_path: Path) -> None:
    program = weft_command("run", "script.py", "--", "a", "--b", "-c")
    assert program.status == 0, program.err
    assert program.out == "['script.py', 'a', '--b', '-c'] 8 0\n"
    assert "weft: 1 of 1 tasks done (" in program.err


def test_sys_path_module_and_file(weft_command: Any, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "helper.py").write_text("value = 3\n")
    (tmp_path / "apart" / "main.py").write_text(
        "import sys, helper, pickle\n"
        "def f(): pass\n"
        "assert pickle.loads(pickle.dumps(f)) is f\n"
        "assert sys.modules['__main__'].f is f\n"
        "print(helper.value, __name__, __file__, sys.path[0])\n"
    )
    program = weft_command("run", "apart/main.py")
    assert program.out == f"3 __main__ apart/main.py {tmp_path / 'apart'}\n", program.err


@pytest.mark.parametrize("order", [("--config", "site.toml", "script.py"), ("script.py", "-c", "site.toml")])
def test_the_configuration_is_that_of_runs_without_one(
    weft_command: Any, tmp_path: Path, order: tuple[str, ...]
) -> None:
    (tmp_path / "site.toml").write_text("retries = 5")
    assert weft_command("run", "--quiet", *order).out.endswith(" 8 5\n")
    script = "import weft\nprint(weft.run().config.retries, weft.run(weft.Config()).config.retries)"
    assert weft_command("run", *order, script=script).out == "5 0\n"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('sorry')", 1, "sorry"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("def f(:", 1, "SyntaxError"),
    ],
)
def test_the_exit_status_is_that_of_the_script(weft_command: Any, body: str, status: int, said: str) -> None:
    program = weft_command("run", "script.py", script=body)
    assert program.status == status
    assert said in program.err


def test_a_traceback_shows_the_users_frames_alone(weft_command: Any) -> None:
    program = weft_command("run", "script.py", script="def f():\n    1 / 0\nf()\n")
    assert program.err.startswith("Traceback (most recent call last):\n  File ")
    assert program.err.count("File ") == 2
    assert "script.py" in program.err.splitlines()[1]
    assert "1 / 0" in program.err


def test_it_waits_for_the_default_run_and_cancels_it_after_an_error(
    weft_command: Any, tmp_path: Path
) -> None:
    script = "import weft\n@weft.shell\ndef touch(i): return f'touch {i}'\nfor i in range(20): touch(i)\n"
    assert weft_command("run", "-q", "script.py", script=script).status == 0
    assert all((tmp_path / str(i)).exists() for i in range(20))
    script = "import weft\n@weft.shell\ndef wait(): return 'sleep 1000'\nfor i in range(9): wait()\n1 / 0\n"
    assert weft_command("run", "script.py", script=script).status == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("run", "none.py"), 2, "none.py: no such script"),
        (("run", "script.py", "--config", "none.toml"), 2, "none.toml: No such file or directory"),
        (("run",), 2, "SCRIPT"),
        (("config", "check", "none.toml"), 2, "none.toml: No such file or directory"),
    ],
)
def test_wrong_commands(weft_command: Any, arguments: tuple[str, ...], status: int, said: str) -> None:
    program = weft_command(*arguments)
    assert program.status == status
    assert said in program.err


def test_a_wrong_configuration_starts_nothing(weft_command: Any, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("retris = 5\nname = 3\n")
    program = weft_command("run", "script.py", "--config", "site.toml", script="print('started')")
    assert program.status == 1
    assert program.out == ""
    assert program.err.startswith("weft: site.toml: 2 problems:\n  ")
    assert "Traceback" not in program.err


def test_config_check(weft_command: Any, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('retries = 5\n[[executors]]\ntype = "threads"\nworkers = 3\n')
    program = weft_command("config", "check", "site.toml")
    assert program.status == 0
    assert program.out.startswith("site.toml: OK\n")
    assert "executor 'threads': ThreadExecutor, in this process, up to 3 worker slots" in program.out
    assert "retries: 5" in program.out
    (tmp_path / "site.toml").write_text("retris = 5")
    program = weft_command("config", "check", "site.toml")
    assert program.status == 1
    assert "did you mean 'retries'?" in program.err


def test_quiet(weft_command: Any) -> None:
    assert weft_command("run", "--quiet", "script.py").err == ""
    assert weft_command("run", "script.py", env={"WEFT_PROGRESS": "0"}).err == ""


def test_ctrl_c(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, weft\n"
        "os.mkfifo('gate')\n"
        "@weft.task\n"
        "def stubborn():\n"
        "    print('begun', flush=True)\n"
        "    return open('gate').read()\n"
        "stubborn().result()\n"
    )
    program = start(argv=["-m", "weft", "run", "script.py"])
    program.wait_for("begun")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    with open(tmp_path / "gate", "w") as gate:
        gate.write("x")
    assert program.end() == 128 + signal.SIGINT
    assert program.err.rstrip().endswith("KeyboardInterrupt")
    assert "runpy" not in program.err
    assert "_script.py" not in program.err


SLURM = """
[[executors]]
type = "htex"
label = "cpu"

[executors.blocks]
nodes = 2
walltime = "00:30:00"

[executors.blocks.provider]
type = "slurm"
partition = "{partition}"
worker_init = "module load python"
"""


def test_the_scripts_of_blocks_can_be_looked_at(weft_command: Any, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SLURM.format(partition="de bug"))
    program = weft_command("config", "show-script", "site.toml")
    assert program.status == 0, program.err
    assert program.out.startswith("#!/bin/bash\n")
    wanted = ["#SBATCH '--partition=de bug'", "#SBATCH --nodes=2", "#SBATCH --time=0-00:30:00"]
    lines = program.out.splitlines()
    assert [line for line in (*wanted, "module load python") if line not in lines] == []
    assert "weft_executor_htex.manager" in program.out
    assert not (tmp_path / "runs").exists()


def test_to_look_at_a_script_packs_sends_and_asks_nothing(
    weft_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    channel = 'channel = {type = "openssh", host = "nowhere.invalid"}\n'
    (tmp_path / "site.toml").write_text(SLURM.format(partition="debug") + channel)
    for line in ("", 'environment = "pack"\n'):
        text = (tmp_path / "site.toml").read_text()
        (tmp_path / "packed.toml").write_text(text.replace('label = "cpu"\n', f'label = "cpu"\n{line}'))
        program = weft_command("config", "show-script", "packed.toml")
        assert program.status == 0, program.err
        assert "-e CACHE/weft/environments/env-CONTENT.tar.gz" in program.out
        assert "weft_executor_htex.manager" in program.out
    assert not (tmp_path / "cache").exists()


def test_a_configuration_without_scripts_says_so(weft_command: Any, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[[executors]]\ntype = 'threads'\n")
    program = weft_command("config", "show-script", "site.toml")
    assert program.status == 1
    assert "site.toml: no executor gets its blocks from a batch system" in program.err
