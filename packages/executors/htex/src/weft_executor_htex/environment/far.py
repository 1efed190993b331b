"""Environments that are not the client's own where it stands: those of the nodes, and those that are sent."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from weft_interfaces import Channel, ConfigError, format_bytes

from ..__about__ import __version__
from ..versions import OLD_LIBRARY, imported, too_new
from .archive import Archive, Entry, digest, write
from .bundle import collect, user_entries
from .conda import pack_conda
from .contract import Prepared, Report
from .depot import Depot, Outline, Store
from .glibc import needed
from .libraries import with_libraries
from .prefix import Prefix, key, probe

__all__ = ["Named", "Nodes", "Packed"]

_log = logging.getLogger("weft")


class Nodes:
    """How things begin on the nodes of one executor."""

    def __init__(self, label: str, scratch: str | None) -> None:
        self.label = label
        self.of = f"of executor {label!r}"
        self._scratch = scratch

    def prepare(self, store: Store, python: str, packed: tuple[Prefix, Archive] | None = None) -> Prepared:
        """Deliver what is to be there, and say how managers start: with a Python of the node, or the packed
        one.
        """
        libraries: dict[str, str] = {}
        script = files(__package__).joinpath("node.sh").read_bytes()
        name = f"node-{digest([Entry('', data=script)])}.sh"
        words = ["/bin/sh", store.deliver(store.keep(name, script)), "-l", self.label]
        words += ["-v", "{}.{}".format(*sys.version_info), "-i", f"weft-executor-htex=={__version__}"]
        size = 0
        if packed is not None:
            prefix, archive = packed
            words += ["-e", store.deliver(archive.path), "-a", prefix.machine]
            size += archive.unpacked
            libraries |= archive.glibc
        else:
            words += ["-p", python]
        modules = collect(user_entries(), self.of)
        if modules:
            archive = store.pack_content("modules", modules)
            words += ["-u", store.deliver(archive.path)]
            size += archive.unpacked
            libraries |= archive.glibc
        if size:
            words += ["-k", str(size // 1024 + 1)]
        if self._scratch is not None:
            words += ["-s", self._scratch]
        return Prepared(words, versions=imported(), glibc=libraries)


class Named:
    """A Python of the nodes; the user's own modules are sent."""

    def __init__(self, nodes: Nodes, python: str) -> None:
        self._nodes, self._python = nodes, python

    def prepare(self, channel: Channel | None, report: Report) -> Prepared:
        return self._nodes.prepare(Depot(channel, report), self._python)

    def outline(self, channel: Channel | None) -> Prepared:
        return self._nodes.prepare(Outline(), self._python)


class Packed:
    """A Python of this machine with its packages, sent there."""

    def __init__(self, nodes: Nodes, python: str) -> None:
        self._nodes, self._python = nodes, python

    def prepare(self, channel: Channel | None, report: Report) -> Prepared:
        prefix = probe(self._python)
        self._check(prefix)
        depot = Depot(channel, report)
        if prefix.conda and not prefix.own:
            entries = prefix.all_files()
            archive = depot.pack(key(entries, "conda"), lambda path: _pack_conda(prefix, entries, path))
        else:
            entries = prefix.entries()
            archive = depot.pack(key(entries, prefix.version), lambda path: _pack(entries, path))
        self._compare(archive, depot, channel)
        return self._nodes.prepare(depot, "", (prefix, archive))

    def outline(self, channel: Channel | None) -> Prepared:
        prefix = probe(self._python)
        self._check(prefix)
        return self._nodes.prepare(Outline(), "", (prefix, Outline.environment))

    def _check(self, prefix: Prefix) -> None:
        of = self._nodes.of
        if prefix.system != "Linux":
            raise ConfigError(
                f'environment {of}: "pack" is for Linux on both sides, this is {prefix.system}: set '
                "environment to one of the cluster",
                "environment",
            )
        here = "{}.{}".format(*sys.version_info)
        if prefix.minor != here:
            raise ConfigError(
                f"environment {of}: {self._python} is Python {prefix.minor}, that of the client {here}: "
                "functions cannot pass between them; pack one of the same minor version",
                "environment",
            )

    def _compare(self, archive: Archive, depot: Depot, channel: Channel | None) -> None:
        """Say what the host that jobs are submitted on could not load: its nodes may be like it."""
        if channel is None or not depot.glibc:
            return
        if newer := too_new(archive.glibc, depot.glibc):
            _log.warning(
                "environment %s: %s has glibc %s, but %s. Nodes without a newer one cannot load this: %s",
                self._nodes.of,
                channel.host,
                depot.glibc,
                ", ".join(f"{name} needs {version}" for name, version in newer.items()),
                OLD_LIBRARY,
            )


def _pack(entries: list[Entry], path: Path) -> Archive:
    size = sum(os.path.getsize(entry.path) for entry in entries if entry.path)
    _log.warning("an environment of %s in %d files is packed, once", format_bytes(size), len(entries))
    with tempfile.TemporaryDirectory(prefix="weft-pack-") as scratch:
        whole = with_libraries(entries, Path(scratch))
        return replace(write(whole, path), glibc=needed(whole))


def _pack_conda(prefix: Prefix, entries: list[Entry], path: Path) -> Archive:
    return replace(pack_conda(prefix.prefix, path), glibc=needed(entries))
