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
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from weft_interfaces import Channel, ChannelError, format_bytes

from .archive import Archive, Entry, digest, on_disk, write
from .contract import Report
from .glibc import needed

__all__ = ["Depot", "Outline", "Store"]

_log = logging.getLogger("weft")

_TIMEOUT = 60.0  # seconds for one command there
_LARGE = 10_000_000  # bytes from which on it may take a while
_KEPT = 30  # days that nobody has used an archive
# Where archives are there; what nobody has used for long goes.
_FIND = """
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft/environments
if [ -d "$cache" ]; then find "$cache" -type f -mtime +"$1" -exec rm -f {} +; fi
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
printf '\nweft-cache:%s\n%s\n' "$cache" "$libc"
"""
_HAVE = """[ "$(wc -c <"$1" 2>/dev/null || echo no)" -eq "$2" ] 2>/dev/null && touch "$1" """


class Store(Protocol):
    """What keeps archives, and has nodes get them."""

    def pack_content(self, name: str, entries: Sequence[Entry]) -> Archive:
        """The archive of these entries, which are few, named by what is in them."""

    def keep(self, name: str, data: bytes) -> Path:
        """A small file of this content, which its name tells of."""

    def deliver(self, path: Path) -> str:
        """See to it that a file is where nodes get it from. Returns its path there."""


class Outline:
    """A store that keeps nothing: names that the content would have are in capital letters."""

    environment = Archive(Path("env-CONTENT.tar.gz"), 0, 0)

    def pack_content(self, name: str, entries: Sequence[Entry]) -> Archive:
        return Archive(Path(f"{name}-CONTENT.tar.gz"), 0, _unpacked(entries))

    def keep(self, name: str, data: bytes) -> Path:
        return Path(name)

    def deliver(self, path: Path) -> str:
        return f"CACHE/weft/environments/{path}"


class Depot:
    """Keeps archives. ``channel``: where nodes get them from; None is this machine. glibc: the version of the
    C library of that place, if it is known.
    """

    def __init__(self, channel: Channel | None, report: Report) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._here = Path(cache, "weft", "environments")
        self._here.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._channel = channel
        self._report = report
        self.glibc = ""
        self._there = str(self._here) if channel is None else self._find(channel)

    def pack(self, key: str, make: Callable[[Path], Archive]) -> Archive:
        """The archive that was made for this key, or else is made now, in the file that ``make`` is given."""
        record = self._here / f"{key}.json"
        try:
            said = json.loads(record.read_text())
            path = self._here / said["name"]
            os.utime(path)
            os.utime(record)
            return Archive(path, path.stat().st_size, said["unpacked"], said["glibc"])
        except (OSError, ValueError, KeyError):
            pass
        self._tidy()
        began = time.monotonic()
        made = make(self._here / f".part-{key}")
        archive = replace(made, path=self._here / f"env-{_content(made.path)}.tar.gz")
        os.replace(made.path, archive.path)
        record_of = {"name": archive.path.name, "unpacked": made.unpacked, "glibc": dict(made.glibc)}
        with tempfile.NamedTemporaryFile("w", dir=self._here, prefix=".part-", delete=False) as file:
            json.dump(record_of, file)
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
        path = self._here / f"{name}-{digest(entries)}.tar.gz"
        if path.exists():
            os.utime(path)
            archive = Archive(path, path.stat().st_size, _unpacked(entries))
        else:
            archive = write(entries, path)
        return replace(archive, glibc=needed(entry for entry in entries if ".so" in entry.name))

    def deliver(self, path: Path) -> str:
        # It is sent if no file of its name and size is there.
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
        path = self._here / name
        if not path.exists() or path.read_bytes() != data:
            with tempfile.NamedTemporaryFile("wb", dir=self._here, prefix=".part-", delete=False) as file:
                file.write(data)
            os.replace(file.name, path)
        return path

    def _find(self, channel: Channel) -> str:
        done = channel.run(["sh", "-c", _FIND, "sh", str(_KEPT)], timeout=_TIMEOUT)
        said = done.stdout.decode(errors="replace")
        there, _, libc = said.rpartition("\nweft-cache:")[2].rstrip("\n").partition("\n")
        if done.exit_status or not there.startswith("/"):
            words = done.stderr.decode(errors="replace").strip() or f"it says {said!r}"
            raise ChannelError(f"{channel.host} has no directory for archives: {words}")
        if libc.startswith("glibc "):
            self.glibc = libc.partition(" ")[2]
        return there

    def _tidy(self) -> None:
        """Remove what nobody has used for long, or has not been finished."""
        oldest = time.time() - _KEPT * 86400
        for path in self._here.iterdir():
            with contextlib.suppress(FileNotFoundError):  # somebody else does the same
                if path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink()


def _unpacked(entries: Sequence[Entry]) -> int:
    return sum(on_disk(os.path.getsize(entry.path)) for entry in entries)


def _content(path: Path) -> str:
    hasher = hashlib.blake2b(digest_size=10)
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            hasher.update(data)
    return hasher.hexdigest()
