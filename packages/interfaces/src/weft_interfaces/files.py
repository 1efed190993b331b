"""Copies on this machine that nobody sees a part of."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path

__all__ = ["copy_whole"]


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, or a directory with all that is in it, as :meth:`~weft_interfaces.Channel.put` promises.

    Returning means that ``target`` is the copy, with the permissions of ``source``; raising an
    :class:`OSError`, that it is what it was before, and that nothing else is left. The kernel moves the
    bytes, where it can.
    """
    partial = target.with_name(f".weft-{uuid.uuid4().hex}.part")
    try:
        mode = source.stat().st_mode & 0o7777
        # For nobody else's eyes until it has the permissions that it is to have.
        if source.is_dir():
            partial.mkdir(0o700)
            shutil.copytree(source, partial, symlinks=True, dirs_exist_ok=True)
        else:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            shutil.copyfile(source, partial)
        partial.chmod(mode)
        _replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()


def _replace(partial: Path, target: Path) -> None:
    try:
        os.replace(partial, target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(
                errno.EEXIST, "a directory that is not empty is there", str(target)
            ) from None
        raise
