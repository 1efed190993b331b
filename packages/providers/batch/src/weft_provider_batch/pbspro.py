"""PBS Professional and OpenPBS. Written to the manual, not run on the real thing.

Its manual pages: qsub(1B), qstat(1B), qselect(1B), qdel(1B), pbs_resources(7B), at
https://github.com/openpbs/openpbs/tree/master/doc/man1; exit statuses of jobs: src/include/job.h there, of
commands: src/cmds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from weft_interfaces import Channel, JobSpec

from .pbs import PBSFamilyProvider

__all__ = ["PBSProProvider"]

# All in one request (-E), with those that have ended (-x), where the server remembers them. JSON that leaves
# out jobs (openpbs issue 2672), and a qstat that does not know these options: then as text.
_LISTING = r"""
weft_ask() {
    weft_said=$(qstat -x "$@" 2>&1)
    weft_status=$?
    # Its exit status is then 0, unless it is of an old version.
    case $weft_said in
    *"not configured to maintain job history"*)
        weft_said=$(qstat "$@" 2>&1)
        weft_status=$?
        ;;
    esac
}
weft_ask -E -f -F json "$@"
weft_plain=no
case $weft_status in
0)
    for weft_job in $weft_mine; do
        case $weft_said in
        *"\"$weft_job\""*) ;;
        *) weft_plain=yes ;;
        esac
    done
    ;;
# An option is not known, or no job is: of these only the last one is named.
2 | 35 | 153) weft_plain=yes ;;
esac
[ $weft_plain = no ] || weft_ask -f "$@"
"""


class PBSProProvider(PBSFamilyProvider):
    """Blocks that are jobs of PBS Professional or OpenPBS.

    queue, account, project: as the options ``-q``, ``-A`` and ``-P`` of ``qsub``.
    cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``), gpus_per_node: what each node is to
    give when the block's shape does not say: ``ncpus``, ``mem`` and ``ngpus`` of a chunk.
    select_options: more of a chunk, such as ``"mpiprocs=4:gpu_type=A100"``. exclusive: whether nobody else is
    to use its nodes.
    scheduler_options: such as ``"-l filesystems=home:grand"``; further ones on further lines.

    The others are those of :class:`BatchProvider`.
    """

    system = "PBS Pro"
    start = "stime"
    exit_status = "Exit_status"
    ended = "FX"
    overrun = frozenset({-29})
    listing = _LISTING
    meanings: ClassVar[Mapping[int, str]] = {
        -1: "it could not be started: the server's log says why",
        -2: "it could not be started: is its directory there, on the node?",
        -3: "it could not be started",
        -4: "its node was started again",
        -5: "its node was started again",
        -6: "its node was started again",
        -7: "it could not be restarted",
        -10: "its user is not known on the node",
        -11: "it was to run again",
        -12: "it was checkpointed",
        -13: "its password is bad",
        -14: "its files could not be staged in",
        -16: "a hook of the site refused it, to run it later",
        -17: "a hook of the site refused it",
        -18: "a hook of the site wants it to run again",
        -19: "a hook of the site deleted it",
        -20: "its first node could not reach the others",
        -21: "the node is not set up securely",
        -22: "a hook of the site failed",
        -23: "it had no Kerberos credentials",
        -24: "it used more cores than it has asked for",
        -25: "it used more cores than it has asked for",
        -26: "it used more virtual memory than it has asked for",
        -27: "it used more memory than it has asked for",
        -28: "it used more processor time than it has asked for",
        -30: "its nodes could not be joined",
    }

    def __init__(
        self,
        *,
        queue: str = "",
        account: str = "",
        project: str = "",
        select_options: str = "",
        cores_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        gpus_per_node: int | None = None,
        exclusive: bool = False,
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
    ) -> None:
        self._exclusive = exclusive
        super().__init__(
            {"queue": queue, "account": account, "project": project, "select_options": select_options},
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
        chunk = ":".join([str(spec.shape.nodes), *self._chunk(spec)])
        # Chunks may share a node, if they are not told to scatter.
        scatter = "scatter" if spec.shape.nodes > 1 else "free"
        place = f"{scatter}:excl" if self._exclusive else scatter
        return [f"select={chunk}", *([] if place == "free" else [f"place={place}"])]

    def _chunk(self, spec: JobSpec) -> Iterator[str]:
        shape = spec.shape
        cores = self._cores if shape.cpus is None else shape.cpus
        memory = self._memory if shape.memory is None else shape.memory
        gpus = self._gpus if shape.gpus is None else shape.gpus
        if cores is not None:
            yield f"ncpus={cores}"
        if memory is not None:
            yield f"mem={math.ceil(memory / 2**20)}mb"
        if gpus:
            yield f"ngpus={gpus}"
        if self._words["select_options"]:
            yield self._words["select_options"].strip(":")
