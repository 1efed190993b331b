"""The examples in the READMEs run as they are printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/**/README.md"))]

FENCE = re.compile(r"(?P<mark><!-- not run -->\s*)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) weft", re.MULTILINE)


def examples(readme: Path) -> Iterator[tuple[int, str]]:
    """The line and the code of each block that runs by itself.

    A block that imports nothing of ours is a fragment, which continues the text before it.
    """
    text = readme.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match["mark"] is None and IMPORT.search(match["code"]):
            yield text.count("\n", 0, match.start("code")) + 1, match["code"]


EXAMPLES = [
    pytest.param(line, code, id=f"{readme.relative_to(ROOT)}:{line}")
    for readme in READMES
    for line, code in examples(readme)
]


@pytest.mark.smoke
@pytest.mark.parametrize(("line", "code"), EXAMPLES)
def test_the_example_runs(tmp_path: Path, run_python: Callable[..., str], line: int, code: str) -> None:
    # Blank lines first, so that a traceback names the line of the README.
    (tmp_path / "example.py").write_text("\n" * (line - 1) + code)
    run_python("example.py")


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_every_readme_has_an_example_that_runs(readme: Path) -> None:
    assert list(examples(readme)), f"{readme.relative_to(ROOT)} has no runnable ```python block"


def test_fragments_and_marked_blocks_are_left_out(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    block = "```python\n{}\n```\n"
    marked = "<!-- not run -->\n" + block.format("import weft")
    readme.write_text("# A\n" + block.format("import weft") + block.format("weft.run()") + marked)
    assert list(examples(readme)) == [(3, "import weft\n")]
