"""Amounts that options of providers ask for."""

from __future__ import annotations

from weft_interfaces import parse_bytes, parse_count

__all__ = ["count", "size"]


def count(option: str, value: int | None) -> int | None:
    """A whole number, if one is given. Raises :class:`UnitError` that names the option."""
    return None if value is None else int(parse_count(value, option, whole=True))


def size(option: str, value: int | str | None) -> int | None:
    """Bytes, if they are given, as a number or text such as ``"4GB"``. Raises :class:`UnitError`."""
    return None if value is None else int(parse_bytes(value, option))
