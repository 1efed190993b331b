from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import weft


def fresh(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_little_and_starts_nothing(environment: dict[str, str]) -> None:
    code = """
import sys, threading
import weft

@weft.task
def f(x: int) -> int:
    return x

unwanted = {"rich", "typer", "msgspec", "cloudpickle", "importlib.metadata", "asyncio", "subprocess"}
unwanted |= {"tomllib", "weft_core", "weft_executor_local", "multiprocessing", "logging"}
loaded = unwanted & set(sys.modules)
assert not loaded, loaded
assert threading.active_count() == 1
"""
    fresh(code, environment)


def test_a_run_without_progress_and_file_loads_no_third_party_module(
    environment: dict[str, str],
) -> None:
    code = """
import sys, weft

@weft.task
def f(x: int) -> int:
    return x

with weft.run():
    assert f(1).result() == 1
third = {"rich", "typer", "msgspec", "cloudpickle", "importlib.metadata", "tomllib"} & set(sys.modules)
assert not third, third
"""
    fresh(code, environment)


def test_importing_is_quick(environment: dict[str, str]) -> None:
    def best(code: str) -> float:
        used = []
        for _ in range(7):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            fresh(code, {**environment, "PYTHONDONTWRITEBYTECODE": ""})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(used)

    assert best("import weft") - best("pass") < 0.08


def test_all_names_can_be_had(environment: dict[str, str]) -> None:
    assert sorted(weft.__all__) == dir(weft) == weft.__all__
    for name in weft.__all__:
        if name != "ProcessExecutor" or hasattr(__import__("weft_executor_local"), name):
            assert getattr(weft, name) is not None
    assert weft.Future.__module__.startswith("weft_core")
    fresh("from weft import *\nassert callable(task)", environment)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'weft' has no attribute 'tsk'"):
        weft.tsk  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(weft, "path")


def test_a_name_of_a_distribution_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weft._PLACE_OF, "PilotExecutor", "weft_executor_none")
    with pytest.raises(weft.MissingPluginError, match="pip install weft-executor-none"):
        weft.PilotExecutor  # type: ignore[attr-defined]  # noqa: B018


def test_a_thousand_calls_cost_little_more_than_those_of_the_kernel(run: weft.Run) -> None:
    """A bound far above what it is, for machines that do other things too."""

    class Nowhere:
        def submit(self, *_: Any) -> None: ...

    @weft.task
    def f(x: int) -> int:
        return x

    nowhere: Any = Nowhere()
    f.submit_to(nowhere, 1)

    def cost(call: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(20):
            begun = time.perf_counter()
            for _ in range(1000):
                call()
            best = min(best, time.perf_counter() - begun)
        return best / 1000

    spec = f._spec
    assert cost(lambda: f.submit_to(nowhere, 1)) - cost(lambda: nowhere.submit(spec, (1,), {})) < 5e-6
