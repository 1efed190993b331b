"""What the far side says when it refuses a file, as the error that this machine would raise."""

from __future__ import annotations

import errno
import os

from . import script

__all__ = ["refusal"]

_WORDS = {
    script.ABSENT: (errno.ENOENT, ""),
    script.TAKEN: (errno.EISDIR, ""),
    script.NOT_EMPTY: (errno.EEXIST, "a directory that is not empty is there"),
    script.NO_DIRECTORY: (errno.EEXIST, "it is there, and is no directory"),
    script.WRONG_KIND: (errno.ENOTDIR, ""),
    script.SPECIAL: (errno.EINVAL, "it is neither a file nor a directory"),
    script.CHANGED: (errno.EIO, "its content did not arrive as it was, or changed on the way"),
}
_SAID = (
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.EISDIR,
    errno.ESTALE,
    errno.EFBIG,
)


def refusal(path: str, host: str, status: int, stderr: bytes) -> OSError:
    """The error of the class that its number stands for, with the far side's words."""
    words = stderr.decode(errors="replace").strip()
    number, own = _WORDS.get(status, (errno.EIO, ""))
    if status not in _WORDS:
        number = next((each for each in _SAID if os.strerror(each).lower() in words.lower()), errno.EIO)
    return OSError(number, own or words.replace("\n", "; ") or os.strerror(number), f"{host}:{path}")
