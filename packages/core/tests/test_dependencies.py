"""Futures in arguments, at any depth, and what the function gets in their place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from weft_core import SHALLOW, Future, TaskSpec
from weft_core.failure import dependency_error
from weft_interfaces import DependencyError, FutureMisuseError
from weft_interfaces.memory import ContainerResolver

Run = Any  # the class of conftest.py
PATIENCE = 20.0

Pair = namedtuple("Pair", "left right")


class Typed(NamedTuple):
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Plain:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Derived:
    """One whose __init__ must not run again, and cannot."""

    x: dataclasses.InitVar[Any]
    value: Any = dataclasses.field(init=False)

    def __post_init__(self, x: Any) -> None:
        self.value = [x]


class Stack(list):  # type: ignore[type-arg]
    """A subclass."""


class OddList(list):  # type: ignore[type-arg]
    def __init__(self, first: object, second: object) -> None:
        super().__init__([first, second])


# -- what holds a future ------------------------------------------------------------------------------------


def plain_cases(value: Any) -> dict[str, Any]:
    """A value in every kind of container."""
    return {
        "itself": value,
        "list": [1, value, "x"],
        "tuple": (value, 2),
        "empty beside it": [[], {}, (), set(), value],
        "dict value": {"a": value, "b": 1},
        "dict key": {value: "v"},
        "dict both": {value: value},
        "set": {value, "other"},
        "frozenset": frozenset({value}),
        "namedtuple": Pair(value, [value]),
        "typed namedtuple": Typed(value),
        "dataclass": Plain(value),
        "frozen dataclass": Frozen([value], y=value),
        "slotted dataclass": Slotted((value,)),
        "derived dataclass": Derived(value),
        "defaultdict": defaultdict(list, {"k": [value]}),
        "OrderedDict": OrderedDict([("z", 1), ("a", value), ("m", 2)]),
        "subclass of list": Stack([value]),
        "deep": [({"k": [Frozen([Pair({"x": (value,)}, 1)])]},)],
    }


@pytest.mark.parametrize("kind", plain_cases(0))
def test_a_future_anywhere(run: Run, kind: str) -> None:
    first = run.held()
    argument = plain_cases(first)[kind]
    waiting, named = run.held(argument), run.submit(lambda **_: None, key=argument)
    assert not run.is_held(waiting)
    assert not run.is_held(named)
    run.complete(first, "value")
    [given] = run.args_of(waiting)
    expected = plain_cases("value")[kind]
    assert given == expected
    assert type(given) is type(expected)
    assert run.manual.submitted[run.call_id(named)].kwargs == {"key": expected}


@pytest.mark.parametrize("kind", plain_cases(0))
def test_a_gathered_value_too(run: Run, kind: str) -> None:
    first = run.held()
    gathered = run.kernel.gather(plain_cases(first)[kind])
    assert not gathered.done()
    run.complete(first, "value")
    assert gathered.result() == plain_cases("value")[kind]


def test_subclasses_keep_what_makes_them_special(run: Run) -> None:
    first = run.held()
    ordered = OrderedDict([("z", first), ("a", 1)])
    ordered.move_to_end("z")
    arguments = (defaultdict(list, a=first), ordered, Counter({"a": first, "b": 2}))
    waiting = run.held(*arguments)
    run.complete(first, 5)
    given, order, counter = run.args_of(waiting)
    assert given["missing"] == []
    assert list(order) == ["a", "z"]
    order.move_to_end("a")
    assert list(order) == ["z", "a"]
    assert counter == Counter({"a": 5, "b": 2})


def test_many_futures_in_one_call(run: Run) -> None:
    futures = [run.held() for _ in range(100)]
    rest = dict(enumerate(futures[90:]))
    waiting = run.submit(lambda *a, **k: None, futures[:50], *futures[50:90], rest=rest)
    for i, future in enumerate(reversed(futures)):
        assert not run.is_held(waiting)
        run.complete(future, 99 - i)
    call = run.manual.submitted[run.call_id(waiting)]
    assert call.args == (list(range(50)), *range(50, 90))
    assert call.kwargs == {"rest": dict(enumerate(range(90, 100)))}


def test_the_same_future_twice(run: Run) -> None:
    first = run.held()
    waiting = run.held(first, first, [first, first], {"a": first})
    run.complete(first, 1)
    assert run.args_of(waiting) == (1, 1, [1, 1], {"a": 1})


def test_done_futures_are_values_at_once(run: Run) -> None:
    first = run.held()
    run.complete(first, 8)
    waiting = run.held(first, [first])
    assert run.args_of(waiting) == (8, [8])


def test_what_depends_on_nothing_is_passed_on_itself(run: Run) -> None:
    arguments = ([1, [2]], {"a": {1}}, Plain([3]), object(), int, Future)
    launched = run.held(*arguments)
    assert all(given is argument for given, argument in zip(run.args_of(launched), arguments, strict=True))
    waiting = run.held(first := run.held(), *arguments)
    run.complete(first, 0)
    assert all(given is argument for given, argument in zip(run.args_of(waiting)[1:], arguments, strict=True))


def test_what_the_caller_passed_is_never_changed(run: Run) -> None:
    first = run.held()
    inner = [first]
    outer = {"a": inner, "b": Plain(inner, y=(first,)), "untouched": [1]}
    waiting = run.held(outer)
    run.complete(first, 1)
    assert run.args_of(waiting) == ({"a": [1], "b": Plain([1], y=(1,)), "untouched": [1]},)
    assert inner == [first]
    assert outer["a"] is inner
    assert outer["b"].x is inner
    assert outer["b"].y == (first,)
    assert run.args_of(waiting)[0]["untouched"] is outer["untouched"]


def test_shared_parts_stay_shared(run: Run) -> None:
    first = run.held()
    shared = [first]
    waiting = run.held([shared, shared, {"s": shared}])
    run.complete(first, 1)
    [given] = run.args_of(waiting)
    assert given == [[1], [1], {"s": [1]}]
    assert given[0] is given[1] is given[2]["s"]


def test_a_cyclic_container(run: Run) -> None:
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    launched = run.held(cyclic)
    assert run.args_of(launched)[0] is cyclic

    first = run.held()
    cyclic.append(first)
    waiting = run.held(cyclic)
    run.complete(first, 2)
    [given] = run.args_of(waiting)
    assert given[0] == 1
    assert given[2] == 2
    assert given[1] is cyclic, "the part that leads back to itself is the caller's"


def test_deeper_than_the_stack(run: Run) -> None:
    depth = 20_000
    first = run.held()
    nested: Any = first
    for i in range(depth):
        nested = [nested] if i % 2 else {"k": (nested,)}
    waiting = run.held(nested)
    run.complete(first, "bottom")
    [given] = run.args_of(waiting)
    while isinstance(given, list | dict | tuple):
        given = given["k"] if isinstance(given, dict) else given[0]
    assert given == "bottom"
    while isinstance(nested, list | dict | tuple):  # take it apart: not every Python can drop what is so deep
        nested = nested["k"] if isinstance(nested, dict) else nested[0]


def test_large_arguments_are_looked_through_quickly(run: Run) -> None:
    first = run.held()
    numbers, matrix = list(range(1_000_000)), [[0.5] * 1_000 for _ in range(1_000)]
    begun = time.thread_time()  # not the clock: others may be using the machine
    waiting = run.held(numbers, matrix, first)
    run.complete(first)
    assert time.thread_time() - begun < 1.0
    assert run.args_of(waiting)[0] is numbers


def test_a_wide_fan_in_is_linear(run: Run) -> None:
    futures = [run.held() for _ in range(20_000)]
    begun = time.thread_time()
    total = run.held(futures)
    for i, future in enumerate(futures):
        run.complete(future, i)
    assert time.thread_time() - begun < 10.0
    assert run.args_of(total) == (list(range(20_000)),)


# -- what cannot be put together -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "error", "match"),
    [
        (lambda future: {future}, TypeError, "unhashable"),
        (lambda future: {future: 1}, TypeError, "unhashable"),
        (lambda future: OddList(future, 1), TypeError, "missing 1 required"),
    ],
)
def test_arguments_that_cannot_be_rebuilt_fail_the_task(
    run: Run, container: Callable[[Any], Any], error: type[Exception], match: str
) -> None:
    first = run.held()
    waiting, bystander = run.held(container(first)), run.held(first)
    run.complete(first, [])
    assert isinstance(waiting.exception(timeout=PATIENCE), error)
    with pytest.raises(error, match=match):
        waiting.result()
    assert run.is_held(bystander)


@pytest.mark.parametrize("dependent", ["task", "gather"])
def test_a_list_that_grows_after_the_call_is_named(run: Run, dependent: str) -> None:
    """A call that is passed the very list that collects the futures would have to wait for itself."""
    first = run.held()
    growing = [first]
    waiting = run.held(growing) if dependent == "task" else run.kernel.gather(growing)
    growing.append(waiting)
    run.complete(first, 1)
    with pytest.raises(FutureMisuseError, match=r"<Future of task 1 .* after the call"):
        waiting.result(timeout=PATIENCE)


def test_a_broken_argument_is_the_callers_error(run: Run) -> None:
    @dataclasses.dataclass
    class Broken:
        x: Any

        def __getattribute__(self, name: str) -> Any:
            if name == "x":
                raise RuntimeError("no x today")
            return super().__getattribute__(name)

    broken = Broken(1)
    for call in (run.held, run.kernel.gather):
        with pytest.raises(RuntimeError, match="no x today"):
            call([broken])
    assert run.kernel.counts().total == run.kernel.counts().finished
    joined = run.join(lambda: [broken])
    with pytest.raises(RuntimeError, match="no x today"):
        joined.result(timeout=PATIENCE)


def test_what_lies_about_its_class_does_no_harm(run: Run) -> None:
    class Proxy:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("unbound")

    proxy = Proxy()
    future = run.held(proxy, [proxy])
    run.complete(future, proxy)
    assert future.result(timeout=PATIENCE) is proxy
    assert run.kernel.gather([proxy]).result(timeout=PATIENCE) == [proxy]


# -- futures of others ---------------------------------------------------------------------------------------


def test_a_foreign_future(run: Run) -> None:
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    done.set_result(2)
    waiting = run.held(foreign, [done])
    assert not run.is_held(waiting)
    foreign.set_result(1)
    assert run.args_of(waiting) == (1, [2])


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_foreign_future_that_brings_nothing(run: Run, how: str, early: bool) -> None:
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()

    def end() -> None:
        if how == "cancelled":
            foreign.cancel()
        else:
            foreign.set_exception(OSError("gone"))

    if early:
        end()
    waiting, gathered = run.held([foreign]), run.kernel.gather([foreign])
    if not early:
        end()
    with pytest.raises(DependencyError, match=r"task 0 \(nothing\) was not run: it needed <Future at"):
        waiting.result(timeout=PATIENCE)
    if how == "cancelled":
        assert "was cancelled" in str(waiting.exception())
        assert gathered.cancelled()
    else:
        assert isinstance(waiting.exception().__cause__, OSError)
        assert "OSError: gone" in str(waiting.exception())
        assert isinstance(gathered.exception(), OSError)
    assert not run.manual.submitted


def test_a_subclass_of_the_standard_future(run: Run) -> None:
    class Mine(concurrent.futures.Future):  # type: ignore[type-arg]
        pass

    foreign = Mine()
    waiting = run.held({"k": foreign})
    foreign.set_result(1)
    assert run.args_of(waiting) == ({"k": 1},)


@pytest.mark.parametrize("how", ["value", "error", "cancelled", "done before"])
def test_an_asyncio_future(run: Run, how: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        foreign: asyncio.Future[int] = loop.create_future()
        if how == "done before":
            foreign.set_result(1)
        waiting = await loop.run_in_executor(None, run.held, [foreign])
        if how == "error":
            foreign.set_exception(OSError("gone"))
        elif how == "cancelled":
            foreign.cancel()
        elif how == "value":
            foreign.set_result(1)
        if how in ("value", "done before"):
            await loop.run_in_executor(None, run.manual.wait_held, 1)
            assert run.args_of(waiting) == ([1],)
        else:
            error = await loop.run_in_executor(None, waiting.exception, PATIENCE)
            assert isinstance(error, DependencyError)
            assert ("gone" if how == "error" else "was cancelled") in str(error)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_task_of_asyncio(run: Run) -> None:
    async def answer() -> int:
        return 42

    async def main() -> Any:
        future = run.kernel.gather([asyncio.create_task(answer())])
        return await future

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [42]


def test_an_asyncio_future_whose_loop_has_ended(run: Run) -> None:
    loop = asyncio.new_event_loop()
    done, never = loop.create_future(), loop.create_future()
    done.set_result(1)
    loop.close()
    assert run.args_of(run.held([done])) == ([1],)
    waiting = run.held(never)
    with pytest.raises(DependencyError, match="closed"):
        waiting.result(timeout=PATIENCE)


def test_a_future_that_only_looks_like_one(run: Run) -> None:
    class Lookalike:
        def __init__(self) -> None:
            self.callbacks: list[Any] = []
            self.value: Any = None

        def __await__(self) -> Any:
            raise NotImplementedError

        def add_done_callback(self, callback: Any) -> None:
            self.callbacks.append(callback)

        def done(self) -> bool:
            return self.value is not None

        def result(self) -> Any:
            return self.value

        def exception(self) -> None:
            return None

    foreign = Lookalike()
    waiting = run.held([foreign])
    foreign.value = 3
    [callback] = foreign.callbacks
    callback(foreign)
    assert run.args_of(waiting) == ([3],)


def test_what_is_no_future_is_passed_on(run: Run) -> None:
    async def coroutine() -> None: ...

    event, pending = threading.Event(), coroutine()
    assert run.args_of(run.held(event, pending)) == (event, pending)
    pending.close()


def test_a_future_of_another_run(run: Run, make_run: Callable[..., Run]) -> None:
    other = make_run()
    theirs, failing = other.held(), other.held()
    ours, doomed = run.held([theirs]), run.held(failing)
    other.complete(theirs, "x")
    assert run.args_of(ours) == (["x"],)
    other.fail(failing)
    assert isinstance(doomed.exception(), DependencyError)
    assert run.kernel.gather([theirs]).result() == ["x"]


def test_closing_one_run_does_not_strand_another(run: Run, make_run: Callable[..., Run]) -> None:
    other = make_run()
    ours = run.held(other.held())
    other.kernel.close(cancel=True)
    with pytest.raises(DependencyError, match="was cancelled"):
        ours.result(timeout=PATIENCE)


# -- other resolvers -----------------------------------------------------------------------------------------


def test_shallow(make_run: Callable[..., Run]) -> None:
    run = make_run(resolver=SHALLOW)
    first = run.held()
    deep = [[first]]
    direct, listed = run.held(first), run.submit(lambda a: None, a=[1, first])
    unseen = run.held(deep, (first,))
    assert not run.is_held(direct)
    assert not run.is_held(listed)
    assert run.args_of(unseen) == (deep, (first,))
    run.complete(first, 9)
    assert run.args_of(direct) == (9,)
    assert run.manual.submitted[run.call_id(listed)].kwargs == {"a": [1, 9]}


def test_a_resolver_of_the_users_own(make_run: Callable[..., Run]) -> None:
    class Box:
        def __init__(self, content: Any) -> None:
            self.content = content

    class Boxes(ContainerResolver):
        def futures(self, value: Any) -> Any:
            return super().futures(value.content if isinstance(value, Box) else value)

        def resolve(self, value: Any, result: Callable[[Any], Any]) -> Any:
            if isinstance(value, Box):
                return Box(self.resolve(value.content, result))
            return super().resolve(value, result)

    run = make_run(resolver=Boxes())
    first = run.held()
    waiting = run.held(Box([first]))
    assert not run.is_held(waiting)
    run.complete(first, 4)
    assert run.args_of(waiting)[0].content == [4]


@pytest.mark.parametrize("method", ["futures", "resolve"])
def test_a_resolver_that_raises(make_run: Callable[..., Run], method: str) -> None:
    class Broken(ContainerResolver):
        pass

    def broken(*_: object) -> Any:
        raise RuntimeError("no resolution")

    setattr(Broken, method, broken)
    run = make_run(resolver=Broken())
    first = run.held()
    if method == "futures":
        with pytest.raises(RuntimeError, match="no resolution"):
            run.held([first])
        assert run.kernel.counts().total == 1, "nothing was submitted"
        return
    waiting = run.held([first])
    run.complete(first)
    with pytest.raises(RuntimeError, match="no resolution"):
        waiting.result(timeout=PATIENCE)


def test_a_value_that_holds_futures_is_passed_on_as_it_is_also_in_a_retry(
    make_run: Callable[..., Run],
) -> None:
    run = make_run(retries=1)
    first, other = run.held(), run.held()
    waiting = run.held(first, [first])
    run.complete(first, [other])
    for _ in range(2):
        assert run.args_of(waiting) == ([other], [[other]])
        run.fail(waiting)
    assert waiting.done()


def test_the_last_to_be_asked_does_not_launch_what_another_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, in_threads: Callable[..., list[Any]]
) -> None:
    """One thread reports a failed dependency while another reports the last good one."""
    good, bad = run.held(), run.held()
    waiting = run.held(good, [bad])
    failing, go_on = threading.Event(), threading.Event()

    def slow(*args: Any) -> DependencyError:
        failing.set()
        assert go_on.wait(PATIENCE)
        return dependency_error(*args)

    def complete() -> None:
        assert failing.wait(PATIENCE)
        run.complete(good)
        go_on.set()

    monkeypatch.setattr("weft_core.kernel.dependency_error", slow)
    in_threads(lambda: run.fail(bad), complete)
    assert isinstance(waiting.exception(timeout=0), DependencyError)
    assert len(run.manual.submitted) == 2


def test_a_bare_spec_is_enough(run: Run) -> None:
    future = run.kernel.submit(TaskSpec(function=len), ([],))
    assert future.task_name == "task"
    run.complete(future, 0)
