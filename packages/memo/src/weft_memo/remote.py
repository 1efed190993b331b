"""The store that is a URL: for teams, on anything that fsspec speaks to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

from weft_interfaces import MemoStoreError, parse_bytes, parse_seconds

from .batched import BatchedStore
from .index import pack_text, unpack_text
from .place import Place, digest_of
from .record import Record, UnreadableError, content_digest, pack_components, unpack_components
from .sweep import Removed, portions
from .writer import Batch

__all__ = ["RemoteStore"]

T = TypeVar("T")

_HEAD = b"weft-memo 1\n"
_NEAR = 200  # entries among which the nearest is looked for
_GRACE = 86_400.0  # seconds for which a value is kept that no entry refers to: it may be on its way
# Objects appear whole, and need no folder: those that are written elsewhere get their names at the end.
_OBJECTS = frozenset(["memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"])


class RemoteStore(BatchedStore):
    """Keeps outcomes below ``url``; ``storage_options`` are those of fsspec for its protocol.

    Each entry is an object, ``entries/ab/cdef...``; large outcomes are others, by digest, so that equal ones
    are stored once. A thread of the store's own writes, and ``flush`` waits until the other side has taken
    all. An entry that was written in part is a miss with a reason.

    Any number of processes and machines may use one URL at once. Raises :class:`MissingPluginError` where
    fsspec, or what it needs for the protocol, is not installed, and :class:`MemoStoreError` when the other
    side does not answer. A copy that was pickled opens the same URL.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        self.url = url.rstrip("/")
        self.storage_options = storage_options
        self._lock = threading.RLock()
        self._place: Place | None = None
        self._writing: Place | None = None
        self._closed = False
        self._open()
        super().__init__(f"the memo store {self.url}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self.url, self.storage_options)

    def close(self) -> None:
        """See :meth:`BatchedStore.close`."""
        try:
            super().close()
        finally:
            self._closed = True
            self._place = self._writing = None

    # -- beyond the contract ------------------------------------------------------------------------------

    def remove(self, keys: Iterable[bytes]) -> int:
        """Remove these entries, and return how many of them there were."""
        self.flush()
        count = 0
        for key in keys:
            with suppress(UnreadableError):
                record = self._find(key)
                if record is None:
                    continue
                self._asked(lambda place, record=record: place.remove(_marker(record)))  # type: ignore[misc]
            self._asked(lambda place, key=key: place.remove(_entry(key)))  # type: ignore[misc]
            count += 1
        return count

    def gc(self, max_size: str | int | None = None, max_age: str | float | None = None) -> Removed:
        """Remove the oldest entries until what is left is not larger and not older than this; and large
        outcomes and descriptions that nothing has referred to for a day. Reads all entries.
        """
        limit = None if max_size is None else parse_bytes(max_size, "max_size")
        oldest = 0.0 if max_age is None else time.time() - parse_seconds(max_age, "max_age")
        total, freed = 0, 0
        used: set[bytes] = set()
        doomed: list[bytes] = []
        for record in sorted(self.records(), key=lambda record: -record.time):
            needed = 500 + len(record.components) + (0 if record.digest in used else record.size)
            fits = limit is None or needed <= limit  # one that does not must not push out the others
            total += needed if fits else 0
            if record.time < oldest or not fits or (limit is not None and total > limit):
                doomed.append(record.key)
            else:
                used.update(
                    digest for digest in (record.digest, *self._texts_of(record)) if digest is not None
                )
        entries = self.remove(doomed)
        counts = []
        for kind in ("values", "texts"):
            old = self._asked(lambda place, kind=kind: place.old(kind, used, time.time() - _GRACE))  # type: ignore[misc]
            for path, size in old:
                self._asked(lambda place, path=path: place.remove(path))  # type: ignore[misc]
                freed += size
            counts.append(len(old))
        return Removed(entries, counts[0], counts[1], freed)

    def verify(self) -> list[tuple[bytes, str]]:
        """Read everything, and compare it with its checksums, without unpickling anything: the keys of all
        entries that are damaged, with the reason.
        """
        self.flush()
        broken = []
        for key in self._keys():
            try:
                record = self._find(key)
                if record is not None:
                    self._outcome(record)
            except UnreadableError as problem:
                broken.append((key, str(problem)))
        return broken

    def size(self) -> tuple[int, int]:
        """The number of entries, and the bytes that they take."""
        self.flush()
        entries, values = (
            self._asked(lambda place, kind=kind: place.files(kind))  # type: ignore[misc]
            for kind in ("entries", "values")
        )
        return len(entries), sum(entries.values()) + sum(values.values())

    # -- inside -------------------------------------------------------------------------------------------

    def _open(self) -> Place:
        with self._lock:
            if self._closed:
                raise MemoStoreError(f"the memo store {self.url} is closed")
            if self._place is None:
                self._place = Place(self.url, self.storage_options)
            return self._place

    def _asked(self, question: Callable[[Place], T]) -> T:
        place = self._open()
        try:
            with place.lock:
                return question(place)
        except (UnreadableError, MemoStoreError):
            raise
        except Exception as error:
            raise MemoStoreError(f"the memo store {self.url} cannot be read: {error}") from error

    def _find(self, key: bytes) -> Record | None:
        data = self._asked(lambda place: place.read(_entry(key)))
        if data is None:
            return None
        record = _decoded(data)
        if record.key != key:
            raise UnreadableError(f"the entry {key.hex()} is damaged: it has another's key")
        return record

    def _content(self, digest: bytes) -> bytes:
        data = self._asked(lambda place: place.read(_value(digest)))
        if data is None:
            raise UnreadableError(f"its value {_value(digest)} is not there")
        if content_digest(data) != digest:
            raise UnreadableError(f"its value {_value(digest)} is damaged: its content has another digest")
        return data

    def _near(
        self, task: str, components: Mapping[str, bytes], before: float
    ) -> Iterator[tuple[bytes, bytes]]:
        folder, end = _task_folder(task), _moment(before)
        names = [name for name in self._asked(lambda place: place.names(folder)) if name < end]
        for name in sorted(names, reverse=True)[:_NEAR]:
            packed = self._asked(lambda place, name=name: place.read(f"{folder}/{name}"))  # type: ignore[misc]
            if packed is not None:
                yield bytes.fromhex(name.partition("-")[2]), packed

    def _text(self, digest: bytes) -> str | None:
        data = self._asked(lambda place: place.read(_text_path(digest)))
        return None if data is None else unpack_text(data)

    def _keys(self) -> list[bytes]:
        return [digest_of(path) for path in self._asked(lambda place: place.files("entries"))]

    def _records(self) -> Iterator[Record]:
        for key in self._keys():
            with suppress(UnreadableError):
                record = self._find(key)
                if record is not None:
                    yield record

    def _in_child(self) -> None:
        super()._in_child()
        self._lock = threading.RLock()
        self._place = self._writing = None

    def _commit(self, batch: Batch) -> None:
        if self._writing is None:  # a connection of its own: few of them are for threads
            self._writing = Place(self.url, self.storage_options)
        place, records = self._writing, batch.records.values()
        values = {_value(r.digest): r.data for r in records if r.digest and r.data is not None}
        place.write({path: data for path, data in values.items() if place.size(path) != len(data)})
        texts = {_text_path(digest): pack_text(text) for digest, text in batch.texts.items()}
        place.write({path: data for path, data in texts.items() if place.size(path) is None})
        for portion in portions(records):
            place.write({_entry(record.key): _encoded(record) for record in portion})
            place.write({_marker(record): record.components for record in portion})


def _entry(key: bytes) -> str:
    return f"entries/{_spread(key)}"


def _value(digest: bytes) -> str:
    return f"values/{_spread(digest)}"


def _text_path(digest: bytes) -> str:
    return f"texts/{_spread(digest)}"


def _spread(digest: bytes) -> str:
    name = digest.hex()
    return f"{name[:2] or '-'}/{name[2:] or '-'}"


def _marker(record: Record) -> str:
    return f"{_task_folder(record.task)}/{_moment(record.time)}-{record.key.hex()}"


def _moment(time: float) -> str:
    return f"{min(int(time * 1e6), 10**18) if time < 1e12 else 10**18:019}"


def _task_folder(task: str) -> str:
    name = quote(task, safe="").replace(".", "%2E") if task.startswith(".") else quote(task, safe="")
    if len(name) > 150 or not name:
        name = f"{name[:100]}-{content_digest(task.encode()).hex()[:32]}"
    return f"tasks/{name}"


def _encoded(record: Record) -> bytes:
    head = {
        "key": record.key.hex(),
        "task": record.task,
        "time": record.time,
        "run": record.run,
        "origin": record.origin,
        "components": {name: digest.hex() for name, digest in unpack_components(record.components)},
        "size": record.size,
        "digest": record.digest and record.digest.hex(),
        "mark": record.mark.hex(),
    }
    data = b"" if record.digest is not None or record.data is None else record.data
    return _HEAD + json.dumps(head).encode() + b"\n" + data


def _decoded(content: bytes) -> Record:
    if not content.startswith(_HEAD):
        newer = content.startswith(_HEAD[:10])
        raise UnreadableError(
            "the entry was made by a newer weft-memo: pip install -U weft-memo" if newer
            else "the entry is damaged: it does not begin as entries do"
        )  # fmt: skip
    head, _, data = content[len(_HEAD) :].partition(b"\n")
    try:
        found = json.loads(head)
        digest = found["digest"]
        return Record(
            bytes.fromhex(found["key"]),
            found["task"],
            found["time"],
            found["run"],
            found["origin"],
            pack_components({name: bytes.fromhex(value) for name, value in found["components"].items()}),
            found["size"],
            None if digest is None else bytes.fromhex(digest),
            data if digest is None else None,
            bytes.fromhex(found["mark"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"the entry is damaged: {type(error).__name__}: {error}") from error


def _reopened(kind: type[RemoteStore], url: str, options: dict[str, Any]) -> RemoteStore:
    return kind(url, **options)
