"""What every memoizer must show."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError
from ..memo import MemoCall, MemoEntry, Memoizer, MemoOptions
from .check import in_threads, raises, skip
from .memo import DIFFERENT, Opaque

__all__ = ["MemoizerSuite"]

_NONE: Mapping[str, Any] = {}
_PLAIN = MemoOptions()


def area(width: Any, height: Any = 2, *, unit: Any = "m") -> Any:
    """A function whose calls are remembered."""
    return (width, height, unit)


def volume(width: Any, height: Any = 2, *, unit: Any = "m") -> Any:
    """Another one, with the same parameters."""
    return (width, height, height, unit)


class MemoizerSuite:
    """Subclass it and write ``make_memoizer``; write ``reopen`` too if what it remembers outlives it, and
    ``make_broken``.
    """

    timeout: float = 30.0

    def make_memoizer(self) -> Memoizer:
        """A new memoizer, which remembers nothing yet."""
        raise NotImplementedError(f"{type(self).__name__}.make_memoizer: write it, to return what is tested")

    def make_broken(self) -> Memoizer:
        """A memoizer whose store raises :class:`OSError` from every ``get`` and ``put``."""
        skip("no memoizer with a broken store is made")

    def reopen(self, memoizer: Memoizer) -> Memoizer:
        """Another memoizer on the same place, as another process would open it."""
        skip("what this memoizer remembers does not outlive it")

    def call(
        self,
        memoizer: Memoizer,
        *args: Any,
        function: Callable[..., Any] = area,
        options: MemoOptions = _PLAIN,
        **kwargs: Any,
    ) -> MemoCall:
        """A call, identified."""
        return memoizer.identify(function, args, kwargs or _NONE, options)

    def recalled(self, memoizer: Memoizer, call: MemoCall, task_id: int = 1) -> MemoEntry:
        """The entry of a call, which must be there."""
        entry = memoizer.recall(call, task_id)
        assert entry is not None, "what was remembered is recalled, but not this call"
        return entry

    # -- identifying ----------------------------------------------------------------------------------------

    def test_it_identifies_calls(self) -> None:
        memoizer = self.make_memoizer()
        assert isinstance(memoizer, Memoizer), f"it lacks members of the Memoizer contract: {memoizer!r}"
        assert isinstance(memoizer.every, bool), f"every is true or false, not {memoizer.every!r}"
        call = self.call(memoizer, 1)
        assert isinstance(call, MemoCall), f"identify returns a MemoCall, not {call!r}"
        assert isinstance(call.key, bytes), f"a key is bytes, not {type(call.key).__name__}"
        assert len(call.key) >= 16, f"a key of {len(call.key)} bytes is too short to tell calls apart"
        assert "area" in call.task, f"the task is named after its function, not {call.task!r}"
        assert {"function", "argument width"} <= call.components.keys(), (
            f"the components are the function and the arguments by name, not {sorted(call.components)}"
        )
        memoizer.close()

    def test_equal_calls_have_equal_keys(self) -> None:
        memoizer = self.make_memoizer()
        for one, other in (
            (self.call(memoizer, [1, 2]), self.call(memoizer, [1, 2])),
            (self.call(memoizer, 1), self.call(memoizer, width=1)),
            (self.call(memoizer, 1), self.call(memoizer, 1, 2, unit="m")),
            (self.call(memoizer, {"a": 1, "b": 2}), self.call(memoizer, {"b": 2, "a": 1})),
        ):
            assert one.key == other.key, "equal calls have equal keys, however their arguments are given"
        memoizer.close()

    def test_different_calls_have_different_keys(self) -> None:
        memoizer = self.make_memoizer()
        calls = {f"of {value!r}": self.call(memoizer, value) for value in DIFFERENT}
        calls |= {"with another second argument": self.call(memoizer, 1, 3)}
        calls |= {"with another keyword argument": self.call(memoizer, 1, unit="km")}
        calls |= {"of another function": self.call(memoizer, 1, function=volume)}
        calls |= {
            f"of version {version}": self.call(memoizer, 1, options=MemoOptions(version=version))
            for version in ("1", "2")
        }
        for (one, first), (other, second) in itertools.combinations(calls.items(), 2):
            assert first.key != second.key, f"a call {one} and one {other} have the same key"
        memoizer.close()

    def test_what_is_ignored_does_not_count(self) -> None:
        memoizer = self.make_memoizer()
        options = MemoOptions(ignore=("unit",))
        metres = self.call(memoizer, 1, unit="m", options=options)
        assert metres.key == self.call(memoizer, 1, unit=Opaque(), options=options).key, (
            "a parameter that is ignored does not count, and is not hashed"
        )
        assert metres.key != self.call(memoizer, 2, options=options).key, "the other parameters still count"
        memoizer.close()

    def test_options_that_do_not_fit_are_refused(self) -> None:
        memoizer = self.make_memoizer()
        for wrong, options in (
            ("colour", MemoOptions(ignore=("colour",))),
            ("thorough", MemoOptions(policy="thorough")),
        ):
            action = functools.partial(self.call, memoizer, 1, options=options)
            error = raises(InputError, action, f"options that do not fit are an InputError: {options}")
            assert wrong in str(error), f"the message names {wrong!r}: {error}"
        memoizer.close()

    def test_an_unknown_type_is_named(self) -> None:
        memoizer = self.make_memoizer()
        action = functools.partial(self.call, memoizer, 1, {"key": [Opaque()]})
        error = str(raises(ValueError, action, "an argument that cannot be hashed is a ValueError"))
        assert error.startswith("unknown type for memoization"), f"it begins as promised, not: {error}"
        for part in ("Opaque", "height", "key"):
            assert part in error, f"the message names the type, the argument and the path, not: {error}"
        memoizer.close()

    def test_identifying_changes_nothing(self) -> None:
        memoizer, value = self.make_memoizer(), {"a": [1, {2}], "b": bytearray(b"x")}
        call = self.call(memoizer, value)
        assert value == {"a": [1, {2}], "b": bytearray(b"x")}, f"identify changed an argument, to {value!r}"
        assert memoizer.recall(call, 1) is None, "identifying a call does not remember it"
        memoizer.close()

    # -- remembering ----------------------------------------------------------------------------------------

    def test_what_was_remembered_is_recalled(self) -> None:
        memoizer = self.make_memoizer()
        values = [None, 0, [1, {"a": (2,)}], "text", b"x" * 1_000_000]
        for number, value in enumerate(values):
            memoizer.remember(self.call(memoizer, number), value)
        for number, value in enumerate(values):
            entry = self.recalled(memoizer, self.call(memoizer, number), number)
            assert entry.value == value, f"a call that gave {value!r:.40} is recalled with that"
            assert entry.error is None, f"a call that gave a value has no error, but {entry.error!r}"
        memoizer.close()

    def test_what_was_not_remembered_is_not_recalled(self) -> None:
        memoizer = self.make_memoizer()
        memoizer.remember(self.call(memoizer, 1), "one")
        for other in (self.call(memoizer, 2), self.call(memoizer, 1, function=volume)):
            assert memoizer.recall(other, 2) is None, "a call that was never remembered is recalled"
        memoizer.close()

    def test_an_error_is_recalled_as_one(self) -> None:
        memoizer = self.make_memoizer()
        options = MemoOptions(errors=True)
        memoizer.remember(self.call(memoizer, 1, options=options), None, KeyError("lost"))
        error = self.recalled(memoizer, self.call(memoizer, 1, options=options)).error
        assert isinstance(error, KeyError), f"the error is recalled, with its type, not {error!r}"
        assert error.args == ("lost",), f"the error has its arguments, not {error.args}"
        memoizer.close()

    def test_later_changes_to_a_value_do_not_count(self) -> None:
        memoizer, value = self.make_memoizer(), [1, 2]
        call = self.call(memoizer, 1)
        memoizer.remember(call, value)
        value.append(3)
        first = self.recalled(memoizer, call).value
        assert first == [1, 2], f"what a call gave is kept, not what became of it: {first}"
        first.clear()
        assert self.recalled(memoizer, call).value == [1, 2], "who recalls a value may change it"
        memoizer.close()

    def test_sharing_is_a_note(self) -> None:
        memoizer = self.make_memoizer()
        call = self.call(memoizer, 1)
        memoizer.share(call, 2, 1)
        assert memoizer.recall(call, 3) is None, "share notes something, and remembers nothing"
        memoizer.close()

    def test_a_value_that_cannot_be_kept_harms_nobody(self) -> None:
        memoizer = self.make_memoizer()
        memoizer.remember(self.call(memoizer, 1), threading.Lock())
        memoizer.remember(self.call(memoizer, 2), "kept")
        entry = memoizer.recall(self.call(memoizer, 1), 1)
        assert entry is None, f"a value that cannot be kept is not recalled, but {entry}"
        assert self.recalled(memoizer, self.call(memoizer, 2)).value == "kept", "later ones are kept"
        memoizer.close()

    def test_a_store_that_does_not_work_harms_nobody(self) -> None:
        memoizer = self.make_broken()
        call = self.call(memoizer, 1)
        try:
            memoizer.remember(call, "one")
            entry = memoizer.recall(call, 1)
        except OSError as error:
            raise AssertionError(f"a store that does not work is a miss, but it raised: {error}") from error
        assert entry is None, f"a store that does not work is a miss, not {entry}"

    def test_threads_may_use_it_at_once(self) -> None:
        memoizer = self.make_memoizer()

        def work(number: int) -> None:
            for i in range(30):
                call = self.call(memoizer, [number, i])
                memoizer.remember(call, (number, i))
                assert self.recalled(memoizer, call, i).value == (number, i), "another thread's value"

        in_threads(work, 8, self.timeout, "threads may use a memoizer at once")
        memoizer.close()

    # -- closing --------------------------------------------------------------------------------------------

    def test_what_was_remembered_survives_its_close(self) -> None:
        memoizer = self.make_memoizer()
        for i in range(20):
            memoizer.remember(self.call(memoizer, i), str(i))
        memoizer.close()
        other = self.reopen(memoizer)
        for i in range(20):
            assert self.recalled(other, self.call(other, i), i).value == str(i), "it is what was remembered"
        other.close()

    def test_close_may_come_twice(self) -> None:
        memoizer = self.make_memoizer()
        memoizer.remember(self.call(memoizer, 1), 1)
        memoizer.close()
        memoizer.close()
