"""Threads and processes of this machine, as Weft executors.

Their modules are imported when they are first used: who needs only threads does not pay for processes, and a
template process pays for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .processes import ProcessExecutor
    from .threads import ThreadExecutor

__all__ = ["ProcessExecutor", "ThreadExecutor", "__version__"]


def __getattr__(name: str) -> object:
    if name == "ThreadExecutor":
        from .threads import ThreadExecutor as found
    elif name == "ProcessExecutor":
        from .processes import ProcessExecutor as found  # type: ignore[assignment]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
