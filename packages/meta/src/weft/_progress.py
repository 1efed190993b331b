"""Shows on stderr how a run goes on: a bar in a terminal, a line now and then elsewhere.

A thread of its own asks for counts at a bounded rate. Nothing is on the path of a task.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from weft_interfaces import format_seconds

if TYPE_CHECKING:
    from weft_core import Counts

__all__ = ["Progress", "summary"]

_BAR_INTERVAL = 0.2
_FIRST_LINE, _LINE_INTERVAL = 2.0, 10.0


def summary(counts: Counts) -> str:
    """``"98 of 100 tasks done, 40 remembered, 2 failed"``."""
    parts = [f"{counts.done} of {counts.total} tasks done"]
    others = {
        "remembered": counts.memo_hits,
        "failed": counts.failed,
        "not run because another failed": counts.dependency_failed,
        "cancelled": counts.cancelled,
        "waiting": counts.pending,
        "with an executor": counts.launched,
        "joining": counts.joining,
        "retries": counts.retries,
    }
    return ", ".join(parts + [f"{number} {what}" for what, number in others.items() if number])


class Progress:
    """Shows the counts of one run from ``start`` to ``stop``, which leaves one line that sums it up."""

    def __init__(self, counts: Callable[[], Counts]) -> None:
        self._counts = counts
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._show, name="weft-progress", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def stop(self) -> None:
        """Show the end, once. Returning: the thread has ended."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        counts = self._counts()
        if counts.total:
            self._line(counts)

    def _show(self) -> None:
        if not _is_terminal():
            self._show_lines()
        elif not self._stopping.wait(_BAR_INTERVAL):  # a run that is over by now needs no bar, and no import
            self._show_bar()

    def _show_lines(self) -> None:
        shown, wait = None, _FIRST_LINE
        while not self._stopping.wait(wait):
            counts, wait = self._counts(), _LINE_INTERVAL
            if counts != shown:
                self._line(counts)
                shown = counts

    def _line(self, counts: Counts) -> None:
        elapsed = format_seconds(time.monotonic() - self._began)
        print(f"weft: {summary(counts)} ({elapsed})", file=sys.stderr, flush=True)

    def _show_bar(self) -> None:
        bar = _bar()
        with bar:
            row = bar.add_task("", total=None, text="")
            while True:
                counts = self._counts()
                text = summary(counts)
                bar.update(row, total=counts.total or None, completed=counts.finished, text=text)
                bar.refresh()
                if self._stopping.wait(_BAR_INTERVAL):
                    return


def _is_terminal() -> bool:
    return bool(sys.stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
    )
    # What tasks print appears above the bar. Output that goes to a file or a pipe must stay there.
    prints_here = bool(sys.stdout and sys.stdout.isatty())
    return Progress(
        *columns,
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=prints_here,
    )
