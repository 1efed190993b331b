"""Blocks of batch systems, for the executors of Weft."""

from __future__ import annotations

from .__about__ import __version__
from .gridengine import GridEngineProvider
from .htcondor import HTCondorProvider
from .lsf import LSFProvider
from .pbspro import PBSProProvider
from .provider import BatchProvider
from .scheduler import Refusal
from .slurm import SlurmProvider
from .torque import TorqueProvider

__all__ = [
    "BatchProvider",
    "GridEngineProvider",
    "HTCondorProvider",
    "LSFProvider",
    "PBSProProvider",
    "Refusal",
    "SlurmProvider",
    "TorqueProvider",
    "__version__",
]
