"""A whole remote site on this machine: a login node and compute nodes behind a firewall, with users and file
systems of their own, sshd and Slurm. Needs root.

::

    this machine ── eth0 [jump] ──── login ──── c1, c2
      "laptop"      22 only    22 only  └ lan0

What this machine may do is to open connections to port 22 of the outermost host. Nothing else comes in, and
nothing that the site begins goes out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .cable import Cable
from .firewall import Counters, Firewall
from .host import Host, Network, run_ip
from .openssh import KINDS, SshServer, otp, write_accounts
from .process import PACKAGES, Servers, unavailable
from .slurm import Slurm, slurm
from .sshclient import USER, SshClient, make_key
from .topology import Topology

__all__ = ["Site", "remote_site"]

_SLEEP = Path(__file__).with_name("sleep.c")
_UID = 1500
# This Python without the packages of its environment.
_BARE = Path(os.path.realpath(sys.executable))
_SHOW = """
mkdir -p -- "$1"
mount --rbind "/.laptop/old$1" "$1"
mount -o remount,bind,ro "$1"
"""
_PLACES = (
    "import sys; print('\\n'.join([sys.prefix, getattr(sys, 'base_prefix', sys.prefix)] + sys.path[1:]))"
)


class Site(SshClient):
    """A site that runs, and the files of a client on this machine: ``config`` knows ``login``, the compute
    nodes (through ``login``) and, if there is one, ``jump``.

    home: the home directory of USER, as this machine sees it. sshds: those of all hosts, by name; sshd: the
    login node's.
    """

    def __init__(self, folder: Path, topology: Topology) -> None:
        super().__init__(folder)
        self.shared = folder / "site"
        self.servers = Servers(self.shared, {}, f"WEFT_TEST_SITE={folder}")
        self.topology = topology
        self.hosts = topology.hosts
        self.block = topology.block
        self.laptop = topology.laptop
        self.sshds: dict[str, SshServer] = {}
        self.firewall: Firewall
        self.cluster: Slurm
        self._cable: Cable | None = None

    @property
    def login(self) -> Host:
        return self.topology.login

    @property
    def outermost(self) -> Host:
        """The host that this machine reaches."""
        return self.topology.outermost

    @property
    def sshd(self) -> SshServer:
        return self.sshds["login"]

    @property
    def nodes(self) -> list[Host]:
        return self.topology.nodes

    @property
    def home(self) -> Path:
        return self.path(f"/home/{USER}")

    def path(self, path: str) -> Path:
        """A path of the login node, as root of this machine reaches it; links in it may lead astray."""
        return Path(f"/proc/{self.login.pid}/root{path}")

    def trust(self) -> None:
        """known_hosts has the keys that the servers have now."""
        addresses = self.topology.reached_at
        lines = [f"{addresses.get(name, name)} {sshd.public}\n" for name, sshd in self.sshds.items()]
        self.known_hosts.write_text("".join(lines))

    def code(self) -> str:
        """The next one-time password; each is good once."""
        return otp(self.path("/etc"))

    def counters(self) -> Counters:
        """What the outermost host's firewall has counted since the site was started."""
        return self.firewall.counters()

    def delay(self, rtt: float, loss: float = 0.0) -> None:
        """From now on a packet and its answer take so many seconds more between this machine and the site,
        and this share of all frames is lost in each direction. Connections live on.
        """
        if self._cable is None:
            host = self.outermost
            run_ip("link", "del", host.link)
            self._cable = Cable(host.link, f"{host.link}f")
            run_ip("link", "set", f"{host.link}f", "netns", str(host.pid), "name", "eth0")
            self.topology.plug()
        self._cable.set(rtt, loss)

    def cut(self) -> None:
        """Nothing passes between this machine and the site, and nobody is told: connections wait."""
        self.firewall.cut()

    def mend(self) -> None:
        """The end of ``cut``."""
        self.firewall.mend()

    def unplug(self) -> None:
        """There is no cable any more."""
        if self._cable:
            self._cable.remove()

    def run(self, argv: Sequence[str], host: str = "login", input: str = "") -> str:
        """What a command of the site's root prints."""
        entered = self.hosts[host].enter(argv)
        done = subprocess.run(entered, input=input, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise AssertionError(f"{argv}: {done.stderr}")
        return done.stdout

    def show(self, path: Path, *hosts: str) -> None:
        """These hosts see this folder of this machine, under the same path, and cannot change it."""
        for name in hosts:
            self.run(["sh", "-ec", _SHOW, "show", str(path)], name)

    def set_python(self, interpreter: Path | None, *hosts: str) -> None:
        """What ``python3`` is on these hosts: this one of this machine, with the packages that it finds, or
        nothing. Compute nodes have the same one, always.
        """
        command = f'#!/bin/sh\nexec {self._show_python(interpreter, hosts)} "$@"\n' if interpreter else ""
        for role in {"login" if name == "login" else "compute" for name in hosts}:
            path = self.path(f"/run/{role}/python3")
            path.unlink(missing_ok=True)
            if command:
                path.write_text(command)
                path.chmod(0o755)

    def _show_python(self, interpreter: Path, hosts: Sequence[str]) -> str:
        argv = [str(interpreter), "-E", "-s", "-c", _PLACES]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
        shown = [Path("/usr/lib"), Path("/usr/bin")]
        # Parents before their children.
        for place in sorted({Path(line) for line in done.stdout.splitlines()} - {Path("/usr")}):
            if place.is_dir() and not any(place.is_relative_to(each) for each in shown):
                shown.append(place)
                self.show(place, *hosts)
        if interpreter.parent == Path("/usr/bin"):
            return f"/run/bin/{interpreter.name}"
        return str(interpreter)

    @contextlib.contextmanager
    def full_home(self) -> Iterator[None]:
        """No byte more can be written below /home, on any host; what is there can be removed."""
        usage = os.statvfs(self.path("/home"))
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        self._resize_home(used)
        try:
            yield
        finally:
            self._resize_home(usage.f_blocks * usage.f_frsize)

    def _resize_home(self, size: int) -> None:
        self.run(["mount", "-o", f"remount,size={size}", "/home"])

    @contextlib.contextmanager
    def unwritable_home(self) -> Iterator[None]:
        """USER can make and remove nothing in the home directory."""
        self.home.chmod(0o555)
        try:
            yield
        finally:
            self.home.chmod(0o700)

    def set_startup(self, script: str) -> None:
        """What the user's bash does before each command: print junk, or fail."""
        (self.home / ".bashrc").write_text(script)

    @contextlib.contextmanager
    def asking(self, kind: str = "key", settings: str = "") -> Iterator[None]:
        """The login node asks for what another one of KINDS does; settings: further lines for its sshd."""
        service, before = self.path("/etc/pam.d/sshd"), self.sshd.settings
        asked = service.read_text()
        service.write_text(KINDS[kind].pam_service("/etc"))
        self.sshd.settings = KINDS[kind].settings.format(etc="/etc") + settings + before
        try:
            self.sshd.restart()
            yield
        finally:
            service.write_text(asked)
            self.sshd.settings = before
            self.sshd.restart()

    def user_processes(self, host: str = "login") -> dict[int, str]:
        """The commands that USER has there, by their numbers on that host."""
        listing = ["sh", "-c", f"ps -ww -u {USER} -o pid=,args= || true"]
        lines = [line.split(None, 1) for line in self.run(listing, host).splitlines()]
        return {int(words[0]): words[1] for words in lines if len(words) == 2}

    def reboot(self) -> None:
        """The login node loses all that runs there for USER, its temporary files and its connections, and
        comes back. The batch system, which elsewhere is on a host of its own, goes on.
        """
        self.sshd.stop()
        while killed := self.user_processes():
            self.run(["sh", "-c", 'kill -KILL "$@" 2>/dev/null || true', "kill", *map(str, killed)])
        self.run(["sh", "-c", f"find /tmp /var/tmp /dev/shm -mindepth 1 -user {USER} -delete"])
        self.sshd.start()

    def set_shell(self, path: str) -> None:
        """The login shell of USER from now on, such as ``/bin/tcsh``."""
        passwd = self.path("/etc/passwd")
        lines = passwd.read_text().splitlines()
        passwd.write_text("\n".join([*lines[:-1], ":".join([*lines[-1].split(":")[:-1], path])]) + "\n")


@contextlib.contextmanager
def remote_site(
    folder: Path,
    *,
    nodes: int = 2,
    auth: str = "key",
    jump: bool = False,
    clock: float = 0.0,
    login_python: Path | None = _BARE,
    compute_python: Path | None = None,
    home_size: str = "1G",
    settings: str = "",
) -> Iterator[Site]:
    """Start it, and end it with all that runs there.

    auth: one of KINDS, which the login node asks for; a jump host, if there is one, takes the key. clock: how
    many seconds the site's clocks are ahead of this machine's. login_python, compute_python: what ``python3``
    is there, and is all of this machine's Python that they see. settings: further lines of slurm.conf.
    """
    if os.geteuid() != 0:
        unavailable("a remote site needs root")
    if not Path("/dev/net/tun").exists():
        unavailable("a remote site needs /dev/net/tun")
    with contextlib.ExitStack() as stack:
        site = Site(folder, Topology(nodes, jump))
        variables = _clock_settings(clock, site.shared)
        stack.callback(site.unplug)
        _prepare(site, auth)
        (folder / "root").mkdir()
        stack.enter_context(site.topology.boot(folder / "root", site.shared, variables, home_size))
        stack.callback(site.servers.stop_all)
        site.firewall = Firewall(site.outermost, "eth0")
        if jump:
            Firewall(site.login, "dmz0")
        _start_sshds(site, auth, variables)
        if login_python:
            site.set_python(login_python, "login")
        if compute_python:
            site.set_python(compute_python, *(host.name for host in site.nodes))
        network = Network(site.login.address, Path("/tmp"), site.nodes)
        site.cluster = stack.enter_context(
            slurm(site.shared / "slurm", network=network, head=site.login, settings=settings)
        )
        yield site


def _clock_settings(clock: float, folder: Path) -> tuple[str, ...]:
    """What makes programs see another time."""
    if not clock:
        return ()
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries or not shutil.which("gcc"):
        unavailable(f"libfaketime or gcc is not installed: apt-get install -y faketime gcc; see {PACKAGES}")
    folder.mkdir(exist_ok=True)
    sleep = folder / "sleep.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", sleep, _SLEEP], check=True, timeout=60)
    # Monotonic clocks go on as they do.
    preload = f"LD_PRELOAD={sleep}:{libraries[0]}"
    return (preload, f"FAKETIME={clock:+.0f}s", "FAKETIME_DONT_FAKE_MONOTONIC=1")


def _prepare(site: Site, auth: str) -> None:
    """The site's own files."""
    etc, home = site.shared / "etc", site.shared / "home" / USER
    for path in (etc / "slurm", etc / "pam.d", home / ".ssh"):
        path.mkdir(parents=True)
    write_accounts(etc, _UID, f"/home/{USER}")
    (etc / "pam.d/sshd").write_text(KINDS[auth].pam_service("/etc"))
    (etc / "slurm/slurm.conf").symlink_to(site.shared / "slurm/slurm.conf")
    (etc / "hosts").write_text(site.topology.names)
    (etc / "resolv.conf").write_text("options timeout:1 attempts:1\n")
    # Among themselves the hosts of the site trust a key that never leaves it.
    inner = make_key(home / ".ssh/id_ed25519")
    (home / ".ssh/authorized_keys").write_text(f"{site.authorized}{inner}\n")
    (home / ".ssh/config").write_text("StrictHostKeyChecking no\nLogLevel ERROR\n")
    for path in (home, *home.rglob("*")):
        os.chown(path, _UID, _UID)
        path.chmod(0o700 if path.is_dir() else 0o600)


def _start_sshds(site: Site, auth: str, variables: Sequence[str]) -> None:
    jump = ["jump"] if "jump" in site.hosts else []
    for name, host in site.hosts.items():
        server = SshServer(
            f"sshd-{name}",
            site.servers,
            kind=KINDS[auth if name == "login" else "key"],
            port=22,
            key=site.shared / f"{name}.key",
            etc="/etc",
            authorized=".ssh/authorized_keys",
            variables=" ".join([site.servers.mark, *variables]),
            address="0.0.0.0",
            enter=host.enter,
        )
        server.start()
        site.sshds[name] = server
        address = site.topology.reached_at.get(name, name)
        site.add_host(name, address, 22, [] if name == "jump" else jump if name == "login" else ["login"])
    site.trust()
