"""What a manager and an interchange are told when they start: through their standard input, so that no key
stands in a command.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

__all__ = [
    "Endpoint",
    "Identity",
    "InterchangeSetup",
    "Keys",
    "ManagerAccess",
    "ManagerSetup",
    "boot_id",
    "user_path",
]


class Identity(msgspec.Struct, frozen=True):
    """A certificate and its secret key, as PEM text."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Identity(...)"  # which is no place for a secret


class Keys(msgspec.Struct, frozen=True):
    """Those of a run: the interchange's, and that of all managers."""

    interchange: Identity
    managers: Identity


class Endpoint(msgspec.Struct, frozen=True):
    """Where the interchange listens.

    ``certificate``: its certificate, None where no encryption is needed. ``boot_id``: the machine that alone
    can reach it, None for any.
    """

    url: str
    boot_id: str | None = None
    certificate: str | None = None


class ManagerAccess(msgspec.Struct, frozen=True):
    """How managers reach the interchange: where it listens, and who all of them are there."""

    endpoints: list[Endpoint]
    identity: Identity | None = None

    @property
    def port(self) -> int | None:
        """Where managers of other machines come; None if they do not."""
        places = self._places()
        return int(places[-1]) if places else None

    def leads_to(self, other: ManagerAccess) -> bool:
        """Whether who has this finds an interchange that has the other: on the same port of a host with the
        same name, which still has one of its addresses. Others may have come and gone meanwhile, and another
        host may have that name.
        """
        if self.port is None or self.port != other.port:
            return False
        (name, *addresses), (other_name, *other_addresses) = self._places()[:-1], other._places()[:-1]
        same = addresses == other_addresses or not set(addresses).isdisjoint(other_addresses)
        return name == other_name and same

    def _places(self) -> list[str]:
        """The hosts, and the port."""
        for endpoint in self.endpoints:
            scheme, _, place = endpoint.url.partition("://")
            if scheme == "tls":
                hosts, _, port = place.rpartition(":")
                return [*hosts.split(","), port]
        return []


class InterchangeSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How an interchange is to work. See :class:`HighThroughputExecutor` for what is said there, too.

    selector: pickled, for one that lives elsewhere; it comes from the client, and through its stream alone.
    address, keys: where managers on other machines reach it, and the keys of the run, needed for them.
    remainder: see :class:`Interchange`; one that lives elsewhere keeps some blobs, so that they need not come
    again. python: the client's, see there. port: where the last interchange of the run listened for others,
    had it one: its managers look for the next one there.
    """

    heartbeat_period: float
    heartbeat_threshold: float
    prefetch: int = 0
    address: str | None = None
    keys: Keys | None = None
    selector: bytes = b""
    remainder: int = 0
    python: str = ""
    port: int | None = None

    def dump(self) -> bytes:
        """As bytes, for :meth:`load`."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, data: bytes) -> InterchangeSetup:
        """Raises :class:`msgspec.DecodeError` for what is no setup."""
        return msgspec.json.decode(data, type=cls)


class ManagerSetup(msgspec.Struct, frozen=True):
    """How a manager is to work.

    workers: None for as many as the node has processors. gpus: those of the node. walltime: seconds that the
    block has. heartbeat_threshold: seconds without a sign of the interchange after which it ends. path: where
    modules are looked up, behind what the node has; before it, those of ``user_path``, which is the user's
    own part of it. accelerators, affinity: see :mod:`.seats`. environment: of all workers. directory: where
    calls run, if the node has it. large: bytes from which on data are blobs. store: bytes of blobs that the
    node has in memory; None for a quarter of what is free. mpi: what starts ranks, see
    :func:`.nodes.check_mpi`. versions: of the client's packages, by distribution. glibc: what the compiled
    code that was sent needs, see :func:`.environment.glibc.needed`.
    """

    access: ManagerAccess
    block: str
    workers: int | None
    heartbeat_threshold: float
    path: Sequence[str]
    gpus: int = 0
    walltime: float | None = None
    preload: Sequence[str] = ()
    user_path: Sequence[str] = ()
    accelerators: int | Sequence[str] = 0
    affinity: str | Sequence[str] = "none"
    environment: Mapping[str, str] = {}
    directory: str = ""
    large: int = 100_000
    store: int | None = None
    mpi: tuple[str, ...] = ()
    versions: Mapping[str, str] = {}
    glibc: Mapping[str, str] = {}

    def dump(self) -> bytes:
        """As bytes, for :meth:`load`."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, data: bytes) -> ManagerSetup:
        """Raises :class:`msgspec.DecodeError` for what is no setup."""
        return msgspec.json.decode(data, type=cls)


def boot_id() -> str:
    """Names this machine, since it was last started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import uuid

        return f"{uuid.getnode():x}"


def user_path(path: Sequence[str]) -> list[str]:
    """What stands in ``path`` before Python's own folders: the script's, and those of PYTHONPATH."""
    library = os.path.dirname(os.__file__)
    archive = "python{}{}.zip".format(*sys.version_info)
    return list(
        itertools.takewhile(lambda entry: entry != library and os.path.basename(entry) != archive, path)
    )
