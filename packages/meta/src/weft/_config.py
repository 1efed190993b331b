"""What a run is made of: :class:`Config`, and the files that it is read from."""

from __future__ import annotations

import copy
import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from weft_interfaces import (
    ConfigError,
    DependencyResolver,
    EventSink,
    Executor,
    RetryPolicy,
    ScalingPolicy,
    parse_count,
    parse_seconds,
)
from weft_memo import Memo

from ._hint import did_you_mean
from ._schema import Problems, convert, parameters

__all__ = ["Config", "read_config"]

C = TypeVar("C", bound=type)

_DEFAULT_EXECUTORS = ("threads",)


def _checked(cls: C) -> C:
    """Have the constructor check all settings, and say in one error what is wrong with any of them."""
    make: Any = cls.__init__  # type: ignore[misc]
    hints = {name: parameter.annotation for name, parameter in parameters(make).items() if name != "self"}

    @functools.wraps(make)
    def __init__(self: Config, **settings: Any) -> None:
        problems = Problems()
        for key in settings.keys() - hints.keys():
            problems.add(key, f"unknown key{did_you_mean(key, hints)} (known are {', '.join(hints)})")
        checked = {
            key: _check(key, hints[key], value, problems) for key, value in settings.items() if key in hints
        }
        problems.raise_any()
        make(self, **checked)

    cls.__init__ = __init__  # type: ignore[misc]
    return cls


@_checked
@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run is made of. Frozen; any number of runs may use it, one after the other, and at once unless
    it holds executor objects.

    executors: where tasks run. Each is an executor, the name of one (``"threads"``, ``"processes"``), or a
    table with its ``type`` and its settings, as in a file: these are made anew for each run. Threads of this
    process unless said.
    retries: failed tries that are forgiven each task, unless it says otherwise.
    retry_policy: decides whether and when a task is tried again; a back-off that doubles unless said.
    resolver: where futures in arguments are found: ``"deep"`` in containers and dataclasses, ``"shallow"`` as
    arguments and as items of a list, or a :class:`DependencyResolver`.
    run_dir: each run has a directory of its own in here, made when something is first put there.
    name: the beginning of the names of the run's directories.
    progress: whether progress is shown on stderr; None: only by ``weft run``, or as ``WEFT_PROGRESS`` says.
    shutdown_timeout: seconds, or text such as ``"1 min"``: how long a run that was interrupted, or left by an
    exception, waits for what has begun.
    scaling_policy: decides how many blocks executors get. sinks: take the run's events.
    detach: whether tasks go on when this process is gone, so that ``weft attach`` in another one gets what
    they give: those of executors whose interchange is an agent, of which there must be one.
    memo: which calls are remembered, and where: by default those of tasks that ask for it, in the folder
    ``weft-memo.db``; True is that default, False remembers none.

    Raises one :class:`ConfigError` that names every setting that is wrong.
    """

    executors: Sequence[Executor | str | Mapping[str, Any]] = _DEFAULT_EXECUTORS
    retries: int = 0
    retry_policy: RetryPolicy | None = None
    resolver: Literal["deep", "shallow"] | DependencyResolver = "deep"
    run_dir: str | Path = "runs"
    name: str = ""
    progress: bool | None = None
    shutdown_timeout: float | str = 30.0
    scaling_policy: ScalingPolicy | None = None
    sinks: Sequence[EventSink] = ()
    memo: Memo | bool = Memo()
    detach: bool = False

    def make_executors(self) -> list[Executor]:
        """The executors of one run: those that are objects themselves, the others made anew."""
        if tuple(self.executors) == _DEFAULT_EXECUTORS:
            from weft_executor_local import ThreadExecutor

            return [ThreadExecutor()]
        return _make_executors(self.executors, Problems())

    def replace(self, **settings: Any) -> Config:
        """The same with other settings."""
        return replace(self, **settings)


def read_config(path: str | os.PathLike[str]) -> Config:
    """The configuration in a TOML file, whose keys are the settings of :class:`Config`; nothing is started.

    Raises one :class:`ConfigError` that names the file and everything that is wrong in it, :class:`OSError`
    when it cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
        return Config(**table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{os.fspath(path)} is not TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}", error.key) from None


def _check(key: str, hint: Any, value: Any, problems: Problems) -> Any:
    if key == "executors":
        return _check_executors(value, problems)
    value = convert(hint, value, key, problems)
    with problems.caught(key):
        if key == "retries" and value is not None:
            parse_count(value, "retries", whole=True)
        elif key == "memo" and value is True:
            return Memo()
        elif key == "shutdown_timeout" and value is not None:
            return parse_seconds(value, "shutdown_timeout")
        elif key == "name" and value and not re.fullmatch(r"[\w.-]+", value):
            problems.add(
                key,
                f"{value!r} is not made of letters, digits, '.', '_' and '-', as names of directories are",
            )
    return value


def _check_executors(value: Any, problems: Problems) -> Any:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        hint = "; in a file, each begins with [[executors]]" if isinstance(value, Mapping) else ""
        problems.add("executors", f"expected a list of executors{hint}")
        return ()
    if not value:
        problems.add("executors", "a run needs at least one")
        return ()
    if tuple(value) != _DEFAULT_EXECUTORS:
        _make_executors(value, problems)
    # Copied, so that a table that is changed later does not change the configuration.
    return tuple(copy.deepcopy(dict(item)) if isinstance(item, Mapping) else item for item in value)


def _make_executors(items: Sequence[Any], problems: Problems) -> list[Executor]:
    made: list[Executor] = []
    labels: dict[str, str] = {}
    for index, item in enumerate(items):
        path = f"executors[{index}]"
        executor = convert(Executor, item, path, problems)
        if executor is None:
            continue
        first = labels.setdefault(executor.label, path)
        if first != path:
            label = executor.label
            problems.add(
                f"{path}.label", f"{label!r} is the label of {first} too; give each a `label` of its own"
            )
        made.append(executor)
    return made
