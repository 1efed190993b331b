"""The standard library's types that are not built in, by what counts of them.

The table has their names, so that a module is not loaded for what nobody passes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from .encoding import Encoding, content, text
from .errors import UnknownTypeError
from .naming import is_standard, qualified_name
from .node import ATTRIBUTES, ORDERED, PAIRS, SEQUENCE, SET, SPLITS, Node, Split, View

__all__ = ["standard_split"]


def standard_split(kind: type) -> Split | None:
    """How instances of the class are split, if the table has it."""
    if not is_standard(kind):
        return None
    name = qualified_name(kind)
    make = TABLE.get(name)
    return None if make is None else make(b"T" + text(name))


def _parts(*names: str) -> Callable[[bytes], Split]:
    """Attributes, one after another."""
    labels = tuple(f".{name}" for name in names)

    def make(head: bytes) -> Split:
        return lambda value: Node(head, [getattr(value, name) for name in names], SEQUENCE, labels)

    return make


def _data(read: Callable[[Any], bytes]) -> Callable[[bytes], Split]:
    """A few bytes."""
    return lambda head: lambda value: content(head, read(value))


def _made(order: int, read: Callable[[Any], Any], labels: tuple[str, ...] | None = None) -> Any:
    """A list of parts."""
    if labels is None:
        return lambda head: lambda value: Node(head, read(value), order)
    return lambda head: lambda value: Node(head, read(value), order, labels)


# -- times ---------------------------------------------------------------------------------------------------

_date = struct.Struct("<HBB").pack
_time = struct.Struct("<BBBIB").pack


def _of_date(value: Any) -> bytes:
    return _date(value.year, value.month, value.day)


def _of_time(value: Any) -> bytes:
    return _time(value.hour, value.minute, value.second, value.microsecond, value.fold)


def _of_datetime(value: Any) -> bytes:
    return _of_date(value) + _of_time(value)


def _zoned(read: Callable[[Any], bytes]) -> Callable[[bytes], Split]:
    def make(head: bytes) -> Split:
        def split(value: Any) -> Node | Encoding:
            if value.tzinfo is None:
                return content(head, read(value))
            return Node(head, (read(value), value.tzinfo), labels=("", ".tzinfo"))

        return split

    return make


def _zone(head: bytes) -> Split:
    def split(value: Any) -> Node:
        if value.key is None:
            raise UnknownTypeError("zoneinfo.ZoneInfo", "", "it was read from a file, and has no key")
        return Node(head, (value.key,))

    return split


# -- buffers -------------------------------------------------------------------------------------------------


def _array(head: bytes) -> Split:
    def split(value: Any) -> Node:
        if sys.byteorder == "big":
            value = value[:]
            value.byteswap()
        view = View(lambda held: content(b"b", memoryview(held).cast("B")), value)
        return Node(head, (value.typecode, value.itemsize, view))

    return split


def _memoryview(head: bytes) -> Split:
    def split(value: Any) -> Node:
        flat = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
        view = View(lambda held: content(b"b", held), flat)
        return Node(head, (value.format, value.shape, view))

    return split


def _pairs(value: Any) -> list[Any]:
    return list(chain.from_iterable(value.items()))


def _ordered(value: Any) -> list[Any]:
    from collections import OrderedDict

    return list(chain.from_iterable(OrderedDict.items(value)))


def _deque(value: Any) -> list[Any]:
    from collections import deque

    return [value.maxlen, *deque.__iter__(value)]


def _range(value: Any) -> list[Any]:
    return [value.start, value.stop, value.step]


def _shown(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _buffered(value: Any) -> Any:
    return (*value.__getstate__()[:-1], value.__dict__)


TABLE: Final[dict[str, Callable[[bytes], Split]]] = {
    "_io.BytesIO": _made(SEQUENCE, _buffered),
    "_io.StringIO": _made(SEQUENCE, _buffered),
    "array.array": _array,
    "builtins.dict_items": _made(PAIRS, lambda value: list(chain.from_iterable(value))),
    "builtins.dict_keys": _made(SET, list),
    "builtins.dict_values": _made(SEQUENCE, list),
    "builtins.mappingproxy": _made(PAIRS, _pairs),
    "builtins.memoryview": _memoryview,
    "builtins.range": _made(SEQUENCE, _range),
    "builtins.slice": _made(SEQUENCE, _range),
    "collections.Counter": _made(PAIRS, lambda value: list(chain.from_iterable(dict.items(value)))),
    "collections.OrderedDict": _made(ORDERED, _ordered),
    "collections.defaultdict": _made(
        SEQUENCE, lambda value: (value.default_factory, View(SPLITS[dict], value)), (".default_factory", "")
    ),
    "collections.deque": _made(SEQUENCE, _deque),
    "datetime.date": _data(_of_date),
    "datetime.datetime": _zoned(_of_datetime),
    "datetime.time": _zoned(_of_time),
    "datetime.timedelta": _parts("days", "seconds", "microseconds"),
    "datetime.timezone": _made(SEQUENCE, lambda value: value.__getinitargs__()),
    "decimal.Decimal": _data(lambda value: str(value).encode()),
    "fractions.Fraction": _parts("numerator", "denominator"),
    "functools.partial": _parts("func", "args", "keywords", "__dict__"),
    **{
        f"ipaddress.IPv{version}{kind}": _data(_shown)
        for version in (4, 6)
        for kind in ("Address", "Network", "Interface")
    },
    "pathlib.PosixPath": _data(_shown),
    "pathlib.PurePosixPath": _data(_shown),
    "pathlib.PureWindowsPath": _data(_shown),
    "pathlib.WindowsPath": _data(_shown),
    "re.Pattern": _parts("pattern", "flags"),
    "types.SimpleNamespace": _made(PAIRS, lambda value: _pairs(value.__dict__), ATTRIBUTES),
    "uuid.UUID": _data(lambda value: value.int.to_bytes(16, "big")),
    "zoneinfo.ZoneInfo": _zone,
}
