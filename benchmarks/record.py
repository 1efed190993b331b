"""Figures, what they are measured against, and how they are shown and kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "Target", "compared", "keep", "medians", "show", "summarize"]

PACKAGES = (
    "weft",
    "weft-core",
    "weft-executor-htex",
    "weft-executor-local",
    "weft-interfaces",
    "weft-memo",
    "weft-provider-local",
)
PEERS = ("diskcache", "distributed", "joblib", "numpy", "parsl", "pyzmq", "ray")
WIDTH = 180  # holds the longest names and all contenders: no figure is cut
VERDICTS = {"met": "[green]met[/]", "missed": "[bold red]MISSED[/]", "": ""}


@dataclass(frozen=True)
class Target:
    """What a figure must reach: it, or its ratio, at least or at most a number."""

    bound: Literal[">=", "<="]
    number: float
    of_ratio: bool = False

    def met(self, figure: Figure) -> bool:
        """Whether the figure reaches it."""
        value = figure.ratio if self.of_ratio else figure.weft
        return value is not None and (value >= self.number if self.bound == ">=" else value <= self.number)

    def __str__(self) -> str:
        return f"{self.bound} {readable(self.number)}{' x' if self.of_ratio else ''}"


@dataclass(frozen=True)
class Figure:
    """One line of the table: what Weft reaches through ``@weft.task``, and what the others do.

    ``ratio`` is Weft's figure in terms of that of the one that the section is beside. ``errors``: what went
    wrong, by contender; ``weft`` is None where that was Weft.
    """

    section: str
    name: str
    unit: str
    weft: float | None
    others: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    target: Target | None = None
    samples: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    errors: dict[str, str] = field(default_factory=dict)

    def cell(self, contender: str) -> str:
        """What the table shows of it."""
        number = self.weft if contender == "weft" else self.others.get(contender)
        return "[red]failed[/]" if number is None and contender in self.errors else readable(number)

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self) else "missed"


def summarize(
    section: str,
    name: str,
    unit: str,
    samples: dict[str, list[float]],
    target: Target | None = None,
    *,
    beside: str = "bare",
    errors: Mapping[str, str] | None = None,
) -> Figure:
    """Medians, and how Weft compares with the contender that it is measured beside."""
    ratio = compared(samples, beside) if samples.keys() >= {"weft", beside} else None
    return Figure(
        section, name, unit, **medians(samples), ratio=ratio, target=target, samples=samples,
        errors=dict(errors or {}),
    )  # fmt: skip


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of all contenders, as a figure has them."""
    found = {contender: median(values) for contender, values in samples.items()}
    return {"weft": found.pop("weft", None), "others": found}


def compared(samples: Mapping[str, Sequence[float]], contender: str) -> float:
    """Weft's figures in terms of another's.

    The median of the ratios within each round, if they took turns; else the ratio of the medians.
    """
    ours, theirs = samples["weft"], samples[contender]
    if len(ours) != len(theirs):
        return median(ours) / median(theirs)
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def show(figures: Sequence[Figure], file: TextIO | None = None) -> None:
    """Print the table, and say in words what broke and which targets were missed."""
    names = (name for figure in figures for name in (*figure.others, *figure.errors) if name != "weft")
    others = list(dict.fromkeys(names))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("medians", no_wrap=True)
    for header in ("unit", "@weft.task", *others, "ratio", "target"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for section, members in groupby(figures, key=lambda figure: figure.section):
        table.add_row(f"[bold]{section}[/]")
        for figure in members:
            table.add_row(
                f"  {figure.name}",
                figure.unit,
                *map(figure.cell, ["weft", *others]),
                readable(figure.ratio),
                str(figure.target or ""),
                VERDICTS[figure.verdict],
            )
        table.add_section()
    console = Console(highlight=False, file=file)
    console.width = max(console.width, WIDTH)
    console.print(table)
    for line in dict.fromkeys(f"{name}: {words}" for one in figures for name, words in one.errors.items()):
        console.print(line, markup=False)
    console.print(conclusion(figures))


def conclusion(figures: Sequence[Figure]) -> str:
    """Whether the targets were met, in words."""
    missed = [f"{figure.name} ({figure.section})" for figure in figures if figure.verdict == "missed"]
    aimed = sum(figure.target is not None for figure in figures)
    return f"{aimed - len(missed)} of {aimed} targets met." + (
        f" Missed: {'; '.join(missed)}." if missed else ""
    )


def readable(number: float | None) -> str:
    """A number with three digits that count."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def keep(figures: Sequence[Figure], path: Path, settings: dict[str, Any]) -> None:
    """Write the figures as JSON, with what they were measured on, and the table beside it as text."""
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES} | versions(PEERS),
        "settings": settings,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with path.with_suffix(".txt").open("w", encoding="utf-8") as file:
        show(figures, file)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> dict[str, Any]:
    """What a reader needs to know to judge the figures."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def processor() -> str:
    """The model of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())
