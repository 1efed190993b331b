"""What the local channel promises beyond the contract."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from weft_channel_local import LocalChannel
from weft_interfaces import ChannelError, RemoteProcess

PYTHON = sys.executable
BOUND = 30.0


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[LocalChannel]:
    home = tmp_path / "home"
    home.mkdir()
    channel = LocalChannel(home)
    yield channel
    channel.close()


def eventually(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.01)
    return True


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def read_all(process: RemoteProcess) -> bytes:
    data = b""
    while part := process.read(65536):
        data += part
    return data


# -- commands -----------------------------------------------------------------------------------------------


def test_it_is_this_machine_and_starts_at_the_users_home() -> None:
    channel = LocalChannel()
    assert channel.host == socket.gethostname()
    assert channel.run(["pwd", "-P"], timeout=BOUND).stdout.decode().strip() == os.path.realpath(Path.home())


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["no-such-command-of-weft"], 127, "no-such-command-of-weft: command not found"),
        (["/no/such/command"], 127, "/no/such/command: command not found"),
        (["./text"], 126, "./text: permission denied"),
        (["/"], 126, "/: permission denied"),
    ],
)
def test_what_cannot_be_run_says_so_as_a_shell_does(
    channel: LocalChannel, tmp_path: Path, command: list[str], status: int, words: str
) -> None:
    (tmp_path / "home" / "text").write_text("no program")
    ended = channel.run(command, input=b"x" * 1000, timeout=BOUND)
    assert (ended.exit_status, ended.stdout, ended.stderr.decode()) == (status, b"", f"{words}\n")
    process = channel.open(command)
    assert process.wait(BOUND) == status
    assert process.stderr_tail() == f"{words}\n"
    process.close()


def test_a_directory_that_is_not_there_is_named(channel: LocalChannel, tmp_path: Path) -> None:
    ended = channel.run(["true"], cwd="not here", timeout=BOUND)
    assert ended.exit_status == 127
    assert ended.stderr.decode() == f"{tmp_path}/home/not here: no such directory to run a command in\n"


@pytest.mark.parametrize("argv", [[], ["true", "nul\0byte"], ["true", "x" * (1 << 24)]])
def test_what_no_machine_could_start_is_an_error(channel: LocalChannel, argv: list[str]) -> None:
    with pytest.raises(ChannelError, match=r"nothing to run|could not be started"):
        channel.run(argv, timeout=BOUND)
    with pytest.raises(ChannelError, match=r"nothing to run|could not be started"):
        channel.open(argv)


def test_a_command_ended_by_a_signal_says_which(channel: LocalChannel) -> None:
    assert channel.run(["sh", "-c", "kill -9 $$"], timeout=BOUND).exit_status == -signal.SIGKILL


def test_variables_of_the_channel_reach_every_command(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path, {"SITE": "here", "BOTH": "of the channel"})
    for run in (lambda: channel.run, lambda: channel.run):
        ended = run()(["sh", "-c", 'echo "$SITE, $BOTH"'], environment={"BOTH": "own"}, timeout=BOUND)
        assert ended.stdout == b"here, own\n"
    assert "SITE" not in os.environ


def test_a_timeout_ends_what_has_left_the_session_too(channel: LocalChannel, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        "open('pid', 'w').write(str(p.pid)); time.sleep(600)"
    )
    started = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        started.set()
        try:
            channel.run([PYTHON, "-c", code], timeout=3)
        except BaseException as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    pid = tmp_path / "home" / "pid"
    assert eventually(lambda: pid.exists() and pid.read_text())
    runner.join(BOUND)
    assert isinstance(errors[0], TimeoutError)
    assert "has not ended after 3 s" in str(errors[0])
    assert eventually(lambda: not runs(int(pid.read_text())))


def test_a_timeout_is_kept_when_the_command_has_ended_but_its_child_holds_the_pipes(
    channel: LocalChannel,
) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        channel.run(["sh", "-c", "sleep 600 & exit 0"], timeout=0.5)
    assert time.monotonic() - begun < 10


def test_much_on_both_outputs_does_not_stop_a_command(channel: LocalChannel) -> None:
    code = "import sys; [(sys.stdout.write('o' * 9999), sys.stderr.write('e' * 9999)) for _ in range(500)]"
    ended = channel.run([PYTHON, "-c", code], input=b"i" * 1_000_000, timeout=BOUND)
    assert (ended.stdout, ended.stderr) == (b"o" * 4_999_500, b"e" * 4_999_500)


def test_an_open_process_that_writes_much_to_stderr_goes_on(channel: LocalChannel) -> None:
    code = "import sys; [sys.stderr.write('e' * 9999) for _ in range(500)]; sys.stderr.write('the end')"
    process = channel.open([PYTHON, "-c", code])
    assert process.wait(BOUND) == 0
    assert process.stderr_tail().endswith("eee" + "the end")
    assert len(process.stderr_tail()) <= 8192
    process.close()


def test_closing_an_open_process_ends_all_that_it_started(channel: LocalChannel) -> None:
    process = channel.open(["sh", "-c", "sleep 600 & echo $!; wait"])
    pid = int(process.read(100))
    assert runs(pid)
    process.close()
    process.close()
    assert eventually(lambda: not runs(pid))
    assert process.read(1) == b""
    with pytest.raises(ChannelError, match="reads no more"):
        process.write(b"x")


def test_closing_lets_a_reader_go(channel: LocalChannel) -> None:
    process = channel.open(["sleep", "600"])
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(process.read(1)))
    reader.start()
    process.close()
    reader.join(BOUND)
    assert got == [b""]


def test_closing_the_channel_ends_what_runs_and_refuses_what_comes(
    channel: LocalChannel, tmp_path: Path
) -> None:
    statuses: list[int] = []
    command = ["sh", "-c", "echo > begun; exec sleep 600"]
    runner = threading.Thread(target=lambda: statuses.append(channel.run(command).exit_status))
    runner.start()
    assert eventually((tmp_path / "home" / "begun").exists)
    channel.close()
    runner.join(BOUND)
    assert statuses == [-signal.SIGKILL]
    for use in (
        lambda: channel.run(["true"]),
        lambda: channel.open(["true"]),
        lambda: channel.put(tmp_path / "x", "x"),
        lambda: channel.get("x", tmp_path / "x"),
        lambda: channel.makedirs("x"),
    ):
        with pytest.raises(ChannelError, match="is closed"):
            use()


def test_an_interrupt_does_not_reach_commands(channel: LocalChannel) -> None:
    ours = os.getpgid(0)
    theirs = channel.run(["sh", "-c", "ps -o pgid= -p $$"], timeout=BOUND).stdout
    assert int(theirs) != ours


@pytest.mark.once
def test_no_descriptor_and_no_process_is_left(channel: LocalChannel) -> None:
    def use() -> None:
        channel.run(["true"], timeout=BOUND)
        with pytest.raises(TimeoutError):
            channel.run(["sleep", "600"], timeout=0.01)
        process = channel.open(["cat"])
        process.write(b"x")
        process.read(1)
        process.close()
        read_all(process)

    use()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        use()
    assert sorted(os.listdir("/proc/self/fd")) == before
    children = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    ).stdout
    assert not [line for line in children.splitlines() if line.startswith(("sleep", "cat", "true"))]


# -- files --------------------------------------------------------------------------------------------------


def test_a_private_file_is_private_all_the_time(channel: LocalChannel, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 3_000_000)
    secret.chmod(0o600)
    seen: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for entry in os.scandir(tmp_path / "home"):
                with contextlib.suppress(FileNotFoundError):
                    seen.add(stat.S_IMODE(entry.stat().st_mode))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        channel.put(secret, "secret")
    ended.set()
    watcher.join(BOUND)
    assert seen == {0o600}


def test_a_large_file_with_a_hole_arrives_whole(channel: LocalChannel, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.write(b"begin")
        file.seek(300_000_000)
        file.write(b"end")
    channel.put(big, "big")
    subprocess.run(["cmp", str(big), str(tmp_path / "home" / "big")], check=True, timeout=BOUND)


def test_a_copy_that_fails_leaves_nothing(channel: LocalChannel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    (tmp_path / "home" / "taken" / "inside").mkdir(parents=True)
    for source, target, error in [
        ("none", "there", FileNotFoundError),
        ("file", "no/parent", FileNotFoundError),
        ("file", "taken", IsADirectoryError),
        ("directory", "taken", FileExistsError),
        ("directory", "no/parent", FileNotFoundError),
    ]:
        with pytest.raises(error):
            channel.put(tmp_path / source, target)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["taken"]


def test_a_directory_with_something_odd_in_it_is_not_copied_in_part(
    channel: LocalChannel, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_text("x")
    os.mkfifo(tmp_path / "tree" / "below" / "fifo")
    with pytest.raises(OSError, match="fifo"):
        channel.put(tmp_path / "tree", "tree")
    assert not list((tmp_path / "home").iterdir())


def test_a_channel_is_closed_by_with(tmp_path: Path) -> None:
    with LocalChannel(tmp_path) as channel:
        assert channel.run(["true"], timeout=BOUND).exit_status == 0
    with pytest.raises(ChannelError, match="is closed"):
        channel.run(["true"])


def test_a_running_program_can_be_replaced(channel: LocalChannel, tmp_path: Path) -> None:
    channel.put(Path("/bin/sleep"), "sleeper")
    process = channel.open(["./sleeper", "600"])
    channel.put(Path("/bin/true"), "sleeper")
    assert channel.run(["./sleeper"], timeout=BOUND).exit_status == 0
    process.close()


def test_new_directories_have_the_mode_and_old_ones_keep_theirs(
    channel: LocalChannel, tmp_path: Path
) -> None:
    old = tmp_path / "home" / "old"
    old.mkdir()
    old.chmod(0o755)
    channel.makedirs("old/new/newer")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (old, old / "new", old / "new" / "newer")]
    assert modes == [0o755, 0o700, 0o700]
    (old / "file").write_text("")
    with pytest.raises(FileExistsError):
        channel.makedirs("old/file")


def test_threads_may_make_the_same_directory(channel: LocalChannel, tmp_path: Path) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        try:
            barrier.wait(BOUND)
            channel.makedirs("a/b/c/d/e")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert not errors
    assert (tmp_path / "home/a/b/c/d/e").is_dir()


def test_paths_of_any_characters_and_absolute_ones(channel: LocalChannel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("-n", "two words", "ü", "new\nline", "$HOME", "'\""):
        channel.put(tmp_path / "file", name)
        channel.get(name, tmp_path / "back")
        channel.put(tmp_path / "file", str(tmp_path / name))
        assert (tmp_path / name).read_text() == (tmp_path / "home" / name).read_text() == "x"


def test_a_pickle_has_its_settings_and_nothing_that_runs(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path, {"NAME": "value"})
    with contextlib.closing(channel.open(["cat"])):
        other = pickle.loads(pickle.dumps(channel))
    assert other.run(["sh", "-c", 'pwd; echo "$NAME"']).stdout == f"{tmp_path}\nvalue\n".encode()
    other.close()
    channel.close()
