from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import weft
from hypothesis import given
from hypothesis import strategies as st
from weft import _schema
from weft._config import read_config
from weft._plugin import GROUPS
from weft_interfaces import BaseExecutor, Provider


def problems_of(text: str, folder: Path) -> weft.ConfigError:
    file = folder / "site.toml"
    file.write_text(text)
    with pytest.raises(weft.ConfigError) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))
    return caught.value


THREADS = '[[executors]]\ntype = "threads"\n'
HTEX = '[[executors]]\ntype = "htex"\n'


@pytest.mark.parametrize(
    ("text", "key", "fragments"),
    [
        ("retris = 2", "retris", ["unknown key", "did you mean 'retries'?", "known are executors, retries"]),
        ("retries = 'two'", "retries", ["retries: the text 'two' is not a whole number"]),
        ("retries = true", "retries", ["retries: true is not a whole number"]),
        ("retries = 1.5", "retries", ["retries: 1.5 is not a whole number"]),
        ("retries = -1", "retries", ["retries: -1 is not a whole number, at least 0"]),
        ("run_dir = 3", "run_dir", ["run_dir: 3 is not a text"]),
        ("name = 'a/b'", "name", ["name: 'a/b' is not made of letters"]),
        ("progress = 1", "progress", ["progress: 1 is not true or false"]),
        ("resolver = 'deeep'", "resolver", ["the text 'deeep' is not one of 'deep', 'shallow'"]),
        ("shutdown_timeout = '3 parsecs'", "shutdown_timeout", ['not a time such as "90s"']),
        ("shutdown_timeout = -1", "shutdown_timeout", ["shutdown_timeout: -1.0 is not a time"]),
        ("scaling_policy = 'mine'", "scaling_policy", ["is not a ScalingPolicy"]),
        ("retry_policy = 3", "retry_policy", ["retry_policy: 3 is not a RetryPolicy"]),
        ("[retry_policy]\ndelay = 'x'", "retry_policy.delay", ["the text 'x' is not a number"]),
        ("[retry_policy]\nmax_los = 1", "retry_policy.max_los", ["did you mean 'max_losses'?"]),
        ("executors = []", "executors", ["a run needs at least one"]),
        ("executors = 'threads'", "executors", ["expected a list of executors"]),
        ("executors = [3]", "executors[0]", ["3 is not a table with the type of an executor"]),
        ("[executors]\ntype = 'threads'", "executors", ["each begins with [[executors]]"]),
        (
            "[[executors]]\nworkers = 4",
            "executors[0].type",
            ["is missing", "one of htex, processes, threads"],
        ),
        ("[[executors]]\ntype = 4", "executors[0].type", ["4 is not a text"]),
        (
            "[[executors]]\ntype = 'treads'",
            "executors[0].type",
            ["'treads' is no", "did you mean 'threads'?"],
        ),
        (
            "[[executors]]\ntype = 'zzzz'",
            "executors[0].type",
            ["'zzzz' is no plug-in of weft.executors; known are"],
        ),
        (THREADS + "wokers = 4", "executors[0].wokers", ["unknown key", "did you mean 'workers'?"]),
        (THREADS + "workers = 'four'", "executors[0].workers", ["the text 'four' is not a whole number"]),
        (THREADS + "workers = 0", "executors[0].workers", ["0 is not a whole number, at least 1"]),
        (THREADS + "label = 3", "executors[0].label", ["3 is not a text"]),
        (THREADS + THREADS, "executors[1].label", ["'threads' is the label of executors[0] too"]),
        (THREADS + "label = 'a'\n" + THREADS + "label = 'a'", "executors[1].label", ["'a' is the label of"]),
        (HTEX + "accelerators = 0", "executors[0].accelerators", ["0 is neither their number on each node"]),
        (
            HTEX + "accelerators = 'two'",
            "executors[0].accelerators",
            ["the text 'two' is not a whole number or a list of texts or whole numbers"],
        ),
        (
            HTEX + "accelerators = 2\nworkers_per_node = 4",
            "executors[0].accelerators",
            ["4 workers cannot have 2 accelerators; set workers_per_node=2"],
        ),
        (HTEX + "accelerater = 2", "executors[0].accelerater", ["did you mean 'accelerators'?"]),
        (
            HTEX + "affinity = 'blok'",
            "executors[0].affinity",
            [
                "the text 'blok' is not one of 'none', 'block', 'block-reverse', 'alternating'",
                "or a list of texts",
            ],
        ),
        (HTEX + "affinity = [[0, 1]]", "executors[0].affinity", ["or a list of texts"]),
        (
            HTEX + "affinity = ['0-x']\nworkers_per_node = 1",
            "executors[0].affinity",
            ["'0-x' is no list of processors"],
        ),
        (HTEX + "preload = 'numpy'", "executors[0].preload", ["the text 'numpy' is not a list of texts"]),
        ("a = [", "", ["is not TOML"]),
        ("a = 1\na = 2", "", ["is not TOML"]),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    text: str, key: str, fragments: list[str], tmp_path: Path
) -> None:
    error = problems_of(text, tmp_path)
    assert error.key == key
    for fragment in fragments:
        assert fragment in str(error)


def test_settings_of_the_workers_of_the_pilot_executor(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        HTEX
        + "label = 'a'\naccelerators = [0, 'GPU-1']\naffinity = ['0-3', '4,5']\npreload = ['numpy']\n"
        + "workers_per_node = 2\n"
        + HTEX
        + "label = 'b'\naccelerators = 4\naffinity = 'block-reverse'\nworkers_per_node = 2\n"
    )
    named, counted = read_config(file).make_executors()
    assert [executor.load().max_slots for executor in (named, counted)] == [2, 2]
    assert "has 1 of the accelerators" in str(named.refusal(weft.Resources(gpus=2)))
    assert counted.refusal(weft.Resources(gpus=2)) is None


def test_all_problems_are_in_one_error(tmp_path: Path) -> None:
    text = (
        "retris = 1\nshutdown_timeout = 'soon'\nname = '/'\n"
        + THREADS
        + "wokers = 1\nlabel = 2\n[[executors]]\n"
    )
    said = str(problems_of(text, tmp_path)).splitlines()
    assert said[0].endswith(": 6 problems:")
    keys = [
        "retris",
        "shutdown_timeout",
        "name",
        "executors[0].wokers",
        "executors[0].label",
        "executors[1].type",
    ]
    assert sorted(line.split(":")[0].strip() for line in said[1:]) == sorted(keys)


def test_the_same_schema_in_python() -> None:
    with pytest.raises(weft.ConfigError) as caught:
        weft.Config(retris=1, executors=[{"type": "threads", "wokers": 1}], name=3)  # type: ignore[call-arg, arg-type]
    assert str(caught.value).count("\n") == 3
    assert "executors[0].wokers: unknown key; did you mean 'workers'?" in str(caught.value)
    with pytest.raises(
        weft.ConfigError, match=r"executors\[1\].label: 'threads' is the label of executors\[0\] too"
    ):
        weft.Config(executors=[weft.ThreadExecutor(), "threads"])


def test_a_missing_plugin_names_the_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS["weft.executors"], "pilot", "weft-executor-pilot")
    error = problems_of("[[executors]]\ntype = 'pilot'", tmp_path)
    assert (
        "'pilot' is in weft-executor-pilot, which is not installed: pip install weft-executor-pilot"
        in str(error)
    )


def test_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("""
        retries = 2
        run_dir = "my-runs"
        name = "census"
        resolver = "shallow"
        progress = false
        shutdown_timeout = "1 min"

        [retry_policy]
        delay = 1
        max_losses = 2

        [[executors]]
        type = "threads"
        workers = 4

        [[executors]]
        type = "threads"
        label = "more"
    """)
    config = read_config(file)
    assert (config.retries, config.run_dir, config.name, config.resolver) == (
        2,
        "my-runs",
        "census",
        "shallow",
    )
    assert (config.progress, config.shutdown_timeout) == (False, 60.0)
    assert config.retry_policy == weft.BackoffRetryPolicy(delay=1, max_losses=2)
    first, second = config.make_executors()
    assert (first.label, second.label, first.load().max_slots) == ("threads", "more", 4)
    assert config.make_executors()[0] is not first


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weft.run(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(weft.ConfigError, match="is not TOML"):
        weft.run(tmp_path / "bytes.toml")


def test_it_is_frozen_and_keeps_a_copy_of_tables() -> None:
    table = {"type": "threads", "workers": 2}
    config = weft.Config(executors=[table])
    table["workers"] = 7
    assert config.make_executors()[0].load().max_slots == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.retries = 3  # type: ignore[misc]
    assert config.replace(retries=3).retries == 3
    assert config.retries == 0
    assert weft.Config() == weft.Config()


def test_the_environment_names_the_file_of_runs_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.toml"
    file.write_text("retries = 7")
    monkeypatch.setenv("WEFT_CONFIG", str(file))
    assert weft.run().config.retries == 7
    assert weft.run(weft.Config()).config.retries == 0


# -- the schema of plug-ins ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    nodes: int = 1
    provider: Provider | None = None


class FakeProvider:
    channel = None
    poll_interval = 1.0

    def __init__(self, partition: str, *, account: str | None = None, minutes: float = 10) -> None:
        if minutes > 100:
            raise ValueError(f"minutes: {minutes} is too long")
        self.partition = partition

    def submit(self, spec: Any) -> Any: ...
    def status(self, ids: Any) -> Any: ...
    def cancel(self, ids: Any) -> None: ...
    def find(self, tag: str) -> Any: ...
    def close(self) -> None: ...


class FakeExecutor(BaseExecutor):
    def __init__(
        self,
        label: str = "fake",
        mode: Literal["fast", "slow"] = "fast",
        shape: Shape | None = None,
        shapes: Sequence[Shape] = (),
        names: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        log: str | Path | None = None,
        unknown: NotImportedHere | None = None,  # type: ignore[name-defined]  # noqa: F821
    ) -> None:
        super().__init__(label)
        self.shape, self.shapes, self.names, self.unknown = shape, shapes, names, unknown

    def start(self, context: Any) -> None: ...
    def submit(self, calls: Any) -> None: ...
    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        return []


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs distributions with entry points, on the path of this test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, group: str, **entry_points: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entry_points.items())]
        with open(folder / "entry_points.txt", "a") as file:
            file.write("\n".join(lines) + "\n")

    monkeypatch.setitem(sys.modules, "fake_plugins", sys.modules.get(__name__) or sys)
    for thing in (FakeExecutor, FakeProvider):
        monkeypatch.setattr(sys.modules["fake_plugins"], thing.__name__, thing, raising=False)
    install("fake-executor", "weft.executors", fake="fake_plugins:FakeExecutor")
    install("fake-provider", "weft.providers", fakeslurm="fake_plugins:FakeProvider")
    return install


def test_nested_plugins_and_dataclasses(plugins: Any, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("""
        [[executors]]
        type = "fake"
        mode = "slow"
        names = ["a", "b"]
        log = "x.log"
        unknown = 3
        environment = {A = "1"}
        shapes = [{nodes = 3}, {provider = {type = "fakeslurm", partition = "debug", minutes = 20}}]

        [executors.shape]
        nodes = 2
        [executors.shape.provider]
        type = "fakeslurm"
        partition = "long"
    """)
    executor: Any = read_config(file).make_executors()[0]
    assert executor.shape.nodes == 2
    assert executor.shape.provider.partition == "long"
    assert [shape.nodes for shape in executor.shapes] == [3, 1]
    assert executor.shapes[1].provider.partition == "debug"
    assert executor.names == ("a", "b")
    assert executor.unknown == 3


FAKE = "[[executors]]\ntype = 'fake'\n"


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("mode = 'medium'", "executors[0].mode", "the text 'medium' is not one of 'fast', 'slow'"),
        ("names = ['a', 3]", "executors[0].names", "is not a list of texts"),
        ("environment = {A = 1}", "executors[0].environment", "{'A': 1} is not a table of texts"),
        ("shape = 3", "executors[0].shape", "3 is not a table"),
        ("shape = {nods = 3}", "executors[0].shape.nods", "did you mean 'nodes'?"),
        (
            "shapes = [{}, {nodes = 'x'}]",
            "executors[0].shapes[1].nodes",
            "the text 'x' is not a whole number",
        ),
        ("shape = {provider = 'fakeslurm'}", "executors[0].shape.provider.partition", "is missing: a text"),
        ("shape = {provider = 'slrm'}", "executors[0].shape.provider", "did you mean 'slurm'?"),
        (
            "shape = {provider = 'kubernetes'}",
            "executors[0].shape.provider",
            "pip install weft-provider-kubernetes",
        ),
        (
            "shape = {provider = {type = 'fakeslurm', partition = 'a', minutes = 200}}",
            "executors[0].shape.provider.minutes",
            "is too long",
        ),
    ],
)
def test_problems_of_nested_plugins(plugins: Any, tmp_path: Path, text: str, key: str, said: str) -> None:
    error = problems_of(FAKE + text, tmp_path)
    assert error.key == key
    assert said in str(error)


def test_a_name_that_two_distributions_have_is_an_error_that_names_both(plugins: Any, tmp_path: Path) -> None:
    plugins("other-executor", "weft.executors", fake="other:Executor", threads="other:Threads")
    said = str(problems_of(FAKE + THREADS, tmp_path))
    assert "two plug-ins of weft.executors are called 'fake': " in said
    assert "fake_plugins:FakeExecutor (from fake-executor)" in said
    assert "other:Executor (from other-executor)" in said
    assert "two plug-ins of weft.executors are called 'threads'" in said


def test_a_plugin_that_cannot_be_imported(plugins: Any, tmp_path: Path) -> None:
    plugins("broken-executor", "weft.executors", broken="no_such_module:Executor")
    error = problems_of("[[executors]]\ntype = 'broken'", tmp_path)
    assert "the plug-in 'broken', no_such_module:Executor (from broken-executor), cannot be imported" in str(
        error
    )


def test_a_name_by_itself_is_a_table_without_settings(plugins: Any) -> None:
    assert weft.Config(executors=["fake"]).make_executors()[0].label == "fake"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([field.name for field in dataclasses.fields(weft.Config)] + ["typo", ""])


@given(st.dictionaries(keys, values, max_size=4))
def test_any_table_gives_a_configuration_or_a_config_error(table: dict[str, Any]) -> None:
    with contextlib.suppress(weft.ConfigError):
        assert weft.Config(**table).make_executors()


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | str, "a number or a text"),
        (int | None, "a whole number"),
        (Path, "a text"),
        (Sequence[int], "a list of whole numbers"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Provider | None, "a table with the type of a provider"),
        (Shape, "a table"),
        (dict[str, int], "a table of whole numbers"),
        (Mapping[str, Any], "a table"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert _schema.describe(hint) == words
