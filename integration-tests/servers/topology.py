"""The hosts of a remote site, and their cables."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .host import Host, Starting, boot, private_block, run_ip
from .process import program

__all__ = ["Topology"]

_TREE = Path(__file__).with_name("site.sh")
# What the other hosts have of their own; the rest is the first host's.
_OTHER = """
for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mkdir -p "$2"
mount --bind "/.laptop/old$2" "$2"
mount --bind "$1" /usr/bin
"""


class Topology:
    """A login node and compute nodes, and perhaps a jump host, which this machine reaches in that case.

    block: what all addresses begin with. names: a file for /etc/hosts. reached_at: the addresses at which
    those outside are reached. hosts: those that run, by name.
    """

    def __init__(self, nodes: int, jump: bool) -> None:
        self.block = private_block()
        self.laptop = f"{self.block}.1"
        self.hosts: dict[str, Host] = {}
        self.reached_at = {"login": f"{self.block}.2"}
        self._addresses = {"login": f"{self.block}.129"}
        for number in range(1, nodes + 1):
            self._addresses[f"c{number}"] = f"{self.block}.{129 + number}"
        if jump:
            self._addresses["jump"] = f"{self.block}.2"
            self.reached_at = {"jump": f"{self.block}.2", "login": f"{self.block}.66"}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items())]
        self.names = "\n".join(lines) + "\n"

    @property
    def login(self) -> Host:
        return self.hosts["login"]

    @property
    def outermost(self) -> Host:
        """The host that this machine reaches."""
        return self.hosts.get("jump", self.login)

    @property
    def nodes(self) -> list[Host]:
        return [host for name, host in self.hosts.items() if name not in ("login", "jump")]

    @contextlib.contextmanager
    def boot(self, root: Path, shared: Path, variables: tuple[str, ...], home_size: str) -> Iterator[None]:
        """Start the hosts, and end them.

        root: an empty folder; shared: what the site shares with this machine, under the same path. variables:
        what every command there gets.
        """
        starting: list[Starting] = []
        link = f"ws{secrets.token_hex(3)}"
        # While there is no cable, nothing that is meant for the site goes another way.
        nowhere = ["unreachable", f"{self.block}.0/24", "metric", "9999"]
        try:
            run_ip("route", "add", *nowhere)
            tree = [str(root), str(shared), home_size, "1G"]
            starting.append(boot(shared, "login", _TREE.read_text(), *tree))
            pid = starting[0].wait()
            outside = "" if "jump" in self._addresses else link
            self.hosts["login"] = Host("login", self._addresses["login"], pid, outside, (), variables)
            within = ["nsenter", "-t", str(pid), "-m", "--"]
            for name in list(self._addresses)[1:]:
                programs = "/run/login" if name == "jump" else "/run/compute"
                starting.append(boot(shared, name, _OTHER, programs, str(shared), within=within))
            for each in starting[1:]:
                # The other ends of the compute nodes' cables are in the login node.
                end, switch = f"{each.name}0", tuple(_inside(self.login))
                if each.name == "jump":
                    end, switch = link, ()
                address = self._addresses[each.name]
                self.hosts[each.name] = Host(each.name, address, each.wait(), end, switch, variables)
            self._connect()
            yield
        finally:
            for each in reversed(starting):
                each.end()
            for arguments in (["link", "del", link], ["route", "del", *nowhere]):
                subprocess.run([program("ip"), *arguments], capture_output=True, check=False)

    def plug(self) -> None:
        """Addresses and routes of the cable between this machine and the outermost host."""
        host = self.outermost
        inside = _inside(host)
        run_ip("addr", "add", f"{self.block}.1/26", "dev", host.link)
        run_ip("link", "set", host.link, "up")
        run_ip("addr", "add", f"{self.block}.2/26", "dev", "eth0", on=inside)
        run_ip("link", "set", "eth0", "up", on=inside)
        run_ip("route", "add", f"{self.block}.0/24", "via", f"{self.block}.2")
        run_ip("route", "add", "default", "via", f"{self.block}.1", on=inside)

    def _connect(self) -> None:
        outer, login = self.outermost, self.login
        _cable(("eth0", outer), outer.link)
        self.plug()
        run_ip("link", "add", "lan0", "type", "bridge", "forward_delay", "0", on=_inside(login))
        _set_up("lan0", login, f"{login.address}/25")
        for host in self.nodes:
            _cable(("eth0", host), host.link, login)
            run_ip("link", "set", host.link, "master", "lan0", "up", on=_inside(login))
            _set_up("eth0", host, f"{host.address}/25")
            run_ip("route", "add", "default", "via", login.address, on=_inside(host))
        if outer is not login:
            _cable(("dmz0", outer), "dmz0", login)
            _set_up("dmz0", outer, f"{self.block}.65/26")
            _set_up("dmz0", login, f"{self.block}.66/26")
            run_ip("route", "add", f"{self.block}.128/25", "via", f"{self.block}.66", on=_inside(outer))
            run_ip("route", "add", "default", "via", f"{self.block}.65", on=_inside(login))
        for host in {outer.name: outer, "login": login}.values():
            # What would go through is for the firewall to refuse, and to count.
            forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
            subprocess.run(host.enter(["sh", "-c", forward]), check=True, timeout=20)


def _inside(host: Host) -> list[str]:
    return ["nsenter", "-t", str(host.pid), "-n"]


def _cable(end: tuple[str, Host], other: str, where: Host | None = None) -> None:
    """From this interface of a host to another one, or to one of this machine."""
    name, host = end
    peer = ["name", name, "netns", str(host.pid)]
    run_ip("link", "add", other, "type", "veth", "peer", *peer, on=_inside(where) if where else ())


def _set_up(name: str, host: Host, address: str) -> None:
    run_ip("addr", "add", address, "dev", name, on=_inside(host))
    run_ip("link", "set", name, "up", on=_inside(host))
