"""Quantities that people write, read in one place: ``"4GB"``, ``"90s"``, ``"1-12:00:00"``."""

from __future__ import annotations

import math
import re

from .errors import UnitError

__all__ = ["format_bytes", "format_seconds", "parse_bytes", "parse_count", "parse_seconds"]

_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}

_SECONDS = {
    "ms": 1e-3,
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")


def parse_bytes(value: str | int | float, field: str = "memory") -> int:
    """A size in bytes: ``4096``, ``"4GB"`` (10**9), ``"4GiB"`` (2**30), ``"512 MB"``. Raises
    :class:`UnitError`.
    """
    expected = 'a size such as "4GB", "512MiB" or a number of bytes'
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        unit = match and _BYTES.get(match[2].lower())
        if not match or unit is None:
            raise UnitError(f"{field}: {value!r} is not {expected}")
        value = float(match[1]) * unit if "." in match[1] else int(match[1]) * unit
    return int(_finite(value, field, expected))


def parse_seconds(value: str | int | float, field: str = "walltime") -> float:
    """A time in seconds: ``90``, ``"90s"``, ``"1h30m"``, ``"5 min"``, ``"HH:MM:SS"``, ``"D-HH:MM:SS"``.

    Two clock fields are minutes and seconds, as in Slurm, unless days stand before them. Raises
    :class:`UnitError`.
    """
    expected = 'a time such as "90s", "1h30m", "01:30:00" or a number of seconds'
    if isinstance(value, str):
        seconds = _clock(value.strip())
        if seconds is None:
            seconds = _sum_of_parts(value)
        if seconds is None:
            raise UnitError(f"{field}: {value!r} is not {expected}")
        value = seconds
    return float(_finite(value, field, expected))


def parse_count(value: int | float, field: str, *, least: float = 0, whole: bool = False) -> float:
    """A number of things, such as cpus. Raises :class:`UnitError` when it is below ``least`` or, if
    ``whole``, broken.
    """
    expected = f"a {'whole ' if whole else ''}number, at least {least:g}"
    if _finite(value, field, expected) < least or (whole and value != int(value)):
        raise UnitError(f"{field}: {value!r} is not {expected}")
    return int(value) if whole else value


def format_bytes(size: float) -> str:
    """``4200000000`` as ``"4.2 GB"``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def format_seconds(seconds: float) -> str:
    """``5400`` as ``"1h30m"``, ``0.25`` as ``"250ms"``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{whole:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


def _finite(value: object, field: str, expected: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise UnitError(f"{field}: {value!r} is not {expected}")
    return value


def _clock(text: str) -> float | None:
    match = _CLOCK.fullmatch(text)
    if not match:
        return None
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[3] and (second > 59 or third > 59):
        return None
    if match[4] is None and match[1] is None:
        return first * 60.0 + second
    return days * 86400.0 + first * 3600.0 + second * 60.0 + third


def _sum_of_parts(text: str) -> float | None:
    total, end, stripped = 0.0, 0, text.strip()
    while end < len(stripped):
        match = _NUMBER_AND_UNIT.match(stripped, end)
        unit = match and _SECONDS.get(match[2].lower())
        # "1h30" is a slip of the pen as likely as 1h30m: a bare number may only stand alone.
        if not match or unit is None or (match[2] == "" and match.end() - match.start() < len(stripped)):
            return None
        total += float(match[1]) * unit
        end = match.end()
    return total if stripped else None
