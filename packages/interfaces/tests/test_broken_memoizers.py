"""Memoizers that break a promise fail in the suite's test of that promise."""

from __future__ import annotations

import hashlib
import threading

import pytest
from weft_interfaces import BaseMemoStore, InputError, MemoCall, MemoEntry, MemoOptions
from weft_interfaces.memory import InMemoryMemoizer, InMemoryMemoStore
from weft_interfaces.testing import MemoizerSuite

pytestmark = pytest.mark.once  # it is the suite that is tested


def sha256(text):
    return hashlib.sha256(text.encode()).digest()


class SaysNotWhetherEvery(InMemoryMemoizer):
    def __init__(self):
        super().__init__()
        self.every = None


class HasShortKeys(InMemoryMemoizer):
    def identify(self, *args):
        call = super().identify(*args)
        return MemoCall(call.key[:4], call.task, call.components)


class NamesNoComponents(InMemoryMemoizer):
    def identify(self, *args):
        call = super().identify(*args)
        return MemoCall(call.key, call.task, {})


class TakesArgumentsAsTheyAreGiven(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        call = super().identify(function, args, kwargs, options)
        return MemoCall(sha256(f"{call.key}{len(args)}{sorted(kwargs)}"), call.task, call.components)


class ForgetsTheFunction(InMemoryMemoizer):
    def identify(self, *args):
        call = super().identify(*args)
        parts = sorted((name, value) for name, value in call.components.items() if name != "function")
        return MemoCall(sha256(repr(parts)), call.task, call.components)


class ForgetsTheVersion(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        return super().identify(function, args, kwargs, MemoOptions(ignore=options.ignore))


class HashesWhatItPrints(InMemoryMemoizer):
    """1 and "1" are the same to it."""

    def identify(self, function, args, kwargs, options):
        texts = tuple(map(str, args)), {name: str(value) for name, value in kwargs.items()}
        return super().identify(function, *texts, options)


class IgnoresNothing(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        return super().identify(function, args, kwargs, MemoOptions(version=options.version))


class IgnoresEverything(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        ignore = ("width", "height", "unit") if options.ignore else ()
        return super().identify(function, args, kwargs, MemoOptions(ignore=ignore))


class TakesAnyOptions(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        try:
            return super().identify(function, args, kwargs, options)
        except InputError:
            return super().identify(function, args, kwargs, MemoOptions())


class SaysLittle(InMemoryMemoizer):
    def identify(self, *args):
        try:
            return super().identify(*args)
        except ValueError:
            raise ValueError("unknown type for memoization Opaque") from None


class SortsInPlace(InMemoryMemoizer):
    def identify(self, function, args, kwargs, options):
        for value in args:
            if isinstance(value, dict):
                value.pop("b", None)
        return super().identify(function, args, kwargs, options)


class RemembersAtOnce(InMemoryMemoizer):
    def identify(self, *args):
        call = super().identify(*args)
        self.remember(call, None)
        return call


class Remembers(InMemoryMemoizer):
    """What was remembered is changed by ``change`` on its way."""

    def remember(self, call, value, error=None):
        super().remember(call, *self.change(value, error))


class ForgetsNone(InMemoryMemoizer):
    def remember(self, call, value, error=None):
        if value is not None or error is not None:
            super().remember(call, value, error)


class ConfusesCalls(InMemoryMemoizer):
    def recall(self, call, task_id):
        return super().recall(call, task_id) or MemoEntry(key=call.key, task=call.task, value=None)


class ForgetsErrors(Remembers):
    def change(self, value, error):
        return value, None


class TurnsErrorsToText(Remembers):
    def change(self, value, error):
        return value, error and RuntimeError(str(error))


class KeepsThings(BaseMemoStore):
    """Keeps the objects themselves."""

    def __init__(self):
        self.entries = {}

    def get(self, key):
        return self.entries.get(key)

    def put(self, entry):
        self.entries[entry.key] = entry


class KeepsObjects(InMemoryMemoizer):
    def __init__(self):
        super().__init__(KeepsThings())


class SharesByRemembering(InMemoryMemoizer):
    def share(self, call, task_id, leader_id):
        self.remember(call, None)


class RaisesForWhatCannotBeKept(InMemoryMemoizer):
    def remember(self, call, value, error=None):
        self.store.put(MemoEntry(key=call.key, task=call.task, value=value, error=error))


class NotForThreads(InMemoryMemoizer):
    mine = None

    def remember(self, call, value, error=None):
        self.mine = value
        threading.Event().wait(0.001)
        super().remember(call, self.mine, error)


class LosesWhatIsNotWritten(InMemoryMemoizer):
    def close(self):
        self.store = InMemoryMemoStore()


class ClosesOnce(InMemoryMemoizer):
    def close(self):
        del self.store


MEMOIZERS = [
    (SaysNotWhetherEvery, "test_it_identifies_calls"),
    (HasShortKeys, "test_it_identifies_calls"),
    (NamesNoComponents, "test_it_identifies_calls"),
    (TakesArgumentsAsTheyAreGiven, "test_equal_calls_have_equal_keys"),
    (ForgetsTheFunction, "test_different_calls_have_different_keys"),
    (ForgetsTheVersion, "test_different_calls_have_different_keys"),
    (HashesWhatItPrints, "test_different_calls_have_different_keys"),
    (IgnoresNothing, "test_what_is_ignored_does_not_count"),
    (IgnoresEverything, "test_what_is_ignored_does_not_count"),
    (TakesAnyOptions, "test_options_that_do_not_fit_are_refused"),
    (SaysLittle, "test_an_unknown_type_is_named"),
    (SortsInPlace, "test_identifying_changes_nothing"),
    (RemembersAtOnce, "test_identifying_changes_nothing"),
    (ForgetsNone, "test_what_was_remembered_is_recalled"),
    (ConfusesCalls, "test_what_was_not_remembered_is_not_recalled"),
    (ForgetsErrors, "test_an_error_is_recalled_as_one"),
    (TurnsErrorsToText, "test_an_error_is_recalled_as_one"),
    (KeepsObjects, "test_later_changes_to_a_value_do_not_count"),
    (KeepsObjects, "test_a_value_that_cannot_be_kept_harms_nobody"),
    (SharesByRemembering, "test_sharing_is_a_note"),
    (NotForThreads, "test_threads_may_use_it_at_once"),
]


@pytest.mark.parametrize(("memoizer", "test"), MEMOIZERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_memoizer_fails(suite_fails, memoizer, test):
    suite_fails(MemoizerSuite, test, ValueError, timeout=30.0, make_memoizer=memoizer)


def test_one_that_raises_for_what_cannot_be_kept_fails(suite_fails):
    suite_fails(
        MemoizerSuite,
        "test_a_value_that_cannot_be_kept_harms_nobody",
        InputError,
        make_memoizer=RaisesForWhatCannotBeKept,
    )


def test_one_that_raises_for_a_broken_store_fails(suite_fails):
    class Broken(KeepsThings):
        def put(self, entry):
            raise OSError("no such disk")

    suite_fails(
        MemoizerSuite,
        "test_a_store_that_does_not_work_harms_nobody",
        make_broken=lambda: RaisesForWhatCannotBeKept(Broken()),
    )


def test_one_that_loses_what_it_was_given_fails(suite_fails):
    suite_fails(
        MemoizerSuite,
        "test_what_was_remembered_survives_its_close",
        make_memoizer=LosesWhatIsNotWritten,
        reopen=lambda closed: InMemoryMemoizer(closed.store),
    )


def test_one_that_closes_only_once_fails(suite_fails):
    suite_fails(MemoizerSuite, "test_close_may_come_twice", AttributeError, make_memoizer=ClosesOnce)


def test_partial_functions_are_refused_by_name():
    import functools

    with pytest.raises(ValueError, match="unknown type for memoization partial"):
        InMemoryMemoizer().identify(functools.partial(abs, 1), (), {}, MemoOptions())


def test_what_cannot_be_remembered_is_said_once(caplog):
    memoizer = InMemoryMemoizer()
    for number in (1, 2):
        memoizer.remember(memoizer.identify(abs, (number,), {}, MemoOptions()), threading.Lock())
    assert [record.name for record in caplog.records] == ["weft"]


def test_calls_that_do_not_fit_the_function_are_refused():
    with pytest.raises(InputError, match=r"SaysLittle\.identify"):
        InMemoryMemoizer().identify(SaysLittle.identify, (), {}, MemoOptions())


def test_functions_without_a_signature_have_their_arguments_by_position():
    memoizer = InMemoryMemoizer()
    one, other = (memoizer.identify(max, args, {}, MemoOptions()) for args in ((1, 2), (2, 1)))
    assert one.components.keys() == {"function", "argument 0", "argument 1"}
    assert one.key != other.key
