"""This machine, as a place where commands run and files live."""

from __future__ import annotations

from .__about__ import __version__
from .channel import LocalChannel

__all__ = ["LocalChannel", "__version__"]
