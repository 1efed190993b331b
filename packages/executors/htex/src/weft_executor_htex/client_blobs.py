"""The blobs that a client has: one copy of each content, as long as anybody needs it.

An argument may change after it was submitted, so it is copied; but what cannot change is not: bytes, shared
values, and results, which are given out to be read only. What was copied or kept before is known by its
address: if it cannot have changed, nothing is to be done; else a comparison with the copy is much faster than
finding its digest again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from weft_interfaces import Shared

from .blobs import digest_of
from .messages import Frame
from .packing import Find
from .stream import Arrived

__all__ = ["ClientBlob", "ClientBlobs"]

_MOST_IN_MEMORY = 1 << 30  # bytes of copies; what is more goes to files

Address = tuple[int, int]


class ClientBlob:
    """A content. ``data`` is to be read only; ``borrowed``: it is a shared value's own."""

    __slots__ = ("__weakref__", "_freed", "borrowed", "copy", "data", "digest", "size")

    def __init__(
        self,
        digest: bytes,
        data: memoryview,
        copy: bytearray | None,
        borrowed: bool,
        freed: deque[int] | None,
    ) -> None:
        self.digest = digest
        self.size = len(data)
        self.data = data
        self.copy = copy
        self.borrowed = borrowed
        self._freed = freed

    def __del__(self) -> None:
        if self._freed is not None:
            self._freed.append(self.size)


class ClientBlobs:
    """A :class:`Keeper`. Threads may use it at once."""

    def __init__(self, most_in_memory: int = _MOST_IN_MEMORY) -> None:
        self._most = most_in_memory
        self._lock = threading.Lock()
        self._blobs: weakref.WeakValueDictionary[bytes, ClientBlob] = weakref.WeakValueDictionary()
        # By address: what cannot change as long as this is there, and what was copied.
        self._fixed: weakref.WeakValueDictionary[Address, ClientBlob | Arrived] = (
            weakref.WeakValueDictionary()
        )
        self._copied: weakref.WeakValueDictionary[Address, ClientBlob] = weakref.WeakValueDictionary()
        self._shares: weakref.WeakKeyDictionary[Shared[Any], list[ClientBlob]] = weakref.WeakKeyDictionary()
        self._in_memory = 0
        self._freed: deque[int] = deque()  # sizes of copies; a list to which the garbage collector may add

    # -- as a keeper ----------------------------------------------------------------------------------------

    def begin(self) -> int:
        """See :meth:`Keeper.begin`."""
        return 0

    def keep(self, data: Any, token: int) -> ClientBlob:
        """See :meth:`Keeper.keep`."""
        address = _address(data)
        with self._lock:
            fixed = self._fixed.get(address)
            copied = self._copied.get(address)
        if fixed is not None:
            return fixed if isinstance(fixed, ClientBlob) else self._of_result(fixed)
        if copied is not None and copied.copy == data:
            return copied
        digest = digest_of(data)
        with self._lock:
            known = self._blobs.get(digest)
        if known is None or known.borrowed:
            known = self._copy(digest, data)
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None or blob.borrowed:
                blob = self._blobs[digest] = known
            if blob.copy is not None:
                self._copied[address] = blob
            elif blob.data.obj is data:
                self._fixed[address] = blob
        return blob

    def share(self, shared: Shared[Any], large: int) -> None:
        """See :meth:`Keeper.share`."""
        if shared in self._shares:
            return
        buffers = [buffer.raw() for buffer in shared.packed()]
        blobs = []
        for data in buffers:
            if len(data) <= large:
                continue
            digest = digest_of(data)
            with self._lock:
                blob = self._blobs.get(digest)
                if blob is None or blob.borrowed:  # of another shared value, which may be released before
                    blob = ClientBlob(digest, data.toreadonly(), None, True, None)
                    self._blobs[digest] = blob
                self._fixed[_address(data)] = blob
            blobs.append(blob)
        self._shares[shared] = blobs

    def find(self, digest: bytes, size: int) -> Any:
        """See :meth:`Keeper.find`."""
        with self._lock:
            blob = self._blobs.get(digest)
        if blob is None:
            raise LookupError(f"blob {digest.hex()[:16]} is not there")
        return bytes(blob.data) if blob.borrowed else blob.data  # whose owner may change it some day

    def restore(self, digest: bytes, data: memoryview) -> ClientBlob:
        """A content that an earlier client has sent, where nobody changes it."""
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None:
                blob = self._blobs[digest] = ClientBlob(digest, data, None, False, None)
            return blob

    # -- results --------------------------------------------------------------------------------------------

    def arrived(self, blobs: Sequence[tuple[bytes, Frame]]) -> Find:
        """The blobs of a result have come: where to find them, and those that its call needed.

        Should the result become an argument, they need not be looked into again.
        """
        for digest, frame in blobs:
            owner = frame.obj if isinstance(frame, memoryview) else None
            if isinstance(owner, Arrived) and len(owner) == len(frame):
                owner.digest = digest
                with self._lock:
                    self._fixed[_address(frame)] = owner
        frames = dict(blobs)
        return lambda digest, size: frames[digest] if digest in frames else self.find(digest, size)

    def _of_result(self, owner: Arrived) -> ClientBlob:
        with self._lock:
            blob = self._blobs.get(owner.digest)
            if blob is None or blob.borrowed:
                blob = ClientBlob(owner.digest, memoryview(owner).toreadonly(), None, False, None)
                self._blobs[owner.digest] = blob
        return blob

    # -- copies ---------------------------------------------------------------------------------------------

    def _copy(self, digest: bytes, data: Any) -> ClientBlob:
        """Raises :class:`OSError` when there is no room for it."""
        if type(data) is bytes:
            return ClientBlob(digest, memoryview(data), None, False, None)
        size = len(data)
        with self._lock:
            while self._freed:
                self._in_memory -= self._freed.popleft()
            fits = self._in_memory + size <= self._most
            if fits:
                self._in_memory += size
        if not fits:
            return ClientBlob(digest, _in_file(data), None, False, None)
        copy = bytearray(data)
        return ClientBlob(digest, memoryview(copy).toreadonly(), copy, False, self._freed)


def _in_file(data: memoryview) -> memoryview:
    """The same bytes in a file without a name: nothing of it is left, whatever becomes of this process."""
    with tempfile.TemporaryFile(prefix="weft-") as file:
        written = 0
        while written < len(data):
            written += os.write(file.fileno(), data[written:])
        return memoryview(mmap.mmap(file.fileno(), len(data), access=mmap.ACCESS_READ))


class _Buffer(ctypes.Structure):
    """``Py_buffer`` of Python's C API."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def _address(data: Any) -> Address:
    """Where in memory the bytes are, and how many."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0, buffer.len
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
