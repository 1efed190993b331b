# ruff: noqa: E501  generated programs
"""What holds for any code: layout makes no difference, an expression does."""

from __future__ import annotations

import ast
import linecache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from weft_memo import identify_function

NAMES = st.sampled_from(["x", "y", "SCALE", "helper"])
ATOMS = st.one_of(
    NAMES,
    st.integers(0, 10**20).map(str),
    st.floats(0, 1e300).map(repr),
    st.text(max_size=5).map(repr),
    st.binary(max_size=5).map(repr),
    st.sampled_from(["None", "True", "...", "1j", "(lambda z: z)"]),
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(
            inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "==", "<", "in", "is", "and", "or"]), inner
        ).map("({0[0]} {0[1]} {0[2]})".format),
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.tuples(inner, inner).map("{{{0[0]}: {0[1]}}}".format),
        st.tuples(inner, inner).map("helper({0[0]}, *{0[1]})".format),
        inner.map("[w for w in {0} if w]".format),
        inner.map("(lambda v=3: {0})".format),
        inner.map("{0}.real".format).filter(lambda text: not text[0].isdigit()),
        st.tuples(inner, inner, inner).map("({0[0]} if {0[1]} else {0[2]})".format),
        st.text("ab{}'\" \n", max_size=5).map(
            lambda text: "f" + repr(text.replace("{", "{{").replace("}", "}}"))
        ),
        NAMES.map("f'a{{{0}!r:>{{{0}}}}}b' 'c'".format),
    )


EXPRESSIONS = st.recursive(ATOMS, grown, max_leaves=8)
STATEMENTS = st.one_of(
    EXPRESSIONS.map("y = {0}".format),
    EXPRESSIONS.map("y += helper({0})".format),
    EXPRESSIONS.map("if {0}:\n    y = 2\nelse:\n    return x".format),
    EXPRESSIONS.map("for i in x:\n    y = {0}\n    continue".format),
    EXPRESSIONS.map("try:\n    y = {0}\nexcept ValueError as error:\n    raise KeyError from error".format),
    EXPRESSIONS.map("with helper({0}) as (a, b):\n    x[a] = y.b = 1".format),
    EXPRESSIONS.map(
        "def inner(k=1, *p, q: int = 2, **r):\n    'Says.'\n    nonlocal y\n    y = {0}\n    yield p".format
    ),
    EXPRESSIONS.map("class Inner(object):\n    a: int = 3\n    b = {0}".format),
    EXPRESSIONS.map(
        "match x:\n    case [1, *_] | {{'k': 2}} if y:\n        y = {0}\n    case Inner(a=1) as z:\n        pass".format
    ),
)
BODIES = st.lists(STATEMENTS, min_size=1, max_size=3).map("\n".join)
count = iter(range(10**9))


def identity(body: str, indent: str = "    ", above: str = "") -> Any:
    text = f"{above}def top(x, y=1):\n" + "".join(f"{indent}{line}\n" for line in body.splitlines())
    return identity_of(text)


def identity_of(text: str) -> Any:
    name = f"/generated/{next(count)}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "generated", "SCALE": 3, "helper": len}
    try:
        exec(compile(text, name, "exec"), space)
        return identify_function(space["top"])
    finally:
        del linecache.cache[name]


def compiles(body: str) -> bool:
    try:
        compile("def top(x, y=1):\n" + "".join(f"    {line}\n" for line in body.splitlines()), "", "exec")
    except SyntaxError:
        return False
    return True


VALID = BODIES.filter(compiles)


@given(VALID)
def test_layout_makes_no_difference(body: str) -> None:
    first = identity(body)
    assert "python" not in first.parts
    assert identity(body, "  ", "\n\n# above\nimport math\n").digest == first.digest
    commented = body.replace("\n", "  # said\n") + "  # and said"
    assert identity(f"'Says.'\n# more\n{commented}\n\n# end").digest == first.digest
    text = "def top(x, y=1):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    assert identity_of(ast.unparse(ast.parse(text))).digest == first.digest


@given(VALID, st.data())
def test_another_expression_makes_a_difference(body: str, data: st.DataObject) -> None:
    tree = ast.parse("def top(x, y=1):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    constants = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) in (int, str, float)
    ]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ("x", "y")]
    docstrings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    defaults = tree.body[0].args.defaults  # type: ignore[attr-defined]
    nodes = [node for node in [*constants, *names] if node not in docstrings and node not in defaults]
    if not nodes:
        return
    before = identity_of(ast.unparse(tree))
    node = data.draw(st.sampled_from(nodes))
    if isinstance(node, ast.Name):
        node.id = "SCALE_OTHER"
    else:
        node.value = node.value * 2 + type(node.value)(1)
    try:
        text = ast.unparse(tree)
        compile(text, "", "exec")
    except (SyntaxError, ValueError):
        return
    assert identity_of(text).digest != before.digest
