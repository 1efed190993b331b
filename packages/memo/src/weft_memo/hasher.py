"""The digest of any value."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from .encoding import HASHED, LEAVES
from .errors import UnknownTypeError
from .walk import Deep, encode, encode_any

__all__ = ["Hasher", "digest", "digest_argument"]


def digest(value: Any) -> bytes:
    """32 bytes that stand for a value: the same for equal values of the same types, in any process on any
    machine and from Python 3.10 on; others for different values, and for equal ones of different types.

    Raises :class:`UnknownTypeError`, a ``ValueError``, which names the type and where it sits in the value,
    for what has no content that could be hashed: a lock, an open file, a generator. The value is not changed.
    Threads may call it at once, as long as none changes the value meanwhile.
    """
    if type(value) in LEAVES:
        encoding = LEAVES[type(value)](value)
    else:
        try:
            encoding = encode(value, {}, set(), 0)
        except (Deep, RecursionError, UnknownTypeError):
            return digest_argument(value, set())
    return encoding[1:] if encoding[0] == HASHED else blake3(encoding).digest()


def digest_argument(value: Any, types: set[type], name: str = "") -> bytes:
    """The digest of a value; the classes of the user's own among those of its parts are added to ``types``.

    name: what errors call the value.
    """
    if type(value) in LEAVES:
        return digest(value)
    seen: set[type] = set()
    try:
        encoding = encode_any(value, {}, seen)
    except UnknownTypeError as error:
        raise _placed(error, value, name) from error.__cause__
    if seen:
        from .kinds import is_users

        types.update(filter(is_users, seen))
    return encoding[1:] if encoding[0] == HASHED else blake3(encoding).digest()


def _placed(error: UnknownTypeError, value: Any, name: str) -> UnknownTypeError:
    """The error again, with the path to its cause, unless that is too deep to look for."""
    if error.path:
        return error
    from .path import locate

    return locate(value, name, error)


class Hasher:
    """The :class:`~weft_interfaces.MemoHasher` of Weft."""

    def digest(self, value: Any) -> bytes:
        return digest(value)
