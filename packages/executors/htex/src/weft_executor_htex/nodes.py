"""What a call for several nodes, or ranks, finds in its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence

from weft_interfaces import Resources

__all__ = ["HostFiles", "variables"]


def variables(hosts: Sequence[str], resources: Resources, hostfile: str | None = None) -> dict[str, str]:
    """``WEFT_NODES`` and so on."""
    found = {
        "WEFT_NODES": ",".join(hosts),
        "WEFT_NODE_COUNT": str(len(hosts)),
        "WEFT_RANKS": str(resources.ranks),
        "WEFT_RANKS_PER_NODE": str(resources.ranks_per_node),
    }
    if hostfile is not None:
        found["WEFT_HOSTFILE"] = hostfile
    return found


class HostFiles:
    """Files for ``mpirun --hostfile``, one for each call that takes several nodes.

    The name of a host stands on one line for each of its ranks, as in the node files of PBS: Open MPI and
    MPICH's hydra both count them.
    """

    def __init__(self) -> None:
        self._directory: str | None = None
        self._paths: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._paths)

    def write(self, call_id: int, hosts: Sequence[str], ranks_per_node: int) -> str | None:
        """The path of the call's file; None when there is no room for it."""
        try:
            if self._directory is None:
                self._directory = tempfile.mkdtemp(prefix="weft-hosts-")
            path = os.path.join(self._directory, str(call_id))
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{host}\n" * ranks_per_node for host in hosts)
        except OSError:
            return None
        self._paths[call_id] = path
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
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
