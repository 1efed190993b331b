"""What an agent is told, so that it gets its blocks itself: a scaler, a provider and a launcher, as they are
configured. They are pickled by reference, and the agent's file holds the modules that they are of. In the
place of the provider's channel the agent has one of its own host.
"""

from __future__ import annotations

import importlib.metadata
import io
import pickle
from collections.abc import Sequence
from typing import Any

from weft_interfaces import Blocks, ScalerMaker

from .lower import UnfitError

__all__ = ["CHANNEL", "Plan"]

_PROTOCOL = 4  # what Python 3.8 reads, too
CHANNEL = "the channel"  # what stands for it in a pickle
_GENERATION = 10_000  # blocks of one agent, whose numbers the next one's must not have


class Plan:
    """``modules``: those that must be where it is read. Raises :class:`UnfitError` for what cannot go
    there.
    """

    def __init__(self, label: str, run_id: str, maker: ScalerMaker, blocks: Blocks) -> None:
        self._label = label
        self._run_id = run_id
        channel = blocks.provider.channel
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, channel).dump((maker, blocks))
            self._settings = buffer.getvalue()
            modules = _Modules(io.BytesIO(self._settings))
            modules.load()
        except Exception as error:
            raise UnfitError(f"what asks for blocks cannot be pickled: {error}") from error
        self._channel = _local_channel()
        self.modules = tuple(sorted({*modules.found, self._channel.__module__}))
        self._made = 0
        self._since = 1

    def dump(self, argv: Sequence[str], setup: bytes, *, slots_per_node: int, follows: bool) -> bytes:
        """For the next agent, as bytes. argv, setup: what starts a manager, and what that reads. follows:
        whether managers of the last agent find this one.
        """
        first = 1 + self._made * _GENERATION
        adopt = self._made > 0 and follows
        if not adopt:
            self._since = first
        self._made += 1
        plan = {
            "label": self._label,
            "tag": self._run_id,
            "channel": self._channel,
            "settings": self._settings,
            "argv": tuple(argv),
            "setup": setup,
            "slots_per_node": slots_per_node,
            "first": first,
            "adopt": adopt,
            "since": self._since,  # the first block whose managers find the next agent
        }
        return pickle.dumps(plan, _PROTOCOL)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, channel: object) -> None:
        super().__init__(file, _PROTOCOL)
        self._channel = channel

    def persistent_id(self, value: object) -> str | None:
        return CHANNEL if value is self._channel and value is not None else None


class _Modules(pickle.Unpickler):
    """Finds the modules that a pickle refers to."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self.found.update((module, getattr(found, "__module__", None) or module))
        return found

    def persistent_load(self, what: object) -> object:
        return None


def _local_channel() -> Any:
    """What makes a channel of a host itself, which is another distribution."""
    for entry_point in importlib.metadata.entry_points(group="weft.channels", name="local"):
        return entry_point.load()
    raise UnfitError("the channel called `local` is not installed: pip install weft-channel-local")
