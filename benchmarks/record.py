"""Figures, what they are measured against, and how they are shown and kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "Target", "keep", "show"]

PACKAGES = (
    "weft",
    "weft-core",
    "weft-executor-htex",
    "weft-executor-local",
    "weft-interfaces",
    "weft-provider-local",
)
WIDTH = 120  # holds the longest name: no figure is cut
VERDICTS = {"met": "[green]met[/]", "missed": "[bold red]MISSED[/]", "": ""}


@dataclass(frozen=True)
class Target:
    """What a figure must reach: it, or its ratio to the bare one, at least or at most a number."""

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
    """One line of the table. ``ratio`` is Weft's figure, through ``@weft.task``, in terms of the bare one."""

    section: str
    name: str
    unit: str
    weft: float
    kernel: float | None = None
    bare: float | None = None
    ratio: float | None = None
    target: Target | None = None
    samples: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self) else "missed"


def show(figures: Sequence[Figure]) -> None:
    """Print the table, and say in words which targets were missed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("medians", no_wrap=True)
    for header in ("unit", "@weft.task", "kernel", "bare", "ratio", "target"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for section, members in groupby(figures, key=lambda figure: figure.section):
        table.add_row(f"[bold]{section}[/]")
        for figure in members:
            numbers = map(readable, (figure.weft, figure.kernel, figure.bare, figure.ratio))
            table.add_row(
                f"  {figure.name}", figure.unit, *numbers, str(figure.target or ""), VERDICTS[figure.verdict]
            )
        table.add_section()
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(table)
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
    """Write the figures as JSON, with what they were measured on."""
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "settings": settings,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


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
