from __future__ import annotations

import pytest
from weft_interfaces import Launcher
from weft_interfaces.testing import LauncherSuite, left_out
from weft_launchers import (
    AprunLauncher,
    JsrunLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    SingleNodeLauncher,
    SrunLauncher,
    SrunMPILauncher,
    SshLauncher,
    WrappedLauncher,
)

# In place of ssh: what sshd does with the command that it gets.
LOGIN_SHELL = ["/bin/sh", "-c", 'exec /bin/sh -c "$2"', "login"]
# These run on the real programs, in integration-tests.
RUNS = ("test_arguments_arrive_unchanged", "test_the_exit_status_is_that_of_the_command")


class TestSingleNodeLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return SingleNodeLauncher()


class TestWrappedLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return WrappedLauncher(["env", "VARIABLE=two words"])


class TestWrappedLauncherInAnother(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return WrappedLauncher(
            "env 'VARIABLE=two words'", SshLauncher(program=LOGIN_SHELL, hosts=["a", "b", "c"])
        )


@pytest.mark.parametrize("output", ["job", "files"])
class TestSshLauncher(LauncherSuite):
    @pytest.fixture(autouse=True)
    def given(self, output: str, tmp_path, monkeypatch) -> None:
        self.output = output
        monkeypatch.setenv("WEFT_JOB_DIRECTORY", str(tmp_path))

    def make_launcher(self) -> Launcher:
        return SshLauncher(program=LOGIN_SHELL, hosts=["a", "b", "c"], output=self.output)


class TestAprunLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return AprunLauncher()


class TestJsrunLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return JsrunLauncher()


@left_out(*RUNS)
class TestSrunLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return SrunLauncher()


@left_out(*RUNS)
class TestSrunMPILauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return SrunMPILauncher()


@left_out(*RUNS)
class TestMpiRunLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return MpiRunLauncher()


@left_out(*RUNS)
class TestMpiExecLauncher(LauncherSuite):
    def make_launcher(self) -> Launcher:
        return MpiExecLauncher(flavor="mpich")
