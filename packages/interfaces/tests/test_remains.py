"""The command that removes what jobs have left, run by a real shell."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from weft_interfaces import CommandResult, far_directory
from weft_interfaces.remains import read_removal, removal

pytestmark = pytest.mark.once


def run(command: list[str], home: Path) -> CommandResult:
    done = subprocess.run(command, cwd=home, capture_output=True, check=False, timeout=30)
    return CommandResult(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / ".weft/runs/it/htex"
    directory.mkdir(parents=True)
    return directory


def test_the_ends_of_what_is_wanted_come_back_byte_for_byte(directory: Path, tmp_path: Path) -> None:
    junk = bytes(range(256)) * 512 + b"\nweft-output 5 x\nweft-removed\n"
    (directory / "b-1.err").write_bytes(junk)
    (directory / "b-1.out").write_bytes(b"no newline")
    (directory / "b-1.n1.0.err").write_bytes(b"of a node\n")
    (directory / "b-1.in").write_bytes(b"a secret")
    (directory / "b-1.empty.out").touch()
    (directory / "b-1.lead.err").symlink_to("/etc/passwd")
    (directory / "b-10.err").write_bytes(b"of another")
    (directory / "a 'quoted' *[x].err").write_bytes(b"1")
    found = read_removal(run(removal(far_directory("it", "htex"), ["b-1", "a 'quoted' *[x]"]), tmp_path))
    assert found == {
        "b-1.err": junk[-65536:],
        "b-1.out": b"no newline",
        "b-1.n1.0.err": b"of a node\n",
        "a 'quoted' *[x].err": b"1",
    }
    assert list(tmp_path.iterdir()) == []


def test_all_of_it_is_not_more_than_two_megabytes(directory: Path, tmp_path: Path) -> None:
    for number in range(50):
        (directory / f"b.{number:02}.err").write_bytes(b"x" * 100_000)
    found = read_removal(run(removal(far_directory("it", "htex"), ["b"]), tmp_path))
    assert {len(data) for data in found.values()} == {65536}
    assert len(found) == 32


def test_parents_with_something_in_them_stay(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / ".weft/other"
    other.touch()
    assert read_removal(run(removal(far_directory("it")), tmp_path)) == {}
    assert list(tmp_path.rglob("*")) == [tmp_path / ".weft", other]


def test_what_is_not_there_is_no_error_and_an_absolute_path_keeps_its_parents(tmp_path: Path) -> None:
    assert read_removal(run(removal(far_directory("never", "was")), tmp_path)) == {}
    (tmp_path / "a/b").mkdir(parents=True)
    assert read_removal(run(removal(f"{tmp_path}/a/b/"), tmp_path)) == {}
    assert list((tmp_path / "a").iterdir()) == []


def test_a_job_that_still_writes_there_does_not_keep_it(directory: Path, tmp_path: Path) -> None:
    begun = threading.Event()

    def write() -> None:
        for number in range(500):
            try:
                (directory / f"b.{number}").touch()
            except OSError:
                return
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(10)
    answer = run(removal(far_directory("it", "htex")), tmp_path)
    thread.join()
    assert read_removal(answer) == {}
    assert not directory.exists()


def test_what_cannot_be_removed_is_said_in_the_words_of_the_place(tmp_path: Path) -> None:
    # Nobody, root neither, can so much as look at a file with such a name.
    with pytest.raises(ValueError, match=r"rm: .*xxx.* too long"):
        read_removal(run(removal("x" * 300), tmp_path))


def test_a_link_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / "runs").mkdir()
    os.symlink(kept, tmp_path / "runs/it")
    assert read_removal(run(removal("runs/it"), tmp_path)) == {}
    assert (kept / "file").exists()


@pytest.mark.parametrize(
    "path", ["", "/", "//", "///a", ".", "..", "~/../x", "runs/..", "/home/../etc", "a//b", "a/./b", "a\0b"]
)
def test_only_what_names_one_directory_is_removed(path: str) -> None:
    with pytest.raises(ValueError, match="is not the directory of a run"):
        removal(path)


@pytest.mark.parametrize(
    "answer",
    [
        CommandResult(0, b"", b""),
        CommandResult(1, b"weft-removed\n", b""),
        CommandResult(127, b"", b"sh: not found"),
        CommandResult(0, b"weft-output 400 x.err\ncut", b""),
    ],
)
def test_an_answer_that_is_cut_short_says_nothing_of_the_directory(answer: CommandResult) -> None:
    with pytest.raises(ValueError, match=r"not found|no words"):
        read_removal(answer)


def test_names_that_lead_elsewhere_are_passed_over() -> None:
    said = b"welcome\nweft-output 1 ..\nx\nweft-output 1 a/b\nx\nweft-removed\n"
    assert read_removal(CommandResult(0, said, b"")) == {}
