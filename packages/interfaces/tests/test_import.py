"""Importing the contracts costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import weft_interfaces
import weft_interfaces.memory
import weft_interfaces.testing

PROGRAM = """
import json, sys, threading, time
before = set(sys.modules)
begun = time.perf_counter()
import {module}
seconds = time.perf_counter() - begun
names = set(sys.modules) - before
roots = {{name.partition(".")[0] for name in names}} - {{"weft_interfaces"}}
foreign = sorted(roots - set(sys.stdlib_module_names))
own = sorted(name for name in names if name.startswith("weft_interfaces"))
print(json.dumps([foreign, threading.active_count(), seconds, own]))
"""


def measure(module):
    argv = [sys.executable, "-c", PROGRAM.format(module=module)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.parametrize("module", ["weft_interfaces", "weft_interfaces.memory", "weft_interfaces.testing"])
def test_importing_takes_the_standard_library_alone_and_starts_nothing(module):
    foreign, threads, _, _ = measure(module)
    assert foreign == []
    assert threads == 1


def test_importing_the_contracts_is_fast():
    assert min(measure("weft_interfaces")[2] for _ in range(5)) < 0.5


def test_importing_the_contracts_leaves_tests_and_memory_alone():
    own = measure("weft_interfaces")[3]
    assert [name for name in own if ".testing" in name or ".memory" in name] == []


@pytest.mark.parametrize("module", [weft_interfaces, weft_interfaces.memory, weft_interfaces.testing])
def test_all_that_is_public_is_there(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
