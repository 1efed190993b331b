"""Remembers calls in any store, with no more than the contracts."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CallError, InputError
from ..memo import MemoCall, MemoEntry, MemoHasher, MemoOptions, MemoStore
from .hasher import PickleMemoHasher
from .store import InMemoryMemoStore

__all__ = ["InMemoryMemoizer"]

_POLICIES = (None, "deep", "body", "name")
_log = logging.getLogger("weft")


class InMemoryMemoizer:
    """Knows a function by its module, its name and its version, whatever the policy: not by its code.

    hits, misses: the tasks that were looked up, in that order; shared: by task, the one whose outcome it got.
    """

    def __init__(
        self,
        store: MemoStore | None = None,
        hasher: MemoHasher | None = None,
        *,
        every: bool = False,
        run: str = "",
    ) -> None:
        self.every = every
        self.store = store or InMemoryMemoStore()
        self.hits: list[int] = []
        self.misses: list[int] = []
        self.shared: dict[int, int] = {}
        self._hasher = hasher or PickleMemoHasher()
        self._run = run
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def identify(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: MemoOptions,
    ) -> MemoCall:
        task = _name_of(function)
        if options.policy not in _POLICIES:
            raise InputError(f"memo policy {options.policy!r} of {task}: use 'deep', 'body' or 'name'")
        digest = self._hasher.digest
        components = {"function": digest((task, options.version))}
        arguments = _bound(task, function, args, kwargs)
        for name in options.ignore:
            if name not in arguments:
                raise InputError(f"{task} has no parameter {name!r} that could be ignored")
        for name, value in arguments.items():
            if name not in options.ignore:
                try:
                    components[f"argument {name}"] = digest(value)
                except ValueError as error:
                    raise ValueError(f"{error}, which is argument {name!r} of {task}") from error
        return MemoCall(digest(components), task, components)

    def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
        try:
            entry = self.store.get(call.key)
        except Exception:  # noqa: BLE001  a store that does not work has nothing
            self._say("", "the memo store does not work: nothing is remembered")
            entry = None
        with self._lock:
            (self.misses if entry is None else self.hits).append(task_id)
        return entry

    def share(self, call: MemoCall, task_id: int, leader_id: int) -> None:
        with self._lock:
            self.shared[task_id] = leader_id

    def remember(self, call: MemoCall, value: Any, error: BaseException | None = None) -> None:
        entry = MemoEntry(
            key=call.key,
            task=call.task,
            value=value,
            error=error,
            components=call.components,
            run=self._run,
            time=time.time(),
        )
        try:
            self.store.put(entry)
        except Exception:  # noqa: BLE001  a value that cannot be kept, for one
            self._say(call.task, f"what {call.task} gave cannot be remembered")

    def close(self) -> None:
        self.store.close()

    def _say(self, subject: str, message: str) -> None:
        with self._lock:
            if subject in self._said:
                return
            self._said.add(subject)
        _log.warning(message, exc_info=True)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        raise ValueError(f"unknown type for memoization {type(function).__qualname__}: it has no name")
    return f"{getattr(function, '__module__', None)}.{name}"


def _bound(
    task: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments by name, defaults too."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of C have none
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CallError(f"{task}: {error}") from error
    bound.apply_defaults()
    return dict(bound.arguments)
