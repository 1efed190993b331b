"""hatch.toml and the packages agree: no environment takes a sibling from the index."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import check_boundaries
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
HATCH: dict[str, Any] = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]
PACKAGES = {package.dist: package for package in check_boundaries.find_packages(ROOT)}


def environment_name(package: check_boundaries.Package) -> str:
    return "-".join(package.folder.relative_to(ROOT / "packages").parts)


def siblings(package: check_boundaries.Package) -> set[str]:
    """The package and all of its siblings that it needs, directly or not."""
    names = set(map(check_boundaries.normalise, package.requirements)) & PACKAGES.keys()
    return {package.dist}.union(*(siblings(PACKAGES[name]) for name in names))


def members(environment: str) -> set[Path]:
    """The folders that a unit environment installs from this tree."""
    overrides = HATCH["unit"]["overrides"]["matrix"]["package"]["workspace"]["members"]
    chosen = [entry["value"] for entry in overrides if environment in entry["if"]]
    return {ROOT / path for path in [*HATCH["unit"]["workspace"]["members"], *chosen]}


def test_every_package_is_a_member_of_the_default_environment() -> None:
    globs = HATCH["default"]["workspace"]["members"]
    installed = {folder for glob in globs for folder in ROOT.glob(glob)}
    assert installed == {package.folder for package in PACKAGES.values()}


def test_every_package_has_a_unit_environment() -> None:
    (matrix,) = HATCH["unit"]["matrix"]
    assert sorted(matrix["package"]) == sorted(environment_name(package) for package in PACKAGES.values())


@pytest.mark.parametrize("dist", sorted(PACKAGES))
def test_a_unit_environment_has_the_siblings_that_are_declared_and_no_other(dist: str) -> None:
    package = PACKAGES[dist]
    wanted = {PACKAGES[name].folder for name in siblings(package)} | {PACKAGES["weft-interfaces"].folder}
    assert members(environment_name(package)) == wanted


@pytest.mark.parametrize("dist", sorted(PACKAGES))
def test_a_unit_environment_runs_the_tests_of_its_package(dist: str) -> None:
    unit, name = HATCH["unit"], environment_name(PACKAGES[dist])
    overrides = unit["overrides"]["matrix"]["package"].get("scripts", [])
    (command,) = [entry["value"] for entry in overrides if name in entry["if"]] or [unit["scripts"]["check"]]
    folder = PACKAGES[dist].folder.relative_to(ROOT).as_posix()
    assert command.replace("{matrix:package}", name) == f"pytest {folder}/tests {{args}}"


def test_an_environment_that_replaces_the_variables_keeps_the_certificates() -> None:
    for name, environment in HATCH.items():
        assert environment.get("env-vars", {"UV_SYSTEM_CERTS": "1"}).get("UV_SYSTEM_CERTS") == "1", name
