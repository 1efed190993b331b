"""Decorators of Weft make no difference to what a function is."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from weft._shell import ShellCall
from weft_memo import bind_arguments, identify_function

PROGRAM = """
import weft
from weft import task as job
small = weft.task(cpus=1)

def plain(x): return x + 1

@weft.task
def helper(x): return x + 1

@weft.task{options}
def top(x): return x * 2

@job{options}
def calling(x): return helper(x).result() + plain(x)

@small
def under_another_name(x): return x * 3

@weft.join
def joined(x): return [helper(i) for i in range(x)]

@weft.shell
def command(x): return f"echo {{x}}"

class Model:
    @weft.task{options}
    def fit(self, x): return x
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(source: str) -> Any:
        sys.modules.pop("identified", None)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "identified.py").write_text(source)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        return importlib.import_module("identified")

    yield load
    sys.modules.pop("identified", None)


def test_options_make_no_difference(load: Callable[[str], Any]) -> None:
    one, other = load(PROGRAM.format(options="")), load(PROGRAM.format(options="(retries=3, cpus=2)"))
    for name in ("top", "calling", "under_another_name", "joined", "command"):
        before, after = getattr(one, name), getattr(other, name)
        assert identify_function(before).digest == identify_function(after).digest
        assert identify_function(before).digest == identify_function(before.function).digest
        assert identify_function(before.function).digest == identify_function(after.options(retries=1)).digest
    assert identify_function(one.Model.fit).digest == identify_function(other.Model.fit).digest
    command = identify_function(ShellCall(one.command.function))
    assert command.digest == identify_function(one.command).digest
    assert "function identified.command" in command.parts


def test_a_task_that_is_called_is_followed(load: Callable[[str], Any]) -> None:
    source = PROGRAM.format(options="")
    before = load(source)
    edited = load(source.replace("def helper(x): return x + 1", "def helper(x): return x + 2"))
    for name in ("calling", "joined"):
        one, other = identify_function(getattr(before, name)), identify_function(getattr(edited, name))
        assert "helper identified.helper" in one.parts
        changed = {part for part in one.parts if one.parts[part] != other.parts[part]}
        assert changed == {"helper identified.helper"}
    assert identify_function(before.top).digest == identify_function(edited.top).digest


def test_arguments_of_tasks(load: Callable[[str], Any]) -> None:
    module = load(PROGRAM.format(options=""))
    assert bind_arguments(module.top, (1,), {}) == bind_arguments(module.top, (), {"x": 1}) == {"x": 1}
    assert bind_arguments(module.Model().fit, (1,), {}) == {"x": 1}
    assert bind_arguments(ShellCall(module.command.function), (1,), {}) == {"x": 1}


def test_by_name(load: Callable[[str], Any]) -> None:
    module = load(PROGRAM.format(options=""))
    assert (
        identify_function(module.top, "name").digest == identify_function(module.top.function, "name").digest
    )
    assert list(identify_function(module.top, version="1").parts) == ["name identified.top", "version"]


SCRIPT = """
import dataclasses, subprocess, sys
import cloudpickle
from weft_memo import identify_class, identify_function

LIMIT = 3

@dataclasses.dataclass(order=True)
class Point:
    x: list = dataclasses.field(default_factory=list)
    y: int = 3
    def __add__(self, other): return helper(self.y) + LIMIT
    def norm(self): return helper(self.y)
    def __bool__(self): return super().__eq__(None)

def helper(x): return x + LIMIT

def top(x): return [Point().norm(), helper(x)]

def there_and_back(value):
    there = "import cloudpickle, sys; value = cloudpickle.load(sys.stdin.buffer);"
    there += "cloudpickle.dump(value, sys.stdout.buffer)"
    done = subprocess.run([sys.executable, "-c", there], input=cloudpickle.dumps(value), capture_output=True)
    return cloudpickle.loads(done.stdout)

def report():
    print(identify_class(Point).digest.hex(), identify_function(top).digest.hex())

if "late" not in sys.argv:
    report()
before = Point.norm
there_and_back(Point())
assert Point.norm is not before
report()
"""


def test_a_class_whose_instances_came_back_from_a_process(tmp_path: Path) -> None:
    """They bring copies of its methods, which replace those of a script's class."""
    (tmp_path / "script.py").write_text(SCRIPT)
    cells = "import linecache, types, sys\nmodule = sys.modules['__main__'] = types.ModuleType('__main__')\n"
    cells += (
        f"text = {SCRIPT!r}\nlinecache.cache['<cell>'] = (len(text), None, text.splitlines(True), '<cell>')\n"
    )
    cells += "exec(compile(text, '<cell>', 'exec'), vars(module))\n"
    (tmp_path / "notebook.py").write_text(cells)
    found = set()
    for command in (["script.py"], ["script.py", "late"], ["notebook.py"], ["notebook.py", "late"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.update(done.stdout.splitlines())
    assert len(found) == 1
