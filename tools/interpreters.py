"""Find the Pythons of this machine that Weft supports."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OLDEST = (3, 10)

# Where version managers and images keep Pythons that are not on PATH.
FOLDERS = (
    "~/.pyenv/versions/*/bin",
    "~/.local/share/uv/python/*/bin",
    "~/.local/share/hatch/pythons/*/python/bin",
    "/opt/python/*/bin",
    "/usr/local/bin",
    "/usr/bin",
)

# A release of CPython with the global interpreter lock, and what it really is behind shims and links.
PROBE = """
import os, sys, sysconfig
good = sys.implementation.name == "cpython" and sys.version_info.releaselevel == "final"
good = good and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(*sys.version_info[:3], os.path.realpath(sys.executable)) if good else None
"""


def candidates() -> Iterator[Path]:
    """Files that may be a Python: ``python3.12`` in every folder, PATH first."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    for pattern in FOLDERS:
        folders += sorted(Path("/").glob(os.path.expanduser(pattern).lstrip("/")))
    for folder in dict.fromkeys(folders):
        for file in sorted(folder.glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", file.name):
                yield file


def probe(file: Path) -> tuple[tuple[int, int, int], Path] | None:
    """The version of a Python and where it really is; nothing if it cannot be used."""
    command = [str(file), "-IS", "-c", PROBE]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = result.stdout.split(maxsplit=3)
    if result.returncode or len(words) != 4:
        return None
    major, minor, patch = map(int, words[:3])
    return (major, minor, patch), Path(words[3].strip())


def find_interpreters(oldest: tuple[int, int] = OLDEST) -> dict[tuple[int, int], Path]:
    """The newest CPython of each minor version from this one on, oldest first."""
    found: dict[tuple[int, int], tuple[tuple[int, int, int], Path]] = {}
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(probe, dict.fromkeys(candidates())):
            if answer is None or answer[0] < oldest:
                continue
            version, _ = answer
            if version[:2] not in found or found[version[:2]][0] < version:
                found[version[:2]] = answer
    return {minor: found[minor][1] for minor in sorted(found)}


if __name__ == "__main__":
    for version, python in find_interpreters().items():
        print(*version, python)
