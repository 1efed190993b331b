"""The options of a task: what they are called, what they may be, and the specification that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from weft_core import TaskSpec
    from weft_interfaces import MemoOptions, Resources

__all__ = ["TaskOptions", "check_options", "make_spec"]


class TaskOptions(TypedDict, total=False):
    """How to run a task. None stands for what holds without the option.

    cpus, memory, gpus, nodes, ranks, ranks_per_node, walltime: what it needs, see :class:`weft.Resources`.
    retries: failed tries that are forgiven; the run's number unless said.
    timeout: seconds, or text such as ``"90s"``, that it may run.
    priority: higher is sooner.
    executor: the label, or labels, of the executors that may run it; all of the run's unless said.
    stdout, stderr: files that its output is appended to. cwd: the directory that it runs in, made if missing.
    In these three ``{id}`` and ``{name}`` stand for the task's.
    name: for messages; the function's name unless said.
    memo: whether equal calls are remembered: True, or what of the function counts for that, ``"deep"``,
    ``"body"`` or ``"name"`` (see :class:`weft.Memo`); False never. What the run says unless said; True where
    one of the next three is given.
    version: a text that counts too; without a policy it counts instead of the function's code, with its name.
    ignore_for_memo: names of parameters that do not count. memo_errors: whether what the function raises is
    remembered too.
    """

    cpus: float | None
    memory: int | str | None
    gpus: float | None
    nodes: int | None
    ranks: int | None
    ranks_per_node: int | None
    walltime: float | str | None
    retries: int | None
    timeout: float | str | None
    priority: int | None
    executor: str | Sequence[str] | None
    stdout: str | os.PathLike[str] | None
    stderr: str | os.PathLike[str] | None
    cwd: str | os.PathLike[str] | None
    name: str | None
    memo: bool | Literal["deep", "body", "name"] | None
    version: str | None
    ignore_for_memo: Sequence[str] | None
    memo_errors: bool | None


NAMES = tuple(TaskOptions.__annotations__)
_POLICIES = ("deep", "body", "name")
_RESOURCES = ("cpus", "memory", "gpus", "nodes", "ranks", "walltime")


def check_options(options: Mapping[str, Any], decorator: str) -> None:
    """Raises :class:`CallError` for a name that is no option, :class:`InputError` for a value that cannot
    be.
    """
    unknown = [name for name in options if name not in NAMES]
    if unknown:
        from weft_interfaces import CallError

        from ._hint import did_you_mean

        listed = ", ".join(NAMES)
        hint = did_you_mean(unknown[0], NAMES)
        raise CallError(f"weft.{decorator} has no option {unknown[0]!r}{hint} (the options are {listed})")
    if options:
        make_spec(len, options, name="checked")


def make_spec(
    function: Callable[..., Any], options: Mapping[str, Any], *, name: str, join: bool = False
) -> TaskSpec:
    """The function with its options, as the kernel takes it.

    Raises :class:`InputError`, naming the option.
    """
    from weft_core import TaskSpec
    from weft_interfaces import CallOptions, parse_seconds

    given = {key: value for key, value in options.items() if value is not None}
    call_options = CallOptions(
        name=_text(given, "name") or name,
        resources=_resources(given),
        timeout=parse_seconds(given["timeout"], "timeout") if "timeout" in given else None,
        priority=_whole(given, "priority") or 0,
        stdout=_path(given, "stdout"),
        stderr=_path(given, "stderr"),
        cwd=_path(given, "cwd"),
    )
    retries = _whole(given, "retries", least=0)
    return TaskSpec(
        function=function,
        options=call_options,
        executors=_labels(given),
        retries=retries,
        join=join,
        memo=_memo(given),
    )


def check_ignored(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises :class:`InputError` for a parameter in ``ignore_for_memo`` that the function does not have."""
    ignored = options.get("ignore_for_memo")
    if ignored:
        from weft_memo import unknown_parameters

        from ._hint import did_you_mean

        unknown = unknown_parameters(function, ignored)
        if unknown:
            import inspect

            hint = did_you_mean(unknown[0], inspect.signature(function).parameters)
            name = getattr(function, "__qualname__", repr(function))
            raise _wrong("ignore_for_memo", f"{name} has no parameter {unknown[0]!r}{hint}")


def _memo(given: Mapping[str, Any]) -> MemoOptions | Literal[False] | None:
    wish = given.get("memo")
    if wish is not None and wish is not True and wish is not False and wish not in _POLICIES:
        raise _wrong("memo", f"{wish!r} is neither true, false, nor one of {', '.join(map(repr, _POLICIES))}")
    version = _text(given, "version")
    ignored = _names(given, "ignore_for_memo")
    errors = given.get("memo_errors", False)
    if not isinstance(errors, bool):
        raise _wrong("memo_errors", f"{errors!r} is not true or false")
    if wish is False:
        return False
    if wish is None and version is None and not ignored and not errors:
        return None
    from weft_interfaces import MemoOptions

    policy = wish if isinstance(wish, str) else None
    return MemoOptions(policy=policy, version=version, ignore=ignored, errors=errors)


def _names(given: Mapping[str, Any], option: str) -> tuple[str, ...]:
    value = given.get(option, ())
    if isinstance(value, str) or not isinstance(value, (tuple, list, set, frozenset)):
        raise _wrong(option, f"{value!r} is not a list of names of parameters")
    for name in value:
        if not isinstance(name, str):
            raise _wrong(option, f"{name!r} is not the name of a parameter")
    return tuple(value)


def _resources(given: Mapping[str, Any]) -> Resources:
    from weft_interfaces import Resources, parse_count

    asked = {key: given[key] for key in _RESOURCES if key in given}
    if "ranks_per_node" in given:
        per_node = int(parse_count(given["ranks_per_node"], "ranks_per_node", least=1, whole=True))
        nodes = int(parse_count(asked.get("nodes", 1), "nodes", least=1, whole=True))
        if asked.setdefault("ranks", per_node * nodes) != per_node * nodes:
            raise _wrong(
                "ranks",
                f"{asked['ranks']} is not ranks_per_node={per_node} times nodes={nodes}; give one of both",
            )
    return Resources(**asked)


def _whole(given: Mapping[str, Any], option: str, least: int | None = None) -> int | None:
    value = given.get(option)
    if value is None:
        return None
    if type(value) is not int or (least is not None and value < least):
        raise _wrong(
            option, f"{value!r} is not a whole number{'' if least is None else f', at least {least}'}"
        )
    return value


def _text(given: Mapping[str, Any], option: str) -> str | None:
    value = given.get(option)
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong(option, f"{value!r} is not a text")
    return value


def _path(given: Mapping[str, Any], option: str) -> str | None:
    value = given.get(option)
    if value is None:
        return None
    if hasattr(type(value), "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str) or not value:
        raise _wrong(option, f"{value!r} is not a path")
    return value


def _labels(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = given.get("executor")
    if value is None:
        return None
    labels = (value,) if isinstance(value, str) else value
    if not isinstance(labels, (tuple, list)) or not labels or not all(isinstance(one, str) for one in labels):
        raise _wrong("executor", f"{value!r} is not the label of an executor, or a list of labels")
    return tuple(labels)


def _wrong(option: str, problem: str) -> Exception:
    from weft_interfaces import InputError

    return InputError(f"{option}: {problem}")
