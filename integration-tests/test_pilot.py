"""The pilot executor with the kernel's scaler and blocks of this machine, as users have them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import weft
from weft_interfaces import BlockShape, DirectLauncher

PATIENCE = 30.0


def executor(launcher: Any = None, workers: int = 2, **blocks: Any) -> weft.HighThroughputExecutor:
    settings = weft.Blocks(provider=weft.LocalProvider(), launcher=launcher or DirectLauncher(), **blocks)
    return weft.HighThroughputExecutor(workers_per_node=workers, blocks=settings)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    def start(*executors: weft.HighThroughputExecutor, **settings: Any) -> Any:
        return weft.run(executors=executors or [executor()], run_dir=tmp_path, progress=False, **settings)

    return start


@weft.task
def square(x: int) -> int:
    return x * x


@weft.task
def add(*numbers: int) -> int:
    return sum(numbers)


@weft.task
def kill_the_manager(marker: str) -> int:
    """Kills its manager, which is the parent of the template, the first time."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        template = os.getppid()
        manager = int(Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(manager, signal.SIGKILL)
        time.sleep(60)
    return 1


def test_a_graph(run: Callable[..., Any]) -> None:
    with run():
        squares = [square(n) for n in range(300)]
        assert add(*squares).result(PATIENCE) == sum(n * n for n in range(300))


def test_several_blocks_come_when_there_is_work(run: Callable[..., Any]) -> None:
    """Four workers in two blocks, though only one was there at the start."""

    @weft.task
    def where(_: int) -> int:
        time.sleep(0.2)
        template = os.getppid()
        return int(Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1])

    with run(executor(init=1, max=2)):
        managers = {future.result(PATIENCE) for future in [where(n) for n in range(60)]}
    assert len(managers) == 2


def test_modules_beside_a_script_that_is_run_from_elsewhere(tmp_path: Path) -> None:
    """By ``weft run``: workers import them, and calls run where the user is."""
    project, here = tmp_path / "project", tmp_path / "here"
    project.mkdir()
    here.mkdir()
    (project / "beside.py").write_text("import os\n\ndef where(n):\n    return n, __file__, os.getcwd()\n")
    (project / "script.py").write_text(
        textwrap.dedent("""
            import beside
            import weft

            @weft.task
            def through(n):
                return beside.where(n)

            print(*weft.task(beside.where)(1).result(), *through(2).result(), sep="\\n")
        """)
    )
    (project / "site.toml").write_text('[[executors]]\ntype = "htex"\nworkers_per_node = 1\n')
    argv = [sys.executable, "-m", "weft", "run", "--config", str(project / "site.toml")]
    done = subprocess.run(
        [*argv, str(project / "script.py")], cwd=here, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    module = str(project / "beside.py")
    assert done.stdout.splitlines() == ["1", module, str(here), "2", module, str(here)]


def test_remaining_knows_when_the_block_ends(run: Callable[..., Any]) -> None:
    with run(executor(walltime=600)):
        left = weft.task(weft.remaining)().result()
    assert left is not None
    assert 500 < left < 600


def test_a_lost_manager_costs_no_retry(run: Callable[..., Any], tmp_path: Path) -> None:
    """The task is run again, in the block that replaces the one that was lost; none is forgiven here."""
    with run(retries=0):
        tasks = [square(n) for n in range(50)]
        victim = kill_the_manager(str(tmp_path / "marker"))
        assert victim.result(PATIENCE) == 1
        assert [task.result(PATIENCE) for task in tasks] == [n * n for n in range(50)]


@weft.task
def kill_whoever_runs_it(whom: str) -> None:
    """A task that cannot be run."""
    template = os.getppid()
    manager = int(Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(os.getpid() if whom == "worker" else manager, signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize("whom", ["worker", "manager"])
def test_a_task_that_kills_whoever_runs_it_fails_with_all_certificates(
    run: Callable[..., Any], whom: str
) -> None:
    """After six losses, whatever its retries, and within half a minute; others go on."""
    with run(executor(min=1), retries=100):
        begun = time.monotonic()
        poison = kill_whoever_runs_it(whom)
        others = [square(n) for n in range(50)]
        error = poison.exception(PATIENCE)
        assert time.monotonic() - begun < 30.0
        assert isinstance(error, weft.LostError)
        kinds = {certificate.kind for certificate in error.certificates}
        # Where a manager is all that there is in a block, the batch system may say first that it has ended.
        assert kinds <= ({"worker"} if whom == "worker" else {"manager", "block"})
        assert len({(certificate.block_id, certificate.pid) for certificate in error.certificates}) == 6
        assert [other.result(PATIENCE) for other in others] == [n * n for n in range(50)]
        assert square(7).result(PATIENCE) == 49


class Broken:
    """A launcher whose command fails before the manager can register."""

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        return ["sh", "-c", "echo module: python/3.99: not found >&2; exit 7"]


def test_a_block_that_fails_at_once_fails_its_tasks_with_its_words(run: Callable[..., Any]) -> None:
    begun = time.monotonic()
    with run(executor(Broken())):
        error = square(3).exception(PATIENCE)
    assert time.monotonic() - begun < 20
    assert error is not None
    assert "python/3.99: not found" in str(error)


def descendants(pid: int) -> Iterator[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines()[1:]:
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT", "end", "exception"])
def test_nothing_is_left_however_the_client_ends(tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import time, weft

        @weft.task
        def nap(seconds):
            time.sleep(seconds)

        blocks = weft.Blocks(provider=weft.LocalProvider())
        htex = weft.HighThroughputExecutor(workers_per_node=2, blocks=blocks)
        with weft.run(executors=[htex], run_dir={str(tmp_path)!r}, progress=False, shutdown_timeout=1):
            nap(0).result()
            if {how!r}.startswith("SIG"):
                naps = [nap(1000) for _ in range(4)]
                print("ready", flush=True)
                weft.gather(naps).result()
            print("ready", flush=True)
            input()
            if {how!r} == "exception":
                raise RuntimeError("in the block")
        """)
    )
    client = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    family = list(descendants(client.pid))
    assert len(family) >= 4  # a manager, a template, two workers
    if how.startswith("SIG"):
        client.send_signal(getattr(signal, how))
    client.communicate("\n", timeout=PATIENCE)
    deadline = time.monotonic() + 10
    while left := [pid for pid in family if alive(pid)]:
        assert time.monotonic() < deadline, f"{len(left)} of {len(family)} processes are left"
        time.sleep(0.02)
