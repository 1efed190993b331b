"""Puts the agent's file on the host of a channel, and runs it there."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft_interfaces import Channel, ChannelError, CommandResult, ConfigError, RemoteProcess

from .bundle import bundle

__all__ = ["AgentHost"]

_TIMEOUT = 60.0  # seconds for a command there
_MARK = "weft-agent-answer:"
_ELSEWHERE = "it must be writable and have room, or name another directory with AgentSettings(directory=...)"

# Runs the code with the first Python that is new enough, and says which ones were not.
_FIND_PYTHON = """
code=$1 directory=$2 name=$3 digest=$4; shift 4
for each in "$@"; do
    command -v "$each" >/dev/null 2>&1 || continue
    if "$each" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        exec "$each" -I -S -c "$code" "$directory" "$name" "$digest"
    fi
    seen="$seen${seen:+, }$each is $("$each" -V 2>&1)"
done
echo "${seen:-there is none}" >&2
exit 78
"""
_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 7, -1)), "python")

# Makes the directory, looks whether the file is there and right, and removes those that nobody has used for
# long.
_LOOK = """
import hashlib, json, os, sys, time
directory, name, digest = sys.argv[1:]
home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
directory = os.path.join(os.path.expanduser("~"), directory) if directory else os.path.join(home, "weft")
path = os.path.join(directory, name)
answer = {"python": sys.executable, "path": path, "there": False}
try:
    os.makedirs(directory, 0o700, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", directory)
    for entry in os.listdir(directory):
        old = os.path.join(directory, entry)
        if entry.startswith("weft-agent-") and entry.endswith(".pyz") and entry != name:
            if time.time() - os.stat(old).st_mtime > 60 * 86400:
                os.unlink(old)
    if os.path.exists(path):
        with open(path, "rb") as file:
            answer["there"] = hashlib.sha256(file.read()).hexdigest() == digest
        if answer["there"]:
            os.utime(path)
except OSError as error:
    answer["error"] = "%s: %s" % (error.filename or directory, error.strerror)
print("\\nMARK" + json.dumps(answer))
""".replace("MARK", _MARK)


class AgentHost:
    """The host of ``channel``.

    python: what runs the agent there; the first one that is new enough unless said. directory: where its file
    is kept, relative to the home directory; ``~/.cache/weft`` unless said.
    modules: what the file holds besides.
    """

    def __init__(
        self,
        channel: Channel,
        python: str | None = None,
        directory: str | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        self._channel = channel
        self._modules = tuple(modules)
        self._pythons = (python,) if python else _PYTHONS
        self._directory = directory or ""
        self._lock = threading.Lock()
        self._start: list[str] = []

    @property
    def host(self) -> str:
        """Its name, for messages."""
        return self._channel.host

    def prepare(self) -> None:
        """Have the agent's file there, whole. Sent only when it is not.

        Raises :class:`ChannelError`, and :class:`ConfigError` for a host that is not fit for it.
        """
        with self._lock:
            answer = self._look()
            if not answer["there"]:
                self._send(str(answer["path"]))
                answer = self._look()
            if not answer["there"]:
                raise ChannelError(
                    f"{answer['path']} on {self.host} is not what was sent there: something changes it, or "
                    f"the disk is full; {_ELSEWHERE}"
                )
            # What the site's PYTHONPATH, or the user's own packages, may have in store is not for the agent.
            self._start = [str(answer["python"]), "-I", "-S", str(answer["path"])]

    def open(self, command: str, run: str) -> RemoteProcess:
        """Run the agent's file: see ``main.py``. Raises :class:`ChannelError`."""
        if not self._start:
            self.prepare()
        return self._channel.open([*self._start, command, run])

    def run(self, command: str, argument: str, timeout: float) -> CommandResult:
        """Run the agent's file to its end. Raises :class:`ChannelError`, :class:`TimeoutError`, and
        :class:`ConfigError`.
        """
        if not self._start:
            self.prepare()
        return self._channel.run([*self._start, command, argument], timeout=timeout)

    def forget(self) -> None:
        """Something is wrong there: look before the next command whether the file is still there."""
        self._start = []

    def end(self, run: str) -> None:
        """End a run's agent, whatever it does. Raises :class:`ChannelError`, :class:`TimeoutError`."""
        if self._start:
            self._channel.run([*self._start, "end", run], timeout=10.0)

    # -- steps ----------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, Any]:
        made = bundle(self._modules)
        argv: Sequence[str] = (
            *("/bin/sh", "-c", _FIND_PYTHON, "sh", _LOOK, self._directory, made.name, made.digest),
            *self._pythons,
        )
        try:
            ended = self._channel.run(argv, timeout=_TIMEOUT)
        except TimeoutError as error:
            raise ChannelError(f"{self.host} does not answer: {error}") from error
        said = ended.stderr.decode(errors="replace").strip()
        if ended.exit_status == 78:
            seen = said.splitlines()[-1] if said else "there is none"
            raise ConfigError(
                f"the agent needs Python 3.8 or newer on {self.host}, and {seen}: "
                "name one with AgentSettings(python=...)",
                "agent.python",
            )
        _, mark, answer = ended.stdout.decode(errors="replace").rpartition(f"\n{_MARK}")
        if ended.exit_status or not mark:
            raise ChannelError(
                f"the agent's file cannot be looked for on {self.host}: exit status {ended.exit_status}; "
                f"{said[-2000:]}"
            )
        found: dict[str, Any] = json.loads(answer.splitlines()[0])
        if "error" in found:
            raise ConfigError(
                f"the agent's file cannot be kept on {self.host}: {found['error']}; {_ELSEWHERE}",
                "agent.directory",
            )
        return found

    def _send(self, path: str) -> None:
        with tempfile.TemporaryDirectory(prefix="weft-") as directory:
            made = bundle(self._modules)
            local = Path(directory) / made.name
            local.write_bytes(made.data)
            local.chmod(0o600)
            try:
                self._channel.put(local, path)
            except (ChannelError, OSError) as error:
                raise ChannelError(
                    f"the agent's file cannot be sent to {path} on {self.host}: {_said(error)}; {_ELSEWHERE}"
                ) from error


def _said(error: Exception) -> str:
    """Without the path, which has been named."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
