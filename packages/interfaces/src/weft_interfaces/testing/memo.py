"""What every memo hasher and every memo store must show."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import SerializationError
from ..memo import MemoEntry, MemoHasher, MemoStore
from .check import in_threads, raises, skip

__all__ = ["MemoHasherSuite", "MemoStoreSuite"]


@dataclasses.dataclass(frozen=True)
class Point:
    """A value with parts."""

    x: Any
    y: Any


class Opaque:
    """A type that no hasher knows."""

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("this object is not to be pickled")


class Switch:
    """On within ``with``."""

    on = False

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *error: object) -> None:
        self.on = False


# Each differs from each other one: a hasher that confuses two of them makes a wrong result look right.
DIFFERENT: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**70, 1.0, 0.5, 1j, "", "1", "a", b"", b"1", b"a", "None", "[]", "()"),
    *(
        (),
        (1,),
        (1, 2),
        (2, 1),
        ((1,), 2),
        (1, (2,)),
        [],
        [1],
        [1, 2],
        [[1], 2],
        [1, [2]],
        [[]],
        ("ab",),
        ("a", "b"),
    ),
    *(
        {},
        {1: 2},
        {2: 1},
        {"1": 2},
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        {"ab": 1},
        set(),
        {1},
        {1, 2},
        {(1, 2)},
    ),
    *(frozenset(), frozenset({1}), float("inf"), float("-inf"), float("nan"), "\x00", "\x00\x00", b"\x00"),
)
# Both of each pair are equal, and of the same types all through.
EQUAL: tuple[tuple[Any, Any], ...] = (
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({3, 1, 2, 100, -7}, {-7, 100, 2, 1, 3}),
    (set("abcdefgh"), set("hgfedcba")),
    ({"x": {"a": [1, {2, 3}]}}, {"x": {"a": [1, {3, 2}]}}),
    ([1, "two", 3.0], [1, "".join(["t", "wo"]), 3.0]),
    ((10**20, "x" * 3), (int("1" + "0" * 20), "xxx")),
)


class MemoHasherSuite:
    """Subclass it and write ``make_hasher``.

    elsewhere: a module and an expression in it which make an equal hasher in a new process; None means the
    class of what ``make_hasher`` returns, called without arguments. extra: more values that differ from all
    others.
    """

    timeout: float = 60.0
    elsewhere: tuple[str, str] | None = None
    extra: Sequence[Any] = ()

    def make_hasher(self) -> MemoHasher:
        """A hasher."""
        raise NotImplementedError(f"{type(self).__name__}.make_hasher: write it, to return what is tested")

    def test_a_digest_is_bytes(self) -> None:
        hasher = self.make_hasher()
        assert isinstance(hasher, MemoHasher), f"it lacks methods of the MemoHasher contract: {hasher!r}"
        digest = hasher.digest([1, 2])
        assert isinstance(digest, bytes), f"a digest is bytes, not {type(digest).__name__}"
        assert len(digest) >= 16, f"a digest of {len(digest)} bytes is too short to tell values apart"

    def test_the_same_value_has_the_same_digest(self) -> None:
        first, second = self.make_hasher(), self.make_hasher()
        for value in (*DIFFERENT, *self.extra):
            assert first.digest(value) == first.digest(value), (
                f"the digest of {value!r} changed from call to call"
            )
            assert first.digest(value) == second.digest(value), f"two hashers have two digests for {value!r}"

    def test_equal_values_have_equal_digests(self) -> None:
        hasher = self.make_hasher()
        for one, other in EQUAL:
            assert hasher.digest(one) == hasher.digest(other), (
                f"{one!r} equals {other!r}, but their digests differ"
            )

    def test_shared_parts_make_no_difference(self) -> None:
        part, hasher = [1, 2], self.make_hasher()
        shared, copied = [part, part], [[1, 2], [1, 2]]
        same = hasher.digest(shared) == hasher.digest(copied)
        assert same, "a part that occurs twice counts as two equal parts, but the digests differ"

    def test_different_values_have_different_digests(self) -> None:
        hasher = self.make_hasher()
        values = [*DIFFERENT, *self.extra, Point(1, 2), Point(2, 1)]
        digests = [hasher.digest(value) for value in values]
        for (one, first), (other, second) in itertools.combinations(zip(values, digests, strict=True), 2):
            assert first != second, f"{one!r} and {other!r} are different values, but have the same digest"

    def test_the_value_is_not_changed(self) -> None:
        value = {"a": [1, {2}, (3,)], "b": bytearray(b"x")}
        self.make_hasher().digest(value)
        assert value == {"a": [1, {2}, (3,)], "b": bytearray(b"x")}, f"digest changed the value, to {value!r}"

    def test_an_unknown_type_is_named(self) -> None:
        hasher = self.make_hasher()
        for value in (Opaque(), {"key": [Opaque()]}, threading.Lock()):
            error = raises(ValueError, functools.partial(hasher.digest, value), f"digest of {value!r}")
            assert "unknown type for memoization" in str(error), (
                f"the message begins as promised, not: {error}"
            )
            assert "Opaque" in str(error) or "lock" in str(error), f"the message names the type, not: {error}"

    def test_threads_may_hash_at_once(self) -> None:
        hasher, value = self.make_hasher(), [list(range(100)), {"a": {1, 2, 3}}]
        expected = hasher.digest(value)

        def work(number: int) -> None:
            for _ in range(50):
                assert hasher.digest(value) == expected, (
                    f"thread {number} got another digest for the same value"
                )

        in_threads(work, 8, self.timeout, "threads may hash at once")

    def test_another_process_has_the_same_digests(self) -> None:
        text = repr(
            [value for value in DIFFERENT if value == value and value not in (float("inf"), float("-inf"))]
        )
        here = b"".join(map(self.make_hasher().digest, eval(text)))
        for seed in ("1", "2"):
            there = self.digests_elsewhere(text, seed)
            assert there == here.hex(), (
                f"another process (PYTHONHASHSEED={seed}) has other digests for the same values"
            )

    def digests_elsewhere(self, text: str, seed: str) -> str:
        """The digests of a list of values, given as text, in a new process."""
        kind = type(self.make_hasher())
        module, expression = self.elsewhere or (kind.__module__, f"{kind.__qualname__}()")
        if "<locals>" in expression:
            skip("a hasher of a local class cannot be made in another process: set elsewhere")
        program = (
            f"import importlib; module = importlib.import_module({module!r}); "
            f"hasher = eval({expression!r}, vars(module)); "
            f"print(b''.join(map(hasher.digest, eval({text!r}))).hex())"
        )
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        argv = [sys.executable, "-c", program]
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False
        )
        assert done.returncode == 0, (
            f"the hasher cannot be made in another process: set elsewhere\n{done.stderr}"
        )
        return done.stdout.strip()


class Fading:
    """Cannot be unpickled within ``with Fading.gone``."""

    gone = Switch()

    def __reduce__(self) -> tuple[Any, ...]:
        return faded, ()


def faded() -> Fading:
    """Make one again."""
    if Fading.gone.on:
        raise LookupError("this kind of value is no longer known")
    return Fading()


def inherited(store: MemoStore, method: str) -> bool:
    """Whether a store leaves this one to :class:`BaseMemoStore`, which promises nothing."""
    return bool(getattr(type(store), method).__qualname__.startswith("BaseMemoStore."))


class MemoStoreSuite:
    """Subclass it and write ``make_store``; write ``reopen`` too if the store outlives its process."""

    timeout: float = 30.0

    def make_store(self) -> MemoStore:
        """A new store, empty."""
        raise NotImplementedError(f"{type(self).__name__}.make_store: write it, to return what is tested")

    def reopen(self, store: MemoStore) -> MemoStore:
        """Another store on the same place, as another process would open it."""
        skip("this store does not outlive its process")

    def entry(self, key: bytes, value: Any = None, task: str = "task", **components: bytes) -> MemoEntry:
        """An entry."""
        return MemoEntry(key=key, task=task, value=value, components=components, run="suite", time=1.0)

    def found(self, store: MemoStore, key: bytes) -> MemoEntry:
        """The entry, which must be there."""
        entry = store.get(key)
        assert entry is not None, f"what was put is found again, but not the entry {key!r}"
        return entry

    def test_what_was_put_is_found(self) -> None:
        store = self.make_store()
        assert isinstance(store, MemoStore), f"it lacks methods of the MemoStore contract: {store!r}"
        entries = [
            self.entry(bytes([i]) * 32, {"value": [i, None]}, f"task{i}", function=b"f") for i in range(100)
        ]
        for entry in entries:
            store.put(entry)
        for entry in entries:
            assert self.found(store, entry.key) == entry, f"what was put comes back, but not {entry}"
        store.close()

    def test_what_was_not_put_is_not_found(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"there"))
        assert store.get(b"not there") is None, "get of a key that was never put is None"
        store.close()

    def test_none_is_a_value(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"key", None))
        assert self.found(store, b"key").value is None, "a call that returned None is remembered with None"
        store.close()

    def test_the_latest_put_wins(self) -> None:
        store = self.make_store()
        for value in (1, 2, 3):
            store.put(self.entry(b"key", value))
            assert self.found(store, b"key").value == value, f"the latest of a key wins: {value}"
        store.close()

    def test_a_large_value_comes_back(self) -> None:
        store, value = self.make_store(), os.urandom(5_000_000)
        store.put(self.entry(b"key", value))
        assert self.found(store, b"key").value == value, "a value of 5 MB comes back whole"
        store.close()

    def test_a_value_that_cannot_be_kept_costs_nothing_else(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"before", 1))
        try:
            store.put(self.entry(b"bad", threading.Lock()))
        except SerializationError:
            assert store.get(b"bad") is None, "a put that raised kept nothing"
        store.put(self.entry(b"after", 2))
        assert self.found(store, b"before").value == 1, "what was there before a failed put is still there"
        assert self.found(store, b"after").value == 2, "a failed put does not stop later ones"
        store.close()

    def test_nearest_shares_most_components(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"1", 1, "t", function=b"f", x=b"1", y=b"1"))
        store.put(self.entry(b"2", 2, "t", function=b"f", x=b"2", y=b"1"))
        store.put(self.entry(b"3", 3, "other", function=b"f", x=b"3", y=b"3"))
        near = store.nearest("t", {"function": b"f", "x": b"1", "y": b"2"})
        if near is None and inherited(store, "nearest"):
            skip("this store explains nothing")
        assert near is not None, "nearest gives an entry of the task, if there is one"
        assert near.key == b"1", f"nearest shares most components, which is entry 1, not {near}"
        assert store.nearest("never put", {"function": b"f"}) is None, (
            "a task without entries has no nearest one"
        )
        latest = store.nearest("t", {"function": b"other"})
        assert latest is not None, "nearest gives an entry even if it shares nothing"
        assert latest.key == b"2", f"of equally near entries it is the latest, entry 2, not {latest}"
        store.close()

    def test_nearest_may_be_asked_for_earlier_entries(self) -> None:
        store = self.make_store()
        for moment in (1.0, 2.0, 3.0):
            key = b"%d" % moment
            store.put(dataclasses.replace(self.entry(key, 1, "t", x=b"x"), time=moment))
        if store.nearest("t", {}) is None and inherited(store, "nearest"):
            skip("this store explains nothing")
        near = store.nearest("t", {"x": b"x"}, before=3.0)
        assert near is not None, "nearest gives an earlier entry, if there is one"
        assert near.key == b"2", f"the latest that is earlier than 3.0 is entry 2, not {near}"
        assert store.nearest("t", {"x": b"x"}, before=1.0) is None, "no entry is earlier than the first"
        store.close()

    def test_nearest_leaves_the_value_out(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"1", "a value", "t", x=b"x"))
        store.put(dataclasses.replace(self.entry(b"2", None, "u", x=b"x"), error=ValueError("bad")))
        for task in ("t", "u"):
            near = store.nearest(task, {"x": b"x"})
            if near is None and inherited(store, "nearest"):
                skip("this store explains nothing")
            assert near is not None, "nearest gives an entry of the task, if there is one"
            outcome = (near.value, near.error)
            assert outcome == (None, None), f"nearest leaves the outcome out, not: {outcome}"
            assert near.components == {"x": b"x"}, f"nearest gives the components, not: {near.components}"
        store.close()

    def test_an_error_is_an_outcome(self) -> None:
        store = self.make_store()
        store.put(dataclasses.replace(self.entry(b"key"), error=ValueError("bad", 3)))
        for _ in range(2):
            error = self.found(store, b"key").error
            assert type(error) is ValueError, f"what was raised comes back as it was, not {error!r}"
            assert error.args == ("bad", 3), f"what was raised comes back as it was, not {error!r}"
            store.flush()
        store.put(self.entry(b"key", 1))
        assert self.found(store, b"key").error is None, "the latest of a key wins: a value"
        store.close()

    def test_a_value_that_cannot_be_read_any_more_is_a_miss_with_a_reason(self) -> None:
        store = self.make_store()
        assert store.problem(b"never put") is None, "what was never put is no problem"
        with Fading.gone:
            store.put(self.entry(b"key", Fading()))
            store.put(self.entry(b"other", 1))
            for _ in range(2):
                found = store.get(b"key")
                if found is not None:
                    skip("this store keeps values as they are")
                reason = store.problem(b"key")
                if reason is None and inherited(store, "problem"):
                    skip("this store explains nothing")
                assert reason, "problem says why an entry that is there could not be read, but said nothing"
                assert "no longer known" in reason, f"the reason names what went wrong, not: {reason}"
                store.flush()
            assert self.found(store, b"other").value == 1, "one broken entry does not hide others"
            assert store.problem(b"other") is None, "an entry that could be read is no problem"
        assert isinstance(self.found(store, b"key").value, Fading), "an entry is read anew each time"
        assert store.problem(b"key") is None, "a problem is forgotten once the entry could be read"
        store.close()

    def test_descriptions_are_kept_by_digest(self) -> None:
        store, long = self.make_store(), "a line of a long description\n" * 2_000
        store.describe({})
        store.describe({b"1": "one", b"2": long, b"3": ""})
        if store.description(b"1") is None and inherited(store, "describe"):
            skip("this store explains nothing")
        for _ in range(2):
            for digest, text in {b"1": "one", b"2": long, b"3": ""}.items():
                kept = store.description(digest)
                assert kept == text, f"a description comes back as it was: {text[:50]!r}, not {kept!r:.50}"
            assert store.description(b"4") is None, "what was never described has no description"
            store.describe({b"1": "another"})
            store.flush()
        store.close()

    def test_a_description_survives_with_the_entry_that_refers_to_it(self) -> None:
        store = self.make_store()
        store.describe({b"d": "what x was"})
        store.put(self.entry(b"key", 1, x=b"d"))
        store.flush()
        other = self.reopen(store)
        if other.description(b"d") is None and inherited(store, "describe"):
            skip("this store explains nothing")
        kept = other.description(b"d")
        assert kept == "what x was", f"whoever opens the store next finds the description, not {kept!r}"
        other.close()
        store.close()

    def test_threads_may_use_it_at_once(self) -> None:
        store = self.make_store()

        def work(number: int) -> None:
            for i in range(50):
                key = f"{number}-{i}".encode()
                store.put(self.entry(key, i))
                assert self.found(store, key).value == i, f"{key!r} has another thread's value"

        in_threads(work, 8, self.timeout, "threads may use a store at once")
        for number, i in itertools.product(range(8), range(50)):
            assert self.found(store, f"{number}-{i}".encode()).value == i, "what threads put is all there"
        store.close()

    def test_what_was_flushed_survives(self) -> None:
        store = self.make_store()
        for i in range(20):
            store.put(self.entry(bytes([i]), i))
        store.flush()
        other = self.reopen(store)  # the first is not closed: its process might have been killed
        for i in range(20):
            assert self.found(other, bytes([i])).value == i, (
                "what was flushed is found by whoever opens the store next"
            )
        other.close()
        store.close()

    def test_close_may_come_twice(self) -> None:
        store = self.make_store()
        store.put(self.entry(b"key"))
        store.flush()
        store.close()
        store.close()
