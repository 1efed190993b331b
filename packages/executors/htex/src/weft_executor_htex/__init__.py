"""The pilot executor of Weft: interchange, managers and workers.

Its modules are imported when they are first used: a manager does not pay for the client's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .agent.settings import AgentSettings
    from .executor import HighThroughputExecutor

__all__ = ["AgentSettings", "HighThroughputExecutor", "__version__"]


def __getattr__(name: str) -> object:
    if name not in ("AgentSettings", "HighThroughputExecutor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .agent.settings import AgentSettings
    from .executor import HighThroughputExecutor

    globals().update(AgentSettings=AgentSettings, HighThroughputExecutor=HighThroughputExecutor)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
