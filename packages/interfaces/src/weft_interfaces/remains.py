"""What the jobs of a run leave in its directory on another host, and how it is taken away: with one command.

::

    removal(directory, wanted) ── sh: print the ends of the wanted files, then remove ──> read_removal(answer)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from .channel import Channel, CommandResult

__all__ = ["far_directory", "make_directory", "read_removal", "removal"]

_TAIL = 64 << 10  # bytes of a file
_MOST = 2 << 20  # bytes of all files

# The length of each piece comes before it, so that it may hold anything. Jobs that are just ending may still
# write.
_REMOVE = """\
directory=$1 limit=$2 left=$3
shift 3
for job; do
  for file in "$directory/$job".*; do
    case $file in *.out | *.err) ;; *) continue ;; esac
    [ -f "$file" ] && [ ! -L "$file" ] || continue
    length=$(wc -c <"$file" 2>/dev/null) || continue
    [ "$length" -le "$limit" ] || length=$limit
    [ "$length" -le "$left" ] || length=$left
    [ "$length" -gt 0 ] || continue
    left=$((left - length))
    printf 'weft-output %d %s\\n' "$length" "${file##*/}"
    tail -c "$length" "$file" | head -c "$length"
    printf '\\n'
  done
done
tries=0
until words=$(rm -rf -- "$directory" 2>&1); do
  tries=$((tries + 1))
  [ "$tries" -lt 10 ] || { printf 'weft-left %s\\n' "$(printf %s "$words" | tail -n 1)"; exit 1; }
  sleep 0.2
done
case $directory in /*) directory=. ;; esac
while directory=${directory%/*} && [ "$directory" != . ]; do
  rmdir -- "$directory" 2>/dev/null || [ ! -e "$directory" ] || break
done
echo weft-removed
"""
_HEAD = re.compile(rb"weft-output (\d+) ([^\n/]+)\n")


def far_directory(run_id: str, label: str = "") -> str:
    """Where the jobs of a run's executor have their files on another host, from the home there on; without a
    label, where all of the run's are.
    """
    whole = f".weft/runs/{run_id}"
    return f"{whole}/{label}" if label else whole


def make_directory(channel: Channel, directory: str) -> None:
    """Make a directory there, while others may be removing parents that are empty.

    Raises what the channel does.
    """
    try:
        channel.makedirs(directory)
    except FileNotFoundError:
        channel.makedirs(directory)


def removal(directory: str, wanted: Sequence[str] = ()) -> list[str]:
    """The command that does what :meth:`TidyProvider.remove_files` promises, to be run in the home directory.

    Raises :class:`ValueError` for a path that does not name one directory.
    """
    parts = directory.removeprefix("/").rstrip("/").split("/")
    if "\0" in directory or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{directory!r} is not the directory of a run")
    path = "/".join(["" if directory.startswith("/") else ".", *parts])
    return ["sh", "-c", _REMOVE, "sh", path, str(_TAIL), str(_MOST), *wanted]


def read_removal(answer: CommandResult) -> Mapping[str, bytes]:
    """The ends of the files that were wanted, by name.

    Raises :class:`ValueError`, with the other host's words, if the directory may still be there.
    """
    if not re.search(rb"^weft-removed$", answer.stdout, re.MULTILINE) or answer.exit_status:
        left = re.findall(rb"^weft-left (.*)$", answer.stdout, re.MULTILINE)
        said = (left[-1] if left else answer.stderr).decode(errors="replace").strip()
        raise ValueError(said or f"exit status {answer.exit_status}, and no words")
    return dict(_outputs(answer.stdout))


def _outputs(data: bytes) -> Iterator[tuple[str, bytes]]:
    # Only before the first may there be something else, a banner for instance.
    head = _HEAD.search(data)
    while head is not None:
        end = head.end() + int(head[1])
        name = head[2].decode(errors="surrogateescape")
        if name not in (".", ".."):
            yield name, data[head.end() : end]
        head = _HEAD.match(data, end + 1)
