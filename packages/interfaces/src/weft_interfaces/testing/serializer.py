"""What every serializer must show."""

from __future__ import annotations

import functools
import pickle
import threading
from typing import Any

from ..errors import SerializationError
from ..serializer import FunctionPayload, Serializer
from . import calls
from .check import in_threads, raises

__all__ = ["SerializerSuite"]

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**100,
        1.5,
        1j,
        "",
        "text ü \x00",
        b"",
        b"\x00\xff",
        (),
        [],
        {},
        set(),
        frozenset({1}),
    ),
    *(
        (1, [2, {"three": (4, b"5")}]),
        {"a": {"b": {"c": [1, 2]}}},
        range(5),
        ValueError("x").args,
        [1] * 1000,
    ),
)


class Blob:
    """A value with a large buffer."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _blob, (pickle.PickleBuffer(self.data) if protocol >= 5 else self.data,)


def _blob(buffer: Any) -> Blob:
    return Blob(bytes(buffer))


class SerializerSuite:
    """Subclass it and write ``make_serializer``."""

    timeout: float = 30.0

    def make_serializer(self) -> Serializer:
        """A serializer."""
        raise NotImplementedError(
            f"{type(self).__name__}.make_serializer: write it, to return what is tested"
        )

    def test_values_come_back(self) -> None:
        serializer = self.make_serializer()
        for value in VALUES:
            data = serializer.dumps(value, "value")
            assert isinstance(data, bytes), f"dumps gives bytes, not {type(data).__name__}"
            for form in (data, memoryview(data)):
                back = serializer.loads(form, "value")
                assert back == value, f"{value!r} came back as {back!r}"
                assert type(back) is type(value), (
                    f"a {type(value).__name__} came back as a {type(back).__name__}"
                )

    def test_buffers_travel_apart(self) -> None:
        serializer, blob = self.make_serializer(), Blob(bytes(range(256)) * 4000)
        buffers: list[pickle.PickleBuffer] = []
        data = serializer.dumps([blob, "text"], "value", buffers.append)
        if buffers:
            assert len(data) < len(blob.data), (
                "what went to buffer_callback is not in the bytes a second time"
            )
        raw = [bytes(buffer.raw()) for buffer in buffers]
        back = serializer.loads(data, "value", raw)
        assert back[0].data == blob.data, "a value with buffers comes back whole"
        alone = serializer.loads(serializer.dumps([blob], "value"), "value")
        assert alone[0].data == blob.data, "without buffer_callback the buffers are in the bytes"

    def test_what_cannot_be_dumped_is_named(self) -> None:
        serializer = self.make_serializer()
        value = {"good": 1, "bad": [1, threading.Lock()]}
        promise = "dumps of a value with a lock"
        error = raises(SerializationError, lambda: serializer.dumps(value, "argument 'x'"), promise)
        assert "argument 'x'" in str(error), f"the message names the value, argument 'x': {error}"
        assert "['bad'][1]" in error.path, (
            f"path says where in the value the culprit sits, ['bad'][1], not {error.path!r}"
        )
        assert error.__cause__ is not None, "the original error is the cause"

    def test_what_cannot_be_loaded_is_named(self) -> None:
        serializer = self.make_serializer()
        good = serializer.dumps({"a": [1, 2, 3]}, "x")
        exploding = serializer.dumps(calls.ExplodesWhenLoaded(), "x")
        for data in (b"", b"garbage", b"\x80\x05", good[:-3], exploding):
            load = functools.partial(serializer.loads, data, "the result")
            error = raises(SerializationError, load, f"loads of {data[:20]!r}")
            assert "the result" in str(error), f"the message names the value, the result: {error}"
            assert error.__cause__ is not None, "the original error is the cause"

    def test_a_function_comes_back(self) -> None:
        serializer = self.make_serializer()
        payload = serializer.dumps_function(calls.echo)
        assert isinstance(payload, FunctionPayload), (
            f"dumps_function gives a FunctionPayload, not {payload!r}"
        )
        function = serializer.loads(payload.data, "the function")
        assert function(1, key=2) == ((1,), {"key": 2}), "a function that came back does what it did"

    def test_equal_digests_mean_the_same_function(self) -> None:
        serializer = self.make_serializer()
        first, again = serializer.dumps_function(calls.echo), serializer.dumps_function(calls.echo)
        other = serializer.dumps_function(calls.touch)
        assert first == again, "the same function, unchanged, has the same payload"
        assert first.digest != other.digest, "different functions have different digests"
        assert self.make_serializer().dumps_function(calls.echo).digest == first.digest, (
            "so say all serializers"
        )

    def test_a_function_that_cannot_be_dumped_is_named(self) -> None:
        serializer = self.make_serializer()
        error = raises(
            SerializationError,
            lambda: serializer.dumps_function(threading.Lock().acquire),
            "dumps_function of a lock's method",
        )
        assert "acquire" in str(error) or "lock" in str(error), f"the message names the culprit: {error}"

    def test_threads_may_use_it_at_once(self) -> None:
        serializer = self.make_serializer()

        def work(number: int) -> None:
            for i in range(50):
                value = {"thread": number, "list": list(range(i))}
                assert serializer.loads(serializer.dumps(value, "x"), "x") == value, (
                    "a value became another's"
                )
                serializer.dumps_function((calls.echo, calls.touch, calls.fail)[i % 3])

        in_threads(work, 8, self.timeout, "threads may use a serializer at once")
