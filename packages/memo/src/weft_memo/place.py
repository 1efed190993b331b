"""One connection to what is behind an fsspec URL."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from weft_interfaces import ConfigError, MemoStoreError, MissingPluginError

__all__ = ["Place", "digest_of"]

# Objects appear whole, and need no folder: those that are written elsewhere get their names at the end.
_OBJECTS = frozenset(["memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"])


class Place:
    """One connection to the other side; ``lock`` is held by who reads with it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingPluginError(
                f"{url}: remote stores need fsspec, which is not installed: pip install weft-memo[remote]"
            ) from error
        try:
            self._system, self._root = url_to_fs(url, skip_instance_cache=True, **options)
        except ImportError as error:
            raise MissingPluginError(f"{url}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{url}: {error}", "store") from error
        except Exception as error:
            raise MemoStoreError(f"the memo store {url} cannot be reached: {error}") from error
        self._root = self._root.rstrip("/")
        protocol = self._system.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._objects = not names.isdisjoint(_OBJECTS)
        self._made: set[str] = set()
        self.lock = threading.Lock()

    # Paths are below the root; those of ``files`` and ``names`` are below the folder asked for.

    def read(self, path: str) -> bytes | None:
        """The content, or None if it is not there."""
        try:
            return bytes(self._system.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None

    def size(self, path: str) -> int | None:
        """Bytes, or None if it is not there."""
        try:
            return int(self._system.info(f"{self._root}/{path}")["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """What is directly in a folder."""
        self._system.invalidate_cache()
        try:
            found = self._system.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return [path.rpartition("/")[2] for path in found]

    def files(self, folder: str) -> dict[str, int]:
        """All that is below a folder, as ``ab/cdef...``, with its size."""
        self._system.invalidate_cache()
        try:
            found = self._system.find(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return {"/".join(path.split("/")[-2:]): int(info["size"] or 0) for path, info in found.items()}

    def remove(self, path: str) -> None:
        """Remove it, if it is there."""
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{path}")

    def old(self, kind: str, used: set[bytes], before: float) -> list[tuple[str, int]]:
        """Paths and sizes of what is not used, and is known to be older."""
        found = []
        for path, size in self.files(kind).items():
            if digest_of(path) in used:
                continue
            with suppress(NotImplementedError, FileNotFoundError):
                if self._system.modified(f"{self._root}/{kind}/{path}").timestamp() < before:
                    found.append((f"{kind}/{path}", size))
        return found

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write all of these, each whole or not at all where the other side can do that."""
        full = {f"{self._root}/{path}": data for path, data in contents.items()}
        if self._objects:
            if full:
                self._system.pipe(full)
            return
        for path, data in full.items():
            folder = path.rpartition("/")[0]
            if folder not in self._made:
                self._system.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            temporary = f"{self._root}/tmp-{uuid.uuid4().hex}"
            try:
                self._system.pipe_file(temporary, data)
                self._system.mv(temporary, path)
            except BaseException:
                self._made.clear()
                with suppress(Exception):
                    self._system.rm_file(temporary)
                raise


def digest_of(path: str) -> bytes:
    """The key or digest that a path of the form ``ab/cdef...`` stands for."""
    return bytes.fromhex(path.replace("/", "").replace("-", ""))
