"""Units, resources, blocks and the other values that cross the contracts."""

from __future__ import annotations

import contextlib
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import (
    Blocks,
    Call,
    CallOptions,
    ConfigError,
    DirectLauncher,
    Event,
    JobState,
    NullEventSink,
    NullMemoStore,
    NullStaging,
    Outcome,
    Resources,
    StagingError,
    UnitError,
    block_id,
    block_number,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
)
from weft_interfaces.memory import InMemoryProvider, InMemoryStaging

PARSERS = [parse_bytes, parse_seconds, parse_count]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4 GiB", 4 * 2**30),
        ("512 mb", 512 * 10**6),
        ("1.5k", 1500),
        ("0", 0),
        ("7B", 7),
        (12, 12),
        (".5KB", 500),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90", 90),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("5 minutes", 300),
        ("250ms", 0.25),
        ("2d", 172800),
        ("01:30:00", 5400),
        ("05:30", 330),
        ("1-12:00:00", 129600),
        ("1-12:00", 129600),
        ("100:00:00", 360000),
        (1.5, 1.5),
    ],
)
def test_times_are_read(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "GB", "4XB", "-1GB", "1h30", "1:2:3:4", "01:99:00", "nan", "inf", "1e400", "4 4", "٣x"]
)
@pytest.mark.parametrize("parse", [parse_bytes, parse_seconds])
def test_what_cannot_be_read_names_the_field(parse, text):
    with pytest.raises(UnitError, match=r"tasks\.x"):
        parse(text, "tasks.x")


@pytest.mark.parametrize("value", [True, None, [], b"1", math.nan, math.inf, -1, 1j])
@pytest.mark.parametrize("parse", PARSERS)
def test_other_types_are_no_quantities(parse, value):
    with pytest.raises(UnitError):
        parse(value, "field")


@given(st.text(max_size=30) | st.integers() | st.floats() | st.none() | st.booleans() | st.binary())
def test_garbage_never_raises_anything_else(value):
    for parse in PARSERS:
        try:
            result = parse(value, "field")
        except UnitError:
            continue
        assert result >= 0
        assert math.isfinite(result)


@given(st.from_regex(r"\A[0-9. :dhmsGMkKiB-]{1,12}\Z"))
def test_near_misses_never_raise_anything_else(text):
    for parse in (parse_bytes, parse_seconds):
        with contextlib.suppress(UnitError):
            assert parse(text, "field") >= 0


@given(st.integers(0, 10**18))
def test_sizes_round_trip(size):
    assert parse_bytes(size) == parse_bytes(str(size)) == parse_bytes(f"{size} B") == size
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.06, abs=1)


@given(st.integers(0, 10**9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_round_trip(days, hours, minutes, seconds):
    days %= 1000
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert parse_seconds(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert parse_seconds(format_seconds(total)) == pytest.approx(total, rel=0.05, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (5.0, "5.0s"), (90, "1m30s"), (5400, "1h30m"), (90000, "1d01h")]
)
def test_times_are_written(seconds, text):
    assert format_seconds(seconds) == text


# -- resources ----------------------------------------------------------------------------------------------


def test_resources_read_units():
    resources = Resources(cpus=2.5, memory="4GB", gpus=1, walltime="1h")
    assert (resources.memory, resources.walltime, resources.slots) == (4 * 10**9, 3600.0, 3)
    assert str(resources) == "cpus=2.5, memory=4.0 GB, gpus=1, walltime=1h00m"
    assert pickle.loads(pickle.dumps(resources)) == resources
    assert hash(resources) == hash(Resources(cpus=2.5, memory=4 * 10**9, gpus=1, walltime=3600))


@pytest.mark.parametrize(("nodes", "ranks", "per_node"), [(1, 0, 1), (4, 0, 1), (4, 8, 2), (4, 9, 3)])
def test_ranks_are_spread_over_nodes(nodes, ranks, per_node):
    resources = Resources(nodes=nodes, ranks=ranks)
    assert resources.ranks == (ranks or nodes)
    assert resources.ranks_per_node == per_node


@pytest.mark.parametrize(("cpus", "slots"), [(0, 1), (0.5, 1), (1, 1), (1.1, 2), (3, 3)])
def test_a_task_takes_whole_slots(cpus, slots):
    assert Resources(cpus=cpus).slots == slots


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": -1},
        {"cpus": "2"},
        {"memory": "4 elephants"},
        {"gpus": -1},
        {"nodes": 0},
        {"nodes": 1.5},
        {"ranks": -1},
        {"walltime": "soon"},
    ],
)
def test_wrong_resources_name_the_field(wrong):
    with pytest.raises(UnitError, match=next(iter(wrong))):
        Resources(**wrong)


# -- blocks -------------------------------------------------------------------------------------------------


def test_blocks_read_units():
    blocks = Blocks(
        provider=InMemoryProvider(), nodes=2, memory="64GB", walltime="02:00:00", idle_timeout="5m", max=3
    )
    assert blocks.shape.walltime == 7200.0
    assert blocks.shape.memory == 64 * 10**9
    assert (blocks.shape.nodes, blocks.idle_timeout, blocks.register_timeout) == (2, 300.0, 120.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min": 2, "init": 1, "max": 3},
        {"init": 4, "max": 3},
        {"min": -1},
        {"max": 0},
        {"nodes": 0},
        {"parallelism": -1},
        {"walltime": "soon"},
        {"idle_timeout": "never"},
        {"memory": "much"},
    ],
)
def test_wrong_blocks_name_the_field(wrong):
    with pytest.raises((ConfigError, UnitError), match="blocks"):
        Blocks(provider=InMemoryProvider(), **wrong)


# -- small values -------------------------------------------------------------------------------------------


def test_calls_and_outcomes_are_light_and_shared():
    call = Call(1, print)
    assert call.options is Call(2, print).options
    assert (call.args, dict(call.kwargs)) == ((), {})
    assert Outcome(1) == (1, None, None)
    assert not hasattr(CallOptions(), "__dict__")


def test_only_ends_are_terminal():
    ends = {state.name for state in JobState if state.terminal}
    assert ends == {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "GONE"}


def test_what_is_null_does_nothing(tmp_path):
    NullEventSink().write([Event(0.0, "x", "y")])
    NullMemoStore().put(None)
    assert NullMemoStore().get(b"") is None
    assert not NullStaging().handles("file:///x")
    for move in (
        lambda: NullStaging().stage_in("x://y", tmp_path),
        lambda: NullStaging().stage_out(tmp_path, "x://y"),
    ):
        with pytest.raises(ValueError, match="x://y"):
            move()
    assert DirectLauncher().wrap(("a", "b"), None) == ["a", "b"]


def test_staging_in_memory_fails_when_told(tmp_path):
    staging = InMemoryStaging("told")
    staging.files["memory://told/x"] = b"data"
    staging.fail_next()
    with pytest.raises(StagingError, match="told to fail"):
        staging.stage_in("memory://told/x", tmp_path / "x")
    staging.stage_in("memory://told/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"data"


@pytest.mark.parametrize(("tag", "label"), [("run1", "htex"), ("run-1", "a-2"), ("", "")])
def test_a_block_is_known_again_by_its_id(tag, label):
    block = block_id(tag, label, 10_001)
    assert block_number(block, tag, label) == 10_001
    assert block_number(block, tag, f"{label}-1") is None
    assert block_number(f"{block}-1", tag, label) is None
    for strange in ("", tag, f"{tag}-{label}", f"{tag}-{label}-", f"{block}x", f"{tag}-{label}-01"):
        assert block_number(strange, tag, label) is None
