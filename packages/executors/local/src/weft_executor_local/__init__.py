"""Threads and processes of this machine, as Weft executors."""

from __future__ import annotations

from .__about__ import __version__
from .processes import ProcessExecutor
from .threads import ThreadExecutor

__all__ = ["ProcessExecutor", "ThreadExecutor", "__version__"]
