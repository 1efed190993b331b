"""What every staging must show."""

from __future__ import annotations

import pickle
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StagingError
from ..staging import Staging
from .check import in_threads, raises

__all__ = ["StagingSuite"]


class StagingSuite:
    """Subclass it and write ``make_staging``, and ``url`` for a URL that can be written.

    timeout: seconds that anything may take before the suite takes the staging for broken.
    """

    timeout: float = 30.0
    size: int = 3_000_000

    def make_staging(self) -> Staging:
        """A staging."""
        raise NotImplementedError(f"{type(self).__name__}.make_staging: write it, to return what is tested")

    def url(self, name: str) -> str:
        """A URL that the staging handles, for a file of this name that does not exist yet."""
        raise NotImplementedError(f"{type(self).__name__}.url: write it, to return a URL that can be written")

    @contextmanager
    def new(self) -> Iterator[tuple[Staging, str, Path]]:
        """A staging, a URL and a directory."""
        with tempfile.TemporaryDirectory() as directory:
            yield self.make_staging(), self.url(f"file-{uuid.uuid4().hex}"), Path(directory)

    def send(self, staging: Staging, url: str, directory: Path, data: bytes) -> None:
        """Put some bytes behind the URL."""
        path = directory / "sent"
        path.write_bytes(data)
        staging.stage_out(path, url)
        path.unlink()

    def fetch(self, staging: Staging, url: str, directory: Path) -> bytes:
        """The bytes behind the URL."""
        path = directory / "fetched"
        staging.stage_in(url, path)
        data = path.read_bytes()
        path.unlink()
        return data

    def test_it_says_what_it_handles(self) -> None:
        staging = self.make_staging()
        assert isinstance(staging, Staging), f"it lacks methods of the Staging contract: {staging!r}"
        assert staging.handles(self.url("a")), f"it handles {self.url('a')!r}, but says that it does not"
        for url in ("no-such-scheme-weft://host/file", ""):
            assert not staging.handles(url), f"it cannot handle {url!r}, but says that it does"

    def test_a_file_goes_there_and_back(self) -> None:
        with self.new() as (staging, url, directory):
            for data in (b"", b"small", bytes(range(256)) * 4000, b"shorter again\r\n"):
                self.send(staging, url, directory, data)
                back = self.fetch(staging, url, directory)
                assert back == data, (
                    f"what went out comes in: {len(data)} bytes went, {len(back)} came, or others"
                )

    def test_both_directions_may_be_repeated(self) -> None:
        with self.new() as (staging, url, directory):
            (directory / "sent").write_bytes(b"data")
            for _ in range(2):
                staging.stage_out(directory / "sent", url)
            for _ in range(2):
                staging.stage_in(url, directory / "fetched")
            assert (directory / "fetched").read_bytes() == b"data", (
                "moves may be repeated, and leave the same"
            )
            assert (directory / "sent").read_bytes() == b"data", "stage_out leaves the file that it sends"

    def test_nothing_but_the_file_is_left(self) -> None:
        with self.new() as (staging, url, directory):
            self.send(staging, url, directory, b"data")
            staging.stage_in(url, directory / "fetched")
            left = sorted(path.name for path in directory.iterdir())
        assert left == ["fetched"], f"stage_in leaves the file and nothing beside it, but there are {left}"

    def test_names_may_be_awkward(self) -> None:
        with self.new() as (staging, url, directory):
            self.send(staging, url, directory, b"data")
            for name in ("two words", "ünï", "100%", "-n", "a'b\"c", "x" * 200):
                staging.stage_in(url, directory / name)
                assert (directory / name).read_bytes() == b"data", f"a file may be called {name!r}"

    def test_a_file_that_is_not_there_is_not_found(self) -> None:
        with self.new() as (staging, url, directory):
            raises(
                FileNotFoundError, lambda: staging.stage_in(url, directory / "none"), "stage_in of no file"
            )
            assert not list(directory.iterdir()), "a stage_in that raised leaves nothing behind"
            raises(
                FileNotFoundError, lambda: staging.stage_out(directory / "none", url), "stage_out of no file"
            )
            raises(
                FileNotFoundError,
                lambda: staging.stage_in(url, directory / "x"),
                "a failed stage_out made no file",
            )

    def test_a_move_that_fails_keeps_what_was_there(self) -> None:
        with self.new() as (staging, url, directory):
            (directory / "kept").write_bytes(b"before")
            raises(
                FileNotFoundError, lambda: staging.stage_in(url, directory / "kept"), "stage_in of no file"
            )
            kept = (directory / "kept").read_bytes()
        assert kept == b"before", f"a stage_in that raised leaves what was there, but it became {kept!r}"

    def test_the_path_never_shows_a_part(self) -> None:
        with self.new() as (staging, url, directory):
            self.send(staging, url, directory, b"n" * self.size)
            parts: list[int] = []
            path, ended = directory / "file", threading.Event()
            watcher = threading.Thread(target=self.watch, args=(path, ended, parts))
            watcher.start()
            for _ in range(5):
                staging.stage_in(url, path)
                path.unlink()
            ended.set()
            watcher.join(self.timeout)
        assert not parts, (
            f"the final name never shows a part of the file, but it showed {parts[0]} of {self.size} bytes"
        )

    def watch(self, path: Path, ended: threading.Event, parts: list[int]) -> None:
        """Note each sight of the file that is not whole."""
        while not ended.is_set():
            try:
                size = len(path.read_bytes())
            except FileNotFoundError:
                continue
            if size != self.size:
                parts.append(size)

    def test_the_url_never_shows_a_part(self) -> None:
        with self.new() as (staging, url, directory):
            old, new = b"o" * self.size, b"n" * self.size
            self.send(staging, url, directory, old)
            (directory / "new").write_bytes(new)
            (directory / "old").write_bytes(old)
            ended, parts = threading.Event(), []

            def watch() -> None:
                other = self.make_staging()
                while not ended.is_set():
                    other.stage_in(url, directory / "seen")
                    seen = (directory / "seen").read_bytes()
                    if seen not in (old, new):
                        parts.append(len(seen))

            watcher = threading.Thread(target=watch)
            watcher.start()
            for name in ("new", "old", "new", "old"):
                staging.stage_out(directory / name, url)
            ended.set()
            watcher.join(self.timeout)
        assert not parts, (
            f"a URL never shows a part of the file, but it showed {parts[0]} of {self.size} bytes"
        )

    def test_it_survives_pickle(self) -> None:
        with self.new() as (staging, url, directory):
            copy: Staging = pickle.loads(pickle.dumps(staging))
            assert copy.handles(url), "a staging that was pickled handles the same URLs"
            self.send(copy, url, directory, b"data")
            assert self.fetch(staging, url, directory) == b"data", (
                "a staging that was pickled moves the same files"
            )

    def test_threads_may_move_files_at_once(self) -> None:
        with self.new() as (staging, url, directory):
            self.send(staging, url, directory, b"d" * 10_000)

            def move(number: int) -> None:
                for path in (directory / str(number), directory / "shared"):
                    staging.stage_in(url, path)
                    assert len(path.read_bytes()) == 10_000, f"{path.name} is whole for each thread"

            in_threads(move, 8, self.timeout, "several threads may fetch the same URL")

    def test_what_it_does_not_handle_raises(self) -> None:
        with self.new() as (staging, _, directory):
            kinds = (ValueError, StagingError, FileNotFoundError)
            foreign = "no-such-scheme-weft://host/file"
            try:
                staging.stage_in(foreign, directory / "none")
            except kinds:
                return
        raise AssertionError(f"stage_in of {foreign!r}, which it does not handle, raises, but it returned")
