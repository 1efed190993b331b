"""Hosts on this machine: each has network, name, processes and mounts of its own. Needs root."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .process import ServerError, program, unavailable, until_we_die, wait_until

__all__ = ["Host", "Network", "network"]

# What pid 1 of a host does: wait for the end, and reap orphans.
_INIT = """
hostname "$1"; ip link set lo up
mount --bind "$2" /etc/hosts; mount --bind "$3" /etc/resolv.conf
mount -t tmpfs -o mode=1777 local "$4"
: >"$5"
trap : CHLD; trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


@dataclass(frozen=True)
class Host:
    """One host. pid: of its first process, as this machine sees it. link: this machine's end of its cable."""

    name: str
    address: str
    pid: int
    link: str

    def enter(self, argv: Sequence[str]) -> list[str]:
        """What runs a command in the host."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", *argv]

    def power_off(self) -> None:
        """Every process in it dies at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def cut(self) -> None:
        """Its cable is pulled out."""
        _run("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Its cable is put back."""
        _run("ip", "link", "set", self.link, "up")


@dataclass(frozen=True)
class Network:
    """Hosts on one network with this machine, which is called ``head`` there.

    scratch: a directory that is another one on each host, as ``/tmp`` is elsewhere: here, all share that.
    """

    head: str
    scratch: Path
    hosts: Sequence[Host]


@contextlib.contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    """Start hosts, and end them."""
    if os.geteuid() != 0:
        unavailable("hosts with a network of their own need root")
    key = secrets.token_hex(3)
    bridge, subnet = f"wb{key}", f"10.{random.randint(64, 127)}.{random.randint(0, 255)}"
    hosts: list[Host] = []
    holders: list[subprocess.Popen[bytes]] = []
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["127.0.0.1 localhost", f"{subnet}.1 head {os.uname().nodename}"]
    lines += [f"{subnet}.{10 + number} {name}" for number, name in enumerate(names)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o1777)
    # No name server in there: unknown names would hang.
    (folder / "resolv.conf").write_text("options timeout:1 attempts:1\n")
    try:
        _run("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0")
        _run("ip", "addr", "add", f"{subnet}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for number, name in enumerate(names):
            holder, pid = _boot(folder, name)
            holders.append(holder)
            link = f"w{key}{number}"
            hosts.append(Host(name, f"{subnet}.{10 + number}", pid, link))
            _connect(hosts[-1], bridge, f"{subnet}.1")
        yield Network(f"{subnet}.1", scratch, hosts)
    finally:
        for host in hosts:
            host.power_off()
        for holder in holders:
            holder.wait(10)
        for host in hosts:
            subprocess.run(["ip", "link", "del", host.link], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def _boot(folder: Path, name: str) -> tuple[subprocess.Popen[bytes], int]:
    ready = folder / f"{name}.ready"
    spaces = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
    unshare = [program("unshare"), "--kill-child", *spaces, "--propagation", "private"]
    files = [str(folder / name) for name in ("hosts", "resolv.conf", "scratch")]
    with open(folder / f"{name}.log", "ab") as log:
        holder = subprocess.Popen(
            [*until_we_die("KILL"), *unshare, "bash", "-c", _INIT, f"init-{name}", name, *files, str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_until(f"host {name} is up", ready.exists, 10)
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return holder, int(children[0])


def _connect(host: Host, bridge: str, gateway: str) -> None:
    _run("ip", "link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
    _run("ip", "link", "set", host.link, "master", bridge, "up")
    inside = ["nsenter", "-t", str(host.pid), "-n", "ip"]
    _run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "route", "add", "default", "via", gateway)


def _run(*argv: str) -> None:
    done = subprocess.run(
        [program(argv[0]), *argv[1:]], capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode:
        raise ServerError(f"{' '.join(argv)}: {done.stderr.strip()}")
