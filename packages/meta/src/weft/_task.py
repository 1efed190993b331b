"""Decorators, and the task functions that they make."""

from __future__ import annotations

import sys
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from ._current import find_run, variable
from ._option import check_ignored, check_options, make_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future as AnyFuture
    from inspect import Signature
    from typing import Concatenate, TypeAlias

    from typing_extensions import Self, Unpack
    from weft_core import Future, TaskSpec
    from weft_interfaces import Shared

    from ._option import TaskOptions
    from ._run import Run

    StandIn: TypeAlias = AnyFuture[Any] | Shared[Any]
    Later: TypeAlias = StandIn | Collection[StandIn] | Mapping[Any, StandIn]

__all__ = ["BoundTask", "TaskFunction", "join", "later", "task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
K = TypeVar("K")
_ASYNC = 0x80 | 0x200  # the flags of coroutine and of asynchronous generator functions
_MAX_SHAPES = 256


class TaskFunction(Generic[P, R]):
    """A function whose calls are tasks: calling it submits one to the current run and returns its future at
    once.

    A call with arguments that the function does not take raises :class:`CallError`; nothing is submitted
    then. Futures may stand for values anywhere in the arguments. ``function`` (and ``__wrapped__``) is the
    function itself. May be called from any thread, and from a task that runs in a thread. Pickles by
    reference where its module can be imported, else by value.

    To a type checker a call that has futures among its first four positional arguments is right whatever its
    other arguments are; for one that is passed by keyword, see :func:`weft.later`.
    """

    function: Callable[P, R]
    _spec: TaskSpec

    def __init__(
        self, function: Callable[P, R], options: Mapping[str, Any] | None = None, kind: str = "task"
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self._options = dict(options or {})
        self._kind = kind
        # A call is right or wrong by its shape: how many positional arguments, which keywords. These are
        # right.
        self._shapes: set[Any] = set()

    # To a type checker: the parameters of the function; or futures among the arguments, and then any others.
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def __call__(self, a: Later, /, *args: Any, **kwargs: Any) -> Future[R]: ...
    @overload
    def __call__(self, a: Any, b: Later, /, *args: Any, **kwargs: Any) -> Future[R]: ...
    @overload
    def __call__(self, a: Any, b: Any, c: Later, /, *args: Any, **kwargs: Any) -> Future[R]: ...
    @overload
    def __call__(self, a: Any, b: Any, c: Any, d: Later, /, *args: Any, **kwargs: Any) -> Future[R]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        shape = (len(args), *kwargs) if kwargs else len(args)
        if shape not in self._shapes:
            self._check(shape, args, kwargs)
        return (variable.get() or self._find_run()).submit(self._spec, args, kwargs)

    def submit_to(self, run: Run, /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call it in this run, whichever is current."""
        shape = (len(args), *kwargs) if kwargs else len(args)
        if shape not in self._shapes:
            self._check(shape, args, kwargs)
        return run.submit(self._spec, args, kwargs)

    def options(self, **options: Unpack[TaskOptions]) -> TaskFunction[P, R]:
        """The same function with these options changed. None takes one back."""
        check_options(options, self._kind)
        check_ignored(self.function, options)
        return type(self)(self.function, {**self._options, **options}, self._kind)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: TaskFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> BoundTask[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundTask(self, instance)

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self._options.items() if value is not None)
        return f"<weft.{self._kind} {self._described()}{options}>"

    def __reduce__(self) -> Any:
        found = _at_its_name(self)
        if found is self:
            return self.__qualname__
        if isinstance(found, TaskFunction) and found.function is self.function and found._kind == self._kind:
            return _with_options, (found, self._options)
        # Made empty first and filled later, so that a function that refers to its own task can be pickled.
        return _empty, (type(self),), (self.function, self._options, self._kind)

    def __setstate__(self, state: Any) -> None:
        TaskFunction.__init__(self, *state)

    def _find_run(self) -> Any:
        from ._run import start_default_run

        return find_run(self._name, start_default_run)

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", None) or type(self.function).__name__

    def _check(self, shape: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises :class:`CallError` if the function does not take these; else remembers that it takes their
        like.
        """
        signature = self._signature()
        if signature is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                from weft_interfaces import CallError

                raise CallError(f"{self._described()}: {error}") from None
        if not self._shapes:
            self._spec = self._make_spec()
        if len(self._shapes) < _MAX_SHAPES:
            self._shapes.add(shape)

    def _make_spec(self) -> TaskSpec:
        function: Callable[..., Any] = self.function
        if self._kind == "shell":
            from ._shell import ShellCall

            function = ShellCall(function)
        return make_spec(function, self._options, name=self._name, join=self._kind == "join")

    def _signature(self) -> Signature | None:
        import inspect

        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # some of those that are written in C have none
            return None

    def _described(self) -> str:
        signature = self._signature()
        if signature is None:
            return f"{self._name}(...)"
        parameters = [
            parameter.replace(annotation=_bare(parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        returned = _bare(signature.return_annotation)
        return f"{self._name}{signature.replace(parameters=parameters, return_annotation=returned)}"


class BoundTask(Generic[P, R]):
    """A task function that was looked up on an instance, which is its first argument.

    The instance travels with the call: with processes it is pickled, and what the call changes in it stays
    there.
    """

    def __init__(self, function: TaskFunction[Any, R], instance: object) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return self.__func__(self.__self__, *args, **kwargs)

    def submit_to(self, run: Run, /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call it in this run, whichever is current."""
        return self.__func__.submit_to(run, self.__self__, *args, **kwargs)

    def options(self, **options: Unpack[TaskOptions]) -> BoundTask[P, R]:
        """The same method with these options changed."""
        return BoundTask(self.__func__.options(**options), self.__self__)

    @property
    def function(self) -> Callable[P, R]:
        """The method itself."""
        method: Callable[P, R] = self.__func__.function.__get__(self.__self__)
        return method

    @property
    def __wrapped__(self) -> Callable[P, R]:
        return self.function

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


class TaskDecorator(Protocol):
    """Makes a function a task."""

    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> TaskDecorator: ...
def task(function: Any = None, /, **options: Any) -> Any:
    """Make the calls of a Python function tasks: ``@weft.task``, or with options ``@weft.task(cpus=2,
    retries=3)``.

    See :class:`TaskOptions` for the options. An unknown one raises :class:`CallError`, a value that cannot be
    :class:`InputError`, both at once.
    """
    return decorate("task", function, options)


class JoinDecorator(Protocol):
    """Makes a function that returns futures a task."""

    @overload
    def __call__(self, function: Callable[P, AnyFuture[R]], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, list[AnyFuture[R]]], /) -> TaskFunction[P, list[R]]: ...
    @overload
    def __call__(self, function: Callable[P, list[Future[R]]], /) -> TaskFunction[P, list[R]]: ...
    @overload
    def __call__(self, function: Callable[P, dict[K, Future[R]]], /) -> TaskFunction[P, dict[K, R]]: ...
    @overload
    def __call__(self, function: Callable[P, Any], /) -> TaskFunction[P, Any]: ...


@overload
def join(function: Callable[P, AnyFuture[R]], /) -> TaskFunction[P, R]: ...
@overload
def join(function: Callable[P, list[AnyFuture[R]]], /) -> TaskFunction[P, list[R]]: ...
@overload
def join(function: Callable[P, list[Future[R]]], /) -> TaskFunction[P, list[R]]: ...
@overload
def join(function: Callable[P, dict[K, Future[R]]], /) -> TaskFunction[P, dict[K, R]]: ...
@overload
def join(function: Callable[P, Any], /) -> TaskFunction[P, Any]: ...
@overload
def join(**options: Unpack[TaskOptions]) -> JoinDecorator: ...
def join(function: Any = None, /, **options: Any) -> Any:
    """Make a function that calls tasks a task itself: it is done, with their values, when the futures that it
    returns are.

    The futures may sit at any depth in lists, tuples, dicts, sets and dataclasses. The function runs in a
    thread of the run's own process, whatever the executors, and no worker waits meanwhile; so it should do no
    more than call tasks.
    """
    return decorate("join", function, options)


def decorate(kind: str, function: Any, options: dict[str, Any]) -> Any:
    """Both forms of a decorator: given the function, or its options."""
    check_options(options, kind)

    def made(decorated: Any) -> TaskFunction[Any, Any]:
        check_ignored(_checked(decorated, kind), options)
        return TaskFunction(decorated, options, kind)

    return made if function is None else made(function)


@overload
def later(future: AnyFuture[T]) -> T: ...
@overload
def later(future: Shared[T]) -> T: ...
@overload
def later(future: list[Future[T]]) -> list[T]: ...
@overload
def later(future: dict[K, Future[T]]) -> dict[K, T]: ...
def later(future: Any) -> Any:
    """The future, or the shared value, itself; to a type checker the value that it will have, so that it may
    stand where that is expected.

    Only an argument of a task may stand for its value like this: ``total(rows=weft.later(future))``.
    """
    return future


def _checked(function: Any, kind: str) -> Any:
    problem = None
    if isinstance(function, (TaskFunction, BoundTask)):
        problem = f"{function!r} is a task already; change its options with .options(...)"
    elif isinstance(function, (staticmethod, classmethod)):
        problem = f"write @{type(function).__name__} above @weft.{kind}, not below"
    elif not callable(function):
        problem = f"{function!r} is no function; options are given by name: @weft.{kind}(cpus=2)"
    elif getattr(getattr(function, "__code__", None), "co_flags", 0) & _ASYNC:
        problem = (
            f"{function.__name__!r} is `async`: a task is an ordinary function, whose future can be awaited"
        )
    if problem is not None:
        raise TypeError(f"weft.{kind}: {problem}")
    return function


def _at_its_name(function: TaskFunction[Any, Any]) -> Any:
    """What an import of the function's name finds; None where it cannot be imported."""
    module = getattr(function, "__module__", None)
    found: Any = None if module == "__main__" else sys.modules.get(str(module))
    for name in getattr(function, "__qualname__", "<none>").split("."):
        found = getattr(found, name, None)
    return found


def _with_options(function: TaskFunction[P, R], options: dict[str, Any]) -> TaskFunction[P, R]:
    return type(function)(function.function, options, function._kind)


def _empty(cls: type[TaskFunction[Any, Any]]) -> TaskFunction[Any, Any]:
    return cls.__new__(cls)


class _Bare:
    """An annotation that is a text, shown without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation
