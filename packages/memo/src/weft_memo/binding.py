"""The arguments of a call by the names of its parameters, however they were passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .weak import WeakTable

__all__ = ["bind_arguments", "unknown_parameters"]

_MAX_SHAPES = 256
_Plan = Callable[[tuple[Any, ...], Mapping[str, Any]], dict[str, Any]]


def bind_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Name to value, in the order of the parameters, with defaults for what was not passed.

    What ``*args`` takes is a tuple under its name, left out where it is empty; what ``**kwargs``
    takes stands under its own names, after the parameters. A function whose signature is not known has
    ``"0"``, ``"1"``, ... for its positional arguments. Signatures are those that :func:`inspect.signature`
    gives, and are looked at once for each shape of call. Raises ``TypeError`` for a call that the function
    does not take. Threads may call it at once.
    """
    shape = (len(args), *kwargs) if kwargs else len(args)
    plans = _PLANS.get(function)
    if plans is not None:
        plan = plans.get(shape)
        if plan is not None:
            return plan(args, kwargs)
    return _planned(function, plans, shape, args, kwargs)


def unknown_parameters(function: Callable[..., Any], names: Iterable[str]) -> list[str]:
    """Those of the names that are no parameters of the function; none if it takes any keyword, or if its
    signature is not known.
    """
    signature = _signature(function)
    if signature is None:
        return []
    parameters = signature.parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return []
    return [name for name in names if name not in parameters]


_PLANS: WeakTable[dict[Any, _Plan]] = WeakTable()


def _planned(
    function: Callable[..., Any],
    plans: dict[Any, _Plan] | None,
    shape: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    signature = _signature(function)
    plan = _positional if signature is None else _make_plan(signature, args, kwargs)
    if plans is None:
        _PLANS[function] = plans = {}
    if len(plans) < _MAX_SHAPES:
        plans[shape] = plan
    return plan(args, kwargs)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some of those that are written in C have none
        return None


def _positional(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**{str(number): value for number, value in enumerate(args)}, **_sorted(kwargs)}


def _make_plan(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Plan:
    """How calls of this shape are bound. Only names and places count, so the arguments are not kept."""
    signature.bind(*args, **kwargs)
    order: list[str] = []
    defaults: dict[str, Any] = {}
    positional: list[str] = []
    rest: tuple[str, int] | None = None
    named: set[str] = set()
    for name, parameter in signature.parameters.items():
        kind = parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            rest = (name, len(positional))
            order.append(name)
            continue
        if kind is parameter.VAR_KEYWORD:
            continue
        if kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append(name)
        if kind is not parameter.POSITIONAL_ONLY:
            named.add(name)
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
        order.append(name)
    if rest is None and not kwargs.keys() - named:
        missing = [name for name in order[len(args) :] if name not in kwargs]
        return _simple_plan(order, positional[: len(args)], {name: defaults[name] for name in missing})
    return _general_plan(order, positional, rest, defaults, named)


def _simple_plan(order: list[str], given: list[str], defaults: dict[str, Any]) -> _Plan:
    names = tuple(order)
    if len(given) == len(names):
        return lambda args, kwargs: dict(zip(names, args, strict=True))
    start = tuple(given)
    if set(order) == {*given, *defaults}:
        return lambda args, kwargs: {**dict(zip(start, args, strict=True)), **defaults}

    def bind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = {**defaults, **dict(zip(start, args, strict=True)), **kwargs}
        return {name: values[name] for name in names}

    return bind


def _general_plan(
    order: list[str],
    positional: list[str],
    rest: tuple[str, int] | None,
    defaults: dict[str, Any],
    named: set[str],
) -> _Plan:
    def bind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(defaults)
        values.update(zip(positional, args, strict=False))
        extra = {}
        for name, value in kwargs.items():
            if name in named:
                values[name] = value
            else:
                extra[name] = value
        bound = {}
        for name in order:
            if rest is not None and name == rest[0]:
                if args[rest[1] :]:
                    bound[name] = args[rest[1] :]
            elif name in values:
                bound[name] = values[name]
        for name, value in _sorted(extra).items():
            # The name of a positional parameter may be a keyword of its own: f(a, /, **kwargs).
            bound[name if name not in bound else f"**{name}"] = value
        return bound

    return bind


def _sorted(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in sorted(kwargs)}
