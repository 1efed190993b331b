"""Puts hashing, identities and a store together: what a kernel asks about the calls of its tasks."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3
from weft_interfaces import InputError, MemoCall, MemoEntry, MemoOptions, MemoStore

from .binding import bind_arguments, unknown_parameters
from .description import describe
from .hasher import digest_argument
from .identity import FunctionIdentity, full_name, identify_class, identify_function
from .log import LookupLog
from .memo import Memo

__all__ = ["ContentMemoizer", "describe_call"]

_log = logging.getLogger("weft")


class _Details(NamedTuple):
    """What a call is described from, should it be a miss."""

    identities: tuple[FunctionIdentity, ...]
    arguments: Mapping[str, Any]
    errors: bool  # whether a remembered error is of use


class ContentMemoizer:
    """Remembers calls by the content of their arguments, and of the code that they reach.

    A component of a call is its function, each argument, and each class of the user's that an argument is an
    instance of; equal components make equal keys. Stores that do not work cost hits, and are said once.
    """

    def __init__(self, memo: Memo, *, run_id: str, directory: Path) -> None:
        self.every = memo.every
        self._memo = memo
        self._run_id = run_id
        self._store: MemoStore | None = None
        self._log = LookupLog(directory / "memo.jsonl", run=run_id, store=memo.place)
        self._lock = threading.Lock()
        self._described: set[bytes] = set()  # identities whose texts the store was given
        self._said: set[str] = set()
        self._closed = False

    # -- what a kernel asks ---------------------------------------------------------------------------------

    def identify(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: MemoOptions,
    ) -> MemoCall:
        policy = options.policy or ("name" if options.version is not None else self._memo.policy)
        identities = [identify_function(function, policy, options.version)]
        arguments: Mapping[str, Any] = bind_arguments(function, args, kwargs)
        if options.ignore:
            arguments = _without(options.ignore, arguments, function)
        components = {"function": identities[0].digest}
        types: set[type] = set()
        for name, value in arguments.items():
            components[f"argument {name}"] = digest_argument(value, types, name)
        if policy == "deep":
            for each in types:
                identities.append(identify_class(each))
                components[f"class {full_name(each)}"] = identities[-1].digest
        details = _Details(tuple(identities), arguments, options.errors)
        return MemoCall(_key_of(components), _task_of(function), components, details)

    def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
        entry, problem = None, None
        try:
            store = self._opened()
            entry = store.get(call.key)
            if entry is not None and entry.error is not None and not call.details.errors:
                entry, problem = None, "an error was remembered, and this task does not ask for such"
            elif entry is None:
                problem = store.problem(call.key)
            if entry is None:
                store.describe(self._new_descriptions(call))
        except Exception as error:  # noqa: BLE001  whatever a store raises is a miss, and never a task's failure
            problem = f"the memo store {self._memo.place or self._memo.store} does not work: {error}"
            self._say("recall", problem)
        call.details = None
        if entry is None:
            self._log.miss(task_id, call.task, call.key, call.components, problem)
        else:
            self._log.hit(task_id, call.task, call.key, entry.run, entry.time)
        return entry

    def share(self, call: MemoCall, task_id: int, leader_id: int) -> None:
        call.details = None
        self._log.shared(task_id, call.task, call.key, leader_id)

    def remember(self, call: MemoCall, value: Any, error: BaseException | None = None) -> None:
        entry = MemoEntry(
            key=call.key,
            task=call.task,
            value=value,
            error=error,
            components=call.components,
            run=self._run_id,
            time=time.time(),
        )
        try:
            self._opened().put(entry)
        except Exception as problem:  # noqa: BLE001  the task is done, whether it can be remembered or not
            self._say(call.task, f"what {call.task} gives is not remembered: {problem}")

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            store = self._store
        self._log.close()
        if store is not None:
            if store is self._memo.store:
                store.flush()
            else:
                store.close()

    # -- for explanations -----------------------------------------------------------------------------------

    @property
    def store(self) -> MemoStore:
        """The store; opened now if it was not. Raises what opening it raises."""
        return self._opened()

    # -- its own --------------------------------------------------------------------------------------------

    def _opened(self) -> MemoStore:
        if self._store is None:
            with self._lock:
                if self._store is None:
                    self._store = self._memo.open_store()
        return self._store

    def _new_descriptions(self, call: MemoCall) -> dict[bytes, str]:
        found = describe_call(call, unless=self._described)
        self._described.update(identity.digest for identity in call.details.identities)
        return found

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s", message)


def describe_call(call: MemoCall, unless: Container[bytes] = ()) -> dict[bytes, str]:
    """Texts that say what the components of a call stand for, by digest, but those of identities in
    ``unless``. Only before the call was recalled.
    """
    details: _Details = call.details
    found = {}
    for name, value in details.arguments.items():
        digest = call.components[f"argument {name}"]
        found[digest] = describe(value, name, digest)
    for identity in details.identities:
        if identity.digest not in unless:
            found.update(identity.descriptions)
    return found


def _task_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return full_name(function)


def _without(
    ignored: tuple[str, ...], arguments: Mapping[str, Any], function: Callable[..., Any]
) -> Mapping[str, Any]:
    unknown = unknown_parameters(function, ignored)
    if unknown:
        raise InputError(f"ignore_for_memo: {_task_of(function)} has no parameter {unknown[0]!r}")
    return {name: value for name, value in arguments.items() if name not in ignored}


def _key_of(components: Mapping[str, bytes]) -> bytes:
    hasher = blake3()
    for name in sorted(components):
        text = name.encode()
        hasher.update(b"%d:%b" % (len(text), text))
        hasher.update(components[name])
    return hasher.digest()
