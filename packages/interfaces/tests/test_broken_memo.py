"""Memo hashers and stores that break a promise fail in the suite's test of that promise."""

from __future__ import annotations

import hashlib
import pickle
import threading
from dataclasses import replace

import pytest
from weft_interfaces import SerializationError
from weft_interfaces.memory import InMemoryMemoStore, PickleMemoHasher
from weft_interfaces.testing import MemoHasherSuite, MemoStoreSuite

pytestmark = pytest.mark.once  # it is the suites that are tested


def sha256(data):
    return hashlib.sha256(data).digest()


class TakesTrueForOne(PickleMemoHasher):
    def _digest(self, value, path, above):
        return super()._digest(int(value) if isinstance(value, bool) else value, path, above)


class TakesOneForOnePointZero(PickleMemoHasher):
    def _digest(self, value, path, above):
        return super()._digest(float(value) if type(value) is int else value, path, above)


class TakesTuplesForLists(PickleMemoHasher):
    def _digest(self, value, path, above):
        return super()._digest(list(value) if type(value) is tuple else value, path, above)


class RunsPartsTogether:
    def digest(self, value):
        parts = "".join(map(str, value)) if isinstance(value, (list, tuple)) else repr(value)
        return sha256(f"{type(value)}{parts}".encode())


class Pickles:
    """Trusts pickle: the order of dicts and sets, and what is shared, show in its bytes."""

    def digest(self, value):
        try:
            return sha256(pickle.dumps(value))
        except TypeError as error:
            raise ValueError(
                f"unknown type for memoization {type(value)}: lock or Opaque: {error}"
            ) from error


class PicklesAnything(Pickles):
    def digest(self, value):
        try:
            return super().digest(value)
        except ValueError:
            return sha256(repr(value).encode())


class SaysLittle(PickleMemoHasher):
    def digest(self, value):
        try:
            return super().digest(value)
        except ValueError:
            raise ValueError("cannot hash this") from None


class UsesAddresses(PickleMemoHasher):
    def digest(self, value):
        return sha256(str(id(value)).encode() + str(id(self)).encode())


class TooShort(PickleMemoHasher):
    def digest(self, value):
        return super().digest(value)[:4]


class GivesText(PickleMemoHasher):
    def digest(self, value):
        return super().digest(value).hex()


class SortsInPlace(PickleMemoHasher):
    def digest(self, value):
        if isinstance(value, dict):
            value["b"] = bytes(value.get("b", b""))
            value.pop("b")
        return super().digest(value)


class NotForThreads(PickleMemoHasher):
    mine = None

    def digest(self, value):
        self.mine = threading.get_ident()
        threading.Event().wait(0.001)
        return super().digest(value if self.mine == threading.get_ident() else None)


HASHERS = [
    (TakesTrueForOne, "test_different_values_have_different_digests"),
    (TakesOneForOnePointZero, "test_different_values_have_different_digests"),
    (TakesTuplesForLists, "test_different_values_have_different_digests"),
    (RunsPartsTogether, "test_different_values_have_different_digests"),
    (Pickles, "test_equal_values_have_equal_digests"),
    (Pickles, "test_shared_parts_make_no_difference"),
    (PicklesAnything, "test_an_unknown_type_is_named"),
    (SaysLittle, "test_an_unknown_type_is_named"),
    (UsesAddresses, "test_the_same_value_has_the_same_digest"),
    (TooShort, "test_a_digest_is_bytes"),
    (GivesText, "test_a_digest_is_bytes"),
    (SortsInPlace, "test_the_value_is_not_changed"),
    (NotForThreads, "test_threads_may_hash_at_once"),
]


@pytest.mark.parametrize(("hasher", "test"), HASHERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_hasher_fails(suite_fails, hasher, test):
    suite_fails(MemoHasherSuite, test, timeout=30.0, make_hasher=hasher)


def test_a_hasher_that_differs_between_processes_fails(suite_fails, tmp_path, monkeypatch):
    digest = "lambda self, value: repr(hash(repr(value))).encode().rjust(32)"
    source = f"class Seeded:\n    digest = {digest}\n"
    (tmp_path / "seeded_hasher.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import seeded_hasher

    suite_fails(
        MemoHasherSuite,
        "test_another_process_has_the_same_digests",
        timeout=60.0,
        make_hasher=seeded_hasher.Seeded,
    )


# -- stores -------------------------------------------------------------------------------------------------


class Forgets(InMemoryMemoStore):
    def put(self, entry):
        super().put(entry)
        while len(self._entries) > 10:
            self._entries.pop(next(iter(self._entries)))


class KeepsTheFirst(InMemoryMemoStore):
    def put(self, entry):
        if entry.key not in self._entries:
            super().put(entry)


class TakesNoneForMissing(InMemoryMemoStore):
    def get(self, key):
        entry = super().get(key)
        return None if entry is None or entry.value is None else entry


class FindsWhatIsNot(InMemoryMemoStore):
    def get(self, key):
        return super().get(key) or next(iter(self._entries.values()), None)


class LosesComponents(InMemoryMemoStore):
    def get(self, key):
        entry = super().get(key)
        return entry and type(entry)(key=entry.key, task=entry.task, value=entry.value)


class CutsValues(InMemoryMemoStore):
    def get(self, key):
        entry = super().get(key)
        if entry is not None and isinstance(entry.value, bytes):
            object.__setattr__(entry, "value", entry.value[: 1 << 20])
        return entry


class BreaksOnBadValues(InMemoryMemoStore):
    broken = False

    def put(self, entry):
        if not self.broken:
            try:
                super().put(entry)
            except SerializationError:
                self.broken = True
                raise


class RaisesItsOwn(InMemoryMemoStore):
    def put(self, entry):
        try:
            super().put(entry)
        except SerializationError as error:
            raise TypeError("cannot pickle") from error


class NearestOfAnyTask(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        return next((self.get(key) for key in self._entries), None)


class NearestIsTheLatest(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        keys = [key for key, entry in self._entries.items() if entry.task == task]
        return self.get(keys[-1]) if keys else None


class NearestIsTheFirst(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        entries = [entry for entry in self._entries.values() if entry.task == task]
        return max(entries, key=lambda e: len(e.components.items() & components.items()), default=None)


class NotForThreads(InMemoryMemoStore):
    def put(self, entry):
        kept = dict(self._entries)
        threading.Event().wait(0.001)
        super().put(entry)
        self._entries = {**kept, entry.key: self._entries[entry.key]}


class ClosesOnce(InMemoryMemoStore):
    closed = False

    def close(self):
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self.closed = True


class NearestIsOfAnyTime(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        return super().nearest(task, components)


class NearestReadsValues(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        near = super().nearest(task, components, before)
        return near and self.get(near.key)


class NearestLosesComponents(InMemoryMemoStore):
    def nearest(self, task, components, before=None):
        near = super().nearest(task, components, before)
        return near and replace(near, components={})


class ForgetsErrors(InMemoryMemoStore):
    def put(self, entry):
        super().put(replace(entry, error=None))


class TellsErrorsAsText(InMemoryMemoStore):
    def put(self, entry):
        super().put(replace(entry, error=entry.error and RuntimeError(repr(entry.error))))


class RaisesWhatCannotBeRead(InMemoryMemoStore):
    def get(self, key):
        found = super().get(key)
        if found is None and key in self._entries:
            raise SerializationError(self._problems[key])
        return found


class SaysNotWhy(InMemoryMemoStore):
    def problem(self, key):
        return None


class SaysLittleOfProblems(InMemoryMemoStore):
    def problem(self, key):
        return super().problem(key) and "something is wrong"


class NeverForgetsAProblem(InMemoryMemoStore):
    said = None

    def problem(self, key):
        if key == b"key":
            self.said = super().problem(key) or self.said
            return self.said
        return None


class FindsProblemsEverywhere(InMemoryMemoStore):
    def problem(self, key):
        return super().problem(key) or "this kind of value is no longer known"


class GivesUpAfterOne(InMemoryMemoStore):
    def get(self, key):
        return None if self._problems and key not in self._problems else super().get(key)


class ForgetsDescriptions(InMemoryMemoStore):
    def describe(self, descriptions):
        pass


class ReplacesDescriptions(InMemoryMemoStore):
    def describe(self, descriptions):
        self._descriptions.update(descriptions)


class CutsDescriptions(InMemoryMemoStore):
    def describe(self, descriptions):
        super().describe({digest: text[:1000] for digest, text in descriptions.items()})


class TakesEmptyForMissing(InMemoryMemoStore):
    def description(self, digest):
        return super().description(digest) or None


class DescribesAnything(InMemoryMemoStore):
    def description(self, digest):
        return self._descriptions.get(digest, "")


STORES = [
    (NearestIsOfAnyTime, "test_nearest_may_be_asked_for_earlier_entries"),
    (NearestReadsValues, "test_nearest_leaves_the_value_out"),
    (NearestLosesComponents, "test_nearest_leaves_the_value_out"),
    (ForgetsErrors, "test_an_error_is_an_outcome"),
    (TellsErrorsAsText, "test_an_error_is_an_outcome"),
    (RaisesWhatCannotBeRead, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (SaysNotWhy, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (SaysLittleOfProblems, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (NeverForgetsAProblem, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (FindsProblemsEverywhere, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (GivesUpAfterOne, "test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason"),
    (ForgetsDescriptions, "test_descriptions_are_kept_by_digest"),
    (ReplacesDescriptions, "test_descriptions_are_kept_by_digest"),
    (CutsDescriptions, "test_descriptions_are_kept_by_digest"),
    (TakesEmptyForMissing, "test_descriptions_are_kept_by_digest"),
    (DescribesAnything, "test_descriptions_are_kept_by_digest"),
    (Forgets, "test_what_was_put_is_found"),
    (LosesComponents, "test_what_was_put_is_found"),
    (KeepsTheFirst, "test_the_latest_put_wins"),
    (TakesNoneForMissing, "test_none_is_a_value"),
    (FindsWhatIsNot, "test_what_was_not_put_is_not_found"),
    (CutsValues, "test_a_large_value_comes_back"),
    (BreaksOnBadValues, "test_a_value_that_cannot_be_kept_costs_nothing_else"),
    (RaisesItsOwn, "test_a_value_that_cannot_be_kept_costs_nothing_else"),
    (NearestOfAnyTask, "test_nearest_shares_most_components"),
    (NearestIsTheLatest, "test_nearest_shares_most_components"),
    (NearestIsTheFirst, "test_nearest_shares_most_components"),
    (NotForThreads, "test_threads_may_use_it_at_once"),
    (ClosesOnce, "test_close_may_come_twice"),
]


@pytest.mark.parametrize(("store", "test"), STORES, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_store_fails(suite_fails, store, test):
    allowed = (TypeError, ValueError, SerializationError)
    suite_fails(MemoStoreSuite, test, *allowed, timeout=10.0, make_store=store)


@pytest.mark.parametrize(
    "test",
    ["test_what_was_flushed_survives", "test_a_description_survives_with_the_entry_that_refers_to_it"],
)
def test_a_store_that_loses_what_was_flushed_fails(suite_fails, test):
    suite_fails(
        MemoStoreSuite,
        test,
        make_store=InMemoryMemoStore,
        reopen=lambda store: InMemoryMemoStore(),
    )
