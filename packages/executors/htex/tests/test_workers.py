"""What each worker has of its own, what a call finds around itself there, and what holds it to its limits."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.seats import (
    SeatError,
    accelerator_environments,
    choose_cpus,
    parse_cpus,
    share_of_accelerators,
)
from weft_executor_htex.walltime import Walltime
from weft_interfaces import (
    BlockLostError,
    Blocks,
    CallOptions,
    ConfigError,
    Resources,
    ResourcesError,
    WorkerLostError,
    current_worker,
)
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.calls import Gate, pass_gate

pytestmark = pytest.mark.once

PATIENCE = 30.0
# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def site(site: Any) -> Callable[..., Any]:
    """With as many workers as the executor makes of it, and more time for heartbeats."""
    return lambda **settings: site(**{"workers_per_node": None, "heartbeat_threshold": 3} | settings)


def surroundings(address: Any = None) -> tuple[dict[str, str], set[int], int]:
    if address is not None:
        pass_gate(address)
    return dict(os.environ), set(os.sched_getaffinity(0)), os.getpid()


def on_all_workers(here: Any, recorder: Any, gate: Gate, number: int) -> list[Any]:
    """What each of the workers says, in the order of their seats."""
    calls = [recorder.call(surroundings, gate.address) for _ in range(number)]
    here.executor.submit(calls)
    for _ in calls:
        gate.wait_begun(PATIENCE)
    gate.open()
    values = [outcome.value for outcome in recorder.wait(*calls)]
    return sorted(values, key=lambda value: int(value[0]["WEFT_WORKER_RANK"]))


def kill_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def with_resources(call: Any, **resources: Any) -> Any:
    options = CallOptions(name="task", resources=Resources(**resources))
    return call._replace(options=options)


# -- accelerators -----------------------------------------------------------------------------------------


def test_each_worker_has_an_accelerator_of_its_own(site: Any, recorder: Any, gate: Gate) -> None:
    here = site(accelerators=2)
    here.start()
    seats = [variables for variables, _, _ in on_all_workers(here, recorder, gate, 2)]
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        assert [seat[variable] for seat in seats] == ["0", "1"]
    assert all("ROCR_VISIBLE_DEVICES" not in seat for seat in seats)


def test_a_call_that_asks_for_two_gpus_sees_two_that_no_other_sees(
    site: Any, recorder: Any, gate: Gate
) -> None:
    here = site(accelerators=["GPU-a", "GPU-b", "GPU-c", "GPU-d"], workers_per_node=2, gpus=4)
    here.start()
    calls = [with_resources(recorder.call(surroundings, gate.address), gpus=2) for _ in range(2)]
    here.executor.submit(calls)
    for _ in calls:
        gate.wait_begun(PATIENCE)
    gate.open()
    seen = {outcome.value[0]["CUDA_VISIBLE_DEVICES"] for outcome in recorder.wait(*calls)}
    assert seen == {"GPU-a,GPU-b", "GPU-c,GPU-d"}


def test_a_number_counts_among_what_the_batch_system_has_granted(
    site: Any, recorder: Any, gate: Gate
) -> None:
    here = site(accelerators=2)
    here.start(CUDA_VISIBLE_DEVICES="5,7", ROCR_VISIBLE_DEVICES="5,7")
    seats = [variables for variables, _, _ in on_all_workers(here, recorder, gate, 2)]
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats] == ["5", "7"]
    assert [seat["HIP_VISIBLE_DEVICES"] for seat in seats] == ["0", "1"]
    assert [seat["ROCR_VISIBLE_DEVICES"] for seat in seats] == ["5,7", "5,7"]


@pytest.mark.parametrize(
    ("settings", "asks", "words"),
    [
        ({}, 1, "have no accelerators"),
        ({"gpus": 4}, 1, "set accelerators="),
        ({"accelerators": 2}, 2, "has 1 of the accelerators, the task asks for gpus=2"),
        ({"accelerators": ["0", "0"]}, 1, "has 0.5 of the accelerators"),
    ],
)
def test_gpus_that_no_worker_has_are_refused(
    site: Any, recorder: Any, settings: dict[str, Any], asks: float, words: str
) -> None:
    here = site(**settings)
    call = with_resources(recorder.call(abs, -1), gpus=asks)
    here.executor.submit([call])
    error = recorder.wait(call)[0].error
    assert isinstance(error, ResourcesError)
    assert words in str(error)


def test_parts_of_a_shared_accelerator_are_counted() -> None:
    assert share_of_accelerators(["0", "0", "1", "1"], 4) == 0.5
    assert share_of_accelerators(["0", "0", "1", "1"], 2) == 1
    assert share_of_accelerators(4, 2) == 2
    assert share_of_accelerators(None, 2) == 0
    shared = accelerator_environments(["0", "0", "1", "1"], 2, {})
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in shared] == ["0", "1"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accelerators": 0}, "0 is neither their number"),
        ({"accelerators": True}, "True is neither"),
        ({"accelerators": "0"}, "'0' is neither"),
        ({"accelerators": ["0,1"]}, "a list of their names"),
        ({"accelerators": []}, "[] is neither"),
        ({"accelerators": 2, "workers_per_node": 4}, "set workers_per_node=2"),
        ({"accelerators": 4, "workers_per_node": 3}, "3 workers cannot have 4 accelerators"),
        ({"accelerators": 4, "gpus": 2}, "blocks.gpus asks for 2"),
        ({"affinity": "blok"}, "one of 'none', 'block', 'block-reverse', 'alternating'"),
        ({"affinity": ["0-1", "x"], "workers_per_node": 2}, "'x' is no list of processors"),
        ({"affinity": ["3-1"], "workers_per_node": 1}, "'3-1' is no list of processors"),
        ({"affinity": ["0", "1"]}, "needs workers_per_node=2"),
        ({"affinity": ["0", "1"], "workers_per_node": 3}, "3 workers, and processors for 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    blocks = Blocks(provider=InMemoryProvider(), gpus=settings.pop("gpus", None))
    key = "accelerators" if "accelerators" in settings else "affinity"
    with pytest.raises(ConfigError) as caught:
        HighThroughputExecutor("gpu", blocks=blocks, **settings)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{key} of executor 'gpu': ")
    assert caught.value.key == key


# -- processors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("affinity", "workers", "available", "chosen"),
    [
        ("none", 2, range(4), []),
        ("block", 2, range(4), [[0, 1], [2, 3]]),
        ("block", 2, [1, 4, 6, 7, 9], [[1, 4], [6, 7, 9]]),
        ("block-reverse", 2, range(4), [[2, 3], [0, 1]]),
        ("alternating", 2, [5, 3, 1, 0], [[0, 3], [1, 5]]),
        (["0-1,3", "2"], 2, range(4), [[0, 1, 3], [2]]),
    ],
)
def test_processors_are_shared_out(affinity: Any, workers: int, available: Any, chosen: Any) -> None:
    assert choose_cpus(affinity, workers, available) == chosen


def test_blocks_of_processors_stay_on_one_numa_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, cpus in (("node0", "0-1,4-5\n"), ("node1", "2-3,6-7\n"), ("node2", "\n")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cpus)
    monkeypatch.setattr("weft_executor_htex.seats._NODES", tmp_path)
    assert choose_cpus("block", 2, range(8)) == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(
    ("affinity", "workers", "words"),
    [
        ("block", 5, "a processor for each of 5 workers, this node has 4"),
        (["0-5"], 1, r"processors \[4, 5\]"),
    ],
)
def test_processors_that_a_node_has_not(affinity: Any, workers: int, words: str) -> None:
    with pytest.raises(SeatError, match=words):
        choose_cpus(affinity, workers, range(4))


def test_lists_of_processors() -> None:
    assert parse_cpus("0-3, 8") == [0, 1, 2, 3, 8]


@pytest.mark.parametrize("affinity", ["block", "alternating", "list"])
def test_workers_are_bound(site: Any, recorder: Any, gate: Gate, affinity: str) -> None:
    available = sorted(os.sched_getaffinity(0))
    workers = min(2, len(available))
    here = site(
        workers_per_node=workers,
        affinity=[str(cpu) for cpu in available[:workers]] if affinity == "list" else affinity,
    )
    here.start()
    bound = [cpus for _, cpus, _ in on_all_workers(here, recorder, gate, workers)]
    assert all(bound)
    assert sum(len(cpus) for cpus in bound) == len(set().union(*bound))
    if affinity == "list":
        assert bound == [{cpu} for cpu in available[:workers]]
    else:
        assert set().union(*bound) == set(available)


# -- the environment --------------------------------------------------------------------------------------


def test_the_environment_says_where_a_call_runs(site: Any, recorder: Any, gate: Gate) -> None:
    here = site(label="pilot", workers_per_node=2)
    manager = here.start("block-7", SLURM_NODEID="3")
    for seat, (variables, _, _) in enumerate(on_all_workers(here, recorder, gate, 2)):
        said = {name: value for name, value in variables.items() if name.startswith("WEFT_")}
        said = {name: value for name, value in said.items() if not name.startswith("WEFT_JOB_")}
        assert said == {
            "WEFT_WORKER_RANK": str(seat),
            "WEFT_WORKER_COUNT": "2",
            "WEFT_NODE": os.uname().nodename,
            "WEFT_NODE_RANK": "3",
            "WEFT_BLOCK_ID": "block-7",
            "WEFT_MANAGER_PID": str(manager.pid),
            "WEFT_EXECUTOR": "pilot",
            "WEFT_RUN_ID": recorder.run_id,
        }


def change_variables() -> None:
    os.environ["WEFT_WORKER_RANK"] = "changed"
    os.environ["NEW"] = "new"
    del os.environ["WEFT_NODE"]


def clear_variables() -> None:
    os.environ.clear()


def variables_of_a_child() -> dict[str, str]:
    said = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in said.splitlines() if line.startswith(("WEFT_", "NEW")))


@pytest.mark.parametrize("disturb", [change_variables, clear_variables])
def test_the_environment_is_restored(site: Any, recorder: Any, disturb: Any) -> None:
    """Python's view of it, and what child processes inherit."""
    here = site(workers_per_node=1)
    here.start(PATH=os.environ["PATH"])
    before = recorder.value(here.executor, surroundings)
    inherited = recorder.value(here.executor, variables_of_a_child)
    recorder.value(here.executor, disturb)
    assert recorder.value(here.executor, surroundings) == before
    assert recorder.value(here.executor, variables_of_a_child) == inherited


def test_a_replacement_takes_the_seat(site: Any, recorder: Any, gate: Gate) -> None:
    here = site(accelerators=["a", "b"])
    here.start()
    taken = {}
    for _ in range(3):
        with Gate() as one:
            first, second = on_all_workers(here, recorder, one, 2)
        taken[first[2]] = taken[second[2]] = True
        assert [first[0]["CUDA_VISIBLE_DEVICES"], second[0]["CUDA_VISIBLE_DEVICES"]] == ["a", "b"]
        error = recorder.error(here.executor, kill_yourself)
        assert isinstance(error, WorkerLostError)
    assert len(taken) == 4


def test_a_dead_worker_is_replaced_in_50_ms(site: Any, recorder: Any) -> None:
    """From its death to the first result of the next one, in the middle of eleven.

    A busy machine has five tries.
    """
    here = site(workers_per_node=1)
    here.start()
    pid = recorder.value(here.executor, os.getpid)
    tried = []

    def replace() -> float:
        nonlocal pid
        begun = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        call = recorder.call(os.getpid)
        [outcome] = recorder.run(here.executor, call)
        while outcome.error is not None or outcome.value == pid:  # it was given to the dying one
            [outcome] = recorder.run(here.executor, recorder.call(os.getpid))
        pid = outcome.value
        return time.perf_counter() - begun

    for _ in range(5):
        tried.append(statistics.median(replace() for _ in range(11)))
        if tried[-1] < 0.05:
            return
    pytest.fail(f"it took {tried} seconds")


# -- modules ----------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def loaded(name: str) -> tuple[bool, int | None, int]:
    module = sys.modules.get(name)
    return module is not None, getattr(module, "PID", None), os.getpid()


def test_preloaded_modules_are_imported_once_for_all_workers(
    site: Any, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the template, before the first call, and for replacements, too."""
    write(tmp_path / "heavy.py", "import os\nPID = os.getpid()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    here = site(workers_per_node=2, preload=["heavy", "no_such_module"])
    here.start()
    first = recorder.value(here.executor, loaded, "heavy")
    assert first[0]
    assert first[1] != first[2]
    recorder.error(here.executor, kill_yourself)
    assert recorder.value(here.executor, loaded, "heavy")[:2] == first[:2]
    assert not recorder.value(here.executor, loaded, "heavier")[0]


# -- output -----------------------------------------------------------------------------------------------


def talk(word: str) -> None:
    print("python", word)
    print("python error", word, file=sys.stderr)
    subprocess.run(["sh", "-c", f"echo child {word}; echo child error {word} >&2"], check=True)


def die_talking(how: int) -> None:
    print("last words", file=sys.stderr)
    os.kill(os.getpid(), how)


def test_output_is_captured_on_request(
    site: Any, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appended to files whose paths are relative to the client's directory, wherever managers are started."""
    (tmp_path / "client").mkdir()
    (tmp_path / "manager").mkdir()
    monkeypatch.chdir(tmp_path / "client")
    here = site(workers_per_node=1)
    here.start(cwd=tmp_path / "manager")
    recorder.value(here.executor, talk, "one", stdout="logs/out", stderr=str(tmp_path / "err"))
    recorder.value(here.executor, talk, "two", stdout="logs/out", stderr="logs/out")
    recorder.value(here.executor, talk, "three", stdout="logs/out", cwd="elsewhere")
    out = (tmp_path / "client" / "logs" / "out").read_text().splitlines()
    assert out[:2] == ["python one", "child one"]
    assert out[6:] == ["python three", "child three"]
    assert sorted(out[2:6]) == ["child error two", "child two", "python error two", "python two"]
    assert (tmp_path / "err").read_text().splitlines() == ["python error one", "child error one"]
    assert (tmp_path / "client" / "elsewhere").is_dir()
    assert list((tmp_path / "manager").iterdir()) == []


def test_a_directory_that_the_node_has_not(
    site: Any, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "client").mkdir()
    monkeypatch.chdir(tmp_path / "client")
    here = site(workers_per_node=1)
    command = here.executor.command("b")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "client").rmdir()
    manager = here.start(cwd=tmp_path, command=command)
    assert recorder.value(here.executor, os.getcwd) == str(tmp_path)
    here.executor.drain(["b"])
    assert manager.wait(PATIENCE) == 0
    assert manager.stderr is not None
    assert f"calls run in {tmp_path}" in manager.stderr.read().decode()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_the_certificate_has_the_last_words(
    site: Any, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    monkeypatch.chdir(tmp_path)
    here = site(workers_per_node=1)
    here.start(cwd=Path("/"))
    error = recorder.error(here.executor, die_talking, how, stderr="err")
    assert isinstance(error, WorkerLostError)
    assert error.certificate is not None
    assert "last words" in error.certificate.stderr_tail


# -- memory -----------------------------------------------------------------------------------------------


HOLD = """
import time
def hold(megabytes, seconds, path):
    with open(path, "w") as file:
        file.write(repr(time.monotonic()))
    data = bytearray(b"x") * (megabytes << 20)
    time.sleep(seconds)
    return len(data)
"""


def fill(megabytes: int, seconds: float, how: str, path: str) -> Any:
    """Use memory: here, in a child process, in one with a session of its own, or in one left to itself. When
    it began to is in the file.
    """
    if how == "itself":
        names: dict[str, Any] = {}
        exec(HOLD, names)
        return names["hold"](megabytes, seconds, path)
    argv = [sys.executable, "-c", f"{HOLD}\nhold({megabytes}, {seconds}, {path!r})"]
    if how == "orphan":
        argv = ["sh", "-c", '"$@" &', "sh", *argv]
    subprocess.run(argv, check=True, start_new_session=how == "session")
    time.sleep(seconds)
    return None


@pytest.mark.parametrize("how", ["itself", "child", "session", "orphan"])
def test_a_call_that_uses_more_memory_than_it_asked_for_is_stopped(
    site: Any, recorder: Any, gate: Gate, tmp_path: Path, how: str
) -> None:
    """Noticed within a second, and others go on; the certificate names both amounts."""
    here = site(workers_per_node=2)
    here.start()
    neighbour = recorder.call(pass_gate, gate.address, "unharmed")
    here.executor.submit([neighbour])
    gate.wait_begun(PATIENCE)
    path = tmp_path / "begun"
    error = recorder.error(here.executor, fill, 150, 1000, how, str(path), memory="100MB", name="greedy")
    assert time.monotonic() - float(path.read_text()) < 1.0
    assert isinstance(error, WorkerLostError)
    assert error.certificate is not None
    assert error.certificate.out_of_memory
    assert error.certificate.block_id == "b"
    assert error.certificate.pid
    words = str(error)
    assert "task 'greedy' used more memory than it asked for" in words
    assert "its task asked for memory=100.0 MB" in words
    used = re.search(r"it used (\d+).\d MB", words)
    assert used is not None, words
    assert 100 <= int(used[1]) < 250
    gate.open()
    assert recorder.wait(neighbour)[0].value == "unharmed"
    assert recorder.value(here.executor, abs, -1) == 1


@pytest.mark.parametrize("memory", [None, "400MB"])
def test_a_call_within_what_it_asked_for_is_left_alone(
    site: Any, recorder: Any, tmp_path: Path, memory: str | None
) -> None:
    here = site(workers_per_node=1)
    here.start()
    arguments = (150, 0.5, "itself", str(tmp_path / "begun"))
    assert recorder.value(here.executor, fill, *arguments, memory=memory) == 150 << 20


def map_a_file(path: str) -> int:
    """Have pages in memory that are a file's."""
    import mmap

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        total = sum(view[:: mmap.PAGESIZE])
        time.sleep(0.5)
        return total


def test_mapped_files_are_no_memory_of_the_call(site: Any, recorder: Any, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(150 << 20))
    here = site(workers_per_node=1)
    here.start()
    assert recorder.value(here.executor, map_a_file, str(path), memory="60MB") == 0


def be_killed_for_memory(events: str) -> None:
    Path(events).write_text("oom 1\noom_kill 1\n")
    kill_yourself()


def test_a_worker_that_the_kernel_kills_for_memory(site: Any, recorder: Any, tmp_path: Path) -> None:
    """It counts such kills, in a file that stands for that of the cgroup here."""
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 0\n")
    code = f"""
import sys
from pathlib import Path
from weft_executor_htex import manager
from weft_interfaces.processes import certificate
certificate._candidates = lambda: [Path({str(events)!r})]
sys.exit(manager.main())
"""
    here = site(workers_per_node=1)
    _, data = here.executor.command("b")
    here.start(command=([sys.executable, "-c", code], data))
    error = recorder.error(here.executor, kill_yourself)
    assert error.certificate is not None
    assert not error.certificate.out_of_memory
    begun = time.monotonic()
    error = recorder.error(here.executor, be_killed_for_memory, str(events))
    assert time.monotonic() - begun < 1.0
    assert error.certificate is not None
    assert error.certificate.out_of_memory


# -- the end of the block ---------------------------------------------------------------------------------


def remaining() -> float | None:
    worker = current_worker()
    assert worker is not None
    return worker.remaining()


def test_a_call_knows_what_time_is_left(site: Any, recorder: Any) -> None:
    """Of its timeout, or of its block, whichever is over first."""
    here = site(workers_per_node=1, walltime=60)
    here.start()
    block = recorder.value(here.executor, remaining)
    assert 30 < block < 60
    assert 9 < recorder.value(here.executor, remaining, timeout=10) <= 10
    assert block - 20 < recorder.value(here.executor, remaining, timeout=3600) <= block


def test_a_call_without_a_limit_has_no_time_left_to_know(site: Any, recorder: Any) -> None:
    here = site(workers_per_node=1)
    here.start()
    assert recorder.value(here.executor, remaining) is None


def test_the_batch_system_knows_better_when_a_block_ends(site: Any, recorder: Any) -> None:
    here = site(workers_per_node=1, walltime=3600)
    here.start(SLURM_JOB_END_TIME=f"{time.time() + 100:.0f}")
    assert 60 < recorder.value(here.executor, remaining) < 100


def remaining_later(address: str) -> tuple[float | None, float | None]:
    worker = current_worker()
    assert worker is not None
    before = worker.remaining()
    pass_gate(address)
    return before, worker.remaining()


def test_the_end_of_a_block_may_be_moved_while_calls_run(
    site: Any, recorder: Any, gate: Gate, eventually: Any
) -> None:
    """Running ones know it, and so do those that ask for more time than there was."""
    here = site(workers_per_node=2, walltime=100)
    here.start("moved")
    running = recorder.call(remaining_later, gate.address)
    here.executor.submit([running])
    gate.wait_begun(PATIENCE)
    long = recorder.call(abs, -7)._replace(options=CallOptions(resources=Resources(walltime=600)))
    here.executor.submit([long])
    assert 60 < recorder.value(here.executor, remaining) < 100
    assert long.id not in recorder.outcomes
    here.executor.block_ends("moved", time.time() + 1000)
    assert recorder.wait(long)[0].value == 7
    assert 900 < recorder.value(here.executor, remaining) < 1000
    gate.open()
    before, after = recorder.wait(running)[0].value
    assert 60 < before < 100
    assert 900 < after < 1000


def test_a_block_ends_when_the_batch_system_says_so_later(site: Any, recorder: Any, gate: Gate) -> None:
    here = site(workers_per_node=1, walltime=3600)
    here.executor.block_ends("soon", time.time() + 4)  # before there is a manager
    manager = here.start("soon")
    running = recorder.call(pass_gate, gate.address)
    here.executor.submit([running])
    error = recorder.wait(running)[0].error
    assert isinstance(error, BlockLostError)
    assert manager.wait(PATIENCE) == 0


def test_walltimes() -> None:
    now = time.time()
    assert Walltime(None, {"WEFT_JOB_ENDS_AT": ""}).left() == (float("inf"), float("inf"))
    walltime = Walltime(3600, {"WEFT_JOB_ENDS_AT": "nonsense"})
    assert walltime.ends_at == pytest.approx(now + 3599, abs=1)
    assert walltime.drains_at == pytest.approx(now + 3569, abs=1)
    assert Walltime(60, {}).drains_at == pytest.approx(now + 56, abs=1)
    assert "1h" in str(walltime)
    assert walltime.move(now + 100) == now + 99
    assert walltime.drains_at == pytest.approx(now + 94, abs=1)


def test_a_block_drains_before_its_walltime_is_over(site: Any, recorder: Any, gate: Gate) -> None:
    """What still runs then is lost with the block; what has not begun runs elsewhere."""
    here = site(workers_per_node=1, walltime=4)
    manager = here.start("short")
    running = recorder.call(pass_gate, gate.address)
    here.executor.submit([running])
    gate.wait_begun(PATIENCE)
    waiting = recorder.call(surroundings)
    here.executor.submit([waiting])
    error = recorder.wait(running)[0].error
    assert isinstance(error, BlockLostError)
    assert "the walltime of its block, 4.0s, is over" in str(error)
    assert error.certificate is not None
    assert error.certificate.block_id == "short"
    assert manager.wait(PATIENCE) == 0
    assert waiting.id not in recorder.outcomes
    here.start("next")
    assert recorder.wait(waiting)[0].value[0]["WEFT_BLOCK_ID"] == "next"


def test_an_idle_block_ends_when_it_would_drain(site: Any, recorder: Any) -> None:
    here = site(workers_per_node=1, walltime=3)
    manager = here.start()
    recorder.value(here.executor, abs, -1)
    begun = time.monotonic()
    assert manager.wait(PATIENCE) == 0
    assert time.monotonic() - begun < 3
    assert manager.stderr is not None
    assert "almost over" in manager.stderr.read().decode()


def test_a_block_that_is_ended_when_its_walltime_is_almost_over(
    site: Any, recorder: Any, gate: Gate, eventually: Any
) -> None:
    """By its batch system, say, whose clock runs a little ahead."""
    here = site(workers_per_node=1, heartbeat_threshold=30)
    end = time.time() + 4
    manager = here.start(SLURM_JOB_END_TIME=f"{end:.3f}")
    running = recorder.call(pass_gate, gate.address)
    here.executor.submit([running])
    gate.wait_begun(PATIENCE)
    manager.send_signal(signal.SIGSTOP)  # so that it does not end by itself
    eventually(lambda: time.time() > end, "the clock stands")
    manager.send_signal(signal.SIGTERM)
    manager.send_signal(signal.SIGCONT)
    error = recorder.wait(running)[0].error
    assert isinstance(error, BlockLostError)
    assert "it was ended by SIGTERM, and the walltime of its block was almost over" in str(error)


def test_a_call_whose_walltime_does_not_fit_waits_for_another_block(site: Any, recorder: Any) -> None:
    here = site(workers_per_node=1, walltime=60)
    here.start("old", SLURM_JOB_END_TIME=f"{time.time() + 30:.0f}")
    recorder.value(here.executor, abs, -1)
    long = with_resources(recorder.call(surroundings), walltime=40)
    short = with_resources(recorder.call(surroundings), walltime=5)
    here.executor.submit([long, short])
    assert recorder.wait(short)[0].value[0]["WEFT_BLOCK_ID"] == "old"
    assert long.id not in recorder.outcomes
    here.start("new")
    assert recorder.wait(long)[0].value[0]["WEFT_BLOCK_ID"] == "new"
