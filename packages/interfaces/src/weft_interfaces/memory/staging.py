"""Files behind ``memory://`` URLs."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

from ..errors import StagingError

__all__ = ["InMemoryStaging"]

_SCHEME = "memory://"


class _Shelf:
    """The files of one name, and how many moves are to fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failures = 0
        self.lock = threading.Lock()


_shelves: dict[str, _Shelf] = {}
_shelves_lock = threading.Lock()


class InMemoryStaging:
    """Moves files of ``memory://`` URLs.

    All of one ``name`` share their files, copies made by pickle too, in one process.
    """

    def __init__(self, name: str = "default") -> None:
        self._name = name

    @property
    def files(self) -> dict[str, bytes]:
        """The files, by URL; write to it as you like."""
        return self._shelf.files

    def fail_next(self, count: int = 1) -> None:
        """The next moves fail with a :class:`StagingError`, and may be tried again."""
        self._shelf.failures += count

    def handles(self, url: str) -> bool:
        return url.startswith(_SCHEME)

    def stage_in(self, url: str, path: Path) -> None:
        self._begin(url)
        data = self.files.get(url)
        if data is None:
            raise FileNotFoundError(f"url: there is no file {url!r} in staging {self._name!r}")
        partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def stage_out(self, path: Path, url: str) -> None:
        self._begin(url)
        self.files[url] = path.read_bytes()

    def _begin(self, url: str) -> None:
        if not self.handles(url):
            raise ValueError(f"url: InMemoryStaging moves files of {_SCHEME} URLs, not {url!r}")
        shelf = self._shelf
        with shelf.lock:
            if shelf.failures:
                shelf.failures -= 1
                raise StagingError(f"{url!r} could not be moved: this move was told to fail")

    @property
    def _shelf(self) -> _Shelf:
        with _shelves_lock:
            return _shelves.setdefault(self._name, _Shelf())
