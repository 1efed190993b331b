"""What every launcher must show."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ..block import BlockShape
from ..errors import ConfigError
from ..launcher import Launcher
from .check import skip

__all__ = ["AWKWARD_WORDS", "LauncherSuite"]

AWKWARD_WORDS = [
    "plain",
    "two words",
    "",
    "$HOME",
    "`id`",
    "$(id)",
    "a;b",
    "*",
    "~",
    '"',
    "'",
    "\\",
    "new\nline",
    "ü",
    "-n",
    "--",
]

_WRITE_ARGUMENTS = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"


class LauncherSuite:
    """Subclass it and write ``make_launcher``.

    runs_here: whether its commands can be run on this machine, for one node. timeout: seconds that one may
    take.
    """

    timeout: float = 30.0
    runs_here: bool = True

    def make_launcher(self) -> Launcher:
        """A launcher."""
        raise NotImplementedError(f"{type(self).__name__}.make_launcher: write it, to return what is tested")

    def run_wrapped(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command on a block of one node."""
        if not self.runs_here:
            skip("what this launcher starts is not on this machine")
        argv = self.make_launcher().wrap(command, BlockShape(nodes=1))
        return subprocess.run(argv, capture_output=True, timeout=self.timeout, check=False)

    def test_it_is_a_launcher(self) -> None:
        launcher = self.make_launcher()
        assert isinstance(launcher, Launcher), f"it lacks methods of the Launcher contract: {launcher!r}"

    def test_it_gives_a_list_of_words(self) -> None:
        for nodes in (1, 3):
            try:
                argv = self.make_launcher().wrap(["cmd", *AWKWARD_WORDS], BlockShape(nodes=nodes, cpus=2))
            except ConfigError:
                continue  # a shape that it cannot do
            assert isinstance(argv, list), f"wrap gives a list, not {type(argv).__name__}"
            assert all(isinstance(word, str) for word in argv), f"wrap gives a list of words, not {argv}"
            assert argv, "wrap gives a command, not an empty list"

    def test_it_is_a_pure_function(self) -> None:
        command, shape, launcher = ["cmd", "one", "two"], BlockShape(nodes=1), self.make_launcher()
        first = launcher.wrap(command, shape)
        assert command == ["cmd", "one", "two"], (
            f"wrap does not change the command it was given, which became {command}"
        )
        launcher.wrap(["other"], BlockShape(nodes=1, cpus=64))
        assert launcher.wrap(command, shape) == first, "wrap is a pure function: the same in, the same out"
        assert self.make_launcher().wrap(tuple(command), shape) == first, (
            "any sequence of the same words is the same command"
        )
        first.append("changed")
        assert launcher.wrap(command, shape) != first, (
            "each call gives a list of its own, not one that callers share"
        )
        assert "changed" not in command, "what wrap gives is not the list that it was given"

    def test_arguments_arrive_unchanged(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            seen = Path(directory, "seen")
            ended = self.run_wrapped(sys.executable, "-c", _WRITE_ARGUMENTS, str(seen), *AWKWARD_WORDS)
            assert ended.returncode == 0, f"the command did not run: {ended.stderr.decode(errors='replace')}"
            words = json.loads(seen.read_text())
        changed = [(sent, got) for sent, got in zip(AWKWARD_WORDS, words, strict=False) if sent != got]
        assert words == AWKWARD_WORDS, (
            f"any argument is passed on unchanged, but of these the second arrived: {changed}"
        )

    def test_the_exit_status_is_that_of_the_command(self) -> None:
        for status in (0, 7):
            ended = self.run_wrapped(sys.executable, "-c", f"raise SystemExit({status})")
            assert ended.returncode == status, (
                f"the exit status is the command's, {status}, not {ended.returncode}"
            )
