"""A Python environment of this machine: what it is, and which of its files a node needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft_interfaces import ConfigError

from .archive import Entry

__all__ = ["Prefix", "key", "probe"]

_PROBE = """
import json, os, platform, sys, sysconfig
platstdlib = sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix})
print(json.dumps({
    "version": platform.python_version(),
    "cache_tag": sys.implementation.cache_tag,
    "machine": platform.machine(),
    "system": platform.system(),
    "prefix": sys.prefix,
    "base_prefix": os.path.realpath(sys.base_prefix),
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "stdlib": list(dict.fromkeys(map(os.path.realpath, [sysconfig.get_path("stdlib"), platstdlib]))),
    "path": [entry for entry in sys.path if entry],
}))
"""
_TIMEOUT = 60.0  # seconds that Python may take to say what it is
_LAYOUT = "2"  # of archives; another one is another content
_SITE = ("site-packages", "dist-packages")
# What no task needs, or cannot have on a node: tests, building, windows.
_NO_STDLIB = re.compile(
    r"(test|idlelib|turtledemo|turtle\.py|ensurepip|tkinter|config-[^/]*|site-packages|dist-packages)(/|$)"
    r"|.*/tests?/|lib-dynload/(_tkinter|nis|_test|_ctypes_test|xx)[^/]*$"
)
_NO_SCRIPT = re.compile(r"(python|pydoc|activate|Activate|deactivate)[^/]*$")
# A script that finds the Python beside it: for the shell it is a command, for Python a string.
_SHEBANG = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""


@dataclass(frozen=True)
class Prefix:
    """What a Python says of itself."""

    version: str
    cache_tag: str
    machine: str
    system: str
    prefix: str
    base_prefix: str
    executable: str
    stdlib: tuple[str, ...]
    path: tuple[str, ...]

    @property
    def minor(self) -> str:
        """Its version as it matters to pickles, such as ``3.11``."""
        return ".".join(self.version.split(".")[:2])

    @property
    def site(self) -> list[str]:
        """The directories of installed packages, in their order."""
        return [entry for entry in self.path if os.path.basename(entry) in _SITE and os.path.isdir(entry)]

    @property
    def conda(self) -> bool:
        """Whether conda made it."""
        return os.path.isdir(os.path.join(self.prefix, "conda-meta"))

    @property
    def own(self) -> bool:
        """Whether it is a virtual environment, and not a Python as such."""
        return os.path.realpath(self.prefix) != self.base_prefix

    def entries(self) -> list[Entry]:
        """The files of a virtual environment and of the Python that it is based on::

        base/bin/python3.11, base/lib/python3.11/...         the Python, wherever it came from
        env/bin/python -> ../../base/bin/python3.11          a virtual environment with its packages
        env/lib/python3.11/site-packages/...
        env/pyvenv.cfg                                       lacks the line that says where base is
        """
        found: dict[str, Entry] = {}
        for entry in self._all():
            found.setdefault(entry.name, entry)
        return [found[name] for name in sorted(found)]

    def all_files(self) -> list[Entry]:
        """Every file of an environment, wherever it is in there."""
        return sorted(self._tree(self.prefix, "env", lambda name: None), key=lambda entry: entry.name)

    def _all(self) -> Iterator[Entry]:
        python = f"python{self.minor}"
        yield Entry(f"base/bin/{python}", self.executable)
        for name in ("python", "python3", python):
            yield Entry(f"env/bin/{name}", link=f"../../base/bin/{python}")
        config = f"include-system-site-packages = false\nversion = {self.version}\n"
        yield Entry("env/pyvenv.cfg", data=config.encode())
        for directory in self.stdlib:
            into = os.path.relpath(directory, self.base_prefix)
            if into.startswith(".."):
                raise ConfigError(f"environment: {directory} is not inside {self.base_prefix}", "environment")
            yield from self._tree(directory, f"base/{into}", _NO_STDLIB.match)
        for directory in self.site:
            yield from map(_of_site, self._tree(directory, f"env/lib/{python}/site-packages", _no_package))
        if self.own:
            for name in ("etc", "share"):
                directory = os.path.join(self.prefix, name)
                if os.path.isdir(directory):
                    yield from self._tree(directory, f"env/{name}", lambda name: None)
        yield from self._scripts()

    def _scripts(self) -> Iterator[Entry]:
        """Programs of the packages: of a Python as such only those that run in it, as it may be that of the
        system.
        """
        directory = os.path.join(self.prefix, "bin")
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if _NO_SCRIPT.match(name) or not os.path.isfile(path) or not os.access(path, os.R_OK | os.X_OK):
                continue
            with open(path, "rb") as file:
                first = file.read(2) == b"#!" and file.readline()
                if first and b"python" in first and os.fsencode(directory) in first:
                    yield Entry(f"env/bin/{name}", data=_SHEBANG + file.read(), executable=True)
                elif self.own:
                    yield Entry(f"env/bin/{name}", path)

    def _tree(self, directory: str, into: str, skip: Callable[[str], object]) -> Iterator[Entry]:
        """The files below a directory, with what links point to, and compiled code of this Python."""
        above: dict[str, tuple[str, ...]] = {directory: (os.path.realpath(directory),)}
        for folder, folders, files in os.walk(directory, followlinks=True):
            inside = os.path.relpath(folder, directory)
            inside = "" if inside == "." else f"{inside}/"
            cached = inside.endswith("__pycache__/")
            for name in files:
                path = os.path.join(folder, name)
                wanted = not cached or name.endswith(f".{self.cache_tag}.pyc")
                if wanted and not skip(inside + name) and os.path.isfile(path):
                    yield Entry(f"{into}/{inside}{name}", path)
            kept = []
            for name in sorted(folders):
                real = os.path.realpath(os.path.join(folder, name))
                if real not in above[folder] and not skip(f"{inside}{name}/"):  # no links to above
                    kept.append(name)
                    above[os.path.join(folder, name)] = (*above[folder], real)
            folders[:] = kept


def probe(python: str) -> Prefix:
    """Ask a Python of this machine what it is. Raises :class:`ConfigError`."""
    variables = {name: os.environ[name] for name in os.environ if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            [python, "-c", _PROBE],
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr.decode(errors="replace").strip() or f"status {done.returncode}")
        said: dict[str, Any] = json.loads(done.stdout)
        said |= {name: tuple(said[name]) for name in ("stdlib", "path")}
        return Prefix(**said)
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"environment: {python} is no Python that works: {error}", "environment") from error


def key(entries: list[Entry], extra: str = "") -> str:
    """Changes when a file does, by size and time: what it names is packed once. Compiled code does not
    count, as it changes with every import.
    """
    hasher = hashlib.blake2b(f"{_LAYOUT}\0{extra}".encode(), digest_size=16)
    for entry in entries:
        if not entry.name.endswith(".pyc"):
            status = os.stat(entry.path) if entry.path else None
            facts = (
                (status.st_size, status.st_mtime_ns, status.st_mode) if status else (entry.data, entry.link)
            )
            hasher.update(f"{entry.name}\0{facts}\0".encode())
    return hasher.hexdigest()


def _no_package(name: str) -> bool:
    return name.startswith(("__editable__", "__pycache__/__editable__"))


def _of_site(entry: Entry) -> Entry:
    """As it is to be on a node: directories that ``.pth`` files name are the user's, and travel otherwise."""
    if not entry.name.endswith(".pth"):
        return entry
    lines = Path(entry.path).read_text(errors="replace").splitlines()
    code = [line for line in lines if line.startswith(("import ", "import\t"))]
    return Entry(entry.name, data="".join(f"{line}\n" for line in code).encode())
