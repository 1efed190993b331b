"""Torque. Written to the manual, not run on the real thing.

Its manual: qsub, qstat, qselect, qdel, at
http://docs.adaptivecomputing.com/9-0-2/docker/Content/topics/torque/commands/qsub.htm; exit statuses:
http://docs.adaptivecomputing.com/torque/archive/3-0-2/2.7jobexitstatus.php.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from weft_interfaces import Channel, JobSpec

from .pbs import PBSFamilyProvider
from .scheduler import Refusal

__all__ = ["TorqueProvider"]


class TorqueProvider(PBSFamilyProvider):
    """Blocks that are jobs of Torque, whatever schedules them (Maui, Moab).

    queue, account: as the options ``-q`` and ``-A`` of ``qsub``.
    cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``), gpus_per_node: what each node is to
    give when the block's shape does not say: ``ppn``, ``gpus``, and ``mem`` for all nodes together.
    node_properties: what its nodes must have, such as ``"infiniband:bigmem"``.
    scheduler_options: such as ``"-W x=advres:name"``; further ones on further lines.

    The others are those of :class:`BatchProvider`. Jobs that have ended are listed for as long as the server
    keeps them (``keep_completed``); what their scripts leave tells afterwards.
    """

    system = "Torque"
    start = "start_time"
    exit_status = "exit_status"
    ended = "C"
    overrun = frozenset({-11})
    listing = """
    weft_said=$(qstat -f -1 "$@" 2>&1)
    weft_status=$?
"""
    refusals = (
        Refusal(r"nodes? (file|spec)|feasible nodes|ppn", "nodes, cores_per_node, node_properties"),
        *PBSFamilyProvider.refusals,
    )
    meanings: ClassVar[Mapping[int, str]] = {
        -1: "it could not be started: the server's log says why",
        -2: "it could not be started: is its directory there, on the node?",
        -3: "it could not be started, in several attempts",
        -4: "its node was started again",
        -5: "its node was started again",
        -6: "its node was started again",
        -7: "it could not be restarted",
        -8: "its command could not be run",
        -9: "its output files could not be opened",
        -10: "it used more memory than it has asked for",
        -12: "it used more processor time than it has asked for",
        -13: "its cgroup could not be made",
    }

    def __init__(
        self,
        *,
        queue: str = "",
        account: str = "",
        node_properties: str = "",
        cores_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        gpus_per_node: int | None = None,
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
    ) -> None:
        super().__init__(
            {"queue": queue, "account": account, "node_properties": node_properties},
            cores_per_node=cores_per_node,
            memory_per_node=memory_per_node,
            gpus_per_node=gpus_per_node,
            scheduler_options=scheduler_options,
            worker_init=worker_init,
            channel=channel,
            command_timeout=command_timeout,
            poll_interval=poll_interval,
        )

    def requests(self, spec: JobSpec) -> Sequence[str]:
        shape = spec.shape
        cores = (self._cores if shape.cpus is None else shape.cpus) or 1
        memory = self._memory if shape.memory is None else shape.memory
        gpus = self._gpus if shape.gpus is None else shape.gpus
        words = [f"nodes={shape.nodes}", f"ppn={cores}", *([f"gpus={gpus}"] if gpus else [])]
        if self._words["node_properties"]:
            words.append(self._words["node_properties"].strip(":"))
        requests = [":".join(words)]
        if memory is not None:
            requests.append(f"mem={math.ceil(memory * shape.nodes / 2**20)}mb")
        return requests
