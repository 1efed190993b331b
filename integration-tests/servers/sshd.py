"""An OpenSSH server of our own, on several addresses of the loopback: each is a host to its client."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .process import ServerError, Servers, free_ports, program, wait_until

__all__ = ["Sshd", "sshd"]

# As root, sshd insists on it.
_PRIVATE = Path("/run/sshd")

_SERVER = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/id.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100:30:200
LogLevel VERBOSE
"""

_CLIENT = """\
Host *
  Port {port}
  User {user}
  IdentityFile {folder}/id
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class Sshd:
    """hosts: the addresses that it answers on. command: the ssh that reaches them, without questions."""

    folder: Path
    hosts: Sequence[str]
    command: Sequence[str]
    servers: Servers

    @property
    def log(self) -> str:
        """What the server said."""
        return self.servers.log("sshd")


@contextlib.contextmanager
def sshd(folder: Path, hosts: int = 3) -> Iterator[Sshd]:
    """Start it, with keys of its own, for this user, and end it."""
    folder.mkdir(parents=True)
    for key in ("id", "host"):
        generate = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(generate, check=True, timeout=30)
    (port,) = free_ports(1)
    names = [f"127.0.0.{number + 1}" for number in range(hosts)]
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"[{name}]:{port} {public}\n" for name in names))
    (folder / "server").write_text(_SERVER.format(port=port, folder=folder))
    (folder / "client").write_text(_CLIENT.format(port=port, folder=folder, user=getpass.getuser()))
    with contextlib.suppress(FileExistsError, PermissionError):
        _PRIVATE.mkdir(mode=0o755)
    servers = Servers(folder, {"WEFT_TEST_SSHD": str(folder)}, f"WEFT_TEST_SSHD={folder}")
    try:
        servers.start("sshd", ["sshd", "-D", "-e", "-f", str(folder / "server")])

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return True
            return False

        try:
            wait_until("sshd answers", answers)
        except ServerError as error:
            raise ServerError(f"{error}\n{servers.log('sshd')}") from None
        yield Sshd(folder, names, [program("ssh"), "-F", str(folder / "client"), "-oBatchMode=yes"], servers)
    finally:
        servers.stop_all()
