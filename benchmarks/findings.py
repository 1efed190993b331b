"""Tables of what was found in trials, and how they are kept: for what has no contender to stand beside."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import msgspec
from record import PACKAGES, WIDTH, machine, readable
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["keep_report", "show_rows", "show_trials"]


def show_rows(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]], file: TextIO | None = None
) -> None:
    """Print a table; all but its first column are set to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console(highlight=False, file=file)
    console.width = max(console.width, WIDTH)
    console.print(table)


def show_trials(title: str, trials: Mapping[str, Mapping[str, Any]], file: TextIO | None = None) -> None:
    """Print a table with a column for each trial, and a row for each of its figures."""
    names = list(dict.fromkeys(name for trial in trials.values() for name in trial))
    rows = [[name, *(trial.get(name) for trial in trials.values())] for name in names]
    show_rows(title, ["", *trials], rows, file)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return readable(value)
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)


def keep_report(path: Path, settings: Mapping[str, Any], **parts: Any) -> None:
    """Write what was found as JSON, with what it was found on."""
    libraries = {"ssl": ssl.OPENSSL_VERSION, "msgspec": msgspec.__version__}
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES} | libraries,
        "settings": settings,
        **parts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
