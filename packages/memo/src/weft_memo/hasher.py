"""The digest of any value."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from .encoding import HASHED, LEAVES
from .errors import UnknownTypeError
from .walk import Walk

__all__ = ["Hasher", "digest", "digest_argument"]


def digest(value: Any) -> bytes:
    """32 bytes that stand for a value: the same for equal values of the same types, in any process on any
    machine and from Python 3.10 on; others for different values, and for equal ones of different types.

    Raises :class:`UnknownTypeError`, a ``ValueError``, which names the type and where it sits in the value,
    for what has no content that could be hashed: a lock, an open file, a generator. The value is not changed.
    Threads may call it at once, as long as none changes the value meanwhile.
    """
    leaf = LEAVES.get(type(value))
    return _final(leaf(value) if leaf is not None else _encode(Walk(), value, ""))


def digest_argument(value: Any, types: set[type], name: str = "") -> bytes:
    """The digest of a value; the classes of the user's own among those of its parts are added to ``types``.

    name: what errors call the value.
    """
    leaf = LEAVES.get(type(value))
    if leaf is not None:
        return _final(leaf(value))
    walk = Walk()
    encoding = _encode(walk, value, name)
    if walk.seen:
        from .kinds import is_users

        types.update(filter(is_users, walk.seen))
    return _final(encoding)


def _encode(walk: Walk, value: Any, name: str) -> bytes:
    try:
        return walk.encode_any(value)
    except UnknownTypeError as error:
        if error.path:  # too deep to look for
            raise
        problem = error
    from .path import locate

    raise locate(walk, value, name, problem) from problem.__cause__


def _final(encoding: bytes) -> bytes:
    return encoding[1:] if encoding[0] == HASHED else blake3(encoding).digest()


class Hasher:
    """The :class:`~weft_interfaces.MemoHasher` of Weft."""

    def digest(self, value: Any) -> bytes:
        return digest(value)
