"""Questions of both channels reach whoever sits at a notebook, through its kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers.openssh import SshServers, ssh_servers
from servers.process import processes_with, wait_until
from servers.sshclient import PASSWORD

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

BOUND = 60.0
MAKE = {
    "ssh": """
from weft_channel_ssh import SSHChannel
channel = SSHChannel({name!r}, config={config!r})
""",
    "openssh": """
from weft_channel_ssh import OpenSSHChannel
channel = OpenSSHChannel({name!r}, ['-F', {config!r}, '-oNumberOfPasswordPrompts=1'])
""",
}
HELLO = "print(channel.run(['echo', 'hello'], timeout=30).stdout.decode())\n"


class Cell(NamedTuple):
    """What came of running one: what it printed, its error, and what was asked: texts, and whether hidden."""

    printed: str
    error: str
    asked: list[tuple[str, bool]]


class Notebook:
    """A kernel, and who sits at it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str, answers: Sequence[str] | None = ()) -> Cell:
        """Run a cell; None: its kernel is told that nobody can be asked."""
        printed: list[str] = []
        error: list[str] = []
        asked: list[tuple[str, bool]] = []
        left = list(answers or ())

        def show(message: Any) -> None:
            content = message["content"]
            if message["header"]["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["header"]["msg_type"] == "error":
                error.append(f"{content['ename']}: {content['evalue']}")

        def ask(message: Any) -> None:
            asked.append((message["content"]["prompt"], message["content"]["password"]))
            self._client.input(left.pop(0))

        self._client.execute_interactive(
            code, allow_stdin=answers is not None, stdin_hook=ask, output_hook=show, timeout=BOUND
        )
        return Cell("".join(printed), "".join(error), asked)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    with ssh_servers(tmp_path_factory.mktemp("ssh") / "s", "twofactor", "password") as servers:
        yield servers


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    from jupyter_client.manager import start_new_kernel  # where only smoke tests run, it is not there

    folder = tmp_path_factory.mktemp("notebook")
    manager, client = start_new_kernel(startup_timeout=BOUND, cwd=str(folder))
    with contextlib.ExitStack() as stack:
        stack.callback(manager.shutdown_kernel, now=True)
        stack.callback(client.stop_channels)
        yield Notebook(client)


def make(servers: SshServers, kind: str, name: str) -> str:
    return MAKE[kind].format(name=name, config=str(servers.config))


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_a_password_and_a_code_are_asked_once_for_all_commands(
    servers: SshServers, notebook: Notebook, kind: str
) -> None:
    code = make(servers, kind, "twofactor") + "with channel:\n    " + HELLO + "    " + HELLO
    before = servers["twofactor"].connections
    cell = notebook.run(code, [PASSWORD, servers.code()])
    assert (cell.error, cell.printed.split()) == ("", ["hello", "hello"])
    assert [("assword" in text, hidden) for text, hidden in cell.asked] == [(True, True), (True, True)]
    assert "twofactor" in cell.asked[0][0]
    assert "One-time" in cell.asked[1][0]
    assert servers["twofactor"].connections == before + 1
    assert PASSWORD not in cell.printed


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_where_nobody_can_be_asked_the_error_says_what_to_do(
    servers: SshServers, notebook: Notebook, kind: str
) -> None:
    cell = notebook.run(make(servers, kind, "password") + HELLO, None)
    assert cell.error.startswith(("AuthenticationNeededError", "AuthenticationError"))
    assert "this notebook takes no input" in cell.error
    assert not cell.asked


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_a_thread_waits_for_a_cell_that_authenticates(
    servers: SshServers, notebook: Notebook, kind: str
) -> None:
    aside = (
        "import threading\n"
        "def aside():\n"
        "    try:\n"
        f"        {HELLO}"
        "    except Exception as error:\n"
        "        print(error)\n"
        "thread = threading.Thread(target=aside)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    cell = notebook.run(make(servers, kind, "password") + aside)
    assert "authenticate()" in cell.printed
    assert not cell.asked
    cell = notebook.run("channel.authenticate()\n" + aside + "channel.close()\n", [PASSWORD])
    assert (cell.error, cell.printed.split(), len(cell.asked)) == ("", ["hello"], 1)


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_a_wrong_answer_is_refused_and_leaves_nothing(
    servers: SshServers, notebook: Notebook, kind: str, tmp_path: Path
) -> None:
    mark = f"XDG_RUNTIME_DIR={tmp_path}"
    place = f"import os\nos.environ['XDG_RUNTIME_DIR'] = {str(tmp_path)!r}\n"
    cell = notebook.run(place + make(servers, kind, "password") + HELLO, ["wrong"] * 3)
    assert cell.error.startswith("AuthenticationError")
    assert "wrong" not in cell.error.replace("the password or the code was wrong", "")
    wait_until("no ssh is left", lambda: not list(processes_with(mark)))
    assert not list(tmp_path.iterdir())
