"""What every channel must show."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..channel import Channel, RemoteProcess
from ..errors import ChannelError
from .check import aside, in_threads, raises
from .launcher import AWKWARD_WORDS

__all__ = ["ChannelSuite"]


class ChannelSuite:
    """Subclass it and write ``make_channel``. The place must have the commands of every POSIX system.

    timeout: seconds that anything may take before the suite takes the channel for broken.
    """

    timeout: float = 30.0

    def make_channel(self) -> Channel:
        """A new channel to a place."""
        raise NotImplementedError(f"{type(self).__name__}.make_channel: write it, to return what is tested")

    @contextmanager
    def place(self) -> Iterator[tuple[Channel, str, Path]]:
        """A channel, a new directory there, and a new directory here."""
        channel, remote = self.make_channel(), f"weft-suite-{uuid.uuid4().hex}"
        with tempfile.TemporaryDirectory() as local:
            try:
                channel.makedirs(remote)
                yield channel, remote, Path(local)
            finally:
                channel.run(["rm", "-rf", remote], timeout=self.timeout)
                channel.close()

    def test_it_is_a_channel_with_a_host(self) -> None:
        channel = self.make_channel()
        assert isinstance(channel, Channel), f"it lacks methods of the Channel contract: {channel!r}"
        assert channel.host, "host: it names the place in messages, and is empty"

    # -- run ------------------------------------------------------------------------------------------------

    def test_arguments_arrive_as_they_are(self) -> None:
        with self.place() as (channel, _, _):
            result = channel.run(["printf", "%s\\n", *AWKWARD_WORDS], timeout=self.timeout)
        expected = "".join(f"{word}\n" for word in AWKWARD_WORDS).encode()
        assert result.stdout == expected, (
            f"arguments pass no shell and arrive as they are, but these did: {result.stdout!r}"
        )

    def test_the_exit_status_is_the_callers_business(self) -> None:
        with self.place() as (channel, _, _):
            assert channel.run(["true"], timeout=self.timeout).exit_status == 0, (
                "the exit status of true is 0"
            )
            assert channel.run(["false"], timeout=self.timeout).exit_status == 1, (
                "the exit status of false is 1"
            )

    def test_stderr_is_kept_apart(self) -> None:
        with self.place() as (channel, _, _):
            result = channel.run(["cat", "/no/such/file"], timeout=self.timeout)
        assert result.exit_status != 0, "cat of a file that is not there fails"
        assert b"/no/such/file" in result.stderr, f"what a command writes to stderr is in stderr: {result}"
        assert not result.stdout, f"what a command writes to stderr is not in stdout: {result}"

    def test_input_and_output_of_any_size(self) -> None:
        data = bytes(range(256)) * 20_000
        with self.place() as (channel, _, _):
            result = channel.run(["cat"], input=data, timeout=self.timeout)
            assert result.stdout == data, (
                f"{len(data)} bytes went in, {len(result.stdout)} came out, or others"
            )
            ended = channel.run(["true"], input=data, timeout=self.timeout)
            assert ended.exit_status == 0, f"a command need not read its input, but this happened: {ended}"

    def test_a_timeout_kills_and_raises(self) -> None:
        with self.place() as (channel, _, _):
            begun = time.monotonic()
            raises(TimeoutError, lambda: channel.run(["sleep", "600"], timeout=0.2), "run past its timeout")
            took = time.monotonic() - begun
            assert took < self.timeout, f"after a timeout of 0.2 s run raises, but that took {took:.1f} s"
            assert channel.run(["true"], timeout=self.timeout).exit_status == 0, (
                "a timeout does not cost the channel"
            )

    def test_the_environment_is_added_to_and_does_not_leak(self) -> None:
        with self.place() as (channel, _, _):
            before = self.environment(channel, {})
            name = f"WEFT_SUITE_{uuid.uuid4().hex[:8]}"
            during = self.environment(channel, {name: "a b;$c"})
            after = self.environment(channel, {})
        assert f"{name}=a b;$c" in during, f"environment adds {name}, unchanged, but the command saw {during}"
        lost = [line for line in before if line.startswith(("HOME=", "PATH=")) and line not in during]
        assert not lost, f"environment adds to what the place gives, but these are gone: {lost}"
        assert not any(line.startswith(name) for line in after), f"{name} leaked into the next command"

    def environment(self, channel: Channel, extra: dict[str, str]) -> list[str]:
        """What a command sees."""
        return channel.run(["env"], environment=extra, timeout=self.timeout).stdout.decode().splitlines()

    def test_a_command_runs_in_its_directory(self) -> None:
        with self.place() as (channel, remote, _):
            home = channel.run(["pwd"], timeout=self.timeout).stdout.decode().strip()
            there = channel.run(["pwd"], cwd=remote, timeout=self.timeout).stdout.decode().strip()
        assert there == f"{home}/{remote}", (
            f"a relative cwd starts at home, {home}, but {remote} became {there}"
        )

    def test_threads_may_run_commands_at_once(self) -> None:
        with self.place() as (channel, _, _):

            def run(number: int) -> None:
                data = str(number).encode() * 1000
                for _ in range(5):
                    got = channel.run(["cat"], input=data, timeout=self.timeout).stdout
                    assert got == data, f"each thread gets the output of its own command, not {got[:40]!r}"

            in_threads(run, 4, self.timeout, "run may be called from several threads")

    # -- open -----------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, *argv: str) -> Iterator[RemoteProcess]:
        """A process, which is closed when it takes too long, so that no test waits for ever."""
        with self.place() as (channel, _, _):
            process = channel.open(argv)
            watchdog = threading.Timer(self.timeout, process.close)
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                watchdog.join()
                process.close()

    def read(self, process: RemoteProcess, size: int) -> bytes:
        """So many bytes, in however many parts they come."""
        data = b""
        while len(data) < size:
            part = process.read(size - len(data))
            assert part, (
                f"{size} bytes were to come, but after {len(data)} the stream ended, or nothing came in time"
            )
            assert len(part) <= size - len(data), f"read({size - len(data)}) gave {len(part)} bytes"
            data += part
        return data

    def test_an_open_process_answers(self) -> None:
        with self.opened("cat") as process:
            process.write(b"first")
            first = self.read(process, 5)
            assert first == b"first", (
                f"what cat was sent comes back before its stdin is closed, but {first!r} did"
            )
            process.write(b"second")
            process.close_stdin()
            second = self.read(process, 6)
            assert second == b"second", f"what was sent before close_stdin comes back, but {second!r} did"
            assert process.read(1) == b"", "read gives b'' once the process has closed its stdout"
            assert process.wait(self.timeout) == 0, "the exit status of cat is 0"
            process.close()

    def test_an_open_process_carries_much_in_both_directions(self) -> None:
        data = bytes(range(256)) * 8_000
        with self.opened("cat") as process:

            def write() -> None:
                process.write(data)
                process.close_stdin()

            writer = aside(write)
            got = self.read(process, len(data))
            writer.join(self.timeout)
        assert got == data, "what was written comes back, whole and in order"

    def test_waiting_for_an_open_process_is_bounded(self) -> None:
        with self.opened("sleep", "600") as process:
            raises(TimeoutError, lambda: process.wait(0.1), "wait for a process that has not ended")
            process.close()
            assert process.wait(self.timeout) != 0, "close ends a process that runs, which is no success"

    def test_writing_to_a_process_that_is_gone_raises(self) -> None:
        with self.opened("true") as process:
            process.wait(self.timeout)

            def write_much() -> None:
                for _ in range(100):
                    process.write(b"x" * 65536)

            raises(ChannelError, write_much, "write to a process that is gone")

    def test_the_end_of_stderr_is_known(self) -> None:
        with self.opened("cat", "/no/such/file") as process:
            process.wait(self.timeout)
            tail = process.stderr_tail()
        assert "/no/such/file" in tail, f"stderr_tail has the last lines of stderr, but is {tail!r}"

    # -- files ----------------------------------------------------------------------------------------------

    def test_a_file_goes_there_and_back(self) -> None:
        data = bytes(range(256)) * 1000
        with self.place() as (channel, remote, local):
            Path(local, "sent").write_bytes(data)
            channel.put(local / "sent", f"{remote}/file name")
            there = channel.run(["cat", f"{remote}/file name"], timeout=self.timeout).stdout
            assert there == data, "put copies a file there, whole"
            channel.get(f"{remote}/file name", local / "back")
            assert (local / "back").read_bytes() == data, "get copies a file here, whole"
            left = sorted(path.name for path in local.iterdir())
            assert left == ["back", "sent"], f"no other files are left behind, but there are {left}"

    def test_permissions_are_kept(self) -> None:
        with self.place() as (channel, remote, local):
            for mode in (0o600, 0o755):
                sent, back = local / "sent", local / "back"
                sent.write_text("x")
                sent.chmod(mode)
                channel.put(sent, f"{remote}/file")
                channel.get(f"{remote}/file", back)
                got = back.stat().st_mode & 0o777
                assert got == mode, f"permissions are kept: {mode:o} went there, {got:o} came back"

    def test_what_is_there_is_replaced(self) -> None:
        with self.place() as (channel, remote, local):
            for text in ("long and old", "new"):
                (local / "sent").write_text(text)
                channel.put(local / "sent", f"{remote}/file")
                channel.get(f"{remote}/file", local / "back")
                assert (local / "back").read_text() == text, f"the file is replaced, by {text!r}"

    def test_the_final_name_never_shows_a_part(self) -> None:
        old, new = b"o" * 3_000_000, b"n" * 3_000_000
        with self.place() as (channel, remote, local):
            (local / "old").write_bytes(old)
            (local / "new").write_bytes(new)
            channel.put(local / "old", f"{remote}/file")
            ended, parts = threading.Event(), []

            def watch() -> None:
                while not ended.is_set():
                    seen = channel.run(["cat", f"{remote}/file"], timeout=self.timeout).stdout
                    if seen not in (old, new):
                        parts.append(len(seen))

            watcher = threading.Thread(target=watch)
            watcher.start()
            for name in ("new", "old", "new"):
                channel.put(local / name, f"{remote}/file")
            ended.set()
            watcher.join(self.timeout)
        assert not parts, (
            f"the final name never shows a part of the file, but it showed {parts[0]} bytes of {len(old)}"
        )

    def test_a_file_that_is_not_there_cannot_be_had(self) -> None:
        with self.place() as (channel, remote, local):
            fetch = raises(
                FileNotFoundError, lambda: channel.get(f"{remote}/none", local / "none"), "get of no file"
            )
            assert str(fetch), "the error of get has a message"
            assert not list(local.iterdir()), "a get that raised leaves nothing behind"

    def test_a_directory_goes_there_and_back_with_all_that_is_in_it(self) -> None:
        with self.place() as (channel, remote, local):
            sent = _make_tree(local / "sent")
            channel.put(local / "sent", f"{remote}/the tree")
            channel.get(f"{remote}/the tree", local / "back")
            back = _read_tree(local / "back")
            lost = {path: kind for path, kind in sent.items() if back.get(path) != kind}
            assert back == sent, (
                f"a directory is copied with all that is in it, but of these others came: {lost}"
            )
            left = sorted(path.name for path in local.iterdir())
            assert left == ["back", "sent"], f"nothing else is left behind, but there are {left}"

    def test_a_directory_takes_no_place_where_something_is(self) -> None:
        with self.place() as (channel, remote, local):
            for name in ("one", "two"):
                (local / name).mkdir()
                (local / name / name).write_text(name)
            channel.makedirs(f"{remote}/there")
            channel.put(local / "one", f"{remote}/there")
            again = "put of a directory where one with something in it is"
            raises(FileExistsError, lambda: channel.put(local / "two", f"{remote}/there"), again)
            raises(
                FileExistsError,
                lambda: channel.get(f"{remote}/there", local / "two"),
                again.replace("put", "get"),
            )
            channel.get(f"{remote}/there", local / "back")
            for folder, only in (("back", "one"), ("two", "two")):
                names = [path.name for path in (local / folder).iterdir()]
                assert names == [only], f"what is there is left as it is, but {only} became {names}"

    def test_directories_are_made_with_their_parents(self) -> None:
        with self.place() as (channel, remote, local):
            channel.makedirs(f"{remote}/a/b c/d")
            channel.makedirs(f"{remote}/a/b c/d")
            (local / "sent").write_text("x")
            channel.put(local / "sent", f"{remote}/a/b c/d/file")
            channel.makedirs(f"{remote}/a")
            channel.get(f"{remote}/a/b c/d/file", local / "back")
            assert (local / "back").read_text() == "x", "a directory that exists is left as it is"

    def test_close_ends_what_was_opened_and_may_come_twice(self) -> None:
        channel = self.make_channel()
        process = channel.open(["sleep", "600"])
        channel.close()
        channel.close()
        try:
            status = process.wait(self.timeout)
        except ChannelError:
            return
        except TimeoutError as error:
            raise AssertionError("close ends what was opened, but a process still runs") from error
        assert status != 0, (
            f"close ends what was opened, which is no success, but its exit status is {status}"
        )


def _make_tree(folder: Path) -> dict[str, tuple[str, int | str, bytes]]:
    """Write a tree; see :func:`_read_tree`."""
    (folder / "a" / "b c" / "empty").mkdir(parents=True)
    (folder / "-n").write_bytes(bytes(range(256)))
    (folder / "a" / "script").write_bytes(b"#!/bin/sh\n" * 100_000)
    (folder / "a" / "b c" / "$HOME").write_bytes(b"")
    (folder / "a" / "private").write_bytes(b"x")
    (folder / "link").symlink_to("a/script")
    (folder / "a" / "gone").symlink_to("/no/such/file")
    (folder / "a" / "up").symlink_to("../a")
    for name, mode in {"a/script": 0o755, "a/private": 0o600, "a/b c": 0o750, "a": 0o700, ".": 0o755}.items():
        (folder / name).chmod(mode)
    return _read_tree(folder)


def _read_tree(folder: Path) -> dict[str, tuple[str, int | str, bytes]]:
    """What each path in it is: its kind, its permissions or where it leads, and its content."""
    found: dict[str, tuple[str, int | str, bytes]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[name] = "link", os.readlink(path), b""
        elif path.is_dir():
            found[name] = "directory", mode, b""
        else:
            found[name] = "file", mode, path.read_bytes()
    return found
