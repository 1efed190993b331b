"""What the interchange needs of msgspec, in plain Python: for a host that has nothing but Python.

Inside the agent's file this module is called ``msgspec``. It reads and writes the same bytes, and checks what
it reads against the same annotations; what it does not know of msgspec (constraints, hooks, cycles) is not
used by the modules in that file, which a test makes sure of. A frozen struct is not guarded here.

Python 3.8, and the standard library alone.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json as _json
import struct as _struct
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

__all__ = ["DecodeError", "MsgspecError", "Struct", "ValidationError", "json", "msgpack", "structs"]

_DEEPEST = 64  # lists in lists; the messages have five
_MANY = 16  # integers from which on a list of them is handled as a whole


class MsgspecError(Exception):
    """Any error of this module."""


class DecodeError(MsgspecError):
    """Bytes that cannot be read."""


class ValidationError(DecodeError):
    """Bytes that are no value of the type."""


# -- structs ------------------------------------------------------------------------------------------------


class _Union:
    """``A | B`` of structs, which are told apart by their tags."""

    def __init__(self, members: tuple[Any, ...]) -> None:
        self.members = members

    def __or__(self, other: Any) -> _Union:
        return _Union((*self.members, other))


class _Defaults:
    """Stands for arguments that were not given."""


_ABSENT = _Defaults()


class _StructMeta(type):
    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    _types: dict[str, str]
    _scope: dict[str, Any]
    _array_like: bool
    _kw_only: bool
    _tag: str | None

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        array_like: bool | None = None,
        tag: bool | None = None,
        frozen: bool = False,
        kw_only: bool = False,
    ) -> Any:
        base: Any = bases[0] if bases else None
        annotations = namespace.get("__annotations__", {})
        own = {field: annotations[field] for field in annotations if not field.startswith("_")}
        defaults = {field: namespace.pop(field) for field in own if field in namespace}
        namespace["__slots__"] = tuple(own)
        cls: Any = super().__new__(mcls, name, bases, namespace)
        cls._types = {**(base._types if base else {}), **own}
        cls._fields = tuple(cls._types)
        cls._scope = vars(sys.modules[cls.__module__])
        cls._defaults = {**(base._defaults if base else {}), **defaults}
        cls._array_like = bool(base and base._array_like) if array_like is None else array_like
        tagged = bool(base and base._tag) if tag is None else tag
        cls._tag = name if tagged else None
        cls._kw_only = kw_only
        if own:
            cls.__init__ = _make_init(cls)
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any) -> None:
        super().__init__(name, bases, namespace)

    def __or__(cls, other: Any) -> Any:
        return _Union((cls, other))


def _make_init(cls: Any) -> Any:
    """``__init__``, which takes the fields in their order or by name; a list or dict is made anew."""
    arguments, lines = [], []
    for field in cls._fields:
        if field not in cls._defaults:
            arguments.append(field)
            lines.append(f"    self.{field} = {field}")
            continue
        default = cls._defaults[field]
        arguments.append(f"{field}=ABSENT")
        value = repr(default) if isinstance(default, (list, dict)) else f"DEFAULTS[{field!r}]"
        lines.append(f"    self.{field} = {value} if {field} is ABSENT else {field}")
    if cls._kw_only:
        arguments.insert(0, "*")
    scope = {"ABSENT": _ABSENT, "DEFAULTS": cls._defaults}
    exec("def __init__(self, {}):\n{}".format(", ".join(arguments), "\n".join(lines)), scope)
    return scope["__init__"]


class Struct(metaclass=_StructMeta):
    """See msgspec."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    _array_like: bool
    _tag: str | None

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, field) for field in self._fields])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        fields = ", ".join([f"{field}={getattr(self, field)!r}" for field in self._fields])
        return f"{type(self).__name__}({fields})"


def _replace(value: Any, **changes: Any) -> Any:
    return type(value)(**{**dict(zip(value._fields, value._values())), **changes})  # noqa: B905


# -- the values of a type -----------------------------------------------------------------------------------

_Check: TypeAlias = "Callable[[Any], Any]"  # gives the value, which it may have made from what was read


def _fail(wanted: str, value: Any) -> ValidationError:
    return ValidationError(f"Expected `{wanted}`, got `{type(value).__name__}`")


def _check_exact(kind: type) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _fail(kind.__name__, value)
        return value

    return check


def _check_float(value: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _fail("float", value)


def _check_text_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise _fail("bytes", value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValidationError("Invalid base64 encoded string") from error


def _check_none(value: Any) -> None:
    if value is not None:
        raise _fail("null", value)


def _check_int(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= 2.0**53:
        return int(value)
    raise _fail("int", value)


def _check_list(item: _Check, exact: type | None) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise _fail("array", value)
        if exact is not None and set(map(type, value)) <= {exact}:
            return value
        return [item(each) for each in value]

    return check


def _check_dict(key: _Check, item: _Check) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _fail("object", value)
        return {key(name): item(each) for name, each in value.items()}

    return check


def _check_tuple(items: list[_Check]) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise ValidationError(f"Expected `array` of length {len(items)}")
        return tuple([item(each) for item, each in zip(items, value)])  # noqa: B905

    return check


def _check_any_of(checks: list[_Check]) -> _Check:
    def check(value: Any) -> Any:
        for each in checks:
            try:
                return each(value)
            except ValidationError:
                if each is checks[-1]:
                    raise
        raise AssertionError("a union of nothing")

    return check


class _Types:
    """Makes checks of annotations; ``text``: bytes are base64, as in JSON."""

    def __init__(self, text: bool) -> None:
        self._text = text
        self._structs: dict[Any, _Check] = {}
        self._simple: dict[str, _Check] = {
            "str": _check_exact(str),
            "bool": _check_exact(bool),
            "int": _check_int,
            "float": _check_float,
            "bytes": _check_text_bytes if text else _check_exact(bytes),
        }

    def of(self, kind: Any) -> _Check:
        """The check of a struct, or of a union of tagged ones."""
        if isinstance(kind, _Union):
            return self._tagged({member._tag: self._elements(member) for member in kind.members})
        known = self._structs.get(kind)
        if known is None:
            if kind._array_like and kind._tag is not None:
                known = self._tagged({kind._tag: self._elements(kind)})
            else:
                known = self._untagged(kind) if kind._array_like else self._named(kind)
            self._structs[kind] = known
        return known

    def _fields(self, kind: Any) -> list[tuple[str, _Check]]:
        scope = kind._scope
        found = []
        for field, annotation in kind._types.items():
            found.append((field, self._parse(ast.parse(annotation, mode="eval").body, scope)))
        return found

    def _parse(self, node: ast.expr, scope: dict[str, Any]) -> _Check:
        if isinstance(node, ast.BinOp):
            return _check_any_of([self._parse(node.right, scope), self._parse(node.left, scope)])
        if isinstance(node, ast.Constant) and node.value is None:
            return _check_none
        if isinstance(node, ast.Name):
            return self._simple[node.id] if node.id in self._simple else self.of(scope[node.id])
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            inside: Any = node.slice
            inside = getattr(inside, "value", inside) if type(inside).__name__ == "Index" else inside
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return self._parametrised(node.value.id, parts, scope)
        raise TypeError(f"an annotation that this module does not know: {ast.dump(node)}")

    def _parametrised(self, name: str, parts: list[ast.expr], scope: dict[str, Any]) -> _Check:
        last = parts[-1]
        if name == "list":
            return _check_list(self._parse(last, scope), _exact(last))
        if name == "dict":
            return _check_dict(self._parse(parts[0], scope), self._parse(last, scope))
        if name == "tuple" and isinstance(last, ast.Constant) and last.value is Ellipsis:
            as_list = _check_list(self._parse(parts[0], scope), _exact(parts[0]))
            return lambda value: tuple(as_list(value))
        if name == "tuple":
            return _check_tuple([self._parse(part, scope) for part in parts])
        raise TypeError(f"an annotation that this module does not know: {name}[...]")

    def _elements(self, kind: Any) -> _Check:
        """Takes a list whose first elements are the fields."""
        checks: list[_Check] = []
        least = 0

        def prepare() -> None:
            nonlocal least
            fields = self._fields(kind)
            checks.extend([check for _, check in fields])
            least = sum(field not in kind._defaults for field, _ in fields)

        def check(value: Any) -> Any:
            if not checks and kind._fields:
                prepare()
            if len(value) < least:
                raise ValidationError(f"Expected `array` of at least length {least}, got {len(value)}")
            return kind(*[each(part) for each, part in zip(checks, value)])  # noqa: B905

        return check

    def _untagged(self, kind: Any) -> _Check:
        elements = self._elements(kind)

        def check(value: Any) -> Any:
            if type(value) is not list:
                raise _fail("array", value)
            return elements(value)

        return check

    def _tagged(self, kinds: dict[str, _Check]) -> _Check:
        def check(value: Any) -> Any:
            if type(value) is not list:
                raise _fail("array", value)
            tag = value[0] if value else None
            if type(tag) is not str or tag not in kinds:
                raise ValidationError(f"Invalid value {tag!r:.80}")
            return kinds[tag](value[1:])

        return check

    def _named(self, kind: Any) -> _Check:
        """Takes a dict of fields by name."""
        fields = dict(self._fields(kind))

        def check(value: Any) -> Any:
            if type(value) is not dict:
                raise _fail("object", value)
            if not set(map(type, value)) <= {str, _Illegible}:
                raise ValidationError("Expected `str` as the name of a field")
            for name in kind._fields:
                if name not in value and name not in kind._defaults:
                    raise ValidationError(f"Object missing required field `{name}`")
            return kind(**{name: each(value[name]) for name, each in fields.items() if name in value})

        return check


def _exact(node: ast.expr) -> type | None:
    """The type whose values need no look, as nothing else is it."""
    names: dict[str, type] = {"int": int, "str": str}
    return names.get(node.id) if isinstance(node, ast.Name) else None


_BINARY, _TEXT = _Types(text=False), _Types(text=True)

# -- msgpack ------------------------------------------------------------------------------------------------

_NUMBERS: dict[int, tuple[str, int]] = {
    0xCA: (">f", 4),
    0xCB: (">d", 8),
    0xCC: (">B", 1),
    0xCD: (">H", 2),
    0xCE: (">I", 4),
    0xCF: (">Q", 8),
    0xD0: (">b", 1),
    0xD1: (">h", 2),
    0xD2: (">i", 4),
    0xD3: (">q", 8),
}
# Integers with the byte before them, which says what they are.
_WORDS = {code: _struct.Struct(f">x{form[1]}") for code, (form, _) in _NUMBERS.items() if code >= 0xCC}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_LENGTHS = {1: ">B", 2: ">H", 4: ">I"}
_BINS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class _Illegible(bytes):
    """What should be text and is none: no value of any type, and passed over in a field that nobody reads."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def whole(self) -> Any:
        value = self._value(0)
        if self._at != len(self._data):
            raise DecodeError("MessagePack data is malformed: trailing characters")
        return value

    def _take(self, size: int) -> bytes:
        start = self._at
        self._at = end = start + size
        if end > len(self._data):
            raise DecodeError("Input data was truncated")
        return self._data[start:end]

    def _length(self, size: int) -> int:
        length: int = _struct.unpack(_LENGTHS[size], self._take(size))[0]
        return length

    def _value(self, depth: int) -> Any:
        at = self._at
        if at >= len(self._data):
            raise DecodeError("Input data was truncated")
        code = self._data[at]
        self._at = at + 1
        if code < 0x80:
            return code
        if 0x90 <= code < 0xA0:
            return self._list(code - 0x90, depth)
        if 0xA0 <= code < 0xC0:
            return self._text(code - 0xA0)
        if code >= 0xE0:
            return code - 0x100
        return self._long_value(code, depth)

    def _long_value(self, code: int, depth: int) -> Any:
        if code in _NUMBERS:
            form, size = _NUMBERS[code]
            return _struct.unpack(form, self._take(size))[0]
        if code in _ARRAYS:
            return self._list(self._length(_ARRAYS[code]), depth)
        if code in _BINS:
            return self._take(self._length(_BINS[code]))
        if code in _STRINGS:
            return self._text(self._length(_STRINGS[code]))
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if 0x80 <= code < 0x90:
            return self._dict(code - 0x80, depth)
        if code in _MAPS:
            return self._dict(self._length(_MAPS[code]), depth)
        raise DecodeError(f"MessagePack data is malformed: invalid opcode {code:#x}")

    def _text(self, length: int) -> str | _Illegible:
        data = self._take(length)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return _Illegible(data)

    def _list(self, count: int, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise DecodeError("lists that are too deep")
        data, start = self._data, self._at
        if count > len(data) - start:
            raise DecodeError("Input data was truncated")
        if count > 1:
            first = data[start]
            whole = None
            if first < 0x80:
                whole = self._small_integers(count)
            elif first in _WORDS:
                whole = self._integers(_WORDS[first], first, count)
            if whole is not None:
                return whole
        return [self._value(depth + 1) for _ in range(count)]

    def _small_integers(self, count: int) -> list[int] | None:
        """The elements, if all are integers of one byte."""
        part = self._data[self._at : self._at + count]
        if not part.isascii():
            return None
        self._at += count
        return list(part)

    def _integers(self, word: _struct.Struct, code: int, count: int) -> list[int] | None:
        """The elements, if all are integers of this code."""
        stride, end = word.size, self._at + count * word.size
        part = self._data[self._at : end]
        if len(part) < count * stride or part[::stride].count(code) != count:
            return None
        self._at = end
        if count < _MANY:
            return [value for (value,) in word.iter_unpack(part)]
        size = stride - 1
        packed = bytearray(count * size)
        for byte in range(size):
            packed[byte::size] = part[byte + 1 :: stride]
        return list(_struct.unpack(f">{count}{_NUMBERS[code][0][1]}", packed))

    def _dict(self, count: int, depth: int) -> dict[Any, Any]:
        if depth > _DEEPEST:
            raise DecodeError("maps that are too deep")
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self._value(depth + 1)
            try:
                found[key] = self._value(depth + 1)
            except TypeError as error:
                raise ValidationError("a key of a map that is none") from error
        return found


_BYTES = [bytes([byte]) for byte in range(256)]
_WORD = _struct.Struct(">BI")


def _write_int(out: list[bytes], value: int) -> None:
    if -32 <= value < 0x80:
        out.append(_BYTES[value & 0xFF])
    elif 0xFFFF < value < 1 << 32:
        out.append(_WORD.pack(0xCE, value))
    elif value >= 0:
        for code, most in ((0xCC, 1 << 8), (0xCD, 1 << 16), (0xCE, 1 << 32), (0xCF, 1 << 64)):
            if value < most:
                out.append(bytes([code]) + _struct.pack(_NUMBERS[code][0], value))
                return
        raise OverflowError("can't serialize ints >= 2**64 or < -2**63")
    else:
        for code, least in ((0xD0, -(1 << 7)), (0xD1, -(1 << 15)), (0xD2, -(1 << 31)), (0xD3, -(1 << 63))):
            if value >= least:
                out.append(bytes([code]) + _struct.pack(_NUMBERS[code][0], value))
                return
        raise OverflowError("can't serialize ints >= 2**64 or < -2**63")


def _write_head(out: list[bytes], count: int, short: int, most_short: int, codes: dict[int, int]) -> None:
    if count < most_short:
        out.append(_BYTES[short | count])
        return
    for code, size in codes.items():
        if count < 1 << (8 * size):
            out.append(bytes([code]) + _struct.pack(_LENGTHS[size], count))
            return
    raise OverflowError("more elements than msgpack has numbers for")


def _write_list(out: list[bytes], value: Any) -> None:
    count = len(value)
    _write_head(out, count, 0x90, 16, _ARRAYS)
    if count > 1 and set(map(type, value)) == {int} and min(value) >= 0:
        most = max(value)
        if most < 0x80:
            out.append(bytes(value))
            return
        if most < 1 << 32 and count >= _MANY:
            packed = _struct.pack(f">{count}I", *value)
            spread = bytearray(5 * count)
            spread[0::5] = b"\xce" * count
            for byte in range(4):
                spread[byte + 1 :: 5] = packed[byte::4]
            out.append(bytes(spread))
            return
    for each in value:
        _write(out, each)


def _write(out: list[bytes], value: Any) -> None:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        writer(out, value)
    elif isinstance(value, Struct):
        _write_struct(out, value)
    elif isinstance(value, tuple):
        _write_list(out, value)
    else:
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _write_struct(out: list[bytes], value: Struct) -> None:
    values = value._values()
    if value._array_like:
        elements = values if value._tag is None else (value._tag, *values)
        _write_head(out, len(elements), 0x90, 16, _ARRAYS)
        for each in elements:
            _write(out, each)
    else:
        _write_dict(out, dict(zip(value._fields, values)))  # noqa: B905


def _write_dict(out: list[bytes], value: dict[Any, Any]) -> None:
    _write_head(out, len(value), 0x80, 16, _MAPS)
    for key, each in value.items():
        _write(out, key)
        _write(out, each)


def _write_bytes(out: list[bytes], value: Any) -> None:
    _write_head(out, len(value), 0, 0, _BINS)
    out.append(bytes(value))


def _write_str(out: list[bytes], value: str) -> None:
    data = value.encode()
    _write_head(out, len(data), 0xA0, 32, _STRINGS)
    out.append(data)


_WRITERS: dict[type, Callable[[list[bytes], Any], None]] = {
    type(None): lambda out, _: out.append(b"\xc0"),
    bool: lambda out, value: out.append(b"\xc3" if value else b"\xc2"),
    int: _write_int,
    float: lambda out, value: out.append(b"\xcb" + _struct.pack(">d", value)),
    str: _write_str,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    memoryview: _write_bytes,
    list: _write_list,
    tuple: _write_list,
    dict: _write_dict,
}


class _Encoder:
    def encode(self, value: Any) -> bytes:
        out: list[bytes] = []
        _write(out, value)
        return b"".join(out)


class _Decoder:
    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._check: _Check | None = None

    def decode(self, data: Any) -> Any:
        value = _Reader(bytes(data)).whole()
        if self._check is None:  # not before: annotations may name what comes later in the module
            self._check = _BINARY.of(self._kind)
        return self._check(value)


# -- JSON ---------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {field: getattr(value, field) for field in value._fields}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _encode_json(value: Any) -> bytes:
    return _json.dumps(value, default=_plain, separators=(",", ":"), ensure_ascii=False).encode()


def _decode_json(data: Any, *, type: Any) -> Any:
    try:
        value = _json.loads(bytes(data).decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"JSON is malformed: {error}") from error
    return _TEXT.of(type)(value)


structs = types.SimpleNamespace(replace=_replace)
msgpack = types.SimpleNamespace(Encoder=_Encoder, Decoder=_Decoder)
json = types.SimpleNamespace(encode=_encode_json, decode=_decode_json)
