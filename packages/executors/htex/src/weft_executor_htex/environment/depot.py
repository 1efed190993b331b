"""Where archives are kept: here, under a name that their content has, and at the place of a channel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from weft_interfaces import Channel, ChannelError, format_bytes

from .archive import Archive, Entry, digest, write
from .contract import Report

__all__ = ["Depot"]

_log = logging.getLogger("weft")

_TIMEOUT = 60.0  # seconds for one command there
_LARGE = 10_000_000  # bytes from which on it may take a while
_KEPT = 30  # days that nobody has used an archive
# Where archives are there; what nobody has used for long goes.
_FIND = """
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft/environments
if [ -d "$cache" ]; then find "$cache" -type f -mtime +"$1" -exec rm -f {} +; fi
printf '\nweft-cache:%s\n' "$cache"
"""
_HAVE = """[ "$(wc -c <"$1" 2>/dev/null || echo no)" -eq "$2" ] 2>/dev/null && touch "$1" """


class Depot:
    """Keeps archives. ``channel``: where nodes get them from; None is this machine."""

    def __init__(self, channel: Channel | None, report: Report) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._here = Path(cache, "weft", "environments")
        self._here.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._channel = channel
        self._report = report
        self._there = str(self._here) if channel is None else self._find(channel)

    def pack(self, key: str, make: Callable[[Path], Archive]) -> Archive:
        """The archive that was made for this key, or else is made now, in the file that ``make`` is given."""
        record = self._here / f"{key}.json"
        try:
            said = json.loads(record.read_text())
            path = self._here / said["name"]
            os.utime(path)
            os.utime(record)
            return Archive(path, path.stat().st_size, said["unpacked"])
        except (OSError, ValueError, KeyError):
            pass
        self._tidy()
        began = time.monotonic()
        made = make(self._here / f".part-{key}")
        archive = Archive(self._here / f"env-{_content(made.path)}.tar.gz", made.size, made.unpacked)
        os.replace(made.path, archive.path)
        with tempfile.NamedTemporaryFile("w", dir=self._here, prefix=".part-", delete=False) as file:
            json.dump({"name": archive.path.name, "unpacked": archive.unpacked}, file)
        os.replace(file.name, record)
        seconds = round(time.monotonic() - began, 1)
        self._report(
            "environment.packed",
            name=archive.path.name,
            bytes=archive.size,
            unpacked=archive.unpacked,
            seconds=seconds,
        )
        return archive

    def pack_content(self, name: str, entries: Sequence[Entry]) -> Archive:
        """The archive of these entries, which are few, named by what is in them."""
        path = self._here / f"{name}-{digest(entries)}.tar.gz"
        if path.exists():
            os.utime(path)
            unpacked = sum((os.path.getsize(entry.path) + 4095) // 4096 * 4096 + 512 for entry in entries)
            return Archive(path, path.stat().st_size, unpacked)
        return write(entries, path)

    def deliver(self, path: Path) -> str:
        """See to it that a file is where nodes get it from. Returns its path there.

        It is sent if no file of its name and size is there.
        """
        if self._channel is None:
            return str(path)
        remote = f"{self._there}/{path.name}"
        size = path.stat().st_size
        if self._channel.run(["sh", "-c", _HAVE, "sh", remote, str(size)], timeout=_TIMEOUT).exit_status:
            began = time.monotonic()
            if size > _LARGE:
                _log.warning(
                    "%s of %s is sent to %s, once", path.name, format_bytes(size), self._channel.host
                )
            try:
                self._channel.makedirs(self._there)
                self._channel.put(path, remote)
            except (ChannelError, OSError) as error:
                raise ChannelError(
                    f"{path.name} of {format_bytes(size)} cannot be put into {self._there} on "
                    f"{self._channel.host}: {error}. It must be writable and have room; XDG_CACHE_HOME there "
                    "says where it is"
                ) from error
            seconds = round(time.monotonic() - began, 1)
            self._report(
                "environment.sent", name=path.name, host=self._channel.host, bytes=size, seconds=seconds
            )
        return remote

    def keep(self, name: str, data: bytes) -> Path:
        """A small file of this content, which its name tells of."""
        path = self._here / name
        if not path.exists() or path.read_bytes() != data:
            with tempfile.NamedTemporaryFile("wb", dir=self._here, prefix=".part-", delete=False) as file:
                file.write(data)
            os.replace(file.name, path)
        return path

    def _find(self, channel: Channel) -> str:
        done = channel.run(["sh", "-c", _FIND, "sh", str(_KEPT)], timeout=_TIMEOUT)
        said = done.stdout.decode(errors="replace")
        there = said.rpartition("\nweft-cache:")[2].rstrip("\n")
        if done.exit_status or not there.startswith("/"):
            words = done.stderr.decode(errors="replace").strip() or f"it says {said!r}"
            raise ChannelError(f"{channel.host} has no directory for archives: {words}")
        return there

    def _tidy(self) -> None:
        """Remove what nobody has used for long, or has not been finished."""
        oldest = time.time() - _KEPT * 86400
        for path in self._here.iterdir():
            with contextlib.suppress(FileNotFoundError):  # somebody else does the same
                if path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink()


def _content(path: Path) -> str:
    hasher = hashlib.blake2b(digest_size=10)
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            hasher.update(data)
    return hasher.hexdigest()
