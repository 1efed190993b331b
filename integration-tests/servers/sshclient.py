"""What an ssh client needs: keys, a configuration, answers to questions, an agent."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .process import program, wait_until

__all__ = ["KEYS", "PASSPHRASE", "PASSWORD", "USER", "SshClient", "agent", "make_key"]

USER = "alice"
PASSWORD = "secret"
PASSPHRASE = "phrase"
# The files of SshClient.keys: accepted; accepted, but locked with PASSPHRASE; known to no server; expired.
KEYS = ("id", "locked", "stranger", "expired")

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


def make_key(path: Path, phrase: str = "") -> str:
    """A new pair of keys; the public one, as in known_hosts."""
    path.unlink(missing_ok=True)
    # -a: little work to unlock it.
    options = ["-q", "-t", "ed25519", "-a", "1", "-C", "test", "-N", phrase]
    generate = [program("ssh-keygen"), *options, "-f", str(path)]
    subprocess.run(generate, stdin=subprocess.DEVNULL, check=True, timeout=30)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


class SshClient:
    """``config`` is for ``ssh -F``: each host has its name there. ``keys`` has a file for each of KEYS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"
        self.keys = folder / "keys"
        self.keys.mkdir(parents=True)
        public = {name: make_key(self.keys / name, PASSPHRASE if name == "locked" else "") for name in KEYS}
        expired = f'expiry-time="20200101" {public["expired"]}'
        self.authorized = f"{public['id']}\n{public['locked']}\n{expired}\n"
        self._entries = ""

    def add_host(self, name: str, address: str, port: int = 22, jump: Sequence[str] = ()) -> None:
        """A host that is reached through these others."""
        proxy = f"  ProxyJump {','.join(jump)}\n" if jump else ""
        self._entries += f"Host {name}\n  HostName {address}\n  Port {port}\n{proxy}"
        self.config.write_text(self._client("id"))

    def config_with(self, key: str) -> Path:
        """As ``config``, with another key; one that does not exist is none."""
        path = self.folder / f"config-{key}"
        path.write_text(self._client(key))
        return path

    def ssh(
        self, name: str, *command: str, options: Sequence[str] = (), key: str = "id", asks: bool = False
    ) -> list[str]:
        """The user's own ssh. asks: questions, see ``answers``."""
        quiet = [] if asks else ["-oBatchMode=yes"]
        return [program("ssh"), "-F", str(self.config_with(key)), *quiet, *options, name, *command]

    def channel(self, kind: str, name: str = "login", **options: object) -> str:
        """What a configuration file says of a channel to this host, ``channel = ...``. kind: ``ssh`` or
        ``openssh``; options: further ones.
        """
        files: dict[str, object] = {"config": str(self.config)}
        if kind == "openssh":
            files = {"ssh_options": ["-F", str(self.config)]}
        # Strings and lists of them are the same in JSON and TOML.
        values = {"type": kind, "host": name, **files, **options}
        return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + "}"

    def answers(self, *words: str) -> dict[str, str]:
        """The variables that make ``ssh`` answer its questions with these, in turn; the last one again and
        again.
        """
        left = self.folder / "answers"
        left.write_text("".join(f"{word}\n" for word in words))
        script = self.folder / "ask"
        rest = '[ "$(wc -l <"$f")" -lt 2 ] || sed -i 1d "$f"'
        script.write_text(f'#!/bin/sh\nf={shlex.quote(str(left))}\nhead -n 1 "$f"\n{rest}\n')
        script.chmod(0o755)
        return {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}

    def _client(self, key: str) -> str:
        common = _CLIENT.format(user=USER, key=self.keys / key, known_hosts=self.known_hosts)
        return self._entries + common


@contextlib.contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """An ssh-agent that holds these unlocked keys; yields its socket, for ``SSH_AUTH_SOCK``."""
    address = folder / "agent"
    argv = [program("ssh-agent"), "-D", "-a", str(address)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until("the agent listens", address.exists)
            for key in keys:
                environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
                add = [program("ssh-add"), "-q", str(key)]
                subprocess.run(add, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=20)
            yield address
        finally:
            process.terminate()
