"""An interchange that is no thread of the client's process: what it costs to lose it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weft_executor_htex import HighThroughputExecutor, remote
from weft_executor_htex.selector import find_selector
from weft_executor_htex.setup import Endpoint, InterchangeSetup, ManagerAccess
from weft_executor_htex.stream import StreamReader, pack
from weft_interfaces import (
    Blocks,
    Call,
    ChannelError,
    ConfigError,
    InterchangeLostError,
    ProviderError,
)
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.calls import Gate, pass_gate

pytestmark = pytest.mark.once

PATIENCE = 30.0


def interchange_of(executor: HighThroughputExecutor) -> int:
    """The process of an executor's interchange: the child of this one that runs it."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if int(parent) == os.getpid() and b"weft_executor_htex.interchange" in command:
                return int(name)
    raise AssertionError("no interchange runs")


def submit(here: Any, recorder: Any, function: Any, *arguments: tuple[Any, ...]) -> list[Call]:
    calls = [recorder.call(function, *each) for each in arguments]
    here.executor.submit(calls)
    return calls


def test_calls_run(site: Any, recorder: Any) -> None:
    here = site(interchange="process")
    here.start("b")
    calls = submit(here, recorder, abs, *((-n,) for n in range(5000)))
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(5000))


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_it_is_lost(site: Any, recorder: Any, eventually: Any, how: str) -> None:
    """Killed: noticed within a second. Stopped: within the threshold, and a moment to end it. What it had is
    lost, with its certificate; its managers end; what comes later runs in the next one's.
    """
    with Gate() as gate:
        here = site(interchange="process", heartbeat_threshold=1.5)
        old = here.start("old")
        recorder.value(here.executor, abs, -1)
        begun = submit(here, recorder, pass_gate, (gate.address,), (gate.address,))
        gate.wait_begun(PATIENCE)
        waiting = submit(here, recorder, abs, *((-n,) for n in range(10)))
        struck = time.monotonic()
        os.kill(interchange_of(here.executor), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        lost = recorder.wait(*begun, *waiting)
        assert time.monotonic() - struck < (1.0 if how == "killed" else 1.5 + 0.5)
        assert {type(outcome.error) for outcome in lost} == {InterchangeLostError}
        certificate = lost[0].error.certificate
        assert certificate.kind == "interchange"
        assert (
            certificate.signal == signal.SIGKILL
            if how == "killed"
            else "nothing was heard" in str(certificate)
        )
        assert old.wait(PATIENCE) == 0
        eventually(lambda: here.executor.status()["managers"] == [], "its managers are gone")
        eventually(lambda: _has_access(here.executor), "the next one is there")
        here.start("new")
        assert recorder.value(here.executor, abs, -3) == 3


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_listens_on_a_port_is_lost_and_no_call_with_it(
    site: Any, recorder: Any, eventually: Any, tmp_path: Path, times: int
) -> None:
    """Its managers find the next one, with what they run, and with results that nobody has got."""
    here = site(interchange="process", address="127.0.0.1", heartbeat_threshold=20.0)
    manager = here.start("b")
    recorder.value(here.executor, abs, -1)
    path = str(tmp_path / "marks")
    with Gate() as gate:
        begun = submit(here, recorder, mark_and_pass, *((path, gate.address) for _ in range(2)))
        gate.wait_begun(PATIENCE)
        waiting = submit(here, recorder, mark, *((path, n) for n in range(20)))
        for number in range(times):
            os.kill(interchange_of(here.executor), signal.SIGKILL)
            eventually(lambda number=number: _losses(recorder) == number + 1, "its loss is told")
            eventually(lambda: _has_access(here.executor), "the next one is there")
    assert [outcome.value for outcome in recorder.wait(*begun)] == ["passed"] * 2
    assert [outcome.value for outcome in recorder.wait(*waiting)] == list(range(20))
    assert len(Path(path).read_text().splitlines()) == 22
    assert manager.poll() is None
    assert [each["pid"] for each in here.executor.status()["managers"]] == [manager.pid]


@pytest.mark.parametrize(
    ("other", "leads"),
    [
        ("login,10.0.0.1,10.0.0.2:7", True),
        ("login,10.0.0.2,172.17.0.1:7", True),  # an interface has come, and another one gone
        ("login:7", False),  # another host with the name, perhaps
        ("login,10.0.0.3:7", False),
        ("login2,10.0.0.1:7", False),
        ("login,10.0.0.1,10.0.0.2:8", False),
        ("", False),
    ],
)
def test_managers_find_the_next_one_on_the_same_port_of_the_same_host(other: str, leads: bool) -> None:
    access = ManagerAccess([Endpoint("tls://login,10.0.0.1,10.0.0.2:7")])
    assert access.leads_to(ManagerAccess([Endpoint(f"tls://{other}")] if other else [])) is leads


def test_one_address_that_the_user_has_given_is_enough() -> None:
    access = ManagerAccess([Endpoint("tls://login:7")])
    assert access.leads_to(ManagerAccess([Endpoint("tls://login:7")]))
    here = ManagerAccess([Endpoint("unix:///tmp/weft-1/interchange", boot_id="x")])
    assert here.port is None
    assert not here.leads_to(here)


def _make_tasks() -> tuple[Any, Any]:
    """Functions that travel by value: workers cannot import this module."""

    def mark(path: str, number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number

    def mark_and_pass(path: str, address: Any) -> str:
        mark(path, -1)
        pass_gate(address)
        return "passed"

    return mark, mark_and_pass


mark, mark_and_pass = _make_tasks()


def _has_access(executor: HighThroughputExecutor) -> bool:
    try:
        executor.command("x")
    except ChannelError:
        return False
    return True


def test_it_is_stopped_while_it_is_sent_much(site: Any, recorder: Any, eventually: Any) -> None:
    """It takes no more than the pipe has room for: who waits there does not keep others from noticing."""
    here = site(interchange="process", heartbeat_threshold=1.5)
    here.start("old")
    recorder.value(here.executor, abs, -1)
    struck = time.monotonic()
    os.kill(interchange_of(here.executor), signal.SIGSTOP)
    calls = submit(here, recorder, len, *(("x" * 1_000_000,) for _ in range(4)))
    recorder.wait(calls[0])
    assert time.monotonic() - struck < 1.5 + 0.5
    eventually(lambda: _has_access(here.executor), "the next one is there")
    here.start("new")
    for outcome in recorder.wait(*calls):
        assert type(outcome.error) is InterchangeLostError or outcome.value == 1_000_000
    assert recorder.value(here.executor, abs, -3) == 3


def test_what_no_manager_had_waits_for_the_next_one(
    site: Any, recorder: Any, eventually: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("weft_executor_htex.client._WINDOW", 4)
    monkeypatch.setattr("weft_executor_htex.client._BATCH", 1)
    here = site(interchange="process")
    calls = submit(here, recorder, abs, *((-n,) for n in range(10)))
    assert list(here.executor.cancel([calls[0].id])) == [calls[0].id]  # so it has heard of the first four
    os.kill(interchange_of(here.executor), signal.SIGKILL)
    eventually(lambda: _losses(recorder) == 1, "its loss is told")
    eventually(lambda: _has_access(here.executor), "the next one is there")
    here.start("b")
    assert [outcome.value for outcome in recorder.wait(*calls[1:])] == list(range(1, 10))


def test_what_is_large_passes_through_it_and_through_the_next_one(
    site: Any, recorder: Any, eventually: Any
) -> None:
    """The next one is not taken to have what the last one had."""
    array = np.arange(1_000_000)
    here = site(interchange="process")
    for block in ("first", "second"):
        here.start(block)
        for _ in range(2):
            assert recorder.value(here.executor, np.sum, array) == array.sum()
            doubled = recorder.value(here.executor, np.add, array, array)
            assert (doubled == array + array).all()
            assert not doubled.flags.writeable
            assert recorder.value(here.executor, np.sum, doubled) == 2 * array.sum()
        if block == "first":
            with Gate() as gate:
                begun = recorder.call(pass_gate, gate.address)
                here.executor.submit([begun])
                gate.wait_begun(PATIENCE)
                os.kill(interchange_of(here.executor), signal.SIGKILL)
                assert isinstance(recorder.wait(begun)[0].error, InterchangeLostError)
            eventually(lambda: _has_access(here.executor), "the next one is there")


def _losses(recorder: Any) -> int:
    return sum(event.kind == "interchange.lost" for event in recorder.events)


def test_one_that_ends_again_and_again_is_given_up(site: Any, recorder: Any, eventually: Any) -> None:
    here = site(interchange="process")
    for number in range(1, 4):
        eventually(lambda: _has_access(here.executor), "one is there")
        os.kill(interchange_of(here.executor), signal.SIGKILL)
        eventually(lambda number=number: _losses(recorder) == number, "its loss is told")
    error = recorder.error(here.executor, abs, -1)
    assert isinstance(error, ProviderError)
    assert "3 interchanges in a row ended" in str(error)


def test_an_executor_ends_while_its_interchange_is_replaced(recorder: Any, eventually: Any) -> None:
    """And nothing is left."""
    for number in range(1, 4):
        executor = HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), interchange="process")
        executor.start(recorder)
        os.kill(interchange_of(executor), signal.SIGKILL)
        eventually(lambda number=number: _losses(recorder) == number, "its loss is told")
        assert executor.shutdown() == []
        assert not any("interchange" in thread.name for thread in threading.enumerate())
        with pytest.raises(AssertionError, match="no interchange runs"):
            interchange_of(executor)


def test_one_that_cannot_start_says_why(monkeypatch: Any, recorder: Any) -> None:
    """Within seconds, and nothing is left."""
    lines = "import sys; sys.stderr.write('no such thing here'); sys.exit(7)"
    monkeypatch.setattr(remote, "open_process", lambda: remote._Child([sys.executable, "-c", lines]))
    executor = HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), interchange="process")
    with pytest.raises(ChannelError, match="no such thing here"):
        executor.start(recorder)
    assert executor.shutdown() == []


def test_one_that_never_says_where_it_listens_is_ended(monkeypatch: Any, recorder: Any) -> None:
    monkeypatch.setattr(remote, "_START", 0.5)
    lines = "import time; time.sleep(1000)"
    monkeypatch.setattr(remote, "open_process", lambda: remote._Child([sys.executable, "-c", lines]))
    executor = HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), interchange="process")
    with pytest.raises(ChannelError, match="it ended before it said where it listens"):
        executor.start(recorder)


@pytest.mark.parametrize("said", [b"", b"nonsense", b"".join(map(bytes, pack([b"{}"])))])
def test_it_refuses_what_is_no_setup(said: bytes) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "weft_executor_htex.interchange"],
        input=said,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 2
    assert b"no setup on the standard input" in result.stderr
    assert b"Traceback" not in result.stderr


def test_it_ends_with_its_client() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "weft_executor_htex.interchange"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    setup = InterchangeSetup(
        heartbeat_period=1.0,
        heartbeat_threshold=9.0,
        selector=remote._pickled(find_selector("packed", ""), ""),
    )
    process.stdin.write(b"".join(map(bytes, pack([setup.dump()]))))
    reader = StreamReader()
    while not (messages := reader.feed(process.stdout.read(1 << 16))):
        pass
    assert b"interchange" in messages[0][0], "where it listens"
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    process.stdout.close()


def test_the_stream_may_pass_through_anything(monkeypatch: Any, site: Any, recorder: Any) -> None:
    """As through a channel: what carries the bytes cuts them wherever it likes."""
    line = f"cat | {sys.executable} -m weft_executor_htex.interchange | dd bs=7 status=none"
    monkeypatch.setattr(remote, "open_process", lambda: remote._Child(["sh", "-c", line]))
    here = site(interchange="process")
    here.start("b")
    calls = submit(here, recorder, abs, *((-n,) for n in range(500)))
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(500))
    assert recorder.value(here.executor, len, b"x" * 3_000_000) == 3_000_000


class Unpicklable:
    def rank(self, manager: Any) -> float:
        return 0.0

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


def test_a_selector_that_cannot_travel_is_refused(recorder: Any) -> None:
    executor = HighThroughputExecutor(
        blocks=Blocks(provider=InMemoryProvider()), interchange="process", selector=Unpicklable()
    )
    with pytest.raises(ConfigError, match="selector of executor 'htex' cannot be pickled"):
        executor.start(recorder)


def test_a_place_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match='must be "auto", "thread", "process" or "agent"'):
        HighThroughputExecutor(interchange="elsewhere")  # type: ignore[arg-type]
