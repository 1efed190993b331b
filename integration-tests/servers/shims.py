"""Commands in front of the real ones: they count, and can be made slow, silent or talkative."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .process import program

__all__ = ["Shims"]

_SHIM = """\
#!/bin/sh
echo {name} >>{calls}
if [ -e {before} ]; then . {before}; fi
exec {real} "$@"
"""


class Shims:
    """A directory to be put before all others in ``PATH``."""

    def __init__(self, folder: Path, commands: Sequence[str]) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        folder.mkdir(parents=True)
        for name in commands:
            parts = {"calls": self._calls, "before": folder / f"before-{name}", "real": program(name)}
            quoted = {key: shlex.quote(str(value)) for key, value in parts.items()}
            shim = folder / name
            shim.write_text(_SHIM.format(name=name, **quoted))
            shim.chmod(0o755)

    def before(self, command: str, script: str) -> None:
        """What is to be done before the real command, which is ``$real`` there."""
        (self.folder / f"before-{command}").write_text(f"real={shlex.quote(program(command))}\n{script}\n")

    def restore(self, command: str) -> None:
        """Nothing more is to be done before it."""
        (self.folder / f"before-{command}").unlink(missing_ok=True)

    def calls(self, command: str) -> int:
        """How often it was called."""
        lines = self._calls.read_text().split() if self._calls.exists() else []
        return lines.count(command)
