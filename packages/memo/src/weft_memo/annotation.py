"""Annotations as text that is the same on every Python."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any

__all__ = ["annotation_text", "class_annotations"]


def annotation_text(value: Any) -> str:
    """``Optional[int]`` and ``int | None`` are ``Union[int, NoneType]``; classes go without their module."""
    if isinstance(value, str):
        return value
    if value is Ellipsis:
        return "..."
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(annotation_text(part) for part in value)}]"
    arguments = typing.get_args(value)
    if arguments:
        origin = typing.get_origin(value)
        name = "Union" if origin in (typing.Union, types.UnionType) else annotation_text(origin)
        return f"{name}[{', '.join(annotation_text(part) for part in arguments)}]"
    for attribute in ("__forward_arg__", "__qualname__", "__name__", "_name"):
        found = getattr(value, attribute, None)
        if isinstance(found, str):
            return found
    return f"<{type(value).__qualname__}>"


def class_annotations(cls: type) -> dict[str, Any]:
    """Those that the class itself declares, in their order."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return dict(get_annotations(cls, format=Format.FORWARDREF))
    found = vars(cls).get("__annotations__", {})
    return dict(found) if isinstance(found, dict) else {}
