"""Remembers what calls returned: hashing values, keeping outcomes, and what a kernel asks of both.

::

    kernel ──> Memoizer: identify, recall, remember ──> MemoHasher   digests of values and functions
                                                   └──> MemoStore    entries, by key
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

__all__ = [
    "BaseMemoStore",
    "MemoCall",
    "MemoEntry",
    "MemoHasher",
    "MemoOptions",
    "MemoStore",
    "Memoizer",
    "NullMemoStore",
]


@runtime_checkable
class MemoHasher(Protocol):
    """Hashes any value by its content. Threads may call it at once."""

    def digest(self, value: Any) -> bytes:
        """The same bytes for equal values of the same types, in any process on any machine; others for
        different values, and for equal ones of different types: ``1``, ``1.0`` and ``True`` are three.

        Raises ``ValueError("unknown type for memoization ...")``, which names the type and where it sits in
        the value, for a value that it does not know how to hash. The value is not changed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoEntry:
    """One remembered outcome.

    key: the digest of all components. components: the digest of each (``"function"``, ``"argument x"``, ...),
    so that a miss can be explained. value: what the call returned; None where it raised ``error``. run, time
    (seconds since the epoch): where it comes from.
    """

    key: bytes
    task: str
    value: Any
    error: BaseException | None = None
    components: Mapping[str, bytes] = field(default_factory=dict)
    run: str = ""
    time: float = 0.0


@runtime_checkable
class MemoStore(Protocol):
    """Keeps outcomes by key. Threads and processes may use it at once."""

    def get(self, key: bytes) -> MemoEntry | None:
        """The entry, or None. An entry that can no longer be read is None, not an error: see ``problem``."""

    def problem(self, key: bytes) -> str | None:
        """Why the entry of this key, which is there, could not be read when this process last tried, in
        words; None if it could, or there is none.
        """

    def put(self, entry: MemoEntry) -> None:
        """Keep an entry; returning says that it is taken, and ``flush`` that it survives a crash. The latest
        of a key wins. Raises :class:`SerializationError` for a value that cannot be kept; nothing is changed
        then.
        """

    def nearest(
        self, task: str, components: Mapping[str, bytes], before: float | None = None
    ) -> MemoEntry | None:
        """The entry of the same task that shares most components, the latest of these; None if the task has
        none. Its value is left out (None), so that nothing large is read for an explanation.

        before: only those whose ``time`` is earlier, so that what a run explains is not what it put itself.
        """

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        """Keep, by digest, texts that say what components stand for. One that is kept already stays.

        A hint for explanations: it may be lost when nothing that was put refers to it.
        """

    def description(self, digest: bytes) -> str | None:
        """The text that was kept for this digest, or None."""

    def flush(self) -> None:
        """Wait until all that was put survives a crash."""

    def close(self) -> None:
        """Flush and free. May be called twice."""


class BaseMemoStore:
    """A store that explains nothing and holds nothing back."""

    def nearest(
        self, task: str, components: Mapping[str, bytes], before: float | None = None
    ) -> MemoEntry | None:
        """None is known."""
        return None

    def problem(self, key: bytes) -> str | None:
        """None is known."""
        return None

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        """Forget them."""

    def description(self, digest: bytes) -> str | None:
        """None is known."""
        return None

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.flush()


class NullMemoStore(BaseMemoStore):
    """Remembers nothing."""

    def get(self, key: bytes) -> MemoEntry | None:
        """None."""
        return None

    def put(self, entry: MemoEntry) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoOptions:
    """How the calls of one task are remembered.

    policy: what of its function counts: ``"deep"``, ``"body"`` or ``"name"``; None: the memoizer's own.
    version: a text that counts too; without a policy it counts instead of the function's code, with its name.
    ignore: parameters that do not count. errors: whether what its function raises is remembered too.
    """

    policy: str | None = None
    version: str | None = None
    ignore: tuple[str, ...] = ()
    errors: bool = False


class MemoCall:
    """One call of a task, as a memoizer knows it.

    key: what it is remembered by; equal calls have equal ones. task: the name under which earlier calls are
    looked for, to explain a miss. components: see :class:`MemoEntry`. ``details`` is the memoizer's own.
    """

    __slots__ = ("components", "details", "key", "task")

    def __init__(self, key: bytes, task: str, components: Mapping[str, bytes], details: Any = None) -> None:
        self.key = key
        self.task = task
        self.components = components
        self.details = details


@runtime_checkable
class Memoizer(Protocol):
    """What a kernel asks about the calls of its tasks. Threads may call it at once.

    every: whether tasks that say nothing about it are remembered too.
    """

    every: bool

    def identify(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: MemoOptions,
    ) -> MemoCall:
        """The call, with values in the place of futures; what is :class:`Shared` counts as its value. Nothing
        is looked up, and the values are not kept longer than until :meth:`recall` of the call has returned.

        Raises ``ValueError("unknown type for memoization ...")``, which names the type, the argument and the
        path to it inside the value, and :class:`InputError` for options that do not fit the function.
        """

    def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
        """What an earlier equal call gave; None if there was none, or what it gave cannot be read any more.

        Task ``task_id`` of the run is noted as a hit or a miss, for explanations. Never raises for a store
        that does not work: that is a miss, and said once.
        """

    def share(self, call: MemoCall, task_id: int, leader_id: int) -> None:
        """Note that task ``task_id`` got the outcome of ``leader_id``, an equal call that was in flight."""

    def remember(self, call: MemoCall, value: Any, error: BaseException | None = None) -> None:
        """Keep what a call gave. Returns before it survives a crash.

        Never raises for a store that does not work, or a value that cannot be kept: that is said once for
        each task.
        """

    def close(self) -> None:
        """Wait until all that was remembered survives a crash, and free. May be called twice."""
