"""Another user of this machine, who may do less than root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from weft_channel_local import LocalChannel
from weft_interfaces import BaseChannel, ChannelError, CommandResult, RemoteProcess

from .process import program, unavailable

__all__ = ["UserChannel", "public_folder"]

_PUT = 'umask 077; cat >"$1.part" && chmod "$2" "$1.part" && mv -- "$1.part" "$1"'


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="weft-public-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class UserChannel(BaseChannel):
    """This machine, as ``name`` sees it: every command and every file is this user's. Needs root.

    home: made, and given to the user.
    """

    def __init__(self, name: str, home: Path, environment: Mapping[str, str]) -> None:
        if os.geteuid() != 0:
            unavailable("only root can be another user")
        user = pwd.getpwnam(name)
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        self._local = LocalChannel(home, {**environment, "HOME": str(home), "USER": name, "LOGNAME": name})
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._as_user = [program("setpriv"), *ids, "--"]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        command = [*self._as_user, *argv]
        return self._local.run(command, input=input, timeout=timeout, environment=environment, cwd=cwd)

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> RemoteProcess:
        return self._local.open([*self._as_user, *argv], environment=environment, cwd=cwd)

    def put(self, local: Path, remote: str) -> None:
        mode = f"{local.stat().st_mode & 0o7777:o}"
        self._do(["sh", "-c", _PUT, "put", remote, mode], local.read_bytes())

    def get(self, remote: str, local: Path) -> None:
        local.write_bytes(self._do(["cat", "--", remote]))

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self._do(["mkdir", "-p", "-m", f"{mode:o}", "--", path])

    def close(self) -> None:
        self._local.close()

    def _do(self, argv: Sequence[str], input: bytes = b"") -> bytes:
        done = self.run(argv, input=input, timeout=30)
        if done.exit_status:
            raise ChannelError(done.stderr.decode(errors="replace"))
        return done.stdout
