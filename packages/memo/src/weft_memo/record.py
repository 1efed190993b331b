"""An entry as stores keep it: its outcome as bytes, and a mark that tells whether anything was damaged."""

from __future__ import annotations

import functools
import os
import pickle
import platform
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from blake3 import blake3
from weft_interfaces import MemoEntry, PickleSerializer, RemoteError, SerializationError

from .__about__ import __version__

__all__ = [
    "Record",
    "UnreadableError",
    "content_digest",
    "entry_of",
    "outline_of",
    "pack",
    "pack_components",
    "unpack_components",
]

_PICKLES = PickleSerializer()
_THREADS_FROM = 1 << 20  # bytes from which the digest is worth the threads
_MARK = 8  # bytes


class UnreadableError(Exception):
    """An entry that is there, but cannot be read; the message says why."""


class Record(NamedTuple):
    """One entry. data: its pickled outcome, or None where that is a file of this digest. size: of it.

    components: packed. origin: the versions of Python and of this package, the host and the process that made
    it. mark: a checksum of all of it.
    """

    key: bytes
    task: str
    time: float
    run: str
    origin: str
    components: bytes
    size: int
    digest: bytes | None
    data: bytes | None
    mark: bytes

    @property
    def python(self) -> str:
        """The version of Python that pickled the outcome."""
        return self.origin.partition(" ")[0]

    def is_whole(self) -> bool:
        """Whether it is what was written. The bytes of a value file are not looked at."""
        return self.mark == _mark(self)


@functools.cache
def _origin(pid: int) -> str:
    return f"{platform.python_version()} {__version__} {socket.gethostname()}:{pid}"


def pack(entry: MemoEntry, inline: int) -> Record:
    """The record of an entry; from ``inline`` bytes on, with the digest of a file to keep the outcome in.

    Raises :class:`SerializationError`, which names the task, for an outcome that cannot be pickled.
    """
    what = f"the result of {entry.task!r}"
    if entry.error is None:
        data = _PICKLES.dumps((entry.value, None), what)
    else:
        data = _pack_error(entry.error, what)
    record = Record(
        bytes(entry.key),
        _clean(entry.task),
        float(entry.time),
        _clean(entry.run),
        _origin(os.getpid()),
        pack_components(entry.components),
        len(data),
        content_digest(data) if len(data) >= inline else None,
        data,
        b"",
    )
    return record._replace(mark=_mark(record))


def entry_of(record: Record, data: bytes | memoryview) -> MemoEntry:
    """The entry, its outcome unpickled from ``data``. Raises :class:`UnreadableError`."""
    try:
        value, error = pickle.loads(data)
        if error is not None:
            error = _unpack_error(error)
    except Exception as problem:
        raise UnreadableError(
            f"the result of {record.task!r}, pickled by Python {record.python}, cannot be unpickled by "
            f"Python {platform.python_version()}: {type(problem).__name__}: {problem}"
        ) from problem
    return outline_of(record, value, error)


def outline_of(record: Record, value: Any = None, error: BaseException | None = None) -> MemoEntry:
    """The entry with this outcome."""
    return MemoEntry(
        key=record.key,
        task=record.task,
        value=value,
        error=error,
        components=dict(unpack_components(record.components)),
        run=record.run,
        time=record.time,
    )


def content_digest(data: bytes | memoryview) -> bytes:
    """The blake3 digest of the bytes."""
    threads = blake3.AUTO if len(data) >= _THREADS_FROM else 1
    return blake3(data, max_threads=threads).digest()


def pack_components(components: Mapping[str, bytes]) -> bytes:
    """Names and digests, one after the other, each behind its length."""
    parts: list[bytes] = []
    for name, digest in components.items():
        encoded = name.encode("utf-8", "surrogatepass")
        parts += (struct.pack("<HH", len(encoded), len(digest)), encoded, digest)
    return b"".join(parts)


def unpack_components(packed: bytes) -> Iterator[tuple[str, bytes]]:
    """What :func:`pack_components` packed."""
    at = 0
    while at < len(packed):
        name, digest = struct.unpack_from("<HH", packed, at)
        middle = at + 4 + name
        at = middle + digest
        yield packed[middle - name : middle].decode("utf-8", "surrogatepass"), packed[middle:at]


def _mark(record: Record) -> bytes:
    content = record.digest or record.data or b""
    head = (
        f"{record.task}\0{record.time!r}\0{record.run}\0{record.origin}\0{len(record.key)}\0"
        f"{len(record.components)}\0{record.size}\0{record.digest is None:d}\0"
    )
    packed = b"".join((head.encode(), record.key, record.components, content))
    return blake3(packed).digest(length=_MARK)


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _pack_error(error: BaseException, what: str) -> bytes:
    """The exception and its causes, each as bytes: pickle itself forgets causes."""
    chain, causes = [], error.__cause__
    try:
        packed = _PICKLES.dumps(error, what)
        pickle.loads(packed)
    except SerializationError:
        raise
    except Exception as problem:
        message = f"{what}, an exception of type {type(error).__qualname__}, cannot be unpickled: {problem}"
        raise SerializationError(message, what) from problem
    chain.append(packed)
    while causes is not None and len(chain) < 20:
        chain.append(_portable(causes))
        causes = causes.__cause__
    return _PICKLES.dumps((None, chain), what)


def _portable(cause: BaseException) -> bytes:
    try:
        packed = _PICKLES.dumps(cause, "a cause")
        pickle.loads(packed)
    except Exception:  # noqa: BLE001  a foreign exception's pickling may raise anything
        return _PICKLES.dumps(RemoteError(type(cause).__qualname__, str(cause)), "a cause")
    return packed


def _unpack_error(chain: list[bytes]) -> BaseException:
    first, *causes = (pickle.loads(packed) for packed in chain)
    error: BaseException = first
    for cause in causes:
        error.__cause__ = cause
        error = cause
    return first  # type: ignore[no-any-return]
