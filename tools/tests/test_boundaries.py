"""Every rule of check_boundaries, broken once in a made-up workspace; and the real one, which is clean."""

from __future__ import annotations

from pathlib import Path

import check_boundaries
import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = "weft-interfaces>=0.1,<1"

PYPROJECT = """\
[project]
name = "{dist}"
dependencies = {dependencies}
"""


class Workspace:
    """A small workspace on disk: interfaces, core, an implementing package and meta, all of them clean."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("packages/interfaces", "weft-interfaces", [])
        self.add("packages/core", "weft-core", [CONTRACTS])
        self.add("packages/executors/fast", "weft-executor-fast", [CONTRACTS, "cloudpickle>=3"])
        self.add("packages/meta", "weft", [CONTRACTS, "weft-core>=0.1,<1"])

    def add(self, folder: str, dist: str, dependencies: list[str]) -> None:
        import_name = dist.replace("-", "_")
        self.write(f"{folder}/pyproject.toml", PYPROJECT.format(dist=dist, dependencies=dependencies))
        for name in ("README.md", "CHANGELOG.md", "LICENSE", "tests/test_it.py"):
            self.write(f"{folder}/{name}", "")
        for name in ("__init__.py", "__about__.py", "py.typed"):
            self.write(f"{folder}/src/{import_name}/{name}", "")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def depend(self, folder: str, dist: str, dependencies: list[str]) -> None:
        self.write(f"{folder}/pyproject.toml", PYPROJECT.format(dist=dist, dependencies=dependencies))

    def problems(self) -> list[str]:
        return list(check_boundaries.relative_to(self.root, check_boundaries.check(self.root)))

    def only_problem(self) -> str:
        (problem,) = self.problems()
        return problem


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


INTERFACES = "packages/interfaces/src/weft_interfaces"
CORE = "packages/core/src/weft_core"
FAST = "packages/executors/fast/src/weft_executor_fast"
META = "packages/meta/src/weft"


def test_a_clean_workspace_has_no_problem(workspace: Workspace) -> None:
    workspace.write(f"{INTERFACES}/a.py", "import json\nimport tomllib\nfrom .b import x\n")
    workspace.write(f"{INTERFACES}/b.py", "x = 1\n")
    workspace.write(f"{CORE}/_interfaces.py", "import weft_interfaces\n")
    workspace.write(f"{CORE}/graph.py", "from ._interfaces import weft_interfaces\n")
    workspace.write(f"{FAST}/pool.py", "import cloudpickle\nfrom weft_interfaces.a import x\n")
    workspace.write(f"{META}/run.py", "import weft_core\nfrom weft_interfaces import a\n")
    assert workspace.problems() == []


def test_the_real_workspace_is_clean() -> None:
    assert list(check_boundaries.relative_to(ROOT, check_boundaries.check(ROOT))) == []


def test_the_real_workspace_is_read() -> None:
    dists = {package.dist for package in check_boundaries.find_packages(ROOT)}
    assert dists >= {"weft", "weft-core", "weft-executor-local", "weft-interfaces"}


@pytest.mark.parametrize(
    ("file", "source", "where", "rule", "words"),
    [
        (f"{INTERFACES}/a.py", "import json\nimport rich\n", 2, "standard-library", "not rich"),
        (f"{INTERFACES}/a.py", "import weft_core\n", 1, "standard-library", "not weft_core"),
        (f"{INTERFACES}/a.py", "def f():\n    import rich\n", 2, "standard-library", "not rich"),
        (f"{CORE}/a.py", "import cloudpickle\n", 1, "standard-library", "not cloudpickle"),
        (f"{CORE}/a.py", "\nimport weft_executor_fast\n", 2, "standard-library", "not weft_executor_fast"),
        (f"{CORE}/a.py", "import weft_interfaces.call\n", 1, "vendoring", "Import from ._interfaces"),
        (f"{CORE}/a.py", "from ..weft_interfaces import call\n", 1, "relative", "leaves weft_core"),
        (f"{FAST}/a.py", "from weft_core import Kernel\n", 1, "star", "sibling weft_core: only weft may"),
        (f"{FAST}/a.py", "def f():\n    from weft_core import x\n", 2, "star", "sibling weft_core"),
        (f"{FAST}/a.py", "import importlib\nimportlib.import_module('weft_core')\n", 2, "star", "weft_core"),
        (f"{FAST}/a.py", "import weft_executor_fast.b\n", 1, "relative", "Import it relatively"),
        (f"{FAST}/sub/a.py", "from .....b import c\n", 1, "relative", "leaves weft_executor_fast"),
        (f"{FAST}/a.py", "import numpy\n", 1, "undeclared", "numpy is not among the dependencies"),
        (f"{META}/a.py", "import weft_executor_fast\n", 1, "undeclared", "weft_executor_fast is not among"),
    ],
)
def test_a_wrong_import_is_found(
    workspace: Workspace, file: str, source: str, where: int, rule: str, words: str
) -> None:
    workspace.write(file, source)
    problem = workspace.only_problem()
    assert problem.startswith(f"{file}:{where}: [{rule}] ")
    assert words in problem


def test_libraries_that_are_known_without_being_needed_may_be_imported(workspace: Workspace) -> None:
    workspace.write(f"{FAST}/a.py", "import numpy\nimport pandas\n")
    pyproject = workspace.root / FAST.partition("/src/")[0] / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + '\n[tool.weft]\nintegrations = ["numpy"]\n')
    assert "pandas is not among" in workspace.only_problem()


def test_type_checking_does_not_excuse_a_sibling(workspace: Workspace) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from weft_core import Kernel\n"
    workspace.write(f"{FAST}/a.py", guarded)
    assert f"{FAST}/a.py:3: [star]" in workspace.only_problem()


def test_type_checking_excuses_what_type_checkers_bring(workspace: Workspace) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from typing_extensions import Self\n"
    workspace.write(f"{CORE}/a.py", source)
    assert workspace.problems() == []
    workspace.write(f"{CORE}/a.py", "from typing_extensions import Self\n")
    assert "[standard-library]" in workspace.only_problem()


def test_the_seam_may_look_beside_the_kernel(workspace: Workspace) -> None:
    seam = (
        "import importlib\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import weft_interfaces\n"
        "else:\n    weft_interfaces = importlib.import_module('..weft_interfaces', __package__)\n"
    )
    workspace.write(f"{CORE}/_interfaces.py", seam)
    assert workspace.problems() == []


def test_the_seam_may_look_for_nothing_else(workspace: Workspace) -> None:
    workspace.write(f"{CORE}/_interfaces.py", "from ..weft_executor_fast import x\n")
    assert f"{CORE}/_interfaces.py:1: [relative]" in workspace.only_problem()


def test_types_of_the_contracts_may_be_named_anywhere_in_the_kernel(workspace: Workspace) -> None:
    guarded = "import typing\nif typing.TYPE_CHECKING:\n    from weft_interfaces import Call\n"
    workspace.write(f"{CORE}/a.py", guarded)
    assert workspace.problems() == []


# -- dependencies --------------------------------------------------------------------------------------------


def test_interfaces_may_not_depend_on_anything(workspace: Workspace) -> None:
    workspace.depend("packages/interfaces", "weft-interfaces", ["attrs>=23"])
    assert "packages/interfaces/pyproject.toml:3: [standard-library]" in workspace.only_problem()


def test_core_may_not_depend_on_a_third_party(workspace: Workspace) -> None:
    workspace.depend("packages/core", "weft-core", [CONTRACTS, "attrs>=23"])
    assert "packages/core/pyproject.toml:3: [standard-library]" in workspace.only_problem()


def test_an_implementation_may_not_depend_on_another(workspace: Workspace) -> None:
    workspace.depend("packages/executors/fast", "weft-executor-fast", [CONTRACTS, "weft-core>=0.1,<1"])
    problem = workspace.only_problem()
    assert problem.startswith("packages/executors/fast/pyproject.toml:3: [star] ")
    assert "weft-core: only weft may" in problem


@pytest.mark.parametrize("bounds", ["", "==0.1", ">=0.1", ">=0.1,<2", "<1", "~=0.1"])
def test_a_sibling_has_both_bounds(workspace: Workspace, bounds: str) -> None:
    workspace.depend("packages/core", "weft-core", [f"weft-interfaces{bounds}"])
    assert "packages/core/pyproject.toml:3: [bounds]" in workspace.only_problem()


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("Foo.Bar>=1", "foo-bar"), ('tomli>=2; python_version < "3.11"', "tomli"), ("a_b[c] ~= 2", "a-b")],
)
def test_names_are_normalised(requirement: str, name: str) -> None:
    assert check_boundaries.normalise(requirement) == name


def test_a_distribution_may_provide_another_name_than_its_own(workspace: Workspace) -> None:
    workspace.depend("packages/executors/fast", "weft-executor-fast", [CONTRACTS, "pytest>=8"])
    workspace.write(f"{FAST}/a.py", "import _pytest\n")
    assert workspace.problems() == []


# -- cycles --------------------------------------------------------------------------------------------------


def test_a_cycle_is_found_once(workspace: Workspace) -> None:
    workspace.write(f"{FAST}/a.py", "from .b import x\n")
    workspace.write(f"{FAST}/b.py", "\nfrom . import c\n")
    workspace.write(f"{FAST}/c.py", "try:\n    from .a import y\nexcept ImportError:\n    pass\n")
    problem = workspace.only_problem()
    assert problem.startswith(f"{FAST}/a.py:1: [cycle] ")
    assert (
        "weft_executor_fast.a -> weft_executor_fast.b -> weft_executor_fast.c -> weft_executor_fast.a"
        in problem
    )


def test_a_cycle_through_the_package_is_found(workspace: Workspace) -> None:
    workspace.write(f"{FAST}/__init__.py", "from .a import x\n")
    workspace.write(f"{FAST}/a.py", "from . import __version__\n")
    assert f"{FAST}/__init__.py:1: [cycle]" in workspace.only_problem()


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x\n",
        "def f():\n    from .a import x\n",
        "class A:\n    async def f(self):\n        from .a import x\n",
    ],
)
def test_what_does_not_run_at_import_is_no_cycle(workspace: Workspace, source: str) -> None:
    workspace.write(f"{FAST}/a.py", "from .b import x\n")
    workspace.write(f"{FAST}/b.py", source)
    assert workspace.problems() == []


def test_the_other_branch_of_type_checking_runs(workspace: Workspace) -> None:
    workspace.write(f"{FAST}/a.py", "from .b import x\n")
    workspace.write(f"{FAST}/b.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from .a import x\n")
    assert "[cycle]" in workspace.only_problem()


def test_importing_submodules_from_the_package_is_no_cycle(workspace: Workspace) -> None:
    workspace.write(f"{FAST}/__init__.py", "from . import a, b\n")
    workspace.write(f"{FAST}/a.py", "from . import b\n")
    workspace.write(f"{FAST}/b.py", "from .__about__ import __version__\n")
    assert workspace.problems() == []


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing",
    [
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "src/weft_core/py.typed",
        "src/weft_core/__about__.py",
        "tests/test_it.py",
    ],
)
def test_a_missing_file_is_found(workspace: Workspace, missing: str) -> None:
    (workspace.root / "packages/core" / missing).unlink()
    problem = workspace.only_problem()
    assert "[files] weft-core has no" in problem


def test_a_root_without_packages_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_boundaries.main([str(tmp_path)]) == 1
    assert "no package under packages/" in capsys.readouterr().out


def test_main_prints_problems_with_short_paths(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.write(f"{CORE}/a.py", "import rich\n")
    assert check_boundaries.main([str(workspace.root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{CORE}/a.py:1: [standard-library] ")
    assert lines[-1] == "boundaries: 4 packages, 1 problems"


def test_main_succeeds_when_clean(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_boundaries.main([str(workspace.root)]) == 0
    assert capsys.readouterr().out == "boundaries: 4 packages, 0 problems\n"
