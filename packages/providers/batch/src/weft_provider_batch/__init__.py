"""Blocks of batch systems, for the executors of Weft."""

from __future__ import annotations

from .__about__ import __version__
from .gridengine import GridEngineProvider
from .provider import BatchProvider
from .scheduler import Refusal
from .slurm import SlurmProvider

__all__ = ["BatchProvider", "GridEngineProvider", "Refusal", "SlurmProvider", "__version__"]
