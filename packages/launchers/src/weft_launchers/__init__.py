"""Starts a command on every node of a block: srun, mpirun, mpiexec, aprun, jsrun, GNU parallel, ssh."""

from __future__ import annotations

from .__about__ import __version__
from .mpi import MpiExecLauncher, MpiRunLauncher
from .single import SingleNodeLauncher, WrappedLauncher
from .srun import SrunLauncher, SrunMPILauncher
from .ssh import GnuParallelLauncher, SshLauncher
from .vendor import AprunLauncher, JsrunLauncher

__all__ = [
    "AprunLauncher",
    "GnuParallelLauncher",
    "JsrunLauncher",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "SingleNodeLauncher",
    "SrunLauncher",
    "SrunMPILauncher",
    "SshLauncher",
    "WrappedLauncher",
    "__version__",
]
