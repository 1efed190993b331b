# ruff: noqa: E501  programs in a line
"""What a function may hold, and what may stand in its place."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import InputError
from weft_memo import identify_function

DIGESTS = Path(__file__).parent / "digests.json"
REWRITE = bool(os.environ.get("WEFT_REWRITE"))
# Each has a place where {} stands; another content there makes another function of `top`.
PLACES = {
    "partial": "import functools\ndef f(x, y): return x\ntop = functools.partial(f, {})",
    "function of a partial": "import functools\ndef f(x): return x + {}\ntop = functools.partial(f, 1)",
    "partial in a global": (
        "import functools\ndef f(x, y): return x\np = functools.partial(f, y={})\ndef top(x): return p(x)"
    ),
    "lru_cache": "import functools\n@functools.lru_cache\ndef f(x): return x + {}\ndef top(x): return f(x)",
    "cache as the function": "import functools\n@functools.cache\ndef top(x): return x + {}",
    "singledispatch": (
        "import functools\n@functools.singledispatch\ndef f(x): return x\n"
        "@f.register\ndef _(x: int): return x + {}\ndef top(x): return f(x)"
    ),
    "singledispatchmethod": (
        "import functools\nclass A:\n    @functools.singledispatchmethod\n    def f(self, x): return x\n"
        "    @f.register\n    def _(self, x: int): return x + {}\ndef top(x): return A().f(x)"
    ),
    "bound method": (
        "class A:\n    def __init__(self, k): self.k = k\n    def f(self, x): return x * self.k\ntop = A({}).f"
    ),
    "code of a bound method": "class A:\n    def f(self, x): return x * {}\ntop = A().f",
    "bound method in a global": (
        "class A:\n    def __init__(self, k): self.k = k\n    def f(self, x): return x * self.k\n"
        "g = A({}).f\ndef top(x): return g(x)"
    ),
    "callable instance": (
        "class A:\n    def __init__(self, k): self.k = k\n    def __call__(self, x): return x * self.k\ntop = A({})"
    ),
    "class method": "class A:\n    @classmethod\n    def f(cls): return {}\ndef top(x): return A.f()",
    "property": "class A:\n    @property\n    def f(self): return {}\ndef top(x): return A().f",
    "cached_property": (
        "import functools\nclass A:\n    @functools.cached_property\n    def f(self): return {}\n"
        "def top(x): return A().f"
    ),
    "metaclass": (
        "class M(type):\n    def f(cls): return {}\nclass A(metaclass=M): pass\ndef top(x): return A.f()"
    ),
    "instance": (
        "class A:\n    def __init__(self, k): self.k = k\na = A({})\ndef top(x): return a.k"
    ),
    "class of an instance": "class A:\n    def f(self): return {}\na = A()\ndef top(x): return a.f()",
    "slots": "class A:\n    __slots__ = ('k',)\na = A()\na.k = {}\ndef top(x): return a.k",
    "dataclass default": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    k: int = {}\ndef top(x): return A().k"
    ),
    "dataclass factory": (
        "import dataclasses\ndef make(): return {}\n@dataclasses.dataclass\nclass A:\n"
        "    k: int = dataclasses.field(default_factory=make)\ndef top(x): return A().k"
    ),
    "dataclass options": (
        "import dataclasses\n@dataclasses.dataclass(frozen={})\nclass A:\n    k: int\ndef top(x): return A(x)"
    ),
    "enum": "import enum\nclass E(enum.Enum):\n    A = {}\ndef top(x): return E.A.value",
    "method of an enum": (
        "import enum\nclass E(enum.Enum):\n    A = 1\n    def f(self): return {}\ndef top(x): return E.A.f()"
    ),
    "enum member in a global": "import enum\nclass E(enum.Enum):\n    A = {}\ne = E.A\ndef top(x): return e",
    "named tuple": "import typing\nclass N(typing.NamedTuple):\n    a: int = {}\ndef top(x): return N()",
    "abstract base": (
        "import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
        "    def g(self): return {}\ndef top(x): return A.g(x)"
    ),
    "table of functions": "def f(x): return x + {}\nT = dict(a=f)\ndef top(x): return T['a'](x)",
    "nested table of functions": (
        "def f(x): return x + {}\nT = [(1, dict(a=[f]))]\ndef top(x): return T[0][1]['a'][0](x)"
    ),
    "list of classes": "class A:\n    def f(self): return {}\nT = [A]\ndef top(x): return T[0]().f()",
    "values in an instance": (
        "class A: pass\na = A()\na.parts = [dict(x={})]\ndef top(x): return a.parts"
    ),
    "nested function": "def top(x):\n    def f(y): return y + {}\n    return f(x)",
    "helper of a nested function": (
        "def h(x): return x + {}\ndef top(x):\n    def f(y): return h(y)\n    return f(x)"
    ),
    "helper of a comprehension": "def h(x): return x + {}\ndef top(x): return [h(y) for y in x]",
    "helper of a lambda": "def h(x): return x + {}\ndef top(x): return list(map(lambda y: h(y), x))",
    "helper of a nested class": (
        "def h(x): return x + {}\ndef top(x):\n    class A:\n        k = h(1)\n    return A.k"
    ),
    "generator": "def h(x): return x + {}\ndef top(x):\n    yield h(x)",
    "async": "async def h(x): return x + {}\nasync def top(x): return await h(x)",
    "recursion": "def top(x): return x and top(x - {})",
    "mutual recursion": "def top(x): return x and other(x)\ndef other(x): return top(x - {})",
    "super": (
        "class B:\n    def f(self): return {}\nclass A(B):\n    def f(self): return super().f()\n"
        "def top(x): return A().f()"
    ),
    "two decorators": (
        "import functools\ndef d(k):\n    def w(f):\n        @functools.wraps(f)\n        def inner(*a):\n"
        "            return f(*a) * k\n        return inner\n    return w\n@d(1)\n@d({})\ndef top(x): return x"
    ),
    "argument of a library's decorator": (
        "import contextlib\n@contextlib.contextmanager\ndef h(): yield {}\ndef top(x):\n    with h(): return x"
    ),
    "keyword default of a helper": "def h(*, k={}): return k\ndef top(x): return h()",
    "walrus, f-string and match": (
        "def top(x):\n    match x:\n        case [y, *_] if (z := y): return f'{{z!r:>{{y}}}} and ' 'more {}'\n"
        "        case _: return 0"
    ),
    "the second of two lambdas in a line": "a, top = lambda x: x + 1, lambda x: x + {}",
    "pattern": "import re\nP = re.compile('a{}')\ndef top(x): return P.match(x)",
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_what_it_holds_counts(load, name: str) -> None:
    values = ("True", "False") if name == "dataclass options" else ("1", "2")
    one, again = (identify_function(load(_filled(PLACES[name], values[0])).top) for _ in range(2))
    other = identify_function(load(_filled(PLACES[name], values[1])).top)
    assert one.digest == again.digest != other.digest
    assert "python" not in one.parts


@pytest.mark.parametrize("name", PLACES)
def test_identities_are_those_that_other_versions_gave(load, name: str) -> None:
    """Of Python, and of this package."""
    recorded = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    now = identify_function(load(_filled(PLACES[name], "True" if name == "dataclass options" else "1")).top)
    if REWRITE:
        DIGESTS.write_text(json.dumps({**recorded, name: now.digest.hex()}, indent=1, sort_keys=True) + "\n")
    else:
        assert now.digest.hex() == recorded[name]


def _filled(source: str, value: str) -> str:
    return source.format(value)


def test_the_first_of_two_lambdas_in_a_line(load) -> None:
    module = load("first, second = lambda x: x + 1, lambda x: x + 2\n")
    assert identify_function(module.first).digest != identify_function(module.second).digest
    same = load("first = lambda x: x + 1\n\n\nsecond = lambda x: x + 2\n")
    assert identify_function(same.first).digest == identify_function(module.first).digest


@pytest.mark.parametrize(
    "value",
    [
        "logging.getLogger('{}')",
        "threading.Lock()",
        "threading.local()",
        "object()",
        "open(__file__)",
        "concurrent.futures.Future()",
        "(i for i in ())",
    ],
)
def test_what_has_no_content_is_not_looked_into(load, value: str) -> None:
    source = (
        "import concurrent.futures, logging, threading\n"
        f"THING = {value}\ndef top(x): return [THING, x]\ndef close(): getattr(THING, 'close', list)()\n"
    )
    module, again = load(source.format("a")), load(source.format("b"))
    one, other = identify_function(module.top), identify_function(again.top)
    module.close()
    again.close()
    assert one.digest == other.digest
    assert any("not looked into" in text for text in one.descriptions.values())


def test_a_nonlocal_counter_does_not_change_what_it_is(load) -> None:
    source = """
        def make():
            count = 0
            def top(x):
                nonlocal count
                count += 1
                return x
            return top
        top, fresh = make(), make()
    """
    module = load(source)
    before = identify_function(module.top)
    module.top(1)
    assert identify_function(module.top).digest == before.digest == identify_function(module.fresh).digest


def test_a_counter_and_a_cache_do_not_change_what_it_is(load) -> None:
    source = """
        import lib
        COUNT, CACHE, STATE = 0, {}, []
        class Model:
            made = 0
            known = {}
            def __init__(self):
                Model.made += 1
                self.known[self.made] = 1
        def helper(x): return COUNT
        def top(x):
            global COUNT
            COUNT += 1
            CACHE[x] = COUNT
            STATE.append(x)
            lib.TOTAL[x] = 1
            Model()
            return helper(x)
        def fresh(): return eval("lambda: 0")
    """
    files = {"app.py": source, "lib.py": "TOTAL = {}\n"}
    before = identify_function(load(files).top)
    module = load(files)
    module.top(1)
    module.top(2)
    assert identify_function(module.top).digest == before.digest


def test_library_code_is_known_by_name() -> None:
    def top(x: Any) -> Any:
        return json.dumps(x), len(x), functools.partial(x), logging.INFO

    parts = identify_function(top).parts
    assert list(parts) == [f"function {__name__}.{top.__qualname__}"]


def test_functions_of_libraries() -> None:
    digests = {identify_function(one).digest for one in (json.dumps, json.loads, len, "a".join, "b".join)}
    assert len(digests) == 5
    assert list(identify_function(len).parts) == ["function builtins.len"]


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(InputError, match="'deeep' is not one of 'deep', 'body', 'name'"):
        identify_function(len, "deeep")


def test_code_without_a_source_counts_by_its_bytecode() -> None:
    def make(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "made"}
        exec(text, space)
        return space["top"]

    one, other = make("def top(x): return x + 1"), make("def top(x): return x + 2")
    spaced = make("# first\n\ndef top(x):\n    'Says.'\n    return x + 1")
    assert identify_function(one).digest != identify_function(other).digest
    assert identify_function(one).digest == identify_function(spaced).digest
    assert "python" in identify_function(one).parts
    helped = make("import json\ndef h(x): return json.dumps(x)\ndef top(x): return h(x)")
    assert "helper made.h" in identify_function(helped).parts


def test_a_file_that_was_edited_after_import_is_not_taken_for_its_code(load) -> None:
    module = load("def top(x):\n    return x + 1\n")
    with open(module.__file__, "w") as file:
        file.write("def top(x):\n    return x + 2\n")
    parts = identify_function(module.top).parts
    assert "python" in parts


def test_a_file_whose_lines_moved_after_import(load) -> None:
    source = "def top(x):\n    return x + 1\n"
    before = identify_function(load(source).top)
    module = load(source)
    with open(module.__file__, "w") as file:
        file.write(f"import math\n\ndef other(x):\n    return 1\n\n{source}")
    after = identify_function(module.top)
    assert after.digest == before.digest
    assert after.descriptions[after.parts["function app.top"]] == source.strip()


def test_threads_may_identify_at_once(load) -> None:
    module = load(
        "\n".join(f"def f{i}(x): return f{i + 1}(x)" for i in range(60)) + "\ndef f60(x): return x\n"
    )
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(identify_function(module.f0).digest)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_units_with_long_cycles_end(load) -> None:
    module = load(
        "class A:\n    def f(self): return B()\nclass B(A):\n    def g(self): return top, T\n"
        "T = []\nT.append(T)\nT.append(A)\ndef top(x): return A().f(), T\n"
    )
    assert identify_function(module.top).digest == identify_function(module.top).digest
