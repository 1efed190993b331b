"""Virtual environments with few packages, made in a moment: of links to what this environment has."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["add_package", "make_venv", "site_packages"]


def make_venv(folder: Path, *names: str) -> Path:
    """An environment with these distributions and what they need. Returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    there = site_packages(folder)
    found: dict[str, Distribution] = {}
    for name in names:
        _resolve(name, found)
    for each in found.values():
        for top in {Path(file).parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            (there / top).symlink_to(Path(str(each.locate_file(top))))
    return folder / "bin/python"


def site_packages(folder: Path) -> Path:
    """Where the packages of an environment are."""
    return next(folder.glob("lib/python*/site-packages"))


def add_package(folder: Path, name: str, version: str) -> None:
    """A package of one module, in an environment."""
    there = site_packages(folder)
    (there / f"{name}.py").write_text(f"VERSION = {version!r}\n")
    metadata = there / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(f"{name}.py,,\n{metadata.name}/METADATA,,\n")


def _resolve(name: str, found: dict[str, Distribution]) -> None:
    key = re.sub("[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        found[key] = distribution(name)
    except PackageNotFoundError:  # for another system, or an older Python
        return
    for line in found[key].requires or ():
        wanted, _, condition = line.partition(";")
        if "extra" not in condition:
            match = re.match(r"[\w.-]+", wanted)
            assert match is not None, line
            _resolve(match[0], found)
