"""What a census ends with: a table in the terminal, a CSV file for each question, and a picture."""

from __future__ import annotations

import csv
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from census import Census

COLUMNS = ("files", "lines", "bytes", "classes", "functions", "branches", "imports")
FILES = ("census.png", "census.csv", "unparsable.csv")
INK, MUTED, BLUE, ORANGE = "#1f2933", "#7b8794", "#2f6f9f", "#d9822b"
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def write(folder: Path, counted: Mapping[str, Census], total: Census) -> None:
    """Write ``census.csv``, ``unparsable.csv`` and ``census.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ([package, *figures(census)] for package, census in largest(counted))
    write_csv(
        folder / "census.csv",
        ["package", *COLUMNS, "median_function", "longest_function", "unparsable"],
        rows,
    )
    write_csv(folder / "unparsable.csv", ["file", "reason"], sorted(total.refused.items()))
    picture(counted, total).savefig(folder / "census.png", dpi=110)


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def figures(census: Census) -> list[int]:
    """The row of a package: what was counted, and how long its functions are."""
    longest = max(census.lengths, default=0)
    return [
        *(census.counts[column] for column in COLUMNS),
        quantile(census.lengths, 0.5),
        longest,
        len(census.refused),
    ]


def largest(counted: Mapping[str, Census]) -> list[tuple[str, Census]]:
    return sorted(counted.items(), key=lambda item: (-item[1].counts["lines"], item[0]))


def quantile(lengths: Counter[int], share: float) -> int:
    """The smallest length that this share of the functions does not exceed."""
    seen, wanted = 0, share * lengths.total()
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    return 0


# -- the terminal --------------------------------------------------------------------------------------------


def show(counted: Mapping[str, Census], total: Census, caption: str, folder: Path) -> None:
    """Print the largest packages, what is imported most, what is no valid Python, and where the files are."""
    facts = Table.grid(padding=(0, 2))
    imported = (f"{module} [dim]{times:,}[/]" for module, times in total.imported.most_common(8))
    facts.add_row("[bold]imported most[/]", ", ".join(imported))
    facts.add_row("[bold]no valid Python[/]", "\n".join(refusals(total)) or "none")
    facts.add_row("[bold]written[/]", ", ".join(str(folder / name) for name in FILES))
    facts.add_row("[bold]done[/]", caption)
    console = Console(highlight=False)
    console.print(package_table(counted, total), "", facts, sep="\n")


def package_table(counted: Mapping[str, Census], total: Census, rows: int = 15) -> Table:
    table = Table(box=None, show_footer=True, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("package", footer=f"all {len(counted)}", no_wrap=True)
    headers = ("files", "lines", "classes", "functions", "branches", "median", "longest")
    for header, value in zip(headers, chosen(total), strict=True):
        table.add_column(header, footer=value, justify="right", no_wrap=True)
    table.add_column("share", min_width=6, no_wrap=True)
    everything = max(1, total.counts["lines"])
    for package, census in largest(counted)[:rows]:
        table.add_row(package, *chosen(census), bar(census.counts["lines"] / everything))
    return table


def chosen(census: Census) -> list[str]:
    files, lines, _, classes, functions, branches, _, median, longest, _ = figures(census)
    return [f"{value:,}" for value in (files, lines, classes, functions, branches, median, longest)]


def bar(share: float, width: int = 6) -> str:
    full, eighths = divmod(max(1, round(share * width * 8)), 8)
    return f"[blue]{'█' * full}{' ▏▎▍▌▋▊▉'[eighths].strip()}[/]"


def refusals(total: Census) -> list[str]:
    folders: dict[Path, list[str]] = {}
    for name in sorted(total.refused):
        folders.setdefault(Path(name).parent, []).append(Path(name).name)
    return [f"{folder}: [dim]{', '.join(names)}[/]" for folder, names in folders.items()]


# -- the picture ---------------------------------------------------------------------------------------------


def picture(counted: Mapping[str, Census], total: Census) -> Figure:
    """The largest packages, and how long functions are."""
    figure = Figure(figsize=(12, 5.8), layout="constrained", facecolor="white")
    version, counts = platform.python_version(), total.counts
    title = (
        f"The standard library of Python {version}: {counts['lines']:,} lines in {counts['files']:,} files\n"
    )
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=15, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    draw_packages(left, largest(counted)[:20])
    draw_lengths(right, total.lengths)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(MUTED)
        axes.tick_params(which="both", color=MUTED, labelcolor=INK)
    return figure


def draw_packages(axes: Any, packages: list[tuple[str, Census]]) -> None:
    names = [name for name, _ in packages]
    lines = [max(1, census.counts["lines"]) for _, census in packages]
    axes.set_title("Largest packages: lines, on a logarithmic scale", loc="left", color=INK)
    axes.set_xscale("log")
    axes.set_xlim(min(lines) / 2, max(lines) * 3)
    axes.hlines(names, 1, lines, color=BLUE, alpha=0.3, linewidth=1)
    axes.plot(lines, names, "o", color=BLUE)
    for name, number in zip(names, lines, strict=True):
        label = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "color": INK, "fontsize": 8}
        axes.annotate(f"{number:,}", (number, name), **label)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_lengths(axes: Any, lengths: Counter[int]) -> None:
    shown = range(1, 61)
    axes.set_title(
        f"Length of {lengths.total():,} functions: how many have so many lines", loc="left", color=INK
    )
    axes.bar(shown, [lengths[length] for length in shown], width=0.8, color=BLUE, alpha=0.85)
    axes.set_xlim(0, shown.stop)
    axes.set_xlabel("lines", color=INK)
    axes.yaxis.set_major_formatter(THOUSANDS)
    for share, height in ((0.5, 0.97), (0.95, 0.85)):
        length = quantile(lengths, share)
        axes.axvline(length, ymax=height, color=ORANGE, linewidth=1.2)
        text = f"{share:.0%} have up to {length} lines"
        axes.annotate(
            text, (length, height), (5, -9), ("data", "axes fraction"), "offset points", color=ORANGE
        )
    longer = sum(number for length, number in lengths.items() if length not in shown)
    note = f"{longer:,} are longer than {shown[-1]} lines;\nthe longest has {max(lengths, default=0):,}"
    axes.annotate(note, (0.99, 0.12), xycoords="axes fraction", ha="right", color=MUTED)
