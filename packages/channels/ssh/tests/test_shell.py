"""What every channel over a shell promises beyond the contract, on this machine's own shells."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from weft_channel_ssh.digest import digest
from weft_channel_ssh.errors import SessionRefusedError
from weft_channel_ssh.session import Session
from weft_interfaces import ChannelError
from weft_test_shell import LocalShellChannel

pytestmark = pytest.mark.timeout(120)

BOUND = 30.0
WORDS = ["a b", "", "x\ny\n", "\n", "!$'\"\\", "ü", "*", "-n", "~", "$(id)", "a=b", "--", "\udcff\udcfe\r"]
SHELLS = [
    shell for shell in ("sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish") if shutil.which(shell)
]


def eventually(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.02)
    return True


def processes(*words: str) -> list[str]:
    """Those that have these words in their command line."""
    lines = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if all(word in line for word in words) and line[0] != "Z"]


def only(folder: Path, *tools: str) -> dict[str, str]:
    """A PATH with these programs and what every system has."""
    folder.mkdir()
    common = (
        "awk cat chmod cksum cut env find head kill ls mkdir mv ps printf pwd rm rmdir sh sleep tail tar wc"
    )
    for name in (*common.split(), *tools):
        if found := os.path.realpath(sys.executable) if name == "python3" else shutil.which(name):
            (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


def login(script: str) -> list[str]:
    """A login shell that does this first."""
    return ["sh", "-c", f'{script}; eval "$1"', "sh"]


# -- commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_any_login_shell_passes_any_words(tmp_path: Path, shell: str) -> None:
    channel = LocalShellChannel(str(tmp_path), (shell, "-c"))
    ended = channel.run(["printf", "%s|", *WORDS], timeout=BOUND)
    assert ended == (0, os.fsencode("".join(f"{word}|" for word in WORDS)), b"")
    variables = {f"V{number}": word for number, word in enumerate(WORDS)}
    shown = "".join(f'"$V{number}" ' for number in range(len(WORDS)))
    ended = channel.run(["sh", "-c", f"printf '%s|' {shown}"], environment=variables, timeout=BOUND)
    assert ended.stdout == os.fsencode("".join(f"{word}|" for word in WORDS))


def test_nothing_of_ours_is_in_the_environment_but_what_was_asked_for(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path), environment={"BOTH": "channel's", "SITE": "here"})
    environment = {"BOTH": "own", "i.dotted": "too", "PATH": "/usr/bin:/bin"}
    lines = channel.run(["env"], environment=environment, timeout=BOUND).stdout.decode().splitlines()
    assert {"BOTH=own", "SITE=here", "i.dotted=too", "PATH=/usr/bin:/bin"} <= set(lines)
    assert not [line for line in lines if line.lower().startswith("weft_")]


def test_what_shells_keep_for_themselves_is_given_to_commands(tmp_path: Path) -> None:
    environment = {"UID": "7", "PPID": "8", "IFS": "x", "SHELLOPTS": "vi"}
    lines = LocalShellChannel(str(tmp_path)).run(["env"], environment=environment, timeout=BOUND).stdout
    assert {b"UID=7", b"PPID=8", b"IFS=x", b"SHELLOPTS=vi"} <= set(lines.splitlines())


def test_values_of_variables_are_in_no_list_of_processes(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path))
    process = channel.open(["sh", "-c", "echo ready; cat"], environment={"TOKEN": "a-secret-of-this-test"})
    assert process.read(100) == b"ready\n"
    assert not processes("a-secret-of-this-test")
    process.close()


def test_what_login_files_print_is_no_output(tmp_path: Path) -> None:
    junk = login("echo junk; echo more >&2; printf 'no end'; printf 'no end' >&2; cd /; false")
    channel = LocalShellChannel(str(tmp_path), junk)
    assert channel.run(["sh", "-c", "echo out; echo err >&2; pwd"], timeout=BOUND) == (
        0,
        f"out\n{tmp_path}\n".encode(),
        b"err\n",
    )
    process = channel.open(["sh", "-c", "cat; echo err >&2"])
    process.write(b"in")
    process.close_stdin()
    assert (process.read(100), process.read(100), process.wait(BOUND)) == (b"in", b"", 0)
    assert process.stderr_tail() == "err\n"
    process.close()


def test_a_login_file_that_ends_the_shell_is_named(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path), login("echo no licence; exit 7"))
    with pytest.raises(ChannelError, match=r"exit status 7 before that, and said: no licence.*\.bashrc"):
        channel.run(["true"], timeout=BOUND)


def test_a_forced_command_that_sends_all_back_is_no_command(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path), ["sh", "-c", "cat; cat >&2", "sh"])
    with pytest.raises(TimeoutError, match="did not begin"):
        channel.run(["true"], timeout=1.0)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["no-such-command-of-weft"], 127),
        (["/no/such/command"], 127),
        (["/"], 126),
        (["sh", "-c", "exit 255"], 255),
    ],
)
def test_exit_statuses_are_those_of_a_shell(tmp_path: Path, command: list[str], status: int) -> None:
    ended = LocalShellChannel(str(tmp_path)).run(command, timeout=BOUND)
    assert ended.exit_status == status
    assert status == 255 or command[0] in ended.stderr.decode()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = LocalShellChannel(str(tmp_path)).run(["true"], cwd="not here", timeout=BOUND)
    assert ended == (127, b"", b"./not here: no such directory to run a command in\n")


@pytest.mark.parametrize("argv", [[], ["true", "nul\0byte"], ["true", "\ud800"]])
def test_what_no_machine_could_start_is_an_error(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(ChannelError, match=r"nothing to run|null character|surrogates not allowed"):
        LocalShellChannel(str(tmp_path)).run(argv, timeout=BOUND)


@pytest.mark.parametrize("tool", ["setsid", "python3", "perl"])
def test_one_of_several_tools_starts_sessions(tmp_path: Path, tool: str) -> None:
    mark = f"6{time.monotonic_ns() % 10**8}"
    channel = LocalShellChannel(str(tmp_path), surroundings=only(tmp_path / "bin", tool))
    process = channel.open(["sh", "-c", f"sleep {mark} & sleep {mark}"])
    assert eventually(lambda: len(processes("sleep", mark)) >= 3)
    process.close()
    assert eventually(lambda: not processes("sleep", mark))
    assert channel.run(["cat"], input=b"x" * 1_000_000, timeout=BOUND).stdout == b"x" * 1_000_000


def test_what_is_put_into_the_background_for_good_lives_on(tmp_path: Path) -> None:
    mark = f"6{time.monotonic_ns() % 10**8}"
    channel = LocalShellChannel(str(tmp_path))
    code = f"setsid sleep {mark} </dev/null >/dev/null 2>&1 & echo $!"
    pid = int(channel.run(["sh", "-c", code], timeout=BOUND).stdout)
    channel.close()
    assert processes("sleep", mark)
    os.kill(pid, 9)


def test_a_timeout_kills_what_an_ended_command_has_left_with_its_output(tmp_path: Path) -> None:
    mark = f"6{time.monotonic_ns() % 10**8}"
    channel = LocalShellChannel(str(tmp_path))
    with pytest.raises(TimeoutError, match="'sh' on here has not ended after 1 s, and was killed"):
        channel.run(["sh", "-c", f"sleep {mark} & echo begun"], timeout=1)
    assert eventually(lambda: not processes("sleep", mark))


def test_an_end_of_input_is_no_end_of_the_command(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path))
    process = channel.open(["sh", "-c", "cat >/dev/null; echo begun; sleep 2.5; echo ended"])
    process.close_stdin()
    data = b""
    while part := process.read(3):
        data += part
    assert (data, process.wait(BOUND)) == (b"begun\nended\n", 0)
    process.close()


def test_a_command_dies_with_its_connection(tmp_path: Path) -> None:
    mark = f"6{time.monotonic_ns() % 10**8}"
    channel = LocalShellChannel(str(tmp_path))
    one, two = channel.open(["sleep", mark]), channel.open(["sleep", mark])
    two.close_stdin()
    assert eventually(lambda: len(processes("sleep", mark)) >= 2)
    for process in (one, two):
        process._session.close()
    assert eventually(lambda: not processes("sleep", mark))
    channel.close()


class _OneSession(LocalShellChannel):
    """To a server that allows one session at a time."""

    last: Session | None = None

    def _start(self, command: str, end: float | None = None) -> Session:
        if self.last is not None and self.last._process.poll() is None:  # type: ignore[attr-defined]
            raise SessionRefusedError("no more")
        self.last = super()._start(command, end)
        return self.last


def test_a_timeout_that_ends_while_a_session_is_waited_for_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = _OneSession(str(tmp_path))
    with contextlib.closing(channel.open(["cat"])) as process:
        process.write(b"x")
        assert process.read(1) == b"x"
        with pytest.raises(TimeoutError, match=r"'true' on here had no session .*open are: 'cat' on here"):
            channel.run(["true"], timeout=0.3)
        monkeypatch.setattr("weft_channel_ssh.shell._BEGIN", 0.3)
        with pytest.raises(ChannelError, match=r"'true' on here had to wait too long for a session"):
            channel.open(["true"])
        monkeypatch.undo()
        process.write(b"y")
        assert process.read(1) == b"y"
    assert channel.run(["true"], timeout=BOUND).exit_status == 0


def test_commands_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path))

    def some() -> None:
        assert channel.run(["cat"], input=b"x" * 40_000, timeout=BOUND).stdout == b"x" * 40_000

    some()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        some()
    assert not [thread.name for thread in threading.enumerate() if "'cat' on here" in thread.name]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_closed_channel_refuses_what_comes(tmp_path: Path) -> None:
    with LocalShellChannel(str(tmp_path)) as channel:
        process = channel.open(["sleep", "600"])
    assert process.wait(BOUND) == -9
    with pytest.raises(ChannelError, match="the channel to here is closed"):
        channel.run(["true"], timeout=BOUND)


# -- files --------------------------------------------------------------------------------------------------


def test_a_put_goes_on_where_another_one_stopped(tmp_path: Path) -> None:
    data, home = os.urandom(3_000_000), tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "rb") as stream:
        part = home / f".weft-{digest(stream).sha256[:32]}.another.part"
    part.write_bytes(data[:2_900_000])
    os.utime(part, (time.time() - 300,) * 2)
    channel = LocalShellChannel(str(home))
    channel.put(tmp_path / "file", "there")
    assert (home / "there").read_bytes() == data
    assert channel.sent < 200_000
    assert [path.name for path in home.iterdir()] == ["there"]


def test_a_part_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    data, home = os.urandom(3_000_000), tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "rb") as stream:
        sha = digest(stream).sha256
    for folder, name in ((home, f".weft-{sha[:32]}.another.part"), (tmp_path, f".weft-{sha[:32]}.part")):
        (folder / name).write_bytes(b"x" * 1_000_000)
        os.utime(folder / name, (time.time() - 300,) * 2)
    channel = LocalShellChannel(str(home))
    channel.put(tmp_path / "file", "there")
    assert (home / "there").read_bytes() == data
    channel.get("there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "file", "home"]


def test_a_get_goes_on_where_another_one_stopped(tmp_path: Path) -> None:
    data, home = os.urandom(3_000_000), tmp_path / "home"
    home.mkdir()
    (home / "there").write_bytes(data)
    with open(home / "there", "rb") as stream:
        part = tmp_path / f".weft-{digest(stream).sha256[:32]}.part"
    part.write_bytes(data[:2_900_000])
    channel = LocalShellChannel(str(home))
    channel.get("there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert channel.received < 200_000
    assert not part.exists()


@pytest.mark.parametrize("tool", ["sha256sum", "shasum", "openssl", "python3", ""])
def test_whatever_compares_content_there_will_do(tmp_path: Path, tool: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 8000)
    (tmp_path / "empty").write_bytes(b"")
    channel = LocalShellChannel(
        str(home), surroundings=only(tmp_path / "bin", "setsid", *filter(None, [tool]))
    )
    for name in ("file", "empty"):
        channel.put(tmp_path / name, name)
        channel.get(name, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / name).read_bytes()
    (home / "tree").mkdir()
    (home / "tree" / "file").write_bytes(b"x")
    channel.get("tree", tmp_path / "tree")
    assert (tmp_path / "tree" / "file").read_bytes() == b"x"


def test_what_is_neither_a_file_nor_a_directory_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    channel = LocalShellChannel(str(tmp_path))
    for copy in (
        lambda: channel.put(tmp_path / "pipe", "there"),
        lambda: channel.get("pipe", tmp_path / "back"),
    ):
        with pytest.raises(OSError, match="it is neither a file nor a directory"):
            copy()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_directory_of_which_something_cannot_be_read_is_not_copied_in_part(tmp_path: Path) -> None:
    (tmp_path / "home" / "tree").mkdir(parents=True)
    (tmp_path / "home" / "tree" / "file").write_text("x")
    surroundings = only(tmp_path / "bin", "setsid", "sha256sum")
    tar = tmp_path / "bin" / "tar"
    tar.unlink()
    words = "echo 'tar: ./secret: Cannot open: Permission denied' >&2; exit 2"
    tar.write_text(
        f'#!/bin/sh\n{shutil.which("tar")} "$@"; {words}\n'
    )  # as tar does for those who are not root
    tar.chmod(0o755)
    channel = LocalShellChannel(str(tmp_path / "home"), surroundings=surroundings)
    with pytest.raises(PermissionError, match=r"secret: Cannot open.*'here:tree'"):
        channel.get("tree", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_directory_with_names_of_any_bytes_and_kinds_of_links(tmp_path: Path) -> None:
    sent, home = tmp_path / "sent", tmp_path / "home"
    home.mkdir()
    (sent / "-n" / "\udcff\n").mkdir(parents=True)
    (sent / "-n" / "\udcff\n" / "\udcfe").write_bytes(b"")
    (sent / "up").symlink_to("../outside")
    (sent / "one").write_text("linked")
    os.link(sent / "one", sent / "two")
    channel = LocalShellChannel(str(home))
    channel.put(sent, "there")
    channel.get("there", tmp_path / "back")
    for tree in (home / "there", tmp_path / "back"):
        assert (tree / "-n" / "\udcff\n" / "\udcfe").read_bytes() == b""
        assert os.readlink(tree / "up") == "../outside"
        assert (tree / "two").samefile(tree / "one")


def test_many_may_put_the_same_at_once(tmp_path: Path) -> None:
    data, home = os.urandom(1_500_000), tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").write_bytes(data)
    shared, own = LocalShellChannel(str(home)), LocalShellChannel(str(home))
    errors: list[BaseException] = []

    def put(channel: LocalShellChannel) -> None:
        try:
            channel.put(tmp_path / "file", "there")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=put, args=(channel,)) for channel in (shared, shared, own)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert not errors
    assert (home / "there").read_bytes() == data
    assert [path.name for path in home.iterdir()] == ["there"]


def test_a_limit_that_is_reached_there_has_its_words_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    channel = LocalShellChannel(str(tmp_path / "home"), login("trap '' XFSZ; ulimit -f 8"))
    for size in (500_000, 3_000_000):
        (tmp_path / "file").write_bytes(b"x" * size)
        with pytest.raises(OSError, match=r"File too large.*'here:there'"):
            channel.put(tmp_path / "file", "there")
    assert not list((tmp_path / "home").iterdir())


def test_modes_are_kept_and_old_directories_left_alone(tmp_path: Path) -> None:
    channel = LocalShellChannel(str(tmp_path))
    (tmp_path / "old").mkdir(mode=0o755)
    (tmp_path / "old").chmod(0o755)
    channel.makedirs("old/new/-n")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("old", "old/new", "old/new/-n")] == [
        0o755,
        0o700,
        0o700,
    ]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        channel.makedirs("file")
    (tmp_path / "file").chmod(0o6751)
    channel.get("file", tmp_path / "back")
    assert (tmp_path / "back").stat().st_mode & 0o7777 == 0o6751


@pytest.mark.parametrize("name", ["-n", "two words", "ü", "new\nline", "$HOME", "'\"", "\\", "\udcff"])
def test_names_of_any_characters(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("x")
    channel = LocalShellChannel(str(tmp_path / "home"))
    channel.put(tmp_path / "file", name)
    channel.put(tmp_path / "file", f"{tmp_path}/home/{name}")
    channel.get(name, tmp_path / "back")
    assert (tmp_path / "home" / name).read_text() == (tmp_path / "back").read_text() == "x"
