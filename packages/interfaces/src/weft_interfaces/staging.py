"""Moves one file between a URL and a path."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["NullStaging", "Staging"]


@runtime_checkable
class Staging(Protocol):
    """Moves one file. Picklable, so that it may run inside the task, on its worker, or as a task of its own.

    Both directions are atomic: the final name never shows a part of the file. Both may be repeated, and leave
    the same. Raising :class:`StagingError`: may be tried again; :class:`FileNotFoundError`: there is no such
    file.
    """

    def handles(self, url: str) -> bool:
        """Whether this staging moves files of such a URL. Cheap, and asks nobody."""

    def stage_in(self, url: str, path: Path) -> None:
        """Bring the file here. The parents of ``path`` exist."""

    def stage_out(self, path: Path, url: str) -> None:
        """Send the file there, replacing what is there."""


class NullStaging:
    """Moves nothing: for executors that see the files where they are."""

    def handles(self, url: str) -> bool:
        """No URL."""
        return False

    def stage_in(self, url: str, path: Path) -> None:
        raise ValueError(f"url: NullStaging moves no files, not even {url!r}")

    def stage_out(self, path: Path, url: str) -> None:
        raise ValueError(f"url: NullStaging moves no files, not even to {url!r}")
