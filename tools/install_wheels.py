"""Build every package as a user gets it, and install the wheels into the Python that runs this.

The wheel is built from the source distribution, so that a file that either forgets is missed here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from check_boundaries import find_packages
from programs import ROOT, uv


def build(folder: Path, target: Path) -> None:
    """Build one package: its source distribution, and the wheel from that."""
    subprocess.run([uv(), "build", "--quiet", "--out-dir", str(target), str(folder)], check=True)


def install(wheels: list[Path]) -> None:
    """Install the wheels, also over others of the same version."""
    again = [f"--reinstall-package={wheel.name.partition('-')[0]}" for wheel in wheels]
    command = [uv(), "pip", "install", "--quiet", "--python", sys.executable, *again, *map(str, wheels)]
    subprocess.run(command, check=True)


def main() -> int:
    """Build and install all packages."""
    packages = find_packages(ROOT)
    with tempfile.TemporaryDirectory(prefix="weft-wheels-") as folder:
        for package in packages:
            build(package.folder, Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        install(wheels)
    print("installed", *(wheel.name for wheel in wheels))
    return 0 if len(wheels) == len(packages) else 1


if __name__ == "__main__":
    sys.exit(main())
