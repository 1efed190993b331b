"""What a call for several nodes, or ranks, finds in its environment."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence

from weft_interfaces import ConfigError, Resources

__all__ = ["HostFiles", "check_mpi", "find_mpi", "node_name", "prefix", "variables"]

_PROGRAMS = ("srun", "mpirun", "mpiexec")
# Open MPI counts other slots than we do: those that its own launch, or the batch system, has given a node.
_OPEN_MPI = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def check_mpi(mpi: object, of: str) -> list[str]:
    """The setting: the launch program, and further options of it; nothing if it is to be found out.

    Raises :class:`ConfigError`. ``of`` names the executor.
    """
    if mpi == "auto":
        return []
    given = [mpi] if isinstance(mpi, str) else mpi if isinstance(mpi, (list, tuple)) else []
    words = [word for word in given if isinstance(word, str)]
    if words and len(words) == len(given) and _base(words[0]) in _PROGRAMS:
        return words
    raise ConfigError(
        f'mpi {of}: {mpi!r} is neither "auto" nor one of {", ".join(_PROGRAMS)}, alone or first in a list '
        "with further options of it",
        "mpi",
    )


def find_mpi(environment: Mapping[str, str]) -> list[str]:
    """The launch program that this node has."""
    for program in ("mpirun", "mpiexec"):
        if shutil.which(program, path=environment.get("PATH")):
            return [program]
    return ["srun"] if "SLURM_JOB_ID" in environment else ["mpirun"]


def node_name(environment: Mapping[str, str], hostname: str) -> str:
    """The node's name as the batch system, and so its launch programs, know it."""
    return environment.get("SLURMD_NODENAME") or hostname


def prefix(mpi: Sequence[str], hosts: Sequence[str], resources: Resources, hostfile: str | None) -> list[str]:
    """What starts a program once for each rank on these nodes."""
    program, *more = mpi
    ranks = str(resources.ranks)
    if _base(program) == "srun":
        size = [f"--nodes={len(hosts)}", f"--ntasks={ranks}", f"--ntasks-per-node={resources.ranks_per_node}"]
        # The manager is in a step of its own, which is not to be in the way, and whose settings are defaults.
        where = ["--distribution=block", f"--nodelist={','.join(hosts)}"]
        return [program, "--overlap", *size, *where, *more]
    listed = [] if hostfile is None else ["--hostfile", hostfile]
    return [program, "-n", ranks, *listed, *more]


def _base(program: str) -> str:
    """``mpirun`` of ``/opt/bin/mpirun.mpich``."""
    return os.path.basename(program).partition(".")[0]


def variables(
    hosts: Sequence[str], resources: Resources, hostfile: str | None, mpi: Sequence[str]
) -> dict[str, str]:
    """``WEFT_NODES`` and so on."""
    found = {
        "WEFT_NODES": ",".join(hosts),
        "WEFT_NODE_COUNT": str(len(hosts)),
        "WEFT_RANKS": str(resources.ranks),
        "WEFT_RANKS_PER_NODE": str(resources.ranks_per_node),
        "WEFT_MPI_PREFIX": shlex.join(prefix(mpi, hosts, resources, hostfile)),
        **{name: value for name, value in _OPEN_MPI.items() if name not in os.environ},
    }
    if hostfile is not None:
        found["WEFT_HOSTFILE"] = hostfile
    return found


class HostFiles:
    """Files for ``mpirun --hostfile`` in a directory, which is made when there is one: one for each call that
    takes several nodes, by its id, and one for all calls of one node with the same options, by a negative
    number.

    The name of a host stands on one line for each of its ranks, as in the node files of PBS: Open MPI and
    MPICH's hydra both count them.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._paths: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._paths)

    def write(self, key: int, hosts: Sequence[str], ranks_per_node: int) -> str | None:
        """The path of the file; None when there is no room for it."""
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            path = os.path.join(self._directory, str(key))
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{host}\n" * ranks_per_node for host in hosts)
        except OSError:
            return None
        self._paths[key] = path
        return path

    def remove(self, ids: Iterable[int]) -> None:
        """These calls have ended."""
        for call_id in ids:
            path = self._paths.pop(call_id, None)
            if path is not None:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def close(self) -> None:
        """Remove all."""
        shutil.rmtree(self._directory, ignore_errors=True)
