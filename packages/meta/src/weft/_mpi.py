"""How a task starts its MPI ranks."""

from __future__ import annotations

import os
import shlex

from weft_interfaces import InputError, current_worker

__all__ = ["mpi_prefix"]

_VARIABLE = "WEFT_MPI_PREFIX"


def mpi_prefix() -> list[str]:
    """In a task: the words that stand before a program to run it once for each of the task's ranks, on the
    task's nodes and on no others.

    ::

        @weft.shell(nodes=2, ranks_per_node=4)
        def simulate(case):
            return [*weft.mpi_prefix(), "./solver", case]

    Which launch program they name is the executor's ``mpi``: that of the block's launcher, unless said. They
    are empty for a task of a single rank, which needs none. As text they are in the variable
    ``WEFT_MPI_PREFIX``. Raises :class:`InputError` outside a task.
    """
    worker = current_worker()
    if worker is None or worker.call is None:
        raise InputError("weft.mpi_prefix: it was called outside a task, which alone has ranks")
    ranks = worker.call.options.resources.ranks
    if ranks == 1:
        return []
    if not worker.in_process and _VARIABLE in os.environ:
        return shlex.split(os.environ[_VARIABLE])
    return ["mpirun", "-n", str(ranks)]
