"""What holds for runs that do not say: set by the command line and by the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._config import Config
    from ._planned import PlanKernel

    MakePlanKernel = Callable[[Config, str], PlanKernel]

__all__ = ["default_config", "detaches", "planner", "set_defaults", "set_planner", "shows_progress"]

_config: Config | None = None
_planner: MakePlanKernel | None = None
_progress = False
_quiet = False
_detach = False


def set_defaults(config: Config | None, *, progress: bool, quiet: bool, detach: bool = False) -> None:
    """From now on: the configuration of runs that have none, whether progress is shown where nothing else
    says so, and whether all runs are to outlive their process.
    """
    global _config, _progress, _quiet, _detach
    _config, _progress, _quiet, _detach = config, progress, quiet, detach


def detaches() -> bool:
    """Whether ``--detach`` was given."""
    return _detach


def set_planner(make: MakePlanKernel | None) -> None:
    """From now on runs execute nothing: ``make(config, run_id)`` makes what takes the place of their kernel.
    None takes it back.
    """
    global _planner
    _planner = make


def planner() -> MakePlanKernel | None:
    """What makes the kernels of runs that only plan; None if runs run."""
    return _planner


def default_config() -> Config:
    """The one of the command line; else the file that ``WEFT_CONFIG`` names; else threads of this process."""
    from ._config import Config, read_config

    if _config is not None:
        return _config
    path = os.environ.get("WEFT_CONFIG")
    return read_config(path) if path else Config()


def shows_progress(configured: bool | None) -> bool:
    """Whether progress is shown: ``--quiet`` and ``WEFT_PROGRESS`` come before what the configuration
    says.
    """
    wish = os.environ.get("WEFT_PROGRESS", "").strip().lower()
    if _quiet or wish in ("0", "no", "off", "false"):
        return False
    if wish:
        return True
    return _progress if configured is None else configured
