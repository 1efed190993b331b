"""What goes wrong when a value is hashed."""

from __future__ import annotations

from weft_interfaces import InputError

__all__ = ["UnknownTypeError"]


class UnknownTypeError(InputError, ValueError):
    """A value that no hash by content can be given.

    type_name: its type. path: where it sits in the value that was to be hashed, such as
    ``config['model'].lock``; empty for that value itself. reason: why, where that is known.
    """

    def __init__(self, type_name: str, path: str = "", reason: str = "") -> None:
        super().__init__(type_name, path, reason)
        self.type_name = type_name
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"unknown type for memoization: {self.type_name}{where}{why}. "
            "Say what of it counts, with id_for_memo.register or a method __weft_memo__ of its class, or "
            "leave the argument out, with ignore_for_memo"
        )
