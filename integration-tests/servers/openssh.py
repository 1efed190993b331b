"""OpenSSH servers of many kinds, each on a port of its own, for a user whom only they know. Needs root."""

from __future__ import annotations

import contextlib
import hmac
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .process import ServerError, Servers, children, free_ports, program, unavailable, wait_until
from .sshclient import USER, SshClient, make_key

__all__ = ["KINDS", "Kind", "SshServer", "SshServers", "otp", "ssh_servers", "write_accounts"]

_HASH = "$6$weftweft$GH23W9J6jav4MrngBSGo8rdC7rh0F/QwIPmztZgTzN.9mJzJq9AvPARgzuTUOSQ1yQDXVPOI1d.KgfBWxnyIS."
_SECRET = "3132333435363738393031323334353637383930"
_OATH = "auth required pam_oath.so usersfile={etc}/oath.users window=3 digits=6\n"
_REST = "account required pam_permit.so\nsession required pam_permit.so\n"
_ASKS = "UsePAM yes\nKbdInteractiveAuthentication yes\n"


class Kind(NamedTuple):
    """What sshd is told before all else, as it keeps the first value of a setting, and how PAM asks."""

    settings: str = ""
    pam: str = ""
    sftp: bool = True

    def pam_service(self, etc: str) -> str:
        """What is in /etc/pam.d/sshd; the files that it needs are in this folder."""
        if "pam_oath" in self.pam and not list(Path("/lib").glob("*/security/pam_oath.so")):
            unavailable("pam_oath is not installed: apt-get install -y libpam-oath")
        return self.pam.format(etc=etc) + _REST


KINDS = {
    "key": Kind(),
    "password": Kind("PasswordAuthentication yes\nPubkeyAuthentication no\n"),
    "otp": Kind(f"{_ASKS}PubkeyAuthentication no\n", _OATH),
    "keyotp": Kind(f"{_ASKS}AuthenticationMethods publickey,keyboard-interactive\n", _OATH),
    "twofactor": Kind(f"{_ASKS}PubkeyAuthentication no\n", f"auth required pam_unix.so nodelay\n{_OATH}"),
    "noforward": Kind("AllowTcpForwarding no\nAllowStreamLocalForwarding no\n"),
    "sftponly": Kind("ForceCommand internal-sftp\n"),
    "nosftp": Kind(sftp=False),
    "banner": Kind("Banner {etc}/banner\n"),
    "onesession": Kind("MaxSessions 1\n"),
    "forced": Kind("ForceCommand {etc}/forced\n"),
    "wrapped": Kind('PermitTTY no\nForceCommand echo welcome; exec sh -c "$SSH_ORIGINAL_COMMAND"\n'),
}

_SERVER = """\
Port {port}
ListenAddress {address}
HostKey {key}
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
MaxStartups 100:30:200
LogLevel VERBOSE
SetEnv {variables}
"""

# sshd, where the user exists and PAM asks as it should: nothing of it is seen by the rest of the machine.
_PRIVATE = """
for file in passwd group shadow; do mount --bind "$1/$file" "/etc/$file"; done
if [ -e "$2" ]; then mount --bind "$2" /etc/pam.d; fi
mkdir -p /run/sshd
shift 2
exec "$@"
"""


def write_accounts(etc: Path, uid: int, home: str) -> None:
    """Files for /etc, as this machine has them, with USER, whose password is PASSWORD."""
    added = {
        "passwd": f"{USER}:x:{uid}:{uid}::{home}:/bin/bash\n",
        "group": f"{USER}:x:{uid}:\n",
        "shadow": f"{USER}:{_HASH}:19000:0:99999:7:::\n",
    }
    for name, line in added.items():
        lines = Path("/etc", name).read_text().splitlines(keepends=True)
        (etc / name).write_text("".join(each for each in lines if not each.startswith(f"{USER}:")) + line)
    (etc / "shadow").chmod(0o640)
    (etc / "oath.users").write_text(f"HOTP {USER} - {_SECRET}\n")
    (etc / "oath.users").chmod(0o600)
    (etc / "banner").write_text("*** Authorized users only ***\n")
    (etc / "forced").write_text("#!/bin/sh\necho 'This account may do one thing only.' >&2\nexit 3\n")
    (etc / "forced").chmod(0o755)


def otp(etc: Path) -> str:
    """The code that USER has to give next: each is good once."""
    words = (etc / "oath.users").read_text().split()
    # The file has what was used last, if anything was.
    counter = int(words[4]) + 1 if len(words) > 4 else 0
    digest = hmac.digest(bytes.fromhex(_SECRET), counter.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 10**6:06}"


class SshServer:
    """One sshd. enter: what runs a command where it belongs; key: the file of its host key.

    Sessions outlive ``stop`` and ``restart``, as those of any sshd do.
    """

    def __init__(
        self,
        name: str,
        servers: Servers,
        *,
        kind: Kind,
        port: int,
        key: Path,
        etc: str,
        authorized: str,
        variables: str,
        address: str,
        enter: Callable[[Sequence[str]], list[str]],
    ) -> None:
        self.name = name
        self.port = port
        self.address = address
        self.key = key
        self.public = make_key(key)
        self._servers = servers
        self._enter = enter
        subsystem = "Subsystem sftp internal-sftp\n" if kind.sftp else ""
        common = _SERVER.format(
            port=port, address=address, key=key, authorized=authorized, variables=variables
        )
        self.settings = kind.settings.format(etc=etc) + common + subsystem
        self._configuration = key.with_name(f"{name}.sshd_config")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._configuration.write_text(self.settings)
        argv = [program("sshd"), "-D", "-e", "-f", str(self._configuration)]
        begun = len(self.log)
        self._servers.start(self.name, self._enter(argv))
        try:
            wait_until(f"sshd {self.name} listens", lambda: "Server listening" in self.log[begun:])
        except ServerError as error:
            raise ServerError(f"{error}\n{self.log}") from None

    def stop(self) -> None:
        """Nobody can log in any more."""
        self._servers.stop(self.name)

    def restart(self) -> None:
        """End it, and start it with the ``settings`` that it has now."""
        self.stop()
        self.start()

    def change_host_key(self) -> None:
        """It comes back with a key that no client knows; what is in known_hosts stays as it is."""
        self.public = make_key(self.key)
        self.restart()

    def sessions(self) -> list[int]:
        """The processes that serve connections, one each; also those that are not yet logged in."""
        return [pid for listener in self._listener() for pid in children(listener)]

    def cut(self) -> int:
        """End all connections at once, as if their processes had crashed. What the sessions have started
        goes on, and finds its input closed. Returns how many there were.
        """
        sessions = self.sessions()
        for pid in sessions:
            for each in [*(child for child in children(pid) if _is_sshd(child)), pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        return len(sessions)

    def freeze(self) -> None:
        """It takes connections no more, says nothing in those that it has, and closes none."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal_all(signal.SIGCONT)
        self._servers.resume(self.name)

    @property
    def log(self) -> str:
        """All that it said."""
        return self._servers.log(self.name, 10**9)

    @property
    def connections(self) -> int:
        """How many connections it has had, from the log."""
        return self.log.count("Connection from ")

    def _listener(self) -> list[int]:
        pid = self._servers.pid(self.name)
        return [] if pid is None else [pid]

    def _signal_all(self, number: int) -> None:
        for listener in self._listener():
            for session in children(listener):
                for pid in [*(child for child in children(session) if _is_sshd(child)), session]:
                    os.kill(pid, number)
            os.kill(listener, number)


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    return False


class SshServers(SshClient):
    """Servers on this machine's loopback, and a client's files for all of them.

    Their user is USER, who has the rights of this process and an empty home. ``config`` is for ``ssh -F``;
    each server is a host there, under its name.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.home = folder / "home"
        self.etc = folder / "etc"
        for each in (self.home, self.etc):
            each.mkdir()
        (folder / "authorized_keys").write_text(self.authorized)
        write_accounts(self.etc, os.getuid(), str(self.home))
        self._hosts: dict[str, SshServer] = {}
        mark = f"WEFT_TEST_SSHD={folder}"
        self._servers = Servers(folder, {"WEFT_TEST_SSHD": str(folder)}, mark)

    def __getitem__(self, name: str) -> SshServer:
        return self._hosts[name]

    def start(self, kind: str, name: str = "", jump: Sequence[str] = ()) -> SshServer:
        """Start a server of one of KINDS, called like it unless told otherwise, behind these others."""
        name = name or kind
        chosen = KINDS[kind]
        pam = self.folder / f"{name}.pam"
        if chosen.pam:
            pam.mkdir()
            (pam / "sshd").write_text(chosen.pam_service(str(self.etc)))
        server = SshServer(
            name,
            self._servers,
            kind=chosen,
            port=free_ports(1)[0],
            key=self.folder / f"{name}.key",
            etc=str(self.etc),
            authorized=str(self.folder / "authorized_keys"),
            variables=self._servers.mark,
            address="127.0.0.1",
            enter=lambda argv: self.private(argv, str(pam)),
        )
        server.start()
        self._hosts[name] = server
        self.add_host(name, "127.0.0.1", server.port, jump)
        self.trust()
        return server

    def private(self, argv: Sequence[str], pam: str = "") -> list[str]:
        """What runs a command where the user exists, and PAM asks as this folder says, if it is there."""
        start = ["unshare", "-m", "--propagation", "private", "sh", "-ec", _PRIVATE, "private"]
        return [*start, str(self.etc), pam, *argv]

    def trust(self) -> None:
        """known_hosts has the keys that the servers have now."""
        lines = [f"[{host.address}]:{host.port} {host.public}\n" for host in self._hosts.values()]
        self.known_hosts.write_text("".join(lines))

    def code(self) -> str:
        """The next one-time password; each is good once."""
        return otp(self.etc)

    def set_shell(self, path: str) -> None:
        """The login shell of USER from now on, such as ``/bin/tcsh``."""
        passwd = self.etc / "passwd"
        lines = passwd.read_text().splitlines()
        # Written in place: what is mounted is this file, not its name.
        passwd.write_text("\n".join([*lines[:-1], ":".join([*lines[-1].split(":")[:-1], path])]) + "\n")

    def set_startup(self, script: str) -> None:
        """What the user's bash does before each command: print junk, or fail."""
        (self.home / ".bashrc").write_text(script)

    def stop_all(self) -> None:
        """End them, and what their sessions have started."""
        self._servers.stop_all()


@contextlib.contextmanager
def ssh_servers(folder: Path, *kinds: str) -> Iterator[SshServers]:
    """Start servers of these KINDS, and end them and whatever runs in their sessions."""
    if os.geteuid() != 0:
        unavailable("sshd's with users of their own need root")
    with contextlib.ExitStack() as stack:
        servers = SshServers(folder)
        stack.callback(servers.stop_all)
        for kind in kinds:
            servers.start(kind)
        yield servers
