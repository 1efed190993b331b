"""OpenSSH servers of many kinds, each on a port of its own, for a user whom only they know. Needs root."""

from __future__ import annotations

import contextlib
import hmac
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .process import ServerError, Servers, children, free_ports, program, unavailable, wait_until

__all__ = [
    "KEYS",
    "KINDS",
    "PASSPHRASE",
    "PASSWORD",
    "USER",
    "Kind",
    "SshServer",
    "SshServers",
    "agent",
    "client_entry",
    "make_key",
    "otp",
    "ssh_servers",
    "write_accounts",
]

USER = "alice"
PASSWORD = "secret"
PASSPHRASE = "phrase"
# The files of SshServers.keys: accepted; accepted, but locked with PASSPHRASE; known to no server; expired.
KEYS = ("id", "locked", "stranger", "expired")

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
SetEnv {mark}
"""

_CLIENT = """\
Host *
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  PreferredAuthentications publickey,keyboard-interactive,password
"""

# sshd, where the user exists and PAM asks as it should: nothing of it is seen by the rest of the machine.
_PRIVATE = """
for file in passwd group shadow; do mount --bind "$1/$file" "/etc/$file"; done
if [ -e "$2" ]; then mount --bind "$2" /etc/pam.d; fi
mkdir -p /run/sshd
shift 2
exec "$@"
"""


def make_key(path: Path, phrase: str = "") -> str:
    """A new pair of keys; the public one, as in known_hosts."""
    path.unlink(missing_ok=True)
    generate = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", phrase, "-C", "test", "-f", str(path)]
    subprocess.run(generate, stdin=subprocess.DEVNULL, check=True, timeout=30)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def make_keys(folder: Path) -> str:
    """KEYS; what a server is told of them."""
    folder.mkdir()
    public = {name: make_key(folder / name, PASSPHRASE if name == "locked" else "") for name in KEYS}
    return f'{public["id"]}\n{public["locked"]}\nexpiry-time="20200101" {public["expired"]}\n'


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


def client_entry(name: str, address: str, port: int, jump: Sequence[str] = ()) -> str:
    """What ssh_config says of a host."""
    proxy = f"  ProxyJump {','.join(jump)}\n" if jump else ""
    return f"Host {name}\n  HostName {address}\n  Port {port}\n{proxy}"


@contextlib.contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """An ssh-agent that holds these unlocked keys; yields its socket, for ``SSH_AUTH_SOCK``."""
    address = folder / "agent"
    with subprocess.Popen(
        [program("ssh-agent"), "-D", "-a", str(address)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until("the agent listens", address.exists)
            for key in keys:
                environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
                add = [program("ssh-add"), "-q", str(key)]
                subprocess.run(add, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=20)
            yield address
        finally:
            process.terminate()


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
        address: str,
        enter: Callable[[Sequence[str]], list[str]],
        entered: bool,
    ) -> None:
        self.name = name
        self.port = port
        self.address = address
        self.key = key
        self.public = make_key(key)
        self._servers = servers
        self._enter = enter
        self._entered = entered
        subsystem = "Subsystem sftp internal-sftp\n" if kind.sftp else ""
        common = _SERVER.format(port=port, address=address, key=key, authorized=authorized, mark=servers.mark)
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
        for pid in self._listener():
            os.kill(pid, signal.SIGTERM)
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
        if pid is None:
            return []
        return children(pid) if self._entered else [pid]

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


class SshServers:
    """Servers on this machine's loopback, and a client's files for all of them.

    Their user is USER, who has the rights of this process and an empty home. ``config`` is for ``ssh -F``;
    each server is a host there, under its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"
        self.keys = folder / "keys"
        self.home = folder / "home"
        self.etc = folder / "etc"
        for each in (folder, self.home, self.etc):
            each.mkdir(parents=True)
        (folder / "authorized_keys").write_text(make_keys(self.keys))
        write_accounts(self.etc, os.getuid(), str(self.home))
        self._hosts: dict[str, SshServer] = {}
        self._entries = ""
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
            (pam / "sshd").write_text(chosen.pam.format(etc=self.etc) + _REST)
        private = ["unshare", "-m", "--propagation", "private", "sh", "-ec", _PRIVATE, "sshd"]
        server = SshServer(
            name,
            self._servers,
            kind=chosen,
            port=free_ports(1)[0],
            key=self.folder / f"{name}.key",
            etc=str(self.etc),
            authorized=str(self.folder / "authorized_keys"),
            address="127.0.0.1",
            enter=lambda argv: [*private, str(self.etc), str(pam), *argv],
            entered=False,
        )
        server.start()
        self._hosts[name] = server
        self._entries += client_entry(name, "127.0.0.1", server.port, jump)
        self.config.write_text(self._client("id"))
        self.trust()
        return server

    def config_with(self, key: str) -> Path:
        """As ``config``, with another key; one that does not exist is none."""
        path = self.folder / f"config-{key}"
        path.write_text(self._client(key))
        return path

    def _client(self, key: str) -> str:
        common = _CLIENT.format(user=USER, key=self.keys / key, known_hosts=self.known_hosts)
        return self._entries + common

    def trust(self) -> None:
        """known_hosts has the keys that the servers have now."""
        lines = [f"[{host.address}]:{host.port} {host.public}\n" for host in self._hosts.values()]
        self.known_hosts.write_text("".join(lines))

    def ssh(
        self, name: str, *command: str, options: Sequence[str] = (), key: str = "id", asks: bool = False
    ) -> list[str]:
        """The user's own ssh. asks: questions, see ``answers``."""
        quiet = [] if asks else ["-oBatchMode=yes"]
        return [program("ssh"), "-F", str(self.config_with(key)), *quiet, *options, name, *command]

    def code(self) -> str:
        """The next one-time password; each is good once."""
        return otp(self.etc)

    def answers(self, *words: str) -> dict[str, str]:
        """The variables that make ``ssh`` answer its questions with these, in turn; the
        last one again and again.
        """
        left = self.folder / "answers"
        left.write_text("".join(f"{word}\n" for word in words))
        script = self.folder / "ask"
        rest = '[ "$(wc -l <"$f")" -lt 2 ] || sed -i 1d "$f"'
        script.write_text(f'#!/bin/sh\nf={shlex.quote(str(left))}\nhead -n 1 "$f"\n{rest}\n')
        script.chmod(0o755)
        return {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}

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


def port_answers(address: str, port: int, timeout: float = 2.0) -> bool:
    """Whether somebody listens there, whom we can reach."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout):
        return True
    return False
