from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import weft
from weft._config import read_config

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs(start: Any) -> None:
    program = start(blocks("python")[0])
    assert program.end() == 0, program.err
    assert program.out == "285\n"


def test_the_configurations_are_right(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(blocks("toml")[0])
    config = read_config(file)
    assert [executor.label for executor in config.make_executors()] == ["threads", "heavy"]
    names: dict[str, Any] = {"weft": weft}
    (source,) = [block for block in blocks("python") if "weft.Config(" in block]
    exec(source, names)
    assert names["config"].retries == config.retries


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(weft.Config)])
def test_every_setting_is_in_the_table(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", list(weft.TaskOptions.__annotations__))
def test_every_option_is_in_the_table(name: str) -> None:
    assert f"`{name}`" in README
