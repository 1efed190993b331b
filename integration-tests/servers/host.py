"""Hosts on this machine: each has network, name, processes and mounts of its own. Needs root."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .process import ServerError, children, program, unavailable, until_we_die, wait_until

__all__ = ["Host", "Network", "Starting", "boot", "network", "private_block", "run_ip"]

# What pid 1 of a host does: wait for the end, and reap orphans.
_INIT = """
set -e
name=$1 ready=$2; shift 2
hostname "$name"; ip link set lo up
{files}
: >"$ready"
trap : CHLD; trap 'exit 0' TERM
set +e
while :; do sleep 3600 & wait $!; done
"""

_FILES = """
mount --bind "$1" /etc/hosts; mount --bind "$2" /etc/resolv.conf
mount -t tmpfs -o mode=1777 local "$3"
"""


@dataclass(frozen=True)
class Host:
    """One host. pid: of its first process, as this machine sees it. link: the other end of its cable; switch:
    what runs a command where that end is. variables: settings such as ``TZ=UTC`` that all commands get.
    """

    name: str
    address: str
    pid: int
    link: str
    switch: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """What runs a command in the host."""
        settings = ["env", *self.variables] if self.variables else []
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", *settings, *argv]

    def power_off(self) -> None:
        """Every process in it dies at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def cut(self) -> None:
        """Its cable is pulled out."""
        run_ip("link", "set", self.link, "down", on=self.switch)

    def mend(self) -> None:
        """Its cable is put back."""
        run_ip("link", "set", self.link, "up", on=self.switch)


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
    bridge, subnet = f"wb{key}", private_block()
    hosts: list[Host] = []
    starting: list[Starting] = []
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
        run_ip("link", "add", bridge, "type", "bridge", "forward_delay", "0")
        run_ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        run_ip("link", "set", bridge, "up")
        files = [str(folder / name) for name in ("hosts", "resolv.conf", "scratch")]
        starting += [boot(folder, name, _FILES, *files) for name in names]
        for number, each in enumerate(starting):
            link = f"w{key}{number}"
            hosts.append(Host(each.name, f"{subnet}.{10 + number}", each.wait(), link))
            _connect(hosts[-1], bridge, f"{subnet}.1")
        yield Network(f"{subnet}.1", scratch, hosts)
    finally:
        for each in starting:
            each.end()
        for host in hosts:
            subprocess.run(["ip", "link", "del", host.link], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def private_block() -> str:
    """The first three numbers of addresses that probably nobody uses."""
    # Not from random: its numbers are the same in every test.
    return f"10.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"


class Starting(NamedTuple):
    """A host whose first process was started. holder: what waits for that one."""

    name: str
    holder: subprocess.Popen[bytes]
    ready: Path
    log: Path

    def wait(self) -> int:
        """Until it is up; the first process, as this machine sees it."""
        gone = "it ended"
        with contextlib.suppress(ServerError):
            wait_until("it is up", lambda: self.ready.exists() or self.holder.poll() is not None, 10)
            gone = "" if self.ready.exists() else gone
        if gone:
            raise ServerError(f"host {self.name} is not up: {self.log.read_text(errors='replace')}")
        # Its parent is the holder, or nsenter that the holder became.
        return children(self.holder.pid)[0]

    def end(self) -> None:
        """Every process in it dies at once."""
        for pid in children(self.holder.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.holder.wait(10)


def boot(folder: Path, name: str, files: str, *arguments: str, within: Sequence[str] = ()) -> Starting:
    """Start a host.

    files: a shell script that arranges its file systems, with these arguments. within: what runs a command
    where the file systems are that it begins with, as a copy.
    """
    ready, log = folder / f"{name}.ready", folder / f"{name}.log"
    spaces = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
    unshare = [program("unshare"), "--kill-child", *spaces, "--propagation", "private"]
    script = _INIT.format(files=files)
    with open(log, "ab") as file:
        holder = subprocess.Popen(
            [
                *until_we_die("KILL"),
                *within,
                *unshare,
                *["bash", "-c", script, f"init-{name}", name, str(ready), *arguments],
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Starting(name, holder, ready, log)


def _connect(host: Host, bridge: str, gateway: str) -> None:
    run_ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
    run_ip("link", "set", host.link, "master", bridge, "up")
    inside = ["nsenter", "-t", str(host.pid), "-n"]
    run_ip("addr", "add", f"{host.address}/24", "dev", "eth0", on=inside)
    run_ip("link", "set", "eth0", "up", on=inside)
    run_ip("route", "add", "default", "via", gateway, on=inside)


def run_ip(*arguments: str, on: Sequence[str] = ()) -> None:
    """``ip`` with these arguments; on: what runs a command in another namespace."""
    argv = [*on, program("ip"), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise ServerError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
