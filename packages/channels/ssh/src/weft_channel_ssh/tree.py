"""Directories as one stream of bytes: tar, which both sides can write and read."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

__all__ = ["pack", "unpack"]

_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


def pack(folder: Path, stream: IO[bytes]) -> None:
    """Write all that is in a directory. The same tree gives the same bytes, so that a transfer can go on.

    Raises :class:`OSError` for what no file system could be given: sockets, pipes, devices.
    """
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, **_ENCODING) as tar:  # type: ignore[call-overload]
        for path in _walk(folder):
            info = tar.gettarinfo(path, str(PurePosixPath(".", path.relative_to(folder))))
            if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                raise OSError(f"{path} is neither a file, a directory nor a link, and cannot be copied")
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = int(info.mtime)
            if info.isreg():
                with open(path, "rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)


def unpack(stream: IO[bytes], folder: Path) -> None:
    """Make a directory of it, which must not exist.

    Nothing outside ``folder`` is touched, whatever the stream holds: links are made when all else is there.
    """
    stream.seek(0)
    folder.mkdir(0o700)
    directories: list[tuple[Path, int]] = []
    links: list[tuple[Path, tarfile.TarInfo]] = []
    with tarfile.open(fileobj=stream, mode="r:", **_ENCODING) as tar:  # type: ignore[call-overload]
        for info in tar:
            path = _inside(folder, info.name)
            if info.isdir():
                path.mkdir(0o700, parents=True, exist_ok=True)
                directories.append((path, info.mode))
            elif info.isreg():
                path.parent.mkdir(0o700, parents=True, exist_ok=True)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    source = tar.extractfile(info)
                    assert source is not None, "a regular member has content"
                    shutil.copyfileobj(source, file)
                path.chmod(info.mode & 0o7777)
            elif info.issym() or info.islnk():
                links.append((path, info))
            else:
                raise OSError(f"{info.name} is neither a file, a directory nor a link, and was not copied")
    for path, info in sorted(links, key=lambda link: link[1].issym()):
        if info.islnk():
            os.link(_inside(folder, info.linkname), path)
        else:
            path.symlink_to(info.linkname)
    for path, mode in sorted(directories, reverse=True):
        path.chmod(mode & 0o7777)


def _walk(folder: Path) -> list[Path]:
    """The directory, and all that is in it; each directory before what is in it, in one order."""
    found = [folder]
    for path in sorted(folder.iterdir()):
        found += _walk(path) if path.is_dir() and not path.is_symlink() else [path]
    return found


def _inside(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise OSError(f"{name!r} lies outside the directory that is copied")
    return folder.joinpath(*parts)
