from __future__ import annotations

import functools
import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import weft
from hypothesis import given
from hypothesis import strategies as st


@weft.task
def simulate(seed: int) -> float:
    """Pretend."""
    return seed * 1.5


@weft.task(cpus=2, retries=3)
def heavy(seed: int, *, scale: float = 1.0) -> float:
    return seed * scale


class Model:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @weft.task
    def scaled(self, value: int) -> int:
        return value * self.factor

    @staticmethod
    @weft.task
    def plain(value: int) -> int:
        return value + 1

    @classmethod
    @weft.task
    def named(cls, value: int) -> str:
        return f"{cls.__name__}{value}"


def test_a_call_gives_a_future_of_the_value(run: weft.Run) -> None:
    future = simulate(3)
    assert isinstance(future, weft.Future)
    assert future.result() == 4.5
    assert future.task_name == "simulate"


def test_both_forms_of_the_decorator_and_a_function_given_by_hand(run: weft.Run) -> None:
    assert heavy(2, scale=2.0).result() == 4.0
    assert weft.task(pow)(2, 10).result() == 1024
    assert weft.task()(len)([1, 2]).result() == 2


def test_futures_stand_for_values_anywhere_in_the_arguments(run: weft.Run) -> None:
    @weft.task
    def total(values: list[float], more: dict[str, Any]) -> float:
        return sum(values) + more["x"][0]

    assert total([simulate(2), 1.0], more={"x": (simulate(4),)}).result() == 10.0
    assert total([simulate(2)], more=weft.later({"x": weft.gather((simulate(4),))})).result() == 9.0


def test_it_looks_like_its_function() -> None:
    assert simulate.__name__ == "simulate"
    assert simulate.__doc__ == "Pretend."
    assert simulate.__module__ == __name__
    assert simulate.__wrapped__ is simulate.function  # type: ignore[attr-defined]
    assert simulate.function(2) == 3.0
    assert inspect.signature(simulate) == inspect.signature(simulate.function)
    assert repr(simulate) == "<weft.task simulate(seed: int) -> float>"
    assert repr(heavy) == "<weft.task heavy(seed: int, *, scale: float = 1.0) -> float, cpus=2, retries=3>"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: simulate(), "simulate(seed: int) -> float: missing a required argument: 'seed'"),
        (lambda: simulate(1, 2), "simulate(seed: int) -> float: too many positional arguments"),
        (
            lambda: simulate(1, sed=2),
            "simulate(seed: int) -> float: got an unexpected keyword argument 'sed'",
        ),
        (lambda: simulate(1, seed=2), "simulate(seed: int) -> float: multiple values for argument 'seed'"),
        (
            lambda: heavy(1, 2),
            "heavy(seed: int, *, scale: float = 1.0) -> float: too many positional arguments",
        ),
    ],
)
def test_a_wrong_call_fails_at_the_call_with_the_signature(run: weft.Run, call: Any, said: str) -> None:
    with pytest.raises(weft.CallError) as caught:
        call()
    assert str(caught.value) == said
    assert isinstance(caught.value, TypeError)
    assert run.counts().total == 0


def test_a_wrong_call_fails_again_after_right_ones(run: weft.Run) -> None:
    simulate(1).result()
    for _ in range(2):
        with pytest.raises(weft.CallError):
            simulate()  # type: ignore[call-overload]


def _f0() -> None: ...
def _f1(a: Any, b: Any = 1) -> None: ...
def _f2(a: Any, /, b: Any, *rest: Any, c: Any) -> None: ...
def _f3(*, c: Any = 1, **others: Any) -> None: ...
def _f4(a: Any, b: Any = 2, /, *, d: Any) -> None: ...


@given(
    st.sampled_from([_f0, _f1, _f2, _f3, _f4]),
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.sampled_from("abcd"), unique=True)), max_size=6),
)
def test_the_quick_check_says_what_python_says(function: Any, shapes: list[tuple[int, list[str]]]) -> None:
    class Nowhere:
        submitted = 0

        def submit(self, *_: Any) -> None:
            self.submitted += 1

    nowhere = Nowhere()
    decorated = weft.task(function)
    for positional, keywords in shapes:
        args, kwargs = (0,) * positional, dict.fromkeys(keywords, 0)
        before = nowhere.submitted
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(weft.CallError):
                decorated.submit_to(nowhere, *args, **kwargs)  # type: ignore[arg-type]
            assert nowhere.submitted == before
        else:
            decorated.submit_to(nowhere, *args, **kwargs)  # type: ignore[arg-type]
            assert nowhere.submitted == before + 1


def test_a_function_without_signature_is_called_unchecked(run: weft.Run) -> None:
    class Odd:
        __signature__ = "nonsense"

        def __call__(self, a: int) -> int:
            return a

    assert weft.task(Odd())(4).result() == 4
    assert "Odd(...)" in repr(weft.task(Odd()))


# -- options ------------------------------------------------------------------------------------------------


def test_options_make_a_new_task_function_of_the_same_function(run: weft.Run) -> None:
    named = heavy.options(name="big", retries=None)
    assert named.function is heavy.function
    assert named(2).task_name == "big"
    assert heavy(2).task_name == "heavy"
    assert repr(named).endswith("cpus=2, name='big'>")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"cpu": 2}, weft.CallError, "weft.task has no option 'cpu'; did you mean 'cpus'?"),
        ({"exector": "a"}, weft.CallError, "did you mean 'executor'?"),
        ({"zzz": 2}, weft.CallError, "weft.task has no option 'zzz' (the options are cpus, memory,"),
        ({"cpus": "two"}, weft.UnitError, "cpus: 'two' is not a number, at least 0"),
        ({"memory": "4 apples"}, weft.UnitError, "memory: '4 apples' is not a size such as"),
        ({"walltime": "soon"}, weft.UnitError, "walltime: 'soon' is not a time such as"),
        ({"timeout": -1}, weft.UnitError, "timeout: -1 is not a time such as"),
        ({"retries": 1.5}, weft.InputError, "retries: 1.5 is not a whole number, at least 0"),
        ({"retries": -1}, weft.InputError, "retries: -1 is not a whole number, at least 0"),
        ({"priority": "high"}, weft.InputError, "priority: 'high' is not a whole number"),
        (
            {"executor": 3},
            weft.InputError,
            "executor: 3 is not the label of an executor, or a list of labels",
        ),
        ({"executor": []}, weft.InputError, "executor: [] is not the label"),
        ({"stdout": 3}, weft.InputError, "stdout: 3 is not a path"),
        ({"cwd": b"x"}, weft.InputError, "cwd: b'x' is not a path"),
        ({"name": ""}, weft.InputError, "name: '' is not a text"),
        ({"nodes": 2, "ranks_per_node": 4, "ranks": 7}, weft.InputError, "ranks: 7 is not ranks_per_node=4"),
        ({"ranks_per_node": 0}, weft.UnitError, "ranks_per_node: 0 is not a whole number, at least 1"),
    ],
)
def test_a_wrong_option_is_named_at_once(options: dict[str, Any], error: type[Exception], said: str) -> None:
    for make in (weft.task, simulate.options):
        with pytest.raises(error) as caught:
            make(**options)
        assert said in str(caught.value)


def test_options_reach_the_call() -> None:
    decorated = weft.task(
        cpus=2, memory="4GB", gpus=0.5, nodes=2, ranks_per_node=4, walltime="90s", timeout="1m", priority=7
    )(len)
    spec = decorated.options(executor=["a", "b"], stdout=Path("x"), retries=2)._make_spec()
    resources = spec.options.resources
    assert (resources.cpus, resources.memory, resources.gpus, resources.ranks) == (2, 4 * 10**9, 0.5, 8)
    assert (resources.walltime, spec.options.timeout, spec.options.priority) == (90.0, 60.0, 7)
    assert (spec.executors, spec.options.stdout, spec.retries) == (("a", "b"), "x", 2)
    assert spec.options.name == "len"


def test_an_executor_that_the_run_has_not_is_named_at_the_call(run: weft.Run) -> None:
    with pytest.raises(
        weft.ConfigError, match=r"executor 'thread' is not in this run.*did you mean 'threads'"
    ):
        simulate.options(executor="thread")(1)
    assert simulate.options(executor="threads")(2).result() == 3.0


def test_a_task_that_fits_no_executor_is_refused_at_the_call(run: weft.Run) -> None:
    with pytest.raises(weft.ResourcesError, match="gpus"):
        simulate.options(gpus=1)(1)


def test_retries_of_the_task_come_before_those_of_the_run(tmp_path: Path) -> None:
    tries = []

    @weft.task(retries=2)
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return len(tries)

    with weft.run(run_dir=tmp_path, retry_policy=weft.BackoffRetryPolicy(delay=0)):
        assert flaky().result() == 3


# -- what cannot be a task ----------------------------------------------------------------------------------


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (simulate, "is a task already; change its options with .options(...)"),
        (Model(2).scaled, "is a task already"),
        (staticmethod(len), "write @staticmethod above @weft.task, not below"),
        (classmethod(len), "write @classmethod above @weft.task, not below"),
        (3, "3 is no function; options are given by name: @weft.task(cpus=2)"),
        (coroutine, "'coroutine' is `async`"),
    ],
)
def test_what_cannot_be_a_task_is_refused(thing: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        weft.task(thing)
    assert said in str(caught.value)


# -- methods ------------------------------------------------------------------------------------------------


def test_methods_can_be_tasks(run: weft.Run) -> None:
    model = Model(3)
    assert model.scaled(4).result() == 12
    assert model.scaled.options(name="s")(5).task_name == "s"
    assert model.scaled.options(name="s")(5).result() == 15
    assert model.scaled.function(2) == 6
    assert Model.scaled(model, 2).result() == 6
    assert model.plain(1).result() == 2
    assert Model.named(7).result() == "Model7"
    assert list(weft.map(model.scaled, [1, 2])) == [3, 6]
    assert "bound" in repr(model.scaled)
    with pytest.raises(weft.CallError, match="missing a required argument: 'value'"):
        model.scaled()  # type: ignore[call-arg]


# -- pickling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_task_function_of_a_module_pickles_by_reference(pickler: Any) -> None:
    # a module that can be imported, whatever pytest has done with this one
    from weft_test_tasks import double, twice

    data = pickler.dumps([double, twice])
    assert len(data) < 200
    assert pickle.loads(data)[0] is double


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_other_options_of_it_too(pickler: Any) -> None:
    from weft_test_tasks import double

    data = pickler.dumps(double.options(cpus=2))
    copied = pickle.loads(data)
    assert copied.function is double.function
    assert repr(copied) == repr(double.options(cpus=2))
    assert len(data) < 300


def test_a_function_reaches_a_task_function_as_a_global(tmp_path: Path) -> None:
    from weft_test_tasks import twice

    assert pickle.loads(cloudpickle.dumps(twice)) is twice


def test_one_of_main_pickles_by_value_even_if_it_refers_to_itself(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import sys, pickle, cloudpickle, weft\n"
        "@weft.task(cpus=2)\n"
        "def countdown(n): return 0 if n == 0 else countdown.function(n - 1)\n"
        "sys.stdout.buffer.write(cloudpickle.dumps((countdown, countdown.function)))\n"
    )
    data = subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=60).stdout
    copied, function = pickle.loads(data)
    assert copied.function is function
    assert copied.function(3) == 0
    assert function.__globals__["countdown"] is copied
    assert "cpus=2" in repr(copied)


# -- where it is called -------------------------------------------------------------------------------------


def test_in_a_worker_process_it_names_the_remedy(run: weft.Run) -> None:
    from weft_interfaces import Call, WorkerContext, adopt_worker

    errors: list[BaseException] = []

    def worker() -> None:
        context = WorkerContext(in_process=False)
        context.call = Call(1, len)
        adopt_worker(context)
        for call in (lambda: simulate(1), lambda: weft.gather([]), lambda: weft.map(simulate, [1])):
            try:
                call()
            except weft.InputError as error:
                errors.append(error)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join(30)
    assert len(errors) == 3
    assert "simulate was called inside task 'task' in a worker process, where there is no run" in str(
        errors[0]
    )
    assert "simulate.function(...)" in str(errors[0])
    assert "@weft.join" in str(errors[0])


def test_a_partial_and_a_callable_object_can_be_tasks(run: weft.Run) -> None:
    class Adder:
        def __call__(self, a: int, b: int) -> int:
            return a + b

    assert weft.task(functools.partial(max, 3))(7).result() == 7
    assert weft.task(Adder())(1, 2).result() == 3
    assert weft.task(Adder())(1, 2).task_name == "Adder"
