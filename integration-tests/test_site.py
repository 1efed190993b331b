"""The remote site that other tests rely on, as the plain ``ssh`` sees it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from servers.openssh import ssh_servers
from servers.process import ServerError, processes_with, program, wait_until
from servers.site import Site, remote_site
from servers.sshclient import PASSWORD

pytestmark = pytest.mark.once


def tables() -> str:
    return subprocess.run([program("nft"), "list", "tables"], capture_output=True, text=True).stdout


@contextlib.contextmanager
def started(folder: Path, **options: Any) -> Iterator[Site]:
    """A site, and a look at what is left of it."""
    passwd, before = Path("/etc/passwd").read_text(), tables()
    services = sorted(os.listdir("/etc/pam.d"))
    begun = time.monotonic()
    with remote_site(folder, **options) as site:
        print(f"measured: the site is up after {time.monotonic() - begun:.2f} s")
        link, pids = site.outermost.link, [host.pid for host in site.hosts.values()]
        yield site
        begun = time.monotonic()
    print(f"measured: it is gone after {time.monotonic() - begun:.2f} s")
    assert not list(processes_with(site.servers.mark))
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for host in site.hosts:
        assert f"init-{host}\0{host}\0{folder}".encode() not in commands()
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert link not in os.listdir("/sys/class/net")
    assert f"{site.block}." not in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout
    assert (Path("/etc/passwd").read_text(), tables()) == (passwd, before)
    assert sorted(os.listdir("/etc/pam.d")) == services


def commands() -> bytes:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found.append(Path("/proc", name, "cmdline").read_bytes())
    return b"\n".join(found)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started(tmp_path_factory.mktemp("site") / "s") as site:
        yield site


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Behind a jump host, with a key and a second factor, and an hour ahead."""
    folder = tmp_path_factory.mktemp("strict") / "s"
    with started(folder, jump=True, auth="keyotp", clock=3600.0) as site:
        yield site


def ssh(
    site: Site, host: str, command: str, *options: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        site.ssh(host, command, options=options, asks=variables is not None),
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def answer(site: Site, host: str, command: str, variables: Mapping[str, str] | None = None) -> str:
    result = ssh(site, host, command, variables=variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rtt(address: str) -> float:
    """The shortest of some connections: on a busy machine most take longer than the network does."""
    found = []
    for _ in range(5):
        begun = time.monotonic()
        with socket.create_connection((address, 22), 10):
            found.append(time.monotonic() - begun)
    return min(found)


def reachable(address: str, port: int, timeout: float = 0.5) -> bool:
    try:
        with socket.create_connection((address, port), timeout):
            return True
    except TimeoutError:
        return False


def test_jobs_run_as_the_user_who_exists_only_there(own: Site) -> None:
    script = "hostname; whoami; ls /home; touch /scratch/mine"
    out = answer(
        own, "login", f"srun --nodes=2 --label hostname && sbatch --wait --wrap '{script}' && cat slurm-*"
    )
    assert "0: c1\n1: c2\n" in "".join(sorted(out.splitlines(keepends=True)))
    assert out.endswith("c1\nalice\nalice\n")
    assert answer(own, "c2", "hostname; ls /scratch") == "c2\nmine\n"
    assert (own.home / ".ssh/authorized_keys").exists()
    assert not Path("/scratch/mine").exists()
    answer(own, "login", "rm slurm-*")


def test_files_of_this_machine_are_not_there(own: Site, root: Path) -> None:
    seen = answer(own, "login", f"ls /home {root}; ls -d /usr/local/bin/* /usr/bin/python*; true")
    assert seen.startswith("/home:\nalice\n")
    assert "pyproject.toml" not in seen
    assert [word for word in seen.split() if "python" in word] == ["/usr/bin/python3"]


def test_one_port_of_one_host_is_reachable_and_nothing_can_call_back(own: Site) -> None:
    before = own.counters()
    assert reachable(f"{own.block}.2", 22)
    controller = own.cluster.run("scontrol", "show", "config")
    (port,) = (line.split()[-1] for line in controller.splitlines() if line.startswith("SlurmctldPort"))
    for address in (f"{own.block}.2", own.login.address):
        assert not reachable(address, int(port))
    for host in own.nodes:
        assert not reachable(host.address, 22)
    after = own.counters()
    assert after.connections == before.connections + 1
    assert after.refused >= before.refused + 4
    assert after.called_back == before.called_back
    with socket.create_server(("", 0)) as server:
        call = f"exec 3<>/dev/tcp/{own.laptop}/{server.getsockname()[1]}"
        for name in ("login", "c1"):
            result = ssh(own, name, f"timeout 1 bash -c '{call}'")
            assert result.returncode == 124, result.stderr
    assert own.counters().called_back >= after.called_back + 2
    assert answer(own, "login", "ssh c1 hostname") == "c1\n"


def test_connections_are_counted(own: Site) -> None:
    before, sessions = own.counters(), own.sshd.connections
    assert answer(own, "login", "hostname") == "login\n"
    after = own.counters()
    assert (after.connections, own.sshd.connections) == (before.connections + 1, sessions + 1)
    assert after.passed > before.passed + 10
    assert (after.refused, after.called_back) == (before.refused, before.called_back)


def test_delays_and_losses_are_as_told_and_connections_live_on(own: Site) -> None:
    address = f"{own.block}.2"
    command = own.ssh("login", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for delay in (None, 0.05, 0.2, 0.0):
            if delay is not None:
                own.delay(delay)
            found, delay = rtt(address), delay or 0.0
            print(f"measured: {found * 1e3:.1f} ms, told {delay * 1e3:.0f} ms")
            assert delay <= found < delay + 0.03
            process.stdin.write("line\n")
            process.stdin.flush()
            assert process.stdout.readline() == "line\n"
    assert process.returncode == 0
    for loss, least, most in ((0.0, 400, 400), (0.25, 240, 360)):
        own.delay(0.0, loss)
        before = own.counters().refused
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for _ in range(400):
                datagrams.sendto(b"x", (address, 9))
        own.delay(0.0)
        rtt(address)  # which comes after them, as the cable keeps their order
        assert least <= own.counters().refused - before <= most


def test_a_connection_that_is_cut_and_mended_goes_on(own: Site) -> None:
    command = own.ssh("login", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("before\n")
        process.stdin.flush()
        assert process.stdout.readline() == "before\n"
        own.cut()
        process.stdin.write("meanwhile\n")
        process.stdin.flush()
        result = ssh(own, "login", "true", "-oConnectTimeout=1")
        assert "timed out" in result.stderr
        own.mend()
        assert process.stdout.readline() == "meanwhile\n"
    assert process.returncode == 0
    assert answer(own, "login", "echo again") == "again\n"


def test_a_home_that_is_full_or_not_writable(own: Site) -> None:
    with own.full_home():
        assert "No space left" in ssh(own, "login", "echo text >file").stderr
        assert "No space left" in ssh(own, "c1", "echo text >file").stderr
    with own.unwritable_home():
        assert "Permission denied" in ssh(own, "login", "echo text >another").stderr
    assert answer(own, "login", "echo text >file; cat file; rm file") == "text\n"


def test_pythons_are_those_that_a_test_gives(own: Site, pythons: dict[tuple[int, int], Path]) -> None:
    version = "import sys; print(*sys.version_info[:2])"
    ours = f"{sys.version_info[0]} {sys.version_info[1]}\n"
    assert answer(own, "login", f"python3 -c '{version}'") == ours
    assert ssh(own, "c1", "python3").returncode == 127
    own.set_python(None, "login")
    assert ssh(own, "login", "python3").returncode == 127
    for (major, minor), python in pythons.items():
        own.set_python(python, "login")
        assert answer(own, "login", f"python3 -c '{version}; import ssl'") == f"{major} {minor}\n"


def test_compute_nodes_have_the_environment_of_the_tests(site: Site) -> None:
    where = answer(site, "login", "srun --nodelist=c2 python3 -c 'import weft; print(weft.__file__)'")
    assert where.strip().endswith("weft/__init__.py")
    assert ssh(site, "login", "python3 -c 'import weft'").returncode == 1


def test_sshd_starts_anew_with_another_key(own: Site) -> None:
    own.sshd.restart()
    assert answer(own, "login", "echo hello") == "hello\n"
    own.sshd.change_host_key()
    assert "has changed" in ssh(own, "login", "true").stderr
    own.trust()
    assert answer(own, "login", "echo hello") == "hello\n"


def test_a_jump_host_and_a_second_factor(strict: Site) -> None:
    before = strict.counters()
    assert answer(strict, "login", "hostname", strict.answers(strict.code())) == "login\n"
    assert strict.counters().connections == before.connections + 1
    assert ssh(strict, "login", "true").returncode == 255
    assert ssh(strict, "login", "true", variables=strict.answers(PASSWORD)).returncode == 255
    assert not reachable(strict.login.address, 22)
    assert not reachable(f"{strict.block}.66", 22)
    inside = 'for host in login c1; do timeout 1 bash -c "exec 3<>/dev/tcp/$host/22"; echo $?; done'
    assert answer(strict, "jump", inside).split() == ["0", "124"]


def test_clocks_of_the_whole_site_are_an_hour_ahead(strict: Site) -> None:
    begun = time.time()
    command = "date +%s; srun date +%s; srun sh -c 'scontrol show job $SLURM_JOB_ID'"
    first, second, *rest = answer(strict, "login", command, strict.answers(strict.code())).split()
    for seen in (first, second):
        assert begun + 3599 < int(seen) < time.time() + 3601
    (submitted,) = (word.partition("=")[2] for word in rest if word.startswith("SubmitTime="))
    assert begun + 3599 < time.mktime(time.strptime(submitted, "%Y-%m-%dT%H:%M:%S")) < time.time() + 3601


def test_programs_of_a_site_whose_clocks_are_wrong_sleep_as_elsewhere(strict: Site) -> None:
    # Without what the site preloads this fails in some processes, by when they began.
    command = "for each in $(seq 20); do python3 -c 'import time; time.sleep(0.001)'; done 2>&1"
    assert answer(strict, "login", command, strict.answers(strict.code())) == ""


def test_a_node_loses_its_power(strict: Site) -> None:
    strict.hosts["c2"].power_off()
    wait_until("it is gone", lambda: not Path(f"/proc/{strict.hosts['c2'].pid}/ns/net").exists())
    code = strict.answers(strict.code())
    assert "124" in answer(strict, "login", "timeout 1 bash -c 'exec 3<>/dev/tcp/c2/22'; echo $?", code)
    assert answer(strict, "login", "ssh c1 hostname", strict.answers(strict.code())) == "c1\n"


@pytest.mark.parametrize(("ci", "ending"), [("1", ServerError), ("", pytest.skip.Exception)])
def test_where_a_site_cannot_be_started_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, ending: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for start in (remote_site, ssh_servers):
        with contextlib.ExitStack() as stack, pytest.raises(ending, match=r"needs? root"):
            stack.enter_context(start(tmp_path / "s"))


def test_what_a_configuration_says_of_its_channels(own: Site) -> None:
    config = own.config
    assert own.channel("ssh") == f'{{type = "ssh", host = "login", config = "{config}"}}'
    assert own.channel("openssh", "c1", keepalive=5) == (
        f'{{type = "openssh", host = "c1", ssh_options = ["-F", "{config}"], keepalive = 5}}'
    )
