# ruff: noqa: E501  programs in a line
"""The same function in a script, a module, a notebook, a session; and what is installed around it."""

from __future__ import annotations

import gc
import json
import linecache
import subprocess
import sys
import textwrap
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import weft_memo
from weft_memo import identify_class, identify_function

SCRIPT = """
    import dataclasses, sys, logging
    from weft_memo import identify_class, identify_function

    LOG = logging.getLogger(__name__)
    HERE = __file__

    @dataclasses.dataclass
    class Point:
        x: int = 3
        def norm(self): return abs(self.x)

    class Plain:
        def __init__(self): self.point = Point(4)

    PLAIN = Plain()

    def helper(x):
        LOG.info("%s", __name__)
        return Point(x).norm() + PLAIN.point.x

    def simulate(x):
        return helper(x)

    def report():
        ids = [identify_function(simulate), identify_function(simulate, "body"), identify_class(Point)]
        name = identify_function(simulate, "name")
        print(*(one.digest.hex() for one in ids), name.digest.hex(), *sorted(ids[0].parts), sep="\\n")

    if __name__ == "__main__":
        report()
"""
RUNNER = """
    import runpy, sys, types
    path = sys.argv[1]
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    exec(compile(open(path).read(), path, "exec"), vars(module))
"""


def run(folder: Path, *command: str, python: str = sys.executable) -> list[str]:
    result = subprocess.run([python, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_script_and_a_module_are_the_same(tmp_path: Path) -> None:
    for name in ("script.py", "pkg/script.py", "pkg/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if "init" in name else textwrap.dedent(SCRIPT))
    (tmp_path / "runner.py").write_text(textwrap.dedent(RUNNER))
    script = run(tmp_path, "script.py")
    assert "function script.simulate" in script
    assert run(tmp_path, str(tmp_path / "script.py")) == script
    assert run(tmp_path, "-c", "import script; script.report()") == script
    assert run(tmp_path, "runner.py", "script.py") == script
    assert run(tmp_path, "-m", "script") == script
    packaged = run(tmp_path, "-m", "pkg.script")
    assert packaged[:3] == script[:3]
    assert "helper pkg.script.helper" in packaged
    assert run(tmp_path, "-c", "import pkg.script as s; s.report()") == packaged


class Notebook:
    """Runs cells as IPython does: each compiled under a name of its own that linecache knows."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.space: dict[str, Any] = vars(self.module)
        self.count = 0

    def run(self, cell: str) -> dict[str, Any]:
        self.count += 1
        name, text = f"/tmp/ipykernel_1/{id(self)}{self.count}.py", textwrap.dedent(cell)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), self.space)
        return self.space


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    return made


def test_a_notebook_sees_that_a_helper_was_run_again(notebook: Notebook) -> None:
    notebook.run("def helper(x):\n    return x + 1")
    notebook.run("LIMIT = 3\ndef simulate(x):\n    return helper(x) + LIMIT")
    simulate = notebook.space["simulate"]
    before = identify_function(simulate)
    assert identify_function(simulate) is before
    notebook.run("def helper(x):\n    # the same\n    return (x + 1)")
    assert identify_function(simulate).digest == before.digest
    notebook.run("def helper(x):\n    return x + 2")
    assert identify_function(simulate).digest != before.digest
    notebook.run("def helper(x):\n    return x + 1\nLIMIT = True + 2")
    assert identify_function(simulate).digest == before.digest
    notebook.run("LIMIT = 3.0")
    assert identify_function(simulate).digest != before.digest
    notebook.run("LIMIT = 3\nlen = max")
    assert identify_function(simulate).digest == before.digest
    notebook.run("del LIMIT")
    assert identify_function(simulate).digest != before.digest


def test_a_notebook_and_a_module_are_the_same(load, notebook: Notebook) -> None:
    source = """
        SCALE = 2
        class Model:
            size = 3
            def fit(self, x): return x * SCALE
        def simulate(x):
            return Model().fit(x)
    """
    for cell in source.split("        def simulate", 1):
        notebook.run(cell if "SCALE" in cell else "def simulate" + textwrap.dedent(cell))
    in_module = load(source)
    assert (
        identify_function(notebook.space["simulate"]).digest == identify_function(in_module.simulate).digest
    )
    assert identify_class(notebook.space["Model"]).digest == identify_class(in_module.Model).digest


def test_a_builtin_that_is_shadowed_later(notebook: Notebook) -> None:
    notebook.run("def simulate(x):\n    return len(x)")
    before = identify_function(notebook.space["simulate"])
    notebook.run("def len(x):\n    return 7")
    assert identify_function(notebook.space["simulate"]).digest != before.digest


def test_a_class_that_is_defined_again(notebook: Notebook) -> None:
    notebook.run("class A:\n    def f(self): return 1\na = A()\ndef simulate(x): return a.f()")
    before = identify_function(notebook.space["simulate"])
    notebook.run("class A:\n    def f(self): return 2")
    notebook.run("a = A()")
    assert identify_function(notebook.space["simulate"]).digest != before.digest


def test_code_that_is_replaced_in_place_is_seen(load) -> None:
    module = load("def helper(x): return x + 1\ndef other(x): return x + 2\ndef top(x): return helper(x)\n")
    before = identify_function(module.top)
    module.helper.__code__ = module.other.__code__
    changed = identify_function(module.top)
    assert changed.digest != before.digest
    module.top.__code__ = module.other.__code__
    assert identify_function(module.top).digest not in (before.digest, changed.digest)


def test_a_method_that_is_replaced_is_seen(load) -> None:
    module = load("class A:\n    def f(self): return 1\ndef g(self): return 2\ndef top(x): return A().f()\n")
    before = identify_function(module.top)
    module.A.f = module.g
    assert identify_function(module.top).digest != before.digest


def test_data_that_a_function_reached_is_not_kept_alive() -> None:
    class Data(list):
        pass

    space: dict[str, Any] = {"__name__": "made", "DATA": Data([1])}
    exec("def top(x): return DATA", space)
    before = identify_function(space["top"])
    data = weakref.ref(space["DATA"])
    space["DATA"] = Data([2])
    gc.collect()
    assert data() is None
    assert identify_function(space["top"]).digest != before.digest


PACKAGE = """
    import thirdparty, thirdparty.sub as sub
    from thirdparty import tool
    def one(x): return thirdparty.tool(x)
    def two(x): return sub.other(x)
    def three(x): return tool(x)
    def four(x):
        import thirdparty.sub
        return thirdparty.sub.other(x)
    def five(x):
        from thirdparty import lazy
        return lazy
    class Model(thirdparty.Base): pass
    def six(x): return Model()
    def none(x): return x
"""


@pytest.mark.parametrize("folder", ["site-packages", "vendored"])
def test_a_package_counts_by_its_version(load, folder: str) -> None:
    def make(version: str, body: str = "x") -> types.ModuleType:
        return load(
            {
                f"{folder}/thirdparty/__init__.py": f"def tool(x): return {body}\nclass Base: pass\n",
                f"{folder}/thirdparty/sub.py": f"def other(x): return {body}\n",
                f"{folder}/Third_Party-1.dist-info/METADATA": f"Name: Third-Party\nVersion: {version}\n",
                f"{folder}/Third_Party-1.dist-info/top_level.txt": "thirdparty\n",
                f"{folder}/thirdparty-1.dist-info/METADATA": f"Name: thirdparty\nVersion: {version}\n",
                "start.py": f"import sys, os; sys.path.insert(0, os.path.join(os.path.dirname(__file__), {folder!r}))\n",
                "app.py": "import start\n" + textwrap.dedent(PACKAGE),
            },
        )

    for name in ("one", "two", "three", "four", "five", "six"):
        one = identify_function(getattr(make("1.2"), name))
        same = identify_function(getattr(make("1.2", "x + 1"), name))
        other = identify_function(getattr(make("1.3"), name))
        assert one.digest == same.digest != other.digest
        assert one.descriptions[one.parts["package thirdparty"]] == "thirdparty 1.2"
        assert one.parts["package thirdparty"] != other.parts["package thirdparty"]
    assert not [name for name in identify_function(make("1.2").none).parts if name.startswith("package")]


def test_weft_counts_by_name_alone() -> None:
    def top(x: Any) -> Any:
        return weft_memo.digest(x)

    assert list(identify_function(top).parts) == [f"function {__name__}.{top.__qualname__}"]


IMPORTS = {
    "a member": ("from lib import norm", "norm(x)", True),
    "a member under another name": ("from lib import norm as n", "n(x)", True),
    "a module": ("import lib", "lib.norm(x)", True),
    "a submodule": ("import pkg.sub", "pkg.sub.norm(x)", True),
    "a submodule under another name": ("import pkg.sub as s", "s.norm(x)", True),
    "a submodule from its package": ("from pkg import sub", "sub.norm(x)", True),
    "a module as a whole": ("import lib", "vars(lib)", False),
}


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("name", IMPORTS)
def test_imports_inside_a_function(load, name: str, loaded: bool) -> None:
    statement, expression, precise = IMPORTS[name]
    lib = "def norm(x): return x + {}\ndef other(x): return {}\n"
    first = f"{statement}\n" if loaded else ""

    def make(value: int, other: int) -> bytes:
        text = lib.format(value, other)
        files = {
            "lib.py": text,
            "pkg/__init__.py": "",
            "pkg/sub.py": text,
            "app.py": f"{first}def top(x):\n    {statement}\n    return {expression}\n",
        }
        module = load(files)
        return identify_function(module.top).digest

    assert make(1, 1) == make(1, 1) != make(2, 1)
    assert (make(1, 1) == make(1, 2)) == (precise and loaded)
    assert loaded or not {"lib", "pkg"} & sys.modules.keys()


def test_a_relative_import_inside_a_function(load) -> None:
    def make(value: int) -> bytes:
        files = {
            "pkg/__init__.py": "",
            "pkg/lib.py": f"def norm(x): return x + {value}\n",
            "pkg/app.py": "def top(x):\n    from .lib import norm\n    from . import lib\n    return norm(x)\n",
        }
        return identify_function(load(files, "pkg.app").top).digest

    assert make(1) != make(2)


def test_a_module_that_is_passed_on_counts_as_a_whole(load) -> None:
    def make(value: int, comment: str = "") -> weft_memo.FunctionIdentity:
        files = {
            "lib.py": f"import deep\n{comment}\ndef norm(x): return deep.f(x)\n",
            "deep.py": f"def f(x): return {value}\n",
            "app.py": "import lib\ndef top(x): return use(lib)\ndef use(m): return m.norm(1)\n",
        }
        return identify_function(load(files).top)

    assert make(1).digest == make(1, "# said").digest != make(2).digest
    assert {"module lib", "module deep"} <= make(1).parts.keys()


def test_a_function_from_a_zip_file(tmp_path: Path, load) -> None:
    import zipfile

    source = "def helper(x): return x + 1\ndef top(x): return helper(x)\n"
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("zipped.py", source)
    code = "import sys; sys.path.insert(0, 'app.zip'); import zipped; from weft_memo import identify_function as i;"
    code += "one = i(zipped.top); print(one.digest.hex()); print('python' in one.parts)"
    assert run(tmp_path, "-c", code) == [identify_function(load(source).top).digest.hex(), "False"]


def test_a_module_of_which_only_the_compiled_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text("def helper(x): return x + 1\ndef top(x): return helper(x)\n")
    code = "import py_compile, os; py_compile.compile('only.py', 'only.pyc'); os.remove('only.py')"
    run(tmp_path, "-c", code)
    code = "import only, json; from weft_memo import identify_function as i; print(json.dumps(sorted(i(only.top).parts)))"
    (parts,) = run(tmp_path, "-c", code)
    assert json.loads(parts) == ["function only.top", "helper only.helper", "python"]
