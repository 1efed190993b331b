"""Blocks of this machine, for the executors of Weft."""

from __future__ import annotations

from .__about__ import __version__
from .provider import LocalProvider

__all__ = ["LocalProvider", "__version__"]
