"""Which environment a setting asks for. The code of all but the client's own is imported when needed."""

from __future__ import annotations

import logging
import os
import re
import sys

from weft_interfaces import Channel, ConfigError

from ..setup import user_path
from .contract import Prepared, Report, WorkerEnvironment

__all__ = ["find_environment"]

_log = logging.getLogger("weft")

_PACK = "pack"
_TIMEOUT = 60.0  # seconds for one command of a channel
_SCRATCH = re.compile(r"[\w./${}:@+-]+")


def find_environment(value: str | None, scratch: str | None, label: str) -> WorkerEnvironment:
    """What ``environment=`` and ``scratch=`` of an executor say. Raises :class:`ConfigError`."""
    of = f"of executor {label!r}"
    if scratch is not None and not _SCRATCH.fullmatch(str(scratch)):
        raise ConfigError(
            f"scratch {of} must be a directory of the nodes, which may name variables, such as "
            f'"/scratch/$USER", not {scratch!r}',
            "scratch",
        )
    if value is None:
        return _Client(label, scratch)
    if not str(value).strip():
        raise ConfigError(
            f'environment {of} must be "pack", the path of an environment on the nodes, or a command '
            f'there such as "python3", not {value!r}',
            "environment",
        )
    from .far import Named, Nodes, Packed

    nodes = Nodes(label, scratch)
    if value == _PACK:
        return Packed(nodes, sys.executable)
    if value.startswith(f"{_PACK}:"):
        return Packed(nodes, _python_of(value.partition(":")[2], of))
    return Named(nodes, value)


def _python_of(path: str, of: str) -> str:
    python = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(python):
        python = os.path.join(python, "bin", "python")
    if not os.access(python, os.X_OK):
        raise ConfigError(
            f"environment {of}: there is no {python}: pack:PATH wants an environment of this machine",
            "environment",
        )
    return python


class _Client:
    """The client's Python and modules where they are, if nodes have them there, too; else sent."""

    def __init__(self, label: str, scratch: str | None) -> None:
        self._label, self._scratch = label, scratch

    def outline(self, channel: Channel | None) -> Prepared:
        if channel is None or not channel.remote:
            return self._here()
        from .far import Nodes, Packed

        return Packed(Nodes(self._label, self._scratch), sys.executable).outline(channel)

    def _here(self) -> Prepared:
        path = [os.path.abspath(entry) for entry in sys.path]
        return Prepared((sys.executable, "-m"), path, user_path(path))

    def prepare(self, channel: Channel | None, report: Report) -> Prepared:
        here, path = self._here(), [os.path.abspath(entry) for entry in sys.path]
        if channel is None:
            return here
        from .bundle import user_entries
        from .far import Named, Nodes, Packed

        nodes = Nodes(self._label, self._scratch)
        own = user_entries()
        installed = [entry for entry in path if entry not in own and os.path.exists(entry)]
        if not _shared(channel, [sys.executable, *installed]):
            _log.info(
                "executor %r: %s has not this Python, so it is sent there: set environment= if it should use "
                "another one",
                self._label,
                channel.host,
            )
            return Packed(nodes, sys.executable).prepare(channel, report)
        if _shared(channel, own):
            return here
        return Named(nodes, sys.executable).prepare(channel, report)


def _shared(channel: Channel, paths: list[str]) -> bool:
    """Whether these are the same files there: the same inodes, changed at the same time."""
    if not paths:
        return True
    found = [os.stat(path) for path in paths]
    here = [f"{status.st_ino} {int(status.st_ctime)}" for status in found]
    done = channel.run(["stat", "-L", "-c", "%i %Z", *paths], timeout=_TIMEOUT)
    # What the login scripts there print comes before.
    there = done.stdout.decode(errors="replace").splitlines()[-len(here) :]
    return done.exit_status == 0 and there == here
