"""What users see of the package before they run anything."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import weft_channel_ssh
from weft_interfaces import Channel, ChannelError

FOLDER = Path(__file__).parent.parent


def python(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_loads_the_interfaces_and_the_standard_library_only() -> None:
    code = "import sys; old = {*sys.modules}; import weft_channel_ssh; print(*sys.modules.keys() - old)"
    roots = {name.partition(".")[0] for name in python("-c", code).split()}
    assert roots - sys.stdlib_module_names == {"weft_interfaces", "weft_channel_ssh"}


def test_importing_and_making_one_starts_nothing() -> None:
    code = (
        "import threading, weft_channel_ssh as w; w.OpenSSHChannel('host'); w.SSHChannel('host');"
        "print(threading.active_count())"
    )
    assert python("-c", code) == "1\n"


@pytest.mark.parametrize("name", ["openssh", "ssh"])
def test_the_entry_point_leads_to_the_channel(name: str) -> None:
    entry = rf'\[project\.entry-points\."weft\.channels"\]\n(?:.*\n)*?{name} = "(.*):(.*)"\n'
    [(module, attribute)] = re.findall(entry, (FOLDER / "pyproject.toml").read_text())
    channel = getattr(importlib.import_module(module), attribute)("host")
    assert isinstance(channel, Channel)
    assert channel.host == "host"


def test_names_and_errors() -> None:
    assert set(weft_channel_ssh.__all__) <= set(dir(weft_channel_ssh))
    assert (Path(weft_channel_ssh.__file__).parent / "py.typed").exists()
    for name in weft_channel_ssh.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(weft_channel_ssh, name), ChannelError)
