"""Methods of texts that Python 3.8 lacks. Inside the agent's file it is called ``weft_text``."""

from __future__ import annotations

from typing import AnyStr

__all__ = ["removeprefix", "removesuffix"]


def removeprefix(text: AnyStr, prefix: AnyStr) -> AnyStr:
    """The text without what it begins with."""
    begins = text.startswith(prefix)
    return text[len(prefix) * begins :]


def removesuffix(text: AnyStr, suffix: AnyStr) -> AnyStr:
    """The text without what it ends with."""
    ends = text.endswith(suffix)
    return text[: len(text) - len(suffix) * ends]
