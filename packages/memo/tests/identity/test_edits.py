# ruff: noqa: E501  tables of edits
"""Which edits of a program make a difference to what a function is."""

from __future__ import annotations

import pytest
from weft_memo import FunctionIdentity, identify_class, identify_function

FILES = {
    "app.py": '''
        """An application."""
        import functools
        import json
        import math

        import lib.other as other
        from lib import helpers
        from lib.scale import SCALE, shift

        LIMIT = 10
        TABLE = {"a": [1, 2]}
        COUNT = 0
        SEEN = {"first": 1}


        def traced(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)  # as it is
            return wrapper


        class Base:
            unit = "m"

            def area(self):
                return 1


        class Model(Base):
            """A model."""

            factor = 2

            def fit(self, x):
                # multiply
                return helpers.norm(x) * self.factor + self.area()

            @staticmethod
            def fixed():
                return 5

            @property
            def size(self):
                return TABLE["a"]


        def twice(x, times=2):
            return x * times * LIMIT


        @traced
        def traced_helper(x):
            return x + 1


        def make(n):
            def inner(x):
                return x + n
            return inner


        add_three = make(3)


        def unrelated(x):
            return x - 1


        def simulate(seed, n=3):
            """Simulates."""
            global COUNT
            COUNT += 1
            SEEN[seed] = COUNT
            total = 0
            for i in range(n):  # one after the other
                total += twice(seed) + Model().fit(i) + add_three(i)
            return total + SCALE + shift(1) + other.answer() + traced_helper(2) + math.pi


        def lonely(x):
            return x
    ''',
    "lib/__init__.py": "",
    "lib/helpers.py": """
        from . import deep
        from .deep import below

        def norm(x):
            return below(x) + deep.MARGIN

        def not_used(x):
            return x
    """,
    "lib/deep.py": """
        MARGIN = 1.5

        def below(x):
            return x - 1

        def beside(x):
            return x
    """,
    "lib/scale.py": """
        SCALE = 4

        def shift(x):
            return x << 1
    """,
    "lib/other.py": """
        def answer():
            return 42

        def question():
            return None
    """,
}

HITS = {
    "a comment": ("app.py", "# one after the other", "# in order"),
    "a comment line": ("app.py", "            total = 0\n", "            # start\n            total = 0\n"),
    "a comment in a method": ("app.py", "# multiply", "# multiply it"),
    "a comment in a decorator": ("app.py", "# as it is", "# unchanged"),
    "formatting": (
        "app.py",
        "total += twice(seed) +",
        "total += (\n            twice( seed )\n            ) +",
    ),
    "blank lines above": ("app.py", "        import json\n", "\n\n\n        import json\n"),
    "a docstring": ("app.py", '"""Simulates."""', '"""Simulates, again."""'),
    "no docstring": ("app.py", '            """Simulates."""\n', ""),
    "a docstring of a class": ("app.py", '"""A model."""', '"""Models."""'),
    "a docstring of the module": ("app.py", '"""An application."""', '"""Something."""'),
    "an annotation": ("app.py", "def twice(x, times=2):", "def twice(x: int, times: int = 2) -> int:"),
    "quotes": ("app.py", 'TABLE["a"]', "TABLE['a']"),
    "a number's notation": ("app.py", "def fixed():\n                return 5", "def fixed(): return 0x5"),
    "the function's default, which is an argument": ("app.py", "seed, n=3", "seed, n=4"),
    "an unrelated function": ("app.py", "return x - 1", "return x - 2"),
    "an unrelated function of a module": ("lib/helpers.py", "return x\n", "return -x\n"),
    "an unrelated neighbour of a helper": ("lib/deep.py", "return x\n", "return -x\n"),
    "an unrelated member of a module under another name": ("lib/other.py", "None", "True"),
    "a pass": ("app.py", "            total = 0\n", "            pass\n            total = 0\n"),
    "an unused import": ("app.py", "import json\n", "import decimal\n"),
}

MISSES = {
    "its own code": ("app.py", "total = 0", "total = 1", "function app.simulate"),
    "a helper": ("app.py", "x * times * LIMIT", "x * times + LIMIT", "helper app.twice"),
    "a default of a helper": ("app.py", "times=2", "times=3", "default app.twice.times"),
    "a helper of a module": ("lib/helpers.py", "below(x) +", "below(x) -", "helper lib.helpers.norm"),
    "a helper of a helper": ("lib/deep.py", "return x - 1", "return x - 2", "helper lib.deep.below"),
    "an imported function": ("lib/scale.py", "x << 1", "x << 2", "helper lib.scale.shift"),
    "a module under another name": ("lib/other.py", "42", "43", "helper lib.other.answer"),
    "a global": ("app.py", "LIMIT = 10", "LIMIT = 11", "global app.LIMIT"),
    "a global's type": ("app.py", "LIMIT = 10", "LIMIT = 10.0", "global app.LIMIT"),
    "a global of another module": ("lib/deep.py", "1.5", "1.6", "global lib.deep.MARGIN"),
    "an imported global": ("lib/scale.py", "SCALE = 4", "SCALE = 5", "global app.SCALE"),
    "a global that a property reads": ("app.py", "[1, 2]", "[1, 3]", "global app.TABLE"),
    "what a counter begins with": ("app.py", "COUNT = 0", "COUNT = 1", "global app.COUNT"),
    "what a cache begins with": ("app.py", '{"first": 1}', '{"first": 2}', "global app.SEEN"),
    "a method": ("app.py", "* self.factor", "+ self.factor", "helper app.Model.fit"),
    "a static method": ("app.py", "return 5", "return 6", "helper app.Model.fixed"),
    "a class attribute": ("app.py", "factor = 2", "factor = 3", "attribute app.Model.factor"),
    "a method of a base": ("app.py", "return 1\n", "return 2\n", "helper app.Base.area"),
    "an attribute of a base": ("app.py", 'unit = "m"', 'unit = "cm"', "attribute app.Base.unit"),
    "the bases": ("app.py", "class Model(Base)", "class Model(Base, dict)", "class app.Model"),
    "a new method": ("app.py", "            factor = 2\n", "            factor = 2\n            def f(self): ...\n", "class app.Model"),
    "a closure": ("app.py", "make(3)", "make(4)", "closure app.make.<locals>.inner.n"),
    "a decorator": ("app.py", "return function(*args)", "return -function(*args)", "helper app.traced_helper (wrapper)"),
    "a decorated function": ("app.py", "return x + 1", "return x + 2", "helper app.traced_helper"),
}  # fmt: skip


def identify(load, files: dict[str, str]) -> FunctionIdentity:
    return identify_function(load(files).simulate)


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert FILES[file].count(old) == 1, f"{old!r} occurs {FILES[file].count(old)} times in {file}"
    return {**FILES, file: FILES[file].replace(old, new)}


@pytest.mark.parametrize("name", HITS)
def test_an_edit_that_makes_no_difference(load, name: str) -> None:
    before, after = identify(load, FILES), identify(load, edited(*HITS[name]))
    assert dict(after.parts) == dict(before.parts)
    assert after.digest == before.digest


@pytest.mark.parametrize("name", MISSES)
def test_an_edit_that_makes_a_difference_is_named(load, name: str) -> None:
    *edit, part = MISSES[name]
    before, after = identify(load, FILES), identify(load, edited(*edit))
    assert after.digest != before.digest
    parts = {one for one in {*before.parts, *after.parts} if before.parts.get(one) != after.parts.get(one)}
    assert part in parts
    assert {one for one in parts if one in before.parts and one in after.parts} == {part}


def test_only_those_that_reach_it_change(load) -> None:
    names = ("simulate", "twice", "unrelated", "lonely", "make")
    before = {name: identify_function(getattr(load(FILES), name)) for name in names}
    module = load(edited("app.py", "x * times * LIMIT", "x * times + LIMIT"))
    after = {name: identify_function(getattr(module, name)) for name in names}
    assert [name for name in names if before[name].digest != after[name].digest] == ["simulate", "twice"]


def test_descriptions_say_what_was_written(load) -> None:
    identity = identify(load, FILES)
    said = {name: identity.descriptions[digest] for name, digest in identity.parts.items()}
    assert said["helper lib.deep.below"] == "def below(x):\n    return x - 1"
    assert said["class app.Base"].splitlines()[0] == "class Base:"
    assert said["helper app.Model.fit"].splitlines()[1] == "    # multiply"
    assert "10" in said["global app.LIMIT"]
    assert '"policy": "deep"' in identity.descriptions[identity.digest]
    assert set(identity.descriptions) == {*identity.parts.values(), identity.digest}


def test_a_helper_that_is_moved(load) -> None:
    block = "\n        def unrelated(x):\n            return x - 1\n"
    assert FILES["app.py"].count(block) == 1
    moved = FILES["app.py"].replace(block, "") + block
    assert identify(load, {**FILES, "app.py": moved}).digest == identify(load, FILES).digest
    twice = "\n        def twice(x, times=2):\n            return x * times * LIMIT\n"
    moved = FILES["app.py"].replace(twice, "") + twice
    assert identify(load, {**FILES, "app.py": moved}).digest == identify(load, FILES).digest


def test_two_helpers_that_change_places(load) -> None:
    source = "def a(x): return x + 1\ndef b(x): return x + 2\nf, g = {}\ndef top(x): return f(x) - g(x)\n"
    one = identify_function(load(source.format("a, b")).top)
    other = identify_function(load(source.format("b, a")).top)
    assert one.digest != other.digest


def test_the_module_may_have_another_name(load) -> None:
    source = FILES["app.py"]
    files = {**FILES, "renamed.py": source}
    one, other = identify(load, FILES), identify_function(load(files, "renamed").simulate)
    assert one.digest == other.digest
    assert "helper renamed.twice" in other.parts


def test_a_class_by_itself(load) -> None:
    before = identify_class(load(FILES).Model)
    same = identify_class(load(edited("app.py", "# multiply", "# times")).Model)
    other = identify_class(load(edited("lib/deep.py", "return x - 1", "return x - 2")).Model)
    assert "class app.Model" in before.parts
    assert before.digest == same.digest != other.digest


@pytest.mark.parametrize("policy", ["body", "name"])
def test_policies_that_look_at_less(load, policy: str) -> None:
    before = identify_function(load(FILES).simulate, policy)
    helper = edited("app.py", "x * times * LIMIT", "x * times + LIMIT")
    own = edited("app.py", "total = 0", "total = 1")
    assert identify_function(load(helper).simulate, policy).digest == before.digest
    assert (identify_function(load(own).simulate, policy).digest == before.digest) == (policy == "name")


def test_a_closure_belongs_to_the_body(load) -> None:
    before = identify_function(load(FILES).add_three, "body")
    assert identify_function(load(edited("app.py", "make(3)", "make(4)")).add_three, "body") != before


def test_a_version(load) -> None:
    own = edited("app.py", "total = 0", "total = 1")
    first, later = load(FILES).simulate, load(own).simulate
    assert identify_function(first, version="1").digest == identify_function(later, version="1").digest
    assert identify_function(first, version="1").digest != identify_function(first, version="2").digest
    assert identify_function(first, "deep", "1").digest != identify_function(later, "deep", "1").digest
    assert identify_function(first, "deep", "1").digest != identify_function(first, "deep", "2").digest
    digests = {identify_function(first, policy).digest for policy in (None, "body", "name")}
    assert len(digests) == 3
    assert identify_function(first) is identify_function(first, "deep")
