"""A place on this machine whose file system root is another directory.

What a provider has there, it has to reach through its channel: a path of the place does not exist here, and a
temporary file of this side does not exist there. So a provider that confuses the two fails its tests.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..channel import BaseChannel, CommandResult
from ..errors import ChannelError
from ..files import copy_whole
from ..processes import kill_tree

__all__ = ["RootedChannel"]

# Directories that each side has for itself, if there are any.
_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
_TAIL = 8192

# In a mount namespace of its own: everything of this side's root but what is private, and then another root.
_ENTER = """
root=$1 private=$2 cwd=$3; shift 3
for entry in "$root"/*; do
    name=${entry##*/}
    [ ! -L "$entry" ] && [ -e "/$name" ] || continue
    mount --rbind "/$name" "$entry" || exit 125
done
cd "$private" && find . -type d -name .weft-private | while IFS= read -r mark; do
    name=${mark%/.weft-private}; name=${name#.}
    mount --bind "$private$name" "$root$name" || exit 125
done || exit 125
while [ "$1" != -- ]; do mount --rbind "$1" "$root$1" || exit 125; shift; done; shift
exec chroot "$root" /bin/sh -c 'cd -- "$1" || exit 127; shift; exec "$@"' sh "$cwd" "$@"
"""


class RootedChannel(BaseChannel):
    """Runs commands of this machine with ``directory`` as the root of their file system.

    There, ``place`` is a directory that this side has not, with the home directory (``home``, below it; by
    default its name has a space) inside. All else of this side's files is there, too, but what is temporary:
    ``/tmp`` is another one on each side, except for the paths that are ``shown``, and where this Python is.
    Needs ``unshare``, and root or user namespaces. Processes outlive the channel, as on any host.

    ``enter`` and ``here`` are for the tests: what runs a command in the place from this side (to start a
    server that sees its files), and where a path of the place really is. ``strays`` are paths of the place
    that were made on this side by mistake: a test of a provider asserts that there are none.
    """

    remote = True

    def __init__(
        self, directory: str | Path, *, home: str = "home of far", shown: Iterable[str | Path] = ()
    ) -> None:
        self._directory = Path(directory).resolve()
        self._root, self._private = self._directory / "root", self._directory / "private"
        self.place = f"/far-{uuid.uuid4().hex[:12]}"
        self.home = f"{self.place}/{home}"
        self._hidden = [path for path in _PRIVATE if os.path.isdir(path) and not os.path.islink(path)]
        pythons = [sys.prefix, sys.base_prefix, *(path for path in sys.path if os.path.isdir(path))]
        wanted = [os.path.realpath(path) for path in [*pythons, *map(str, shown)]]
        self._shown = sorted({path for path in wanted if self._is_hidden(path)})
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()
        self._closed = False
        self._prepare()

    def _is_hidden(self, path: str) -> bool:
        return any(path == hidden or path.startswith(f"{hidden}/") for hidden in self._hidden)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True)
        for entry in os.scandir("/"):
            target = self._root / entry.name
            if entry.is_symlink():
                target.symlink_to(os.readlink(entry.path))
            elif entry.is_dir():
                target.mkdir()
            else:
                target.touch()
        self.here(self.home).mkdir(parents=True, mode=0o700)
        for hidden in self._hidden:
            private = Path(f"{self._private}{hidden}")
            private.mkdir(parents=True)
            private.chmod(0o1777)
            (private / ".weft-private").mkdir()
        for path in self._shown:
            Path(f"{self._private}{path}").mkdir(parents=True, exist_ok=True)
        ended = self.run(["true"], timeout=30)
        if ended.exit_status:
            raise ChannelError(
                f"there is no other root on this machine: {ended.stderr.decode(errors='replace')}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._directory)!r})"

    # -- for tests ------------------------------------------------------------------------------------------

    def enter(self, argv: Sequence[str], cwd: str | None = None) -> list[str]:
        """What runs a command in the place, from this side. Of the environment, it sets nothing."""
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        unshare = ["unshare", "--mount", "--propagation", "private", *user, "/bin/sh", "-c", _ENTER, "sh"]
        return [
            *unshare,
            str(self._root),
            str(self._private),
            self._path(cwd or ""),
            *self._shown,
            "--",
            *argv,
        ]

    def here(self, path: str) -> Path:
        """Where a path of the place is on this side."""
        path = os.path.normpath(self._path(path))
        if any(path == shown or path.startswith(f"{shown}/") for shown in self._shown):
            return Path(path)
        if path == self.place or path.startswith(f"{self.place}/"):
            return Path(f"{self._root}{path}")
        return Path(f"{self._private}{path}") if self._is_hidden(path) else Path(path)

    def strays(self) -> list[str]:
        """What of the place is on this side, by mistake."""
        return [str(path) for path in (Path(self.place), *Path(self.place).rglob("*")) if path.exists()]

    # -- the contract ---------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return self.place.strip("/")

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        process = self._start(argv, environment, cwd)
        try:
            stdout, stderr = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{argv[0]!r} on {self.host} has not ended after {timeout} s") from None
        finally:
            _end(process)
            if process.stderr is not None:
                process.stderr.close()
        return CommandResult(process.returncode, stdout, stderr)

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> _Process:
        opened = _Process(self._start(argv, environment, cwd), f"{argv[0]!r} on {self.host}")
        with self._lock:
            self._processes.add(opened)
        return opened

    def put(self, local: Path, remote: str) -> None:
        self._check()
        copy_whole(Path(local), self.here(remote))

    def get(self, remote: str, local: Path) -> None:
        self._check()
        copy_whole(self.here(remote), Path(local))

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self._check()
        directory = self.here(path)
        for part in [*reversed(directory.parents), directory]:
            if not part.is_dir():
                part.mkdir(mode, exist_ok=True)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            process.close()

    def _path(self, path: str) -> str:
        return os.path.join(self.home, path)

    def _check(self) -> None:
        if self._closed:
            raise ChannelError(f"the channel to {self.host} is closed")

    def _start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, cwd: str | None
    ) -> subprocess.Popen[bytes]:
        self._check()
        variables = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        try:
            return subprocess.Popen(
                self.enter(argv, cwd),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**variables, "HOME": self.home, **(environment or {})},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ChannelError(f"{argv[0]!r} could not be started on {self.host}: {error}") from error


class _Process:
    """One command, as a :class:`RemoteProcess`."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process, self._name, self._tail = process, name, b""
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._reader = threading.Thread(target=self._read_stderr, name=f"stderr of {name}", daemon=True)
        self._reader.start()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            while data := stderr.read(65536):
                self._tail = (self._tail + data)[-_TAIL:]

    def read(self, size: int) -> bytes:
        with contextlib.suppress(ValueError):  # closed meanwhile
            return self._stdout.read(size) or b""
        return b""

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._stdin.write(view) :]
        except (OSError, ValueError) as error:
            raise ChannelError(f"{self._name} reads no more") from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._name} has not ended within {timeout} s") from None

    def stderr_tail(self) -> str:
        if self._process.poll() is not None:
            self._reader.join(2.0)
        return self._tail.decode(errors="replace")

    def close(self) -> None:
        _end(self._process)
        self._reader.join(2.0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started, if it runs, and free its streams."""
    if process.poll() is None:
        kill_tree(process.pid)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
