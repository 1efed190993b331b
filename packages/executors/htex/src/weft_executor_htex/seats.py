"""What each worker of a node has of its own: its accelerators, its processors, its environment.

Accelerators belong to workers, not to calls: a library that has once used a device holds on to it, and to
what it has loaded there, until its process ends. So a call sees the devices of its worker, all of them,
however few it asks for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from weft_interfaces import ConfigError
from weft_interfaces.processes import WorkerSettings

from .setup import ManagerSetup

__all__ = [
    "AFFINITIES",
    "Accelerators",
    "Affinity",
    "SeatError",
    "accelerator_environments",
    "check_accelerators",
    "check_affinity",
    "choose_cpus",
    "seat_settings",
    "share_of_accelerators",
]

Accelerators: TypeAlias = int | Sequence[str]
Affinity: TypeAlias = Literal["none", "block", "block-reverse", "alternating"] | Sequence[str]

AFFINITIES = ("none", "block", "block-reverse", "alternating")
# ROCR_VISIBLE_DEVICES is left to the batch system: the other variables number anew the devices that it lets
# through, so that the second of two, named in both, would be none.
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_NODES = Path("/sys/devices/system/node")


_NODE_RANKS = ("WEFT_NODE_RANK", "SLURM_NODEID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")


class SeatError(Exception):
    """The node has not what its workers are to have; the message says what."""


def seat_settings(setup: ManagerSetup, workers: int, host: str, ends_at: float | None) -> WorkerSettings:
    """How this node's workers are made. Raises :class:`SeatError`."""
    common = {
        **setup.environment,
        "WEFT_WORKER_COUNT": str(workers),
        "WEFT_NODE": host,
        "WEFT_BLOCK_ID": setup.block,
        "WEFT_MANAGER_PID": str(os.getpid()),
    }
    rank = next((os.environ[name] for name in _NODE_RANKS if os.environ.get(name)), None)
    if rank is not None:
        common["WEFT_NODE_RANK"] = rank
    own: Sequence[Mapping[str, str]] = [{}] * workers
    if setup.accelerators:
        own = accelerator_environments(setup.accelerators, workers, os.environ)
    return WorkerSettings(
        count=workers,
        preload=list(setup.preload),
        environments=[{**common, **mine, "WEFT_WORKER_RANK": str(seat)} for seat, mine in enumerate(own)],
        affinities=choose_cpus(setup.affinity, workers, usable_cpus()),
        ends_at=ends_at,
    )


# -- accelerators -------------------------------------------------------------------------------------------


def check_accelerators(
    accelerators: object, workers: int | None, gpus: int | None, of: str
) -> Accelerators | None:
    """The setting, if these are accelerators for so many workers, on nodes with so many gpus.

    Raises :class:`ConfigError`. ``of`` names the executor.
    """
    if accelerators is None:
        return None
    names = _names(accelerators, of)
    if workers is not None and len(names) % workers:
        remedy = (
            f"set workers_per_node={len(names)}, or name accelerators several times for workers to share them"
            if workers > len(names)
            else "each gets as many as the others"
        )
        raise ConfigError(
            f"accelerators {of}: {workers} workers cannot have {len(names)} accelerators; {remedy}",
            "accelerators",
        )
    if gpus is not None and len(set(names)) > gpus:
        raise ConfigError(
            f"accelerators {of}: there are {len(set(names))}, but blocks.gpus asks for {gpus} a node",
            "accelerators",
        )
    return accelerators if isinstance(accelerators, int) else names


def _names(accelerators: object, of: str) -> list[str]:
    if isinstance(accelerators, int) and not isinstance(accelerators, bool) and accelerators > 0:
        return [str(number) for number in range(accelerators)]
    if isinstance(accelerators, Sequence) and not isinstance(accelerators, (str, bytes)) and accelerators:
        names = [str(name).strip() for name in accelerators]
        if all(name and "," not in name for name in names):
            return names
    raise ConfigError(
        f"accelerators {of}: {accelerators!r} is neither their number on each node, at least 1, nor a list "
        "of their names, one for each worker",
        "accelerators",
    )


def share_of_accelerators(accelerators: Accelerators | None, workers: int | None) -> float:
    """How many accelerators each worker has; one that several share counts for its part."""
    if not accelerators:
        return 0.0
    names = _names(accelerators, "")
    count = Counter(names)
    each = len(names) // (workers or len(names))
    return min(sum(1 / count[name] for name in names[k : k + each]) for k in range(0, len(names), each))


def accelerator_environments(
    accelerators: Accelerators, workers: int, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """The variables of each worker, given the manager's environment.

    A number counts among those devices that the batch system has granted, names are taken as they are. Raises
    :class:`SeatError`.
    """
    found: list[dict[str, str]] = [{} for _ in range(workers)]
    for variable in _VARIABLES:
        names = _granted(accelerators, variable, environment)
        each = len(names) // workers
        for seat in range(workers):
            mine = dict.fromkeys(names[seat * each : (seat + 1) * each])
            found[seat][variable] = ",".join(mine)
    return found


def _granted(accelerators: Accelerators, variable: str, environment: Mapping[str, str]) -> Sequence[str]:
    if not isinstance(accelerators, int):
        return accelerators
    given = environment.get(variable)
    if given is None:
        return [str(number) for number in range(accelerators)]
    names = [name.strip() for name in given.split(",") if name.strip()]
    if len(names) < accelerators:
        raise SeatError(
            f"accelerators={accelerators}, but this node's {variable} names {len(names)}: {given!r}"
        )
    return names[:accelerators]


# -- processors ---------------------------------------------------------------------------------------------


def check_affinity(affinity: object, workers: int | None, of: str) -> Affinity:
    """The setting, if it is one for so many workers. Raises :class:`ConfigError`."""
    if isinstance(affinity, str) and affinity in AFFINITIES:
        return affinity
    if isinstance(affinity, str) or not isinstance(affinity, Sequence) or not affinity:
        choices = ", ".join(map(repr, AFFINITIES))
        raise ConfigError(
            f"affinity {of}: {affinity!r} is neither one of {choices} nor a list of the processors of each "
            'worker, such as ["0-3", "4-7"]',
            "affinity",
        )
    for item in affinity:
        try:
            parse_cpus(item)
        except (ValueError, AttributeError):
            raise ConfigError(
                f"affinity {of}: {item!r} is no list of processors such as '0-3,8'", "affinity"
            ) from None
    if workers is None:
        raise ConfigError(f"affinity {of}: a list needs workers_per_node={len(affinity)}, too", "affinity")
    if len(affinity) != workers:
        raise ConfigError(
            f"affinity {of}: there are {workers} workers, and processors for {len(affinity)}", "affinity"
        )
    return list(affinity)


def parse_cpus(text: str) -> list[int]:
    """``"0-3,8"``, as Linux writes it. Raises :class:`ValueError`."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise ValueError(part)
        found += numbers
    return found


def choose_cpus(affinity: str | Sequence[str], workers: int, available: Collection[int]) -> list[list[int]]:
    """The processors of each worker, of those that there are; nothing when workers are not bound.

    "block" gives each worker neighbours, on one NUMA node as far as that can be. Raises :class:`SeatError`.
    """
    if affinity == "none":
        return []
    if not isinstance(affinity, str):
        chosen = [parse_cpus(item) for item in affinity]
        missing = sorted({cpu for cpus in chosen for cpu in cpus} - set(available))
        if missing:
            raise SeatError(f"affinity names processors {missing}, this node has {sorted(available)} to use")
        return chosen
    if workers > len(available):
        raise SeatError(
            f"affinity={affinity!r} needs a processor for each of {workers} workers, this node has "
            f"{len(available)} to use"
        )
    if affinity == "alternating":
        return [sorted(available)[seat::workers] for seat in range(workers)]
    cpus = _by_numa_node(available)
    blocks = [
        cpus[seat * len(cpus) // workers : (seat + 1) * len(cpus) // workers] for seat in range(workers)
    ]
    return blocks if affinity == "block" else blocks[::-1]


def usable_cpus() -> Collection[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _by_numa_node(available: Collection[int]) -> list[int]:
    nodes: dict[int, int] = {}
    for path in _NODES.glob("node[0-9]*/cpulist"):
        try:
            cpus = parse_cpus(path.read_text())
        except (OSError, ValueError):  # one without processors
            continue
        nodes.update(dict.fromkeys(cpus, int(path.parent.name.removeprefix("node"))))
    return sorted(available, key=lambda cpu: (nodes.get(cpu, 0), cpu))
