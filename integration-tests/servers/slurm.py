"""A Slurm of our own: several nodes, on this machine's loopback or each in a host of its own."""

from __future__ import annotations

import contextlib
import getpass
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .database import database
from .host import Host, Network
from .process import ServerError, Servers, free_ports, program, wait_until

__all__ = ["Slurm", "slurm"]

_CONFIGURATION = """\
ClusterName=tiny
SlurmctldHost={name}({address})
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout={slurmd_timeout}
MessageTimeout={message_timeout}
KillWait=2
MinJobAge={min_job_age}
WaitTime=0
MaxJobCount=20000
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
CompleteWait=0
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=short Nodes=ALL MaxTime=2 DefaultTime=1 State=UP
PartitionName=down Nodes=ALL MaxTime=60 State=DOWN
TmpFS={scratch}
{accounting}
{settings}
"""

_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/sock
{enforce}
"""

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CommitDelay=1
"""


class Slurm:
    """A cluster with the partitions ``debug``, ``short`` (two minutes) and ``down``."""

    def __init__(self, folder: Path, servers: Servers, nodes: Sequence[str], head: Host | None) -> None:
        self.folder = folder
        self.head = head
        self.nodes = nodes
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.servers = servers
        self.commands: dict[str, list[str]] = {}

    def enter(self, argv: Sequence[str]) -> list[str]:
        """What runs a command where the controller runs."""
        return self.head.enter(argv) if self.head else list(argv)

    def run(self, *argv: str, check: bool = True, timeout: float = 30.0) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            self.enter([program(argv[0]), *argv[1:]]),
            env=self.servers.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise ServerError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    @property
    def version(self) -> tuple[int, ...]:
        """Such as (22, 5, 8)."""
        return tuple(map(int, self.run("sbatch", "--version").split()[-1].split(".")[:3]))

    def start_controller(self) -> None:
        """Start it, and wait until it answers."""
        self.servers.start("slurmctld", self.commands["slurmctld"])
        self.wait_for("the controller answers", lambda: "UP" in self.run("scontrol", "ping", check=False))

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End it in an orderly way, or with another signal."""
        self.servers.stop("slurmctld", number)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self.servers.start(f"slurmd-{node}", self.commands[node])

    def set_node(self, node: str, state: str) -> None:
        """``DOWN``, ``RESUME``, ``DRAIN``."""
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def update(self, *settings: str) -> None:
        """``scontrol update``."""
        self.run("scontrol", "update", *settings)

    def jobs(self, *options: str) -> list[str]:
        """The jobs in the queue that have not ended, one line each: id, state, reason."""
        return self.run("squeue", "--noheader", "--format=%i %T %r", *options).splitlines()

    def wait_idle(self, timeout: float = 40.0) -> None:
        """Wait until every node is idle."""

        def idle() -> bool:
            states = self.run("sinfo", "-h", "-N", "-p", "debug", "-o", "%N %t", check=False).split("\n")
            return sorted(line for line in states if line) == sorted(f"{node} idle" for node in self.nodes)

        self.wait_for("all nodes are idle", idle, timeout)

    def wait_for(self, what: str, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait; the error shows the controller's log."""
        try:
            wait_until(what, condition, timeout)
        except ServerError as error:
            raise ServerError(f"{error}\n{self.servers.log('slurmctld')}") from None

    def clear(self) -> None:
        """Cancel what is left, and wait until the nodes are idle again."""
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        self.wait_idle()


@contextlib.contextmanager
def slurm(
    folder: Path,
    *,
    nodes: int = 3,
    cpus: int = 4,
    memory: int = 4000,
    accounting: bool = False,
    enforce: str = "",
    network: Network | None = None,
    head: Host | None = None,
    enter: Callable[[Sequence[str]], list[str]] | None = None,
    slurmd_timeout: int = 10,
    message_timeout: int = 10,
    min_job_age: int = 300,
    settings: str = "",
) -> Iterator[Slurm]:
    """Start a cluster, and end it with all its jobs.

    network: hosts for the nodes, one each. head: the host of the controller, which is gone with all its
    processes, or lives on, when this ends. enter: what makes a command run where the nodes' files are.
    accounting: with slurmdbd; enforce: what it refuses, such as ``associations,limits``.
    settings: further lines of slurm.conf. The other arguments are those of slurm.conf.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("munge", "state", "spool"):
        (folder / part).mkdir(mode=0o755)
    folder.chmod(0o755)
    names = [host.name for host in network.hosts] if network else [f"n{i + 1}" for i in range(nodes)]
    conf = str(folder / "slurm.conf")
    servers = Servers(folder, {"SLURM_CONF": conf}, f"SLURM_CONF={conf}")
    cluster = Slurm(folder, servers, names, head)
    port, dbd_port, *node_ports = free_ports(2 + len(names))
    Path(conf).write_text(
        _CONFIGURATION.format(
            name=head.name if head else socket.gethostname(),
            address=network.head if network else "127.0.0.1",
            user=getpass.getuser(),
            port=port,
            folder=folder,
            # PMIx has a directory there for each job step, which nodes must not share.
            scratch=network.scratch if network else "/tmp",
            nodes=_node_lines(names, node_ports, network, f"CPUs={cpus} RealMemory={memory}"),
            accounting=_ACCOUNTING.format(
                port=dbd_port,
                folder=folder,
                enforce=f"AccountingStorageEnforce={enforce}" if enforce else "",
            )
            if accounting
            else "",
            slurmd_timeout=slurmd_timeout,
            message_timeout=message_timeout,
            min_job_age=min_job_age,
            settings=settings,
        )
    )
    cluster.commands["slurmctld"] = cluster.enter([program("slurmctld"), "-D", "-f", conf])
    for number, name in enumerate(names):
        daemon = [program("slurmd"), "-D", "-N", name, "-f", conf]
        host: Host | None = network.hosts[number] if network else None
        cluster.commands[name] = host.enter(daemon) if host else enter(daemon) if enter else daemon
    with contextlib.ExitStack() as stack:
        stack.callback(servers.stop_all)
        _start_munge(cluster)
        if accounting:
            storage = stack.enter_context(database(folder / "db"))
            _start_accounting(folder, servers, cluster, dbd_port, storage)
        cluster.start_controller()
        for name in names:
            cluster.start_node(name)
        cluster.wait_idle()
        if head is None:
            stack.callback(_cancel_all, cluster)
        yield cluster


def _node_lines(names: Sequence[str], ports: Sequence[int], network: Network | None, size: str) -> str:
    addresses = [host.address for host in network.hosts] if network else ["127.0.0.1"] * len(names)
    hostnames = names if network else [socket.gethostname()] * len(names)
    return "\n".join(
        f"NodeName={name} NodeHostname={hostname} NodeAddr={address} Port={port} {size}"
        for name, hostname, address, port in zip(names, hostnames, addresses, ports, strict=True)
    )


def _start_munge(cluster: Slurm) -> None:
    munge = cluster.folder / "munge"
    (munge / "key").write_bytes(secrets.token_bytes(128))
    (munge / "key").chmod(0o400)
    files = [f"--{what}-file={munge / what}" for what in ("key", "pid", "log", "seed")]
    options = ["--foreground", "--force", f"--socket={munge / 'sock'}", "--num-threads=2"]
    cluster.servers.start("munged", cluster.enter([program("munged"), *options, *files]))
    wait_until("munged listens", (munge / "sock").exists)


def _start_accounting(folder: Path, servers: Servers, cluster: Slurm, port: int, storage: int) -> None:
    conf = folder / "slurmdbd.conf"
    conf.write_text(_SLURMDBD.format(folder=folder, port=port, storage=storage, user=getpass.getuser()))
    conf.chmod(0o600)
    servers.start("slurmdbd", ["slurmdbd", "-D"])

    def answers() -> bool:
        return "tiny" in cluster.run("sacctmgr", "-i", "add", "cluster", "tiny", check=False) or bool(
            cluster.run("sacctmgr", "-n", "show", "cluster", check=False).strip()
        )

    cluster.wait_for("slurmdbd answers", answers)
    cluster.run("sacctmgr", "-i", "add", "account", "proj")
    cluster.run("sacctmgr", "-i", "add", "user", getpass.getuser(), "account=proj")


def _cancel_all(cluster: Slurm) -> None:
    """Jobs end in an orderly way, as long as somebody can tell them to."""
    with contextlib.suppress(ServerError, subprocess.TimeoutExpired):
        cluster.run("scancel", f"--user={getpass.getuser()}", check=False, timeout=10)
        if cluster.servers.runs("slurmctld"):
            wait_until("all jobs have ended", lambda: not cluster.jobs(), 10)
