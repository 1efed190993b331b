"""A Grid Engine of our own: one execution host, which is this machine, or one in each host of a network."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .host import Network
from .process import ServerError, Servers, free_ports, program, unavailable, wait_until

__all__ = ["GridEngine", "grid_engine"]

_LIBRARY = Path("/usr/lib/gridengine")
_SHARE = Path("/usr/share/gridengine")

_BOOTSTRAP = """\
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {spooling}
binary_path /usr/sbin
qmaster_spool_dir {folder}/spool/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""

_GLOBAL = {
    "execd_spool_dir": "{spool}",
    "min_uid": "0",
    "min_gid": "0",
    "gid_range": "{groups}",
    "load_report_time": "00:00:02",
    "max_unheard": "00:00:10",
    "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
    "execd_params": "KEEP_ACTIVE=false",
}
_SCHEDULER = {
    "schedule_interval": "0:0:1",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
    "load_adjustment_decay_time": "0:0:0",
}
_PARALLEL = """\
pe_name {name}
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule {rule}
control_slaves TRUE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""
_ENVIRONMENTS = {"mpi": "$fill_up", "rr": "$round_robin", "smp": "$pe_slots", "one": "1", "two": "2"}
_NONE = (
    "load_thresholds suspend_thresholds ckpt_list prolog epilog starter_method suspend_method resume_method "
    "terminate_method owner_list user_lists xuser_lists subordinate_list complex_values projects xprojects "
    "calendar"
)
_UNLIMITED = (
    "s_rt s_cpu h_cpu s_fsize h_fsize s_data h_data s_stack h_stack s_core h_core s_rss h_rss s_vmem h_vmem"
)
_QUEUE = """\
qname {name}
hostlist @allhosts
seq_no 0
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
pe_list {environments}
rerun FALSE
slots {slots}
tmpdir {scratch}
shell /bin/sh
shell_start_mode unix_behavior
notify 00:00:10
initial_state default
h_rt {h_rt}
"""


class GridEngine:
    """A cluster with the queues ``all.q`` and ``short.q`` (20 seconds), and parallel environments ``mpi``,
    ``rr``, ``smp``, and ``one`` and ``two``, which give each host as many slots.
    """

    def __init__(self, folder: Path, servers: Servers, hosts: Sequence[str], names: Path | None) -> None:
        self.folder = folder
        self.servers = servers
        self.hosts = hosts
        self._names = names

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that its commands need; with ``PATH``, in which they know the hosts' names."""
        variables = {name: self.servers.environment[name] for name in _VARIABLES}
        path = [str(self.folder / "cli")] if self._names else []
        return {**variables, "PATH": os.pathsep.join([*path, os.environ.get("PATH", os.defpath)])}

    def see(self, argv: Sequence[str]) -> list[str]:
        """What runs a command that knows the cluster's host names."""
        if self._names is None:
            return [program(argv[0]), *argv[1:]]
        script = 'mount --bind "$0" /etc/hosts; exec "$@"'
        space = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        return [*space, str(self._names), program(argv[0]), *argv[1:]]

    def run(self, *argv: str, check: bool = True, timeout: float = 30.0) -> str:
        """What a command of Grid Engine prints."""
        done = subprocess.run(
            self.see(argv),
            env=self.servers.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise ServerError(f"{shlex.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def write_commands(self) -> None:
        """Commands for users who do not know the hosts' names otherwise."""
        folder = self.folder / "cli"
        folder.mkdir()
        for name in _COMMANDS:
            path = folder / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join(self.see([name]))} "$@"\n')
            path.chmod(0o755)

    def add(self, option: str, name: str, text: str) -> None:
        """``qconf`` with a file."""
        path = self.folder / f"{name}.conf"
        path.write_text(text)
        self.run("qconf", option, str(path))

    def start_master(self) -> None:
        """Start the qmaster, and wait until it answers."""
        self.servers.start("sge_qmaster", self.see(["sge_qmaster"]))
        wait_until("the qmaster answers", lambda: self.run("qconf", "-sh", check=False), 30)

    def stop_master(self) -> None:
        """End it; jobs run on."""
        self.servers.stop("sge_qmaster")

    def clear(self) -> None:
        """Delete what is left, and wait until it is gone."""
        self.run("qdel", "-f", "-u", getpass.getuser(), check=False)
        wait_until("no job is left", lambda: not self.run("qstat", "-u", "*").strip(), 30)


_COMMANDS = ["qacct", "qalter", "qconf", "qdel", "qhold", "qhost", "qmod", "qrls", "qrsh", "qstat", "qsub"]
_VARIABLES = ("SGE_ROOT", "SGE_CELL", "SGE_QMASTER_PORT", "SGE_EXECD_PORT", "SGE_CLUSTER_NAME")


@contextlib.contextmanager
def grid_engine(folder: Path, *, slots: int = 4, network: Network | None = None) -> Iterator[GridEngine]:
    """Start a cluster, and end it with all its jobs. Needs root."""
    if os.geteuid() != 0:
        unavailable("Grid Engine's daemons need root")
    common = folder / "default/common"
    for path in (common, folder / "spool/execd", folder / "spool/qmaster/job_scripts"):
        path.mkdir(parents=True)
    (folder / "tmp").mkdir()  # of the jobs, whose numbers are those of other clusters, too
    for name in ("bin", "lib", "utilbin"):
        (folder / name).mkdir()
        (folder / name / "lx-amd64").symlink_to(_LIBRARY)
    (folder / "util").symlink_to(_SHARE / "util")
    head = "head" if network else "localhost"
    names = folder / "hosts" if network else None
    if network:
        lines = [f"{network.head} head {socket.gethostname()}"]
        lines += [f"{host.address} {host.name}" for host in network.hosts]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
    (common / "act_qmaster").write_text(f"{head}\n")
    # Name, address and name again have to agree for every host.
    (common / "host_aliases").write_text(f"{head} {socket.gethostname()}\n")
    spooling = f"{common};{folder}/spool/qmaster"
    (common / "bootstrap").write_text(_BOOTSTRAP.format(folder=folder, spooling=spooling))
    ports = free_ports(2)
    values = (str(folder), "default", *map(str, ports), f"weft{ports[0]}")
    # SGE_ND: the daemons stay in the foreground.
    environment = {**dict(zip(_VARIABLES, values, strict=True)), "SGE_ND": "true"}
    servers = Servers(folder, environment, f"SGE_ROOT={folder}")
    hosts = [host.name for host in network.hosts] if network else [head]
    cluster = GridEngine(folder, servers, hosts, names)
    with contextlib.ExitStack() as stack:
        stack.callback(servers.stop_all)
        # Where there are several hosts, each has a directory of its own there, as at most sites.
        _spool(cluster, spooling, network.scratch if network else folder / "spool/execd")
        cluster.start_master()
        _configure(cluster, head, slots, network.scratch if network else folder / "tmp")
        for number, name in enumerate(hosts):
            daemon = [program("sge_execd")]
            argv = network.hosts[number].enter(daemon) if network else daemon
            servers.start(f"sge_execd-{name}", argv)
        if network:
            cluster.write_commands()
        wait_until("all hosts report", lambda: _reporting(cluster) == len(hosts), 40)
        stack.callback(_delete_all, cluster)
        yield cluster


def _spool(cluster: GridEngine, spooling: str, spool: Path) -> None:
    """What the installation would ask for."""
    default = (_SHARE / "default-configuration").read_text()
    # By its group a process belongs to a job: no other cluster on this machine may use the same ones.
    first = 100 * int(cluster.servers.environment["SGE_QMASTER_PORT"])
    values = {"spool": spool, "groups": f"{first}-{first + 99}"}
    settings = {key: value.format_map(values) for key, value in _GLOBAL.items()}
    (cluster.folder / "global.conf").write_text(_replaced(default, settings))
    resources = _SHARE / "util/resources"
    steps = [
        ("spoolinit", "classic", "libspoolc", spooling, "init"),
        ("spooldefaults", "configuration", str(cluster.folder / "global.conf")),
        ("spooldefaults", "complexes", str(resources / "centry")),
        ("spooldefaults", "usersets", str(resources / "usersets")),
        ("spooldefaults", "managers", getpass.getuser()),
    ]
    for name, *arguments in steps:
        subprocess.run(
            [str(_LIBRARY / name), *arguments],
            env=cluster.servers.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=True,
        )


def _configure(cluster: GridEngine, head: str, slots: int, scratch: Path) -> None:
    scheduler = _replaced(cluster.run("qconf", "-ssconf"), _SCHEDULER)
    cluster.add("-Msconf", "scheduler", scheduler)
    cluster.run("qconf", "-as", head)
    for name in cluster.hosts:
        if name != head:
            cluster.run("qconf", "-ah", name)
            cluster.run("qconf", "-as", name)
    cluster.add("-Ahgrp", "allhosts", f"group_name @allhosts\nhostlist {' '.join(cluster.hosts)}\n")
    for name, rule in _ENVIRONMENTS.items():
        cluster.add("-Ap", f"pe-{name}", _PARALLEL.format(name=name, rule=rule))
    rest = "".join(f"{key} NONE\n" for key in _NONE.split())
    rest += "".join(f"{key} INFINITY\n" for key in _UNLIMITED.split())
    for name, limit in (("all.q", "INFINITY"), ("short.q", "00:00:20")):
        queue = _QUEUE.format(
            name=name, slots=slots, h_rt=limit, environments=" ".join(_ENVIRONMENTS), scratch=scratch
        )
        cluster.add("-Aq", name, queue + rest)


def _replaced(text: str, settings: Mapping[str, str]) -> str:
    """Settings, one a line, with other values."""
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = {words[0]: words[1] if len(words) > 1 else "" for words in lines}
    return "".join(f"{key} {value}\n" for key, value in {**known, **settings}.items())


def _reporting(cluster: GridEngine) -> int:
    rows = [line.split() for line in cluster.run("qhost", check=False).splitlines()[3:]]
    return sum(1 for row in rows if len(row) > 3 and row[3] != "-")


def _delete_all(cluster: GridEngine) -> None:
    with contextlib.suppress(ServerError, subprocess.TimeoutExpired):
        cluster.clear()
