"""Modules for a login node's Python: what they say there, and which cannot go."""

from __future__ import annotations

import ast
import io
import json
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import interpreters
import pytest
from weft_executor_htex.agent import sources
from weft_executor_htex.agent.bundle import bundle
from weft_executor_htex.agent.lower import UnfitError, lower
from weft_executor_htex.agent.plan import Plan
from weft_executor_htex.agent.sources import find_sources
from weft_interfaces import Blocks
from weft_interfaces.memory import InMemoryProvider

pytestmark = pytest.mark.once


def _pythons() -> list[str]:
    """This one, and those that are older than what the rest needs, if there are some."""
    found = [sys.executable]
    for version in ((3, 8), (3, 9)):
        name = "python{}.{}".format(*version)
        answers = [interpreters.probe(file) for file in interpreters.candidates() if file.name == name]
        found += [str(path) for answer, path in filter(None, answers) if answer[:2] == version][:1]
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent's file, with what stands there for what is newer."""
    path = tmp_path_factory.mktemp("agent") / bundle().name
    path.write_bytes(bundle().data)
    return path


def run_on(python: str, file: Path, source: str) -> Any:
    """What a lowered module has as ``value``, in JSON."""
    code = f"import sys; sys.path.insert(0, {str(file)!r})\n"
    code += f"scope = {{}}\nexec(compile({source!r}, 'module', 'exec'), scope)\n"
    code += "import json; print(json.dumps(scope['value']))"
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{source}"
    return json.loads(done.stdout)


MODULES = {
    "a type alias": ("from typing import Any, TypeAlias\nName: TypeAlias = 'str | None'\nvalue = 1", 1),
    "aliases of generic types": (
        """
        from collections.abc import Mapping, Callable
        Table = Mapping[str, tuple[int, ...]]
        Act = Callable[[int], list[str]]
        Pair = tuple[str, int | None]
        class Words(list[str]): ...
        value = [*Words("ab"), *list[int]([1])]
        """,
        ["a", "b", 1],
    ),
    "a named tuple and its annotations": (
        """
        from typing import NamedTuple
        class Point(NamedTuple):
            x: int | None
            rest: dict[str, list[int]] = {}
        value = Point(1).x
        """,
        1,
    ),
    "dataclasses": (
        """
        from dataclasses import dataclass, field, replace
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Job:
            name: str
            words: list[str] = field(default_factory=list)
            left: int | None = None
        @dataclass(slots=True, eq=False)
        class Seen:
            at: float = 0.5
        value = [replace(Job(name="a"), left=3).left, Job(name="b").words, Seen().at]
        """,
        [3, [], 0.5],
    ),
    "the module of dataclasses": (
        """
        import dataclasses, os
        @dataclasses.dataclass(frozen=True, slots=True)
        class Job:
            name: str
        value = [field.name for field in dataclasses.fields(Job("x"))]
        """,
        ["name"],
    ),
    "beginnings and ends of texts": (
        """
        name = "job.sh"
        value = [
            name.removesuffix(".sh").removeprefix("j"), (name
            + "").removeprefix(
                "x"), [b"ab".removesuffix((b"")).decode()],
        ]
        """,
        ["ob", "job.sh", ["ab"]],
    ),
    "zip": (
        "value = [list(zip([1], 'a', strict=True)), list(zip(*[[1], [2]], strict=False))]",
        [[[1, "a"]], [[1, 2]]],
    ),
    "a cache": (
        "import functools\n@functools.cache\ndef one():\n    return 1\nvalue = one()",
        1,
    ),
    "with parentheses": (
        """
        from contextlib import nullcontext as at, suppress
        with (
            suppress(ValueError),  # of which
            at(
                1
            ) as one,
            at(2) as two,
        ) :
            value = [one, two]
        with (at(3) as three): value += [three]
        with (at(4)): pass
        with at(5) as five, at(6) as six:
            value += [five, six]
        """,
        [1, 2, 3, 5, 6],
    ),
    "a union of dictionaries": ("value = {'a': 1}\nvalue |= {'b': 2,\n    'c': 3}", {"a": 1, "b": 2, "c": 3}),
}


@pytest.mark.parametrize("python", _pythons())
@pytest.mark.parametrize("what", MODULES)
def test_it_says_the_same_on_an_older_python(python: str, what: str, file: Path) -> None:
    body, expected = MODULES[what]
    source = "from __future__ import annotations\n" + textwrap.dedent(body)
    lowered = lower(source)
    assert len(lowered.splitlines()) == len(source.splitlines()), "lines stay where they are"
    assert run_on(python, file, lowered) == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("match 1:\n    case _: pass", "Pattern matching is only supported in Python 3.10"),
        ("from functools import cache", "line 1: functools.cache"),
        ("'a'.removeprefix('b')", "from __future__"),
    ],
)
def test_what_cannot_be_said_there_is_refused_in_words(source: str, words: str) -> None:
    with pytest.raises(UnfitError, match=words.replace("(", r"\(")):
        lower(source)


# -- which modules go along ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a user's own modules are."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sources._read.cache_clear()


def write(folder: Path, **files: str) -> None:
    for name, source in files.items():
        (folder / f"{name}.py").write_text(f"from __future__ import annotations\n{textwrap.dedent(source)}")


def test_what_a_module_imports_goes_along(folder: Path) -> None:
    """What only type checkers need does not, nor what a function imports and is not there."""
    write(
        folder,
        site_a="""
            import json
            from typing import TYPE_CHECKING
            from site_b import tool
            if TYPE_CHECKING:
                import site_checkers
            def later():
                import site_c
                import site_nowhere
        """,
        site_b="def tool(): ...",
        site_c="",
    )
    found = find_sources(["site_a"])
    assert set(found) == {"site_a.py", "site_b.py", "site_c.py"}


def test_a_package_that_only_lists_its_modules_is_left_empty(folder: Path) -> None:
    """Unless somebody wants a name of it."""
    package = folder / "sites"
    package.mkdir()
    (package / "__init__.py").write_text("from .one import One\nfrom .two import Two\n__all__ = ['One']\n")
    (package / "one.py").write_text("class One: ...\n")
    (package / "two.py").write_text("class Two: ...\n")
    assert find_sources(["sites.one"]) == {"sites/__init__.py": "", "sites/one.py": "class One: ...\n"}
    write(folder, site_user="from sites import One")
    assert set(find_sources(["site_user"])) == {
        "site_user.py",
        "sites/__init__.py",
        "sites/one.py",
        "sites/two.py",
    }


def test_a_package_that_does_something_when_it_is_imported_goes_as_it_is(folder: Path) -> None:
    package = folder / "sites"
    package.mkdir()
    (package / "__init__.py").write_text("print('hello')\n")
    (package / "one.py").write_text("")
    assert find_sources(["sites.one"])["sites/__init__.py"] == "print('hello')\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("__main__", "defined in the script that runs"),
        ("site_nowhere", "module site_nowhere is not there"),
        ("msgspec", "is not Python's source"),
        ("site_new", "module site_new, line 3: Pattern matching"),
    ],
)
def test_what_cannot_go_along_is_named(folder: Path, name: str, words: str) -> None:
    write(folder, site_new="match 1:\n    case _: pass")
    with pytest.raises(UnfitError, match=words):
        find_sources([name])


def test_names_that_a_package_finds_later_are_found(folder: Path) -> None:
    write(folder, site_user="from weft_interfaces import JobId, parse_bytes")
    found = set(find_sources(["site_user"]))
    assert {"weft_interfaces/__init__.py", "weft_interfaces/provider.py", "weft_interfaces/units.py"} <= found
    assert "weft_interfaces/pool.py" not in found


# -- the contracts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", _pythons())
def test_settings_that_were_pickled_here_are_read_there(python: str, tmp_path: Path) -> None:
    made = bundle(tuple(f"weft_interfaces.{name}" for name in ("block", "channel", "policy", "provider")))
    path = tmp_path / made.name
    path.write_bytes(made.data)
    blocks = Blocks(provider=None, memory="4GB", walltime="1h", max=3)  # type: ignore[arg-type]
    code = (
        "import pickle, sys, json\n"
        f"sys.path.insert(0, {str(path)!r})\n"
        f"blocks = pickle.loads({pickle.dumps(blocks, 4)!r})\n"
        "import weft_interfaces\n"
        "for name in ('BlockExecutor', 'Channel', 'ConfigError', 'JobStatus', 'ScalingState', 'Event'):\n"
        "    getattr(weft_interfaces, name)\n"
        "print(json.dumps([blocks.memory, blocks.shape.walltime, blocks.max]))\n"
    )
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [4_000_000_000, 3600.0, 3]


def test_a_provider_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(UnfitError, match=r"cannot be pickled: .*weft_interfaces\.memory\.provider"):
        Plan("htex", "run1", maker, Blocks(provider=InMemoryProvider()))


maker: Any = print  # which can be pickled, and makes no scaler


def test_the_file_is_the_same_syntax_for_the_oldest_python() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle().data)) as archive:
        for name in archive.namelist():
            ast.parse(archive.read(name), feature_version=(3, 8))
