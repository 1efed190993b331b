"""Why a call was run again."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from weft_interfaces import MemoCall, MemoEntry
from weft_interfaces.memory import InMemoryMemoStore
from weft_memo.description import describe
from weft_memo.explanation import Explanation, explain_hit, explain_miss, explain_shared
from weft_memo.hasher import digest
from weft_memo.overlay import Overlay

SIMULATE = "def simulate(config):\n    return norm(config)\n"
NORM = "def norm(config):\n    return config['seed'] * SCALE\n"


class Memory:
    """A store, and identities as :func:`identify_function` makes them, of texts."""

    def __init__(self) -> None:
        self.store = InMemoryMemoStore()

    def identity(self, parts: dict[str, str], **more: Any) -> bytes:
        digests = {name: digest((name, text)) for name, text in parts.items()}
        self.store.describe({digests[name]: text for name, text in parts.items()})
        table = {"policy": "deep", "version": None, **more}
        identity = digest((sorted(digests.items()), sorted(map(str, table.items()))))
        described = {**table, "parts": {name: part.hex() for name, part in digests.items()}}
        self.store.describe({identity: json.dumps(described)})
        return identity

    def call(self, parts: dict[str, str], arguments: dict[str, Any], **components: bytes) -> MemoCall:
        components = {"function": self.identity(parts), **components}
        for name, value in arguments.items():
            components[f"argument {name}"] = digest(value)
            self.store.describe({digest(value): describe(value, name)})
        return MemoCall(digest(sorted(components.items())), "app.simulate", components)

    def remember(self, call: MemoCall, run: str = "run-1", moment: float = 1000.0) -> None:
        self.store.put(
            MemoEntry(key=call.key, task=call.task, value=1, components=call.components, run=run, time=moment)
        )


PARTS = {"function app.simulate": SIMULATE, "helper app.norm": NORM, "global app.SCALE": describe(2)}
CONFIG = {"seed": 3, "rate": 0.5}


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    memory.remember(memory.call(PARTS, {"config": CONFIG}))
    return memory


def changes(explanation: Explanation) -> list[str]:
    return [line for change in explanation.changes for line in change.text()]


def test_an_argument(memory: Memory) -> None:
    call = memory.call(PARTS, {"config": {**CONFIG, "seed": 4}})
    explanation = explain_miss(memory.store, call)
    assert explanation.outcome == "miss"
    assert (explanation.run, explanation.time) == ("run-1", 1000.0)
    assert "from its nearest call, by run run-1, " in explanation.summary
    assert changes(explanation) == ['argument config: config["seed"]: 3 -> 4']
    assert explanation.reason == "argument config"
    assert str(explanation).splitlines()[1] == '  argument config: config["seed"]: 3 -> 4'


def test_a_helper_function_with_its_diff(memory: Memory) -> None:
    parts = {**PARTS, "helper app.norm": NORM.replace("* SCALE", "* SCALE + 1")}
    explanation = explain_miss(memory.store, memory.call(parts, {"config": CONFIG}))
    assert changes(explanation) == [
        "helper app.norm:",
        "  --- app.norm (then)",
        "  +++ app.norm (now)",
        "  @@ -1,2 +1,2 @@",
        "   def norm(config):",
        "  -    return config['seed'] * SCALE",
        "  +    return config['seed'] * SCALE + 1",
    ]
    assert explanation.reason == "helper app.norm"


def test_a_global(memory: Memory) -> None:
    parts = {**PARTS, "global app.SCALE": describe(3)}
    assert changes(explain_miss(memory.store, memory.call(parts, {"config": CONFIG}))) == [
        "global app.SCALE: SCALE: 2 -> 3"
    ]


def test_a_package(memory: Memory) -> None:
    memory.remember(memory.call({**PARTS, "package numpy": "numpy 1.26.4"}, {"config": CONFIG}))
    call = memory.call({**PARTS, "package numpy": "numpy 2.0"}, {"config": CONFIG})
    assert changes(explain_miss(memory.store, call)) == ["package numpy: numpy 1.26.4 -> numpy 2.0"]


def test_helpers_that_came_and_went(memory: Memory) -> None:
    parts = {**PARTS, "helper app.scaled": "def scaled(config):\n    return 0\n"}
    del parts["helper app.norm"]
    explanation = explain_miss(memory.store, memory.call(parts, {"config": CONFIG}))
    assert changes(explanation) == ["helper app.scaled: added", "helper app.norm: removed"]
    assert explanation.reason == "helper app.scaled (added), helper app.norm (removed)"


def test_a_renamed_helper(memory: Memory) -> None:
    parts = {**PARTS, "helper app.scaled": NORM.replace("norm", "scaled")}
    del parts["helper app.norm"]
    explanation = explain_miss(memory.store, memory.call(parts, {"config": CONFIG}))
    assert changes(explanation) == ["helper app.scaled: renamed, from helper app.norm"]


def test_the_same_arguments_say_more_than_the_same_code(memory: Memory) -> None:
    parts = {**PARTS, "global app.SCALE": describe(3)}
    memory.remember(memory.call(parts, {"config": {"seed": 9}}), "run-2", 2000.0)
    explanation = explain_miss(memory.store, memory.call(parts, {"config": CONFIG}))
    assert changes(explanation) == ["global app.SCALE: SCALE: 2 -> 3"]
    assert "was called with the same arguments by run run-1, " in explanation.summary
    explanation = explain_miss(memory.store, memory.call(parts, {"config": {"seed": 8}}))
    assert changes(explanation) == ['argument config: config["seed"]: 9 -> 8']


def test_what_is_reached_twice_is_named_once(memory: Memory) -> None:
    name = "class app.Model"
    before = {name: "class Model: pass", "helper app.norm": NORM}
    after = {**before, "helper app.norm": "def norm(config):\n    return 1\n"}
    memory.remember(memory.call(PARTS, {}, **{name: memory.identity(before)}))
    parts = {**PARTS, "helper app.norm": after["helper app.norm"]}
    call = memory.call(parts, {}, **{name: memory.identity(after)})
    assert [change.what for change in explain_miss(memory.store, call).changes] == ["helper app.norm"]


def test_policy_and_version(memory: Memory) -> None:
    identity = memory.identity(PARTS, policy="body", version="2")
    call = memory.call(PARTS, {"config": CONFIG}, function=identity)
    assert changes(explain_miss(memory.store, call)) == ["policy: deep -> body", "version: none -> 2"]
    identity = memory.identity({"function app.simulate": "other"}, policy="body")
    lines = changes(explain_miss(memory.store, memory.call(PARTS, {"config": CONFIG}, function=identity)))
    assert lines[0] == "policy: deep -> body"
    assert lines[1] == "function app.simulate:"
    assert "removed" not in "".join(lines)


def test_the_class_of_an_argument(memory: Memory) -> None:
    source = "class Model:\n    rate = 1\n"
    name = "class app.Model"
    memory.remember(memory.call(PARTS, {}, **{name: memory.identity({name: source, "helper app.f": "1"})}))
    call = memory.call(
        PARTS,
        {},
        **{name: memory.identity({name: source.replace("1", "2"), "helper app.f": "2"})},
    )
    lines = changes(explain_miss(memory.store, call))
    assert lines[0] == "class app.Model, of which an argument is an instance:"
    assert "  +    rate = 2" in lines
    assert "helper app.f, through class app.Model:" in lines


def test_parameters_that_came_and_went(memory: Memory) -> None:
    call = memory.call(PARTS, {"settings": CONFIG})
    assert changes(explain_miss(memory.store, call)) == [
        "argument settings: added",
        "argument config: removed",
    ]


def test_nothing_earlier(memory: Memory) -> None:
    call = MemoCall(b"k", "app.other", {})
    explanation = explain_miss(memory.store, call)
    assert explanation.lines() == ["the first call of app.other that this store knows"]
    assert explanation.reason == explanation.summary


def test_what_cannot_be_read(memory: Memory) -> None:
    call = memory.call(PARTS, {"config": CONFIG})
    explanation = explain_miss(memory.store, call, problem="its class is gone")
    assert explanation.lines() == [
        "app.simulate was remembered, but cannot be read any more: its class is gone"
    ]


def test_what_the_run_put_itself_does_not_count(memory: Memory) -> None:
    call = memory.call(PARTS, {"config": {**CONFIG, "seed": 4}})
    memory.remember(call, "run-2", 2001.0)
    assert changes(explain_miss(memory.store, call, before=2000.0)) == [
        'argument config: config["seed"]: 3 -> 4'
    ]
    assert explain_miss(memory.store, call, before=500.0).changes == ()
    assert explain_miss(memory.store, call).summary.startswith(
        "app.simulate is remembered by now: by run run-2"
    )


def test_descriptions_that_are_lost(memory: Memory) -> None:
    old = MemoCall(b"1", "app.lost", {"function": b"f", "argument x": b"x"})
    memory.remember(old)
    new = MemoCall(b"2", "app.lost", {"function": b"g", "argument x": b"y"})
    assert changes(explain_miss(memory.store, new)) == [
        "function: it changed; what it was is not kept",
        "argument x: it differs; what it was is not kept",
    ]
    memory.store.describe({b"f": "[no json", b"g": "[1]"})
    assert len(explain_miss(memory.store, new).changes) == 2


def test_a_difference_that_no_description_shows(memory: Memory) -> None:
    memory.store.describe({b"one": describe(float("nan")), b"two": describe(float("nan"))})
    memory.remember(MemoCall(b"1", "app.nan", {"argument x": b"one"}))
    explanation = explain_miss(memory.store, MemoCall(b"2", "app.nan", {"argument x": b"two"}))
    assert changes(explanation) == ["argument x: it differs in what its description does not show"]


def test_long_diffs_are_cut(memory: Memory) -> None:
    old = "def norm():\n" + "".join(f"    a{i}\n" for i in range(500))
    memory.remember(memory.call({**PARTS, "helper app.norm": old}, {"config": CONFIG}))
    call = memory.call({**PARTS, "helper app.norm": old.replace("a", "b")}, {"config": CONFIG})
    lines = changes(explain_miss(memory.store, call))
    assert len(lines) < 80
    assert lines[-1].endswith("more lines")


def test_hits_and_shared_outcomes() -> None:
    moment = time.mktime((2026, 11, 25, 21, 0, 3, 0, 0, -1))
    hit = explain_hit("app.simulate", "run-1", moment)
    assert hit.lines() == ["app.simulate was remembered: run run-1 computed it, 2026-11-25 21:00:03"]
    assert explain_shared("app.simulate", 12).lines() == [
        "app.simulate was in flight already: it got the outcome of task 12 of the same run"
    ]


def test_explanations_are_plain_data(memory: Memory) -> None:
    parts = {**PARTS, "helper app.norm": NORM.replace("3", "4")}
    explanation = explain_miss(memory.store, memory.call(parts, {"config": {"seed": 4}}))
    table = json.loads(json.dumps(explanation.to_json()))
    assert table["outcome"] == "miss"
    assert table["changes"][-1]["what"] == "argument config"
    assert table["reason"] == explanation.reason
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.task = "other"  # type: ignore[misc]


def test_an_overlay_reads_and_writes_nothing(memory: Memory) -> None:
    overlay = Overlay(memory.store)
    old = memory.call(PARTS, {"config": CONFIG})
    entry = overlay.get(old.key)
    assert entry is not None
    assert entry.value == 1
    overlay.put(MemoEntry(key=b"new", task="app.simulate", value=2))
    assert memory.store.get(b"new") is None
    overlay.describe({b"digest": "here"})
    assert overlay.description(b"digest") == "here"
    assert memory.store.description(b"digest") is None
    assert overlay.description(old.components["function"]) is not None
    assert overlay.nearest("app.simulate", old.components) == memory.store.nearest(
        "app.simulate", old.components
    )
    assert overlay.problem(old.key) is None
    overlay.flush()
    overlay.close()
