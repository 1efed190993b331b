"""The serializer that executors use."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import threading
import types

import pytest
from weft_interfaces import PickleSerializer, SerializationError


@dataclasses.dataclass
class Config:
    name: str
    parts: list


class Holder:
    def __init__(self, held):
        self.held = held


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "argument 'x'"),
        ([1, LOCK], "argument 'x'[1]"),
        ({"a": {"b": (LOCK,)}}, "argument 'x'['a']['b'][0]"),
        (Config("n", [1, {"k": LOCK}]), "argument 'x'.parts[1]['k']"),
        (Holder(Holder(LOCK)), "argument 'x'.held.held"),
        (ValueError("x", LOCK), "argument 'x'.args[1]"),
    ],
)
def test_the_culprit_is_found(monkeypatch, value, path):
    # What is defined in a test module cannot be imported by name everywhere: let pickle find it here.
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or module_of(Config, Holder))
    with pytest.raises(SerializationError) as caught:
        PickleSerializer().dumps(value, "argument 'x'")
    assert caught.value.path == path
    assert "_thread.lock" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)


def module_of(*classes):
    module = types.ModuleType(__name__)
    for cls in classes:
        setattr(module, cls.__name__, cls)
    return module


def test_a_cycle_with_a_culprit_does_not_hang():
    value = [LOCK]
    value.append(value)
    with pytest.raises(SerializationError, match="lock"):
        PickleSerializer().dumps(value, "it")


def test_a_closure_names_the_variable():
    lock = threading.Lock()

    def inner():
        return lock

    class ByValue(pickle.Pickler):
        """Sends functions as their parts, as cloudpickle does."""

        def reducer_override(self, value):
            if isinstance(value, types.FunctionType) and value is inner:
                return (tuple, (tuple(cell.cell_contents for cell in value.__closure__),))
            return NotImplemented

    with pytest.raises(SerializationError) as caught:
        PickleSerializer(ByValue).dumps_function(inner)
    assert "variable 'lock' of an enclosing function" in caught.value.path


def decorated_module(monkeypatch, name="weft_decorated"):
    module = types.ModuleType(name)
    source = (
        "import functools\n"
        "def plain(x): return x + 1\n"
        "@functools.wraps(plain)\n"
        "def wrapper(*args): return plain(*args)\n"
        "original, plain = plain, wrapper\n"
    )
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_the_function_behind_a_decorator_travels_by_name(monkeypatch):
    module = decorated_module(monkeypatch)
    data = PickleSerializer().dumps_function(module.original).data
    assert len(data) < 200
    assert PickleSerializer().loads(data, "it") is module.original


def test_a_function_is_pickled_once(monkeypatch):
    count = []

    class Counting(pickle.Pickler):
        def __init__(self, *args, **kwargs):
            count.append(1)
            super().__init__(*args, **kwargs)

    serializer = PickleSerializer(Counting)
    first = serializer.dumps_function(threading.active_count)
    assert all(serializer.dumps_function(threading.active_count) == first for _ in range(5))
    assert len(count) == 1


def test_a_global_that_is_bound_anew_is_noticed(monkeypatch):
    namespace = {"__name__": "__main__", "factor": 2}
    exec("def scale(x): return helper(x)\ndef helper(x): return x * factor", namespace)

    class ByValue(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, types.FunctionType):
                return str, (f"{namespace['factor']}{namespace['helper'].__code__.co_code!r}",)
            return NotImplemented

    serializer = PickleSerializer(ByValue)
    first = serializer.dumps_function(namespace["scale"])
    assert serializer.dumps_function(namespace["scale"]) == first
    namespace["factor"] = 3  # read by a helper, not by the function itself
    assert serializer.dumps_function(namespace["scale"]).digest != first.digest


def test_large_buffers_stay_out_of_the_bytes():
    serializer, buffers = PickleSerializer(), []
    data = serializer.dumps([pickle.PickleBuffer(bytearray(100_000))], "it", buffers.append)
    assert len(data) < 1000
    assert len(serializer.loads(data, "it", [buffer.raw() for buffer in buffers])[0]) == 100_000


def test_what_cannot_be_loaded_says_why():
    with pytest.raises(SerializationError, match="the result cannot be unpickled: ModuleNotFoundError"):
        PickleSerializer().loads(b"cno_such_module\nname\n.", "the result")
