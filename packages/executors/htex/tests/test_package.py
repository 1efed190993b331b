"""What users see of the package before they run anything."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import Any

import pytest
import weft_executor_htex
from weft_executor_htex import HighThroughputExecutor
from weft_interfaces import Blocks, ConfigError, MissingPluginError, Resources, RunClosedError, UnitError
from weft_interfaces.memory import InMemoryProvider


def test_importing_loads_nothing() -> None:
    listed = "print(*(name for name in sys.modules if name.startswith(('weft', 'cryptography', 'ssl'))))"
    code = f"import sys, weft_executor_htex; {listed}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"weft_executor_htex", "weft_executor_htex.__about__"}


def test_blocks_of_this_machine_need_no_keys() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = sys.modules['ssl'] = None; "
        "from weft_executor_htex import executor, manager"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names() -> None:
    assert set(weft_executor_htex.__all__) <= set(dir(weft_executor_htex))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        weft_executor_htex.nothing  # noqa: B018


def test_the_provider_of_this_machine_may_be_missing(monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(MissingPluginError, match="pip install weft-provider-local"):
        HighThroughputExecutor()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers_per_node": 0}, "workers_per_node of executor 'htex'"),
        ({"workers_per_node": 1.5}, "workers_per_node of executor 'htex'"),
        ({"prefetch": -1}, "prefetch of executor 'htex'"),
        ({"heartbeat_period": "soon"}, "heartbeat_period of executor 'htex'"),
        ({"heartbeat_period": 30, "heartbeat_threshold": "10s"}, "less than heartbeat_threshold"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, UnitError), match=words):
        HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), **settings)


def test_what_no_node_has_is_refused_in_words() -> None:
    blocks = Blocks(provider=InMemoryProvider(), memory="4GB")
    executor = HighThroughputExecutor(workers_per_node=2, blocks=blocks)
    assert "4.0 GB" in str(executor.refusal(Resources(memory="8GB")))
    assert executor.refusal(Resources(memory="4GB")) is None
    assert "2 workers a node" in str(executor.refusal(Resources(cpus=3)))
    assert "gpus" in str(executor.refusal(Resources(gpus=1)))
    assert "one node" in str(executor.refusal(Resources(nodes=2)))
    assert executor.refusal(Resources(cpus=2)) is None


def test_it_has_no_command_before_it_runs() -> None:
    executor = HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()))
    assert executor.status() == {"running": False}
    with pytest.raises(RunClosedError):
        executor.command("b")
