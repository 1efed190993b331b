"""An SSH server of our own, in this process: paramiko's server mode, on the loopback. Its commands run in
/bin/sh.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko
from weft_channel_ssh import SSHChannel


def make_key(path: Path, *options: str) -> Path:
    """A key of ssh-keygen's."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", *options, "-f", str(path)]
    subprocess.run(command, check=True, timeout=30, stdin=subprocess.DEVNULL)
    return path


class Policy:
    """What the server asks for; tests change it. steps: alternatives, each a list of methods that must all
    succeed.
    """

    def __init__(self) -> None:
        self.steps: list[list[str]] = [["publickey"]]
        self.keys: set[bytes] = set()
        self.password = "correct horse"
        self.prompts = [("Password: ", False), ("One-time password: ", False)]
        self.answers: list[str] = ["correct horse", "123456"]
        self.instructions = ""
        self.banner: str | None = None
        self.forward = True
        self.sessions = 100
        self.commands = True
        self.hang_up: Callable[[str], bool] = lambda method: False
        self.attempts: list[str] = []  # what was tried, and with what
        self.environment: dict[str, str] = {}
        self.running: set[subprocess.Popen[bytes]] = set()


class _Interface(paramiko.ServerInterface):
    def __init__(self, policy: Policy, transport: paramiko.Transport) -> None:
        self.policy, self.transport = policy, transport
        self.done: list[str] = []
        self.open = 0
        self.lock = threading.Lock()

    def get_banner(self) -> tuple[str | None, str | None]:
        return self.policy.banner, "en"

    def get_allowed_auths(self, username: str) -> str:
        left = [step[len(self.done) :] for step in self.policy.steps if step[: len(self.done)] == self.done]
        return ",".join(dict.fromkeys(methods[0] for methods in left if methods))

    def _checked(self, method: str, right: bool) -> int:
        if self.policy.hang_up(method):
            self.transport.sock.close()
            return paramiko.AUTH_FAILED
        if not right or method not in self.get_allowed_auths("").split(","):
            return paramiko.AUTH_FAILED
        self.done.append(method)
        return (
            paramiko.AUTH_SUCCESSFUL if self.done in self.policy.steps else paramiko.AUTH_PARTIALLY_SUCCESSFUL
        )

    def check_auth_none(self, username: str) -> int:
        self.policy.attempts.append("none")
        return paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self.policy.attempts.append(f"password {password}")
        return self._checked("password", password == self.policy.password)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        blob = key.public_blob.key_blob if key.public_blob else key.asbytes()
        self.policy.attempts.append(f"publickey {key.get_name()}")
        # A question whether a key would do is no step; paramiko asks the same for both.
        if blob not in self.policy.keys:
            return self._checked("publickey", False)
        self.asked = getattr(self, "asked", 0) + 1
        return self._checked("publickey", True) if self.asked % 2 == 0 else paramiko.AUTH_SUCCESSFUL

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        if "keyboard-interactive" not in self.get_allowed_auths("").split(","):
            return paramiko.AUTH_FAILED
        self.policy.attempts.append("keyboard-interactive")
        if self.policy.hang_up("keyboard-interactive"):
            self.transport.sock.close()
        return paramiko.InteractiveQuery("", self.policy.instructions, *self.policy.prompts)

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        self.policy.attempts.append(f"answers {responses}")
        return self._checked("keyboard-interactive", responses == self.policy.answers)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        with self.lock:
            if self.open >= self.policy.sessions:
                return paramiko.OPEN_FAILED_CONNECT_FAILED
            self.open += 1
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self.policy.commands:
            return False
        threading.Thread(target=self._run, args=(channel, command), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: Any, destination: tuple[str, int]
    ) -> int:
        if not self.policy.forward:
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            there = socket.create_connection(destination, 5)
        except OSError:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        threading.Thread(target=self._forward, args=(chanid, there), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED

    def _forward(self, chanid: int, there: socket.socket) -> None:
        channel = self.transport.accept(5)
        if channel is None:
            there.close()
            return

        def back() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the connection has gone
                while data := there.recv(65536):
                    channel.sendall(data)
                channel.close()

        reader = threading.Thread(target=back, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            while data := channel.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)
        reader.join(5)
        there.close()

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        environment = {**os.environ, **self.policy.environment}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            ["/bin/sh", "-c", command.decode()],
            env=environment,
            bufsize=0,
            start_new_session=True,
            **pipes,
        ) as process:
            self.policy.running.add(process)

            def feed() -> None:
                with contextlib.suppress(OSError):
                    while data := channel.recv(65536):
                        process.stdin.write(data)  # type: ignore[union-attr]
                with contextlib.suppress(OSError):
                    process.stdin.close()  # type: ignore[union-attr]

            def tell(stream: Any, send: Callable[[bytes], None]) -> None:
                with contextlib.suppress(OSError, paramiko.SSHException), stream:
                    while data := stream.read(65536):
                        send(data)

            threads = [
                threading.Thread(target=feed, daemon=True),
                threading.Thread(target=tell, args=(process.stdout, channel.sendall), daemon=True),
                threading.Thread(target=tell, args=(process.stderr, channel.sendall_stderr), daemon=True),
            ]
            for thread in threads:
                thread.start()
            for thread in threads[1:]:
                thread.join()
            status = process.wait()
            self.policy.running.discard(process)
            with self.lock:
                self.open -= 1
            with contextlib.suppress(OSError, paramiko.SSHException, EOFError):
                channel.send_exit_status(status if status >= 0 else 128 - status)
                channel.close()
            threads[0].join(5)


class Server:
    """It listens on a port of its own; each connection follows the ``policy``."""

    def __init__(self, host_keys: Sequence[Path]) -> None:
        self.policy = Policy()
        self.host_keys = [paramiko.PKey.from_path(path) for path in host_keys]
        self._transports: list[paramiko.Transport] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.accepting = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def line(self) -> str:
        """What a known_hosts file says of it."""
        key = self.host_keys[0]
        return f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n"

    @property
    def connections(self) -> list[paramiko.Transport]:
        """Those that are open."""
        return [transport for transport in self._transports if transport.is_active()]

    def cut(self) -> None:
        """End all connections, as a lost network does."""
        for transport in self.connections:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
            transport.join(5)

    def close(self) -> None:
        """End it, with all that it runs; may be called twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for process in list(self.policy.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(5)
        for transport in self._transports:
            with contextlib.suppress(OSError):
                transport.sock.shutdown(socket.SHUT_RDWR)
            transport.close()
            if transport.ident is not None:
                transport.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self.accepting:
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            for key in self.host_keys:
                transport.add_server_key(key)
            self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(threading.Event(), _Interface(self.policy, transport))


class Site:
    """A server, what it takes to be let in, and channels to it, which are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host_key, self.key = make_key(folder / "host"), make_key(folder / "id")
        self.server = Server([self.host_key])
        self.policy = self.server.policy
        self.policy.keys.add(blob(self.key))
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(self.server.line)
        self.channels: list[SSHChannel] = []

    def channel(self, **settings: Any) -> SSHChannel:
        """A channel to the server; settings are those of SSHChannel."""
        given = {
            "username": "alice",
            "port": self.server.port,
            "key_filename": str(self.key),
            "known_hosts": str(self.known_hosts),
            "config": None,
        }
        channel = SSHChannel("127.0.0.1", **{**given, **settings})
        self.channels.append(channel)
        return channel

    def another(self, name: str) -> Site:
        """Another server, whose host key this one's channels know."""
        folder = self.folder / name
        folder.mkdir()
        site = Site(folder)
        site.policy.keys.add(blob(self.key))
        with self.known_hosts.open("a") as hosts:
            hosts.write(site.server.line)
        return site

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.server.close()


def blob(path: Path) -> bytes:
    """The public part of a key."""
    return bytes(paramiko.PKey.from_path(path).asbytes())
