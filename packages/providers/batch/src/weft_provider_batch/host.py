"""The machine on which a batch system's commands run and its jobs' files are, behind a channel."""

from __future__ import annotations

import errno
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from weft_interfaces import Channel, ChannelError, CommandResult, ConfigError, ProviderError
from weft_interfaces.remains import make_directory, read_removal, removal

__all__ = ["Answer", "Ending", "Host", "Place"]

T = TypeVar("T")

_TAIL = 8192  # bytes
_AT_ONCE = 50  # jobs whose files are looked at with one command
_SKEW = 2.0  # seconds that two clocks may differ, being read one after the other, to whole seconds

# The clock there, and where commands are looked for if this one is not found. All else comes after it.
_ASK = """\
printf 'weft-now %s\\n' "$(date +%s)"
command -v "$1" >/dev/null 2>&1 || { printf 'weft-path %s\\n' "$PATH"; exit 127; }
exec "$@"
"""

# Inside a job: its variables, but for where the configuration is, would be taken for the new job's.
_FORGET = """\
if [ -n "${{{job_id}-}}" ]; then
  for name in $(env | sed -n 's/^\\({prefix}[A-Z0-9_]*\\)=.*/\\1/p'); do
    case $name in *_CONF) ;; *) unset "$name" ;; esac
  done
fi
"""

_PREPARE = """\
CDPATH='' cd -- "$1" || exit 1
printf 'weft-directory %s\\n' "$PWD"
if [ -e "$2.sh" ]; then printf 'weft-earlier %s\\n' "$(cat "$2.job" 2>/dev/null)"; fi
"""

# Each job's exit file, and the end of its stderr: its length before it, so that it may hold anything. A job
# that is over needs its input no more.
_ENDINGS = """\
limit=$1; shift
while [ $# -gt 1 ]; do
  base=$1 over=$2
  shift 2
  length=$(wc -c <"$base.err" 2>/dev/null) || length=0
  [ "$length" -le "$limit" ] || length=$limit
  printf 'weft-ending %d %s\\n' "$length" "$(cat "$base.exit" 2>/dev/null)"
  if [ "$length" -gt 0 ]; then tail -c "$limit" "$base.err" | head -c "$length"; fi
  printf '\\n'
  if [ "$over" = over ] || [ -e "$base.exit" ]; then rm -f "$base.in"; fi
done
"""

# What is wrong with the request, not with the moment.
_WRONG = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class Answer(NamedTuple):
    """What a command of the batch system answered. skew: seconds that its clock is ahead of ours."""

    exit_status: int
    stdout: str
    stderr: str
    skew: float

    @property
    def words(self) -> str:
        """What it said, in one line: the errors, or all if there are none."""
        said = self.stderr.strip() or self.stdout.strip()
        return " / ".join(line.strip() for line in said.splitlines()[-6:] if line.strip()) or "nothing"


class Place(NamedTuple):
    """A job's directory, absolute. submitted: its script is there already; record: who began to run it."""

    directory: str
    submitted: bool
    record: str


class Ending(NamedTuple):
    """What a job left: the exit status of its script, in which step, and the end of its stderr."""

    exit_status: int | None = None
    step: str = ""
    stderr: str = ""


class Host:
    """Runs commands and keeps files there. Every wait is bounded by ``timeout`` seconds.

    Raises :class:`ProviderError` when the host cannot be reached, does not answer in time or has no room,
    :class:`ConfigError` when it does not have what is asked for.
    """

    def __init__(self, channel: Channel, timeout: float) -> None:
        self.channel = channel
        self.timeout = timeout

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.channel.host

    def ask(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        environment: Mapping[str, str] | None = None,
        forget: tuple[str, str] | None = None,
    ) -> Answer:
        """Run a command of the batch system. Its exit status is the caller's business.

        forget: a variable that is set inside of jobs, and what the names of theirs begin with: the command
        does not see them.
        """
        before = _FORGET.format(job_id=forget[0], prefix=forget[1]) if forget else ""
        command = ["sh", "-c", before + _ASK, "sh", *argv]
        begun = time.time()
        result = self._translated(
            f"`{argv[0]}` on {self.name}",
            lambda: self.channel.run(command, input=input, timeout=self.timeout, environment=environment),
        )
        ended = time.time()
        stdout = result.stdout.decode(errors="replace")
        if result.exit_status == 127 and (path := re.search(r"^weft-path (.*)$", stdout, re.MULTILINE)):
            raise ConfigError(
                f"`{argv[0]}` is not found on {self.name}: run this where the batch system's commands are, "
                f"or put their directory on PATH there, which is {path[1]}"
            )
        clock = re.search(r"^weft-now (\d+)$\n?", stdout, re.MULTILINE)
        skew = _skew(float(clock[1]), begun, ended) if clock else 0.0
        rest = stdout[clock.end() :] if clock else stdout
        return Answer(result.exit_status, rest, result.stderr.decode(errors="replace"), skew)

    def prepare(self, directory: str, spec_id: str) -> Place:
        """Make a job's directory, and look whether the job was submitted before."""
        what = f"the directory {directory!r} on {self.name}"
        self._translated(what, lambda: make_directory(self.channel, directory))
        result = self._sh(what, _PREPARE, directory, f"./{spec_id}")
        stdout = result.stdout.decode(errors="surrogateescape")
        found = re.search(r"^weft-directory (/.*)$", stdout, re.MULTILINE)
        if result.exit_status or not found:
            said = result.stderr.decode(errors="replace").strip()
            raise ConfigError(f"{what} cannot be used: {said or stdout.strip() or 'no reason given'}")
        earlier = re.search(r"^weft-earlier (.*)$", stdout, re.MULTILINE)
        return Place(found[1], earlier is not None, earlier[1].strip() if earlier else "")

    def write(self, path: str, data: bytes) -> None:
        """A file that only its owner can read, whole or not at all."""
        with tempfile.TemporaryDirectory(prefix="weft-") as folder:
            local = Path(folder, "file")
            local.touch(0o600)
            local.write_bytes(data)
            self._translated(f"{path!r} on {self.name}", lambda: self.channel.put(local, path))

    def endings(self, jobs: Sequence[tuple[str, bool]]) -> list[Ending]:
        """What these jobs left: for each, what its files' names begin with, and whether it is known to be
        over; its input, which may hold secrets, is then removed.

        Empty endings where that could not be found out: it is not worth another try.
        """
        found: list[Ending] = []
        for start in range(0, len(jobs), _AT_ONCE):
            some = jobs[start : start + _AT_ONCE]
            words = [word for base, over in some for word in (base, "over" if over else "")]
            try:
                result = self._sh("the files of ended jobs", _ENDINGS, str(_TAIL), *words)
                endings = _read_endings(result.stdout)
            except ProviderError:
                endings = []
            found += [*endings, *[Ending()] * len(some)][: len(some)]
        return found

    def remove(self, *paths: str) -> None:
        """Remove files, as far as that is possible."""
        try:
            self._sh("files", 'rm -f -- "$@"', *paths)
        except ProviderError:
            return

    def remove_directory(self, directory: str, wanted: Sequence[str]) -> Mapping[str, bytes]:
        """See :meth:`~weft_interfaces.TidyProvider.remove_files`."""
        what = f"the directory {directory!r} on {self.name}"
        try:
            command = removal(directory, wanted)
            answer = self._translated(what, lambda: self.channel.run(command, timeout=self.timeout))
            return read_removal(answer)
        except ValueError as error:
            raise ProviderError(f"{what} was not removed: {error}") from error

    def _sh(self, what: str, program: str, *arguments: str) -> CommandResult:
        command = ["sh", "-c", program, "sh", *arguments]
        return self._translated(what, lambda: self.channel.run(command, timeout=self.timeout))

    def _translated(self, what: str, act: Callable[[], T]) -> T:
        """Do something over the channel; what it raises becomes an error of providers."""
        try:
            return act()
        except TimeoutError as error:
            raise ProviderError(
                f"{what}: no answer within {self.timeout:g} s; if it is only slow, raise command_timeout"
            ) from error
        except ChannelError as error:
            raise ProviderError(f"{what}: {error}") from error
        except OSError as error:
            if isinstance(error, (FileNotFoundError, PermissionError)) or error.errno in _WRONG:
                raise ConfigError(f"{what} cannot be used: {error.strerror or error}") from error
            raise ProviderError(f"{what}: {error.strerror or error}") from error


def _skew(there: float, begun: float, ended: float) -> float:
    """How far that clock is ahead; 0 if it may be right."""
    ahead = there - (begun + ended) / 2
    return ahead if abs(ahead) > _SKEW + (ended - begun) / 2 else 0.0


def _read_endings(data: bytes) -> list[Ending]:
    endings: list[Ending] = []
    # Only before the first may there be something else, a banner for instance.
    head = re.search(rb"^weft-ending (\d+) (.*)\n", data, re.MULTILINE)
    while head is not None:
        start = head.end()
        end = start + int(head[1])
        status = re.fullmatch(rb"(\d+) (\w+)", head[2].strip())
        tail = data[start:end].decode(errors="replace")
        code, step = (int(status[1]), status[2].decode()) if status else (None, "")
        endings.append(Ending(code, step, tail))
        head = re.compile(rb"weft-ending (\d+) (.*)\n").match(data, end + 1)
    return endings
