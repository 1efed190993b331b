"""What the options of launchers may be."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from weft_interfaces import ConfigError

__all__ = ["Flag", "check_count", "check_output", "check_words", "flags"]

# An option of a launch program, and its value, if it has one: of its own word, or after "=" where the option
# ends with that.
Flag = tuple[str, str | None]


def check_words(value: Sequence[str] | str, field: str) -> tuple[str, ...]:
    """Words of a command line; a text is taken apart as a shell does it. Raises :class:`ConfigError`."""
    words: tuple[object, ...]
    try:
        words = tuple(shlex.split(value) if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{field} must be a list of words, not {value!r}: {error}", field) from error
    checked = tuple(word for word in words if isinstance(word, str) and "\0" not in word)
    if len(checked) < len(words):
        raise ConfigError(f"{field} must be a list of words, not {value!r}", field)
    return checked


def check_count(value: object, field: str) -> int:
    """A whole number of at least 1. Raises :class:`ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field} must be a whole number of at least 1, not {value!r}", field)
    return value


def check_output(value: str) -> None:
    """Raises :class:`ConfigError` unless it is one of what :data:`~.node.Output` allows."""
    if value not in ("job", "files"):
        raise ConfigError(f"output must be 'job' or 'files', not {value!r}", "output")


def flags(defaults: Sequence[Flag], overrides: Sequence[str]) -> list[str]:
    """The options of a launch program: ours, but those that the user's name too, and the user's."""
    words = []
    for name, value in defaults:
        bare = name.removesuffix("=")
        if any(word == bare or word.startswith(f"{bare}=") for word in overrides):
            continue
        if value is None:
            words.append(name)
        elif name.endswith("="):
            words.append(f"{name}{value}")
        else:
            words += [name, value]
    return [*words, *overrides]
