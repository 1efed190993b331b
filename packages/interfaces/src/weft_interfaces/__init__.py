"""The contracts of Weft, and the values that cross them.

Importing this package imports nothing outside the standard library, starts nothing and reads nothing. Its
modules are imported when one of their names is first used: who needs only executors does not pay for batch
systems.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .block import (
        BlockCommand,
        BlockExecutor,
        BlockLoad,
        Blocks,
        BlockScaler,
        BlockShape,
        ExecutorDemand,
        OutlineExecutor,
        Scalable,
        ScalerMaker,
        block_id,
        block_number,
    )
    from .call import Call, CallOptions, Outcome
    from .channel import BaseChannel, Channel, CommandResult, RemoteProcess
    from .errors import (
        AuthenticationNeededError,
        BlockLostError,
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
    from .event import SCHEMA_VERSION, BaseEventSink, Event, EventSink, NullEventSink
    from .executor import BaseExecutor, Executor, ExecutorContext, Load, ReapableExecutor
    from .launcher import DirectLauncher, Launcher, RankLauncher
    from .lock import HotLock
    from .memo import (
        BaseMemoStore,
        MemoCall,
        MemoEntry,
        MemoHasher,
        Memoizer,
        MemoOptions,
        MemoStore,
        NullMemoStore,
    )
    from .notice import Notice
    from .pickling import PickleSerializer
    from .policy import (
        BlockView,
        DependencyResolver,
        Failure,
        RetryDecision,
        RetryPolicy,
        ScalingDecision,
        ScalingPolicy,
        ScalingState,
    )
    from .pool import ExecutorPool, as_pool
    from .provider import (
        ArrayProvider,
        BaseProvider,
        JobId,
        JobSpec,
        JobState,
        JobStatus,
        Provider,
        ScriptProvider,
        SearchableProvider,
        TidyProvider,
    )
    from .remains import far_directory
    from .resources import Resources
    from .serializer import FunctionPayload, Serializer
    from .shared import Shared
    from .staging import NullStaging, Staging
    from .units import format_bytes, format_seconds, parse_bytes, parse_count, parse_seconds
    from .worker import WorkerContext, adopt_worker, current_worker

__all__ = [
    "SCHEMA_VERSION",
    "ArrayProvider",
    "AuthenticationNeededError",
    "BaseChannel",
    "BaseEventSink",
    "BaseExecutor",
    "BaseMemoStore",
    "BaseProvider",
    "BlockCommand",
    "BlockExecutor",
    "BlockLoad",
    "BlockLostError",
    "BlockScaler",
    "BlockShape",
    "BlockView",
    "Blocks",
    "Call",
    "CallError",
    "CallOptions",
    "Channel",
    "ChannelError",
    "CommandResult",
    "ConfigError",
    "CycleError",
    "DeadlockError",
    "DeathCertificate",
    "DependencyError",
    "DependencyResolver",
    "DetachedError",
    "DirectLauncher",
    "Event",
    "EventSink",
    "Executor",
    "ExecutorContext",
    "ExecutorDemand",
    "ExecutorPool",
    "Failure",
    "FunctionPayload",
    "FutureMisuseError",
    "HotLock",
    "InputError",
    "InterchangeLostError",
    "InternalError",
    "JobId",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Launcher",
    "Load",
    "LostError",
    "ManagerLostError",
    "MemoCall",
    "MemoEntry",
    "MemoHasher",
    "MemoOptions",
    "MemoStore",
    "MemoStoreError",
    "Memoizer",
    "MissingPluginError",
    "NoBlocksError",
    "Notice",
    "NullEventSink",
    "NullMemoStore",
    "NullStaging",
    "Outcome",
    "OutlineExecutor",
    "PickleSerializer",
    "Provider",
    "ProviderError",
    "RankLauncher",
    "ReapableExecutor",
    "RemoteError",
    "RemoteProcess",
    "Resources",
    "ResourcesError",
    "RetryDecision",
    "RetryPolicy",
    "RunClosedError",
    "Scalable",
    "ScalerMaker",
    "ScalingDecision",
    "ScalingPolicy",
    "ScalingState",
    "ScriptProvider",
    "SearchableProvider",
    "SerializationError",
    "Serializer",
    "Shared",
    "ShellError",
    "Staging",
    "StagingError",
    "TaskError",
    "TaskExitError",
    "TaskTimeoutError",
    "TidyProvider",
    "TransientError",
    "UnitError",
    "WeftError",
    "WorkerContext",
    "WorkerLostError",
    "__version__",
    "adopt_worker",
    "as_pool",
    "block_id",
    "block_number",
    "current_worker",
    "far_directory",
    "format_bytes",
    "format_seconds",
    "parse_bytes",
    "parse_count",
    "parse_seconds",
]

_NAMES = {
    "block": (
        "BlockCommand BlockExecutor BlockLoad BlockScaler BlockShape Blocks ExecutorDemand OutlineExecutor "
        "Scalable ScalerMaker block_id block_number"
    ),
    "call": "Call CallOptions Outcome",
    "channel": "BaseChannel Channel CommandResult RemoteProcess",
    "errors": (
        "AuthenticationNeededError BlockLostError CallError ChannelError ConfigError CycleError "
        "DeadlockError DeathCertificate DependencyError DetachedError FutureMisuseError InputError "
        "InterchangeLostError InternalError LostError ManagerLostError MemoStoreError MissingPluginError "
        "NoBlocksError "
        "ProviderError RemoteError ResourcesError RunClosedError SerializationError ShellError StagingError "
        "TaskError TaskExitError TaskTimeoutError TransientError UnitError WeftError WorkerLostError"
    ),
    "event": "BaseEventSink Event EventSink NullEventSink SCHEMA_VERSION",
    "executor": "BaseExecutor Executor ExecutorContext Load ReapableExecutor",
    "launcher": "DirectLauncher Launcher RankLauncher",
    "notice": "Notice",
    "lock": "HotLock",
    "memo": "BaseMemoStore MemoCall MemoEntry MemoHasher MemoOptions MemoStore Memoizer NullMemoStore",
    "pickling": "PickleSerializer",
    "policy": (
        "BlockView DependencyResolver Failure RetryDecision RetryPolicy ScalingDecision "
        "ScalingPolicy ScalingState"
    ),
    "pool": "ExecutorPool as_pool",
    "provider": (
        "ArrayProvider BaseProvider JobId JobSpec JobState JobStatus Provider ScriptProvider "
        "SearchableProvider TidyProvider"
    ),
    "remains": "far_directory",
    "resources": "Resources",
    "serializer": "FunctionPayload Serializer",
    "shared": "Shared",
    "staging": "NullStaging Staging",
    "units": "format_bytes format_seconds parse_bytes parse_count parse_seconds",
    "worker": "WorkerContext adopt_worker current_worker",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
