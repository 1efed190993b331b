"""How many files this process may have open: each manager takes one, as its connection."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys

__all__ = ["exhausted", "limit", "raise_limit", "remedy", "room"]

_SPARE = 64  # descriptors that are left to the rest of the process, at least ...
_SPARE_SHARE = 8  # ... or one in so many


def raise_limit() -> None:
    """Raise the limit as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited", and refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def room() -> int:
    """For how many managers there are descriptors, if the rest of the process takes few more than now."""
    most = limit()
    return max(1, most - _open() - max(_SPARE, most // _SPARE_SHARE))


def exhausted(error: int) -> bool:
    """Whether this number of an error says that no descriptor is left."""
    return error in (errno.EMFILE, errno.ENFILE)


def remedy() -> str:
    """What is too low, and what is to be done, for messages."""
    return (
        f"the process of the interchange may have {limit()} files open: raise the limit where it is started, "
        "with `ulimit -Hn NUMBER`, or LimitNOFILE= of the service"
    )


def _open() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return _SPARE
