"""Run Python functions and shell commands as a graph of futures, on a laptop or a cluster.

::

    import weft


    @weft.task
    def square(x: int) -> int:
        return x * x


    with weft.run():
        print(sum(weft.map(square, range(10))))

Importing this package imports almost nothing: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from typing import Any

    from weft_channel_local import LocalChannel
    from weft_channel_ssh import OpenSSHChannel, SSHChannel
    from weft_core import BackoffRetryPolicy, Counts, Future
    from weft_executor_htex import AgentSettings, HighThroughputExecutor
    from weft_executor_local import ProcessExecutor, ThreadExecutor
    from weft_interfaces import (
        AuthenticationNeededError,
        BlockLostError,
        Blocks,
        CallError,
        ChannelError,
        ConfigError,
        CycleError,
        DeadlockError,
        DeathCertificate,
        DependencyError,
        DetachedError,
        FutureMisuseError,
        InputError,
        InterchangeLostError,
        InternalError,
        LostError,
        ManagerLostError,
        MemoStoreError,
        MissingPluginError,
        NoBlocksError,
        ProviderError,
        RemoteError,
        Resources,
        ResourcesError,
        RunClosedError,
        SerializationError,
        ShellError,
        StagingError,
        TaskError,
        TaskExitError,
        TaskTimeoutError,
        TransientError,
        UnitError,
        WeftError,
        WorkerLostError,
    )
    from weft_launchers import (
        AprunLauncher,
        GnuParallelLauncher,
        JsrunLauncher,
        MpiExecLauncher,
        MpiRunLauncher,
        SingleNodeLauncher,
        SrunLauncher,
        SrunMPILauncher,
        SshLauncher,
        WrappedLauncher,
    )
    from weft_memo import Memo
    from weft_provider_batch import (
        GridEngineProvider,
        HTCondorProvider,
        LSFProvider,
        PBSProProvider,
        SlurmProvider,
        TorqueProvider,
    )
    from weft_provider_local import LocalProvider

    from ._attach import AttachedRun, attach
    from ._config import Config
    from ._current import current_run
    from ._graph import as_completed, gather, map, on_walltime, pool, remaining  # noqa: A004
    from ._mpi import mpi_prefix
    from ._option import TaskOptions
    from ._run import Run, run
    from ._share import share
    from ._shell import ShellResult, shell
    from ._task import TaskFunction, join, later, task

__all__ = [
    "AgentSettings",
    "AprunLauncher",
    "AttachedRun",
    "AuthenticationNeededError",
    "BackoffRetryPolicy",
    "BlockLostError",
    "Blocks",
    "CallError",
    "ChannelError",
    "Config",
    "ConfigError",
    "Counts",
    "CycleError",
    "DeadlockError",
    "DeathCertificate",
    "DependencyError",
    "DetachedError",
    "Future",
    "FutureMisuseError",
    "GnuParallelLauncher",
    "GridEngineProvider",
    "HTCondorProvider",
    "HighThroughputExecutor",
    "InputError",
    "InterchangeLostError",
    "InternalError",
    "JsrunLauncher",
    "LSFProvider",
    "LocalChannel",
    "LocalProvider",
    "LostError",
    "ManagerLostError",
    "Memo",
    "MemoStoreError",
    "MissingPluginError",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "NoBlocksError",
    "OpenSSHChannel",
    "PBSProProvider",
    "ProcessExecutor",
    "ProviderError",
    "RemoteError",
    "Resources",
    "ResourcesError",
    "Run",
    "RunClosedError",
    "SSHChannel",
    "SerializationError",
    "ShellError",
    "ShellResult",
    "SingleNodeLauncher",
    "SlurmProvider",
    "SrunLauncher",
    "SrunMPILauncher",
    "SshLauncher",
    "StagingError",
    "TaskError",
    "TaskExitError",
    "TaskFunction",
    "TaskOptions",
    "TaskTimeoutError",
    "ThreadExecutor",
    "TorqueProvider",
    "TransientError",
    "UnitError",
    "WeftError",
    "WorkerLostError",
    "WrappedLauncher",
    "__version__",
    "as_completed",
    "attach",
    "current_run",
    "gather",
    "join",
    "later",
    "map",
    "mpi_prefix",
    "on_walltime",
    "pool",
    "remaining",
    "run",
    "share",
    "shell",
    "task",
]

_PLACES = {
    "._attach": ("AttachedRun", "attach"),
    "._config": ("Config",),
    "._current": ("current_run",),
    "._graph": ("as_completed", "gather", "map", "on_walltime", "pool", "remaining"),
    "._mpi": ("mpi_prefix",),
    "._option": ("TaskOptions",),
    "._run": ("Run", "run"),
    "._share": ("share",),
    "._shell": ("ShellResult", "shell"),
    "._task": ("TaskFunction", "join", "later", "task"),
    "weft_channel_local": ("LocalChannel",),
    "weft_channel_ssh": ("OpenSSHChannel", "SSHChannel"),
    "weft_core": ("BackoffRetryPolicy", "Counts", "Future"),
    "weft_executor_htex": ("AgentSettings", "HighThroughputExecutor"),
    "weft_executor_local": ("ProcessExecutor", "ThreadExecutor"),
    "weft_launchers": (
        "AprunLauncher",
        "GnuParallelLauncher",
        "JsrunLauncher",
        "MpiExecLauncher",
        "MpiRunLauncher",
        "SingleNodeLauncher",
        "SrunLauncher",
        "SrunMPILauncher",
        "SshLauncher",
        "WrappedLauncher",
    ),
    "weft_memo": ("Memo",),
    "weft_provider_batch": (
        "GridEngineProvider",
        "HTCondorProvider",
        "LSFProvider",
        "PBSProProvider",
        "SlurmProvider",
        "TorqueProvider",
    ),
    "weft_provider_local": ("LocalProvider",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    import importlib

    place = _PLACE_OF.get(name, "weft_interfaces" if name in __all__ else None)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    try:
        module = importlib.import_module(place, __name__)
    except ModuleNotFoundError as error:
        if error.name != place:
            raise
        from weft_interfaces import MissingPluginError

        distribution = place.replace("_", "-")
        raise MissingPluginError(
            f"weft.{name} is in {distribution}, which is not installed: pip install {distribution}"
        ) from None
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return [*__all__]
