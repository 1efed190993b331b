"""What users see of the package before they run anything."""

from __future__ import annotations

import subprocess
import sys

import pytest
import weft_memo


def test_importing_loads_no_module() -> None:
    code = "import sys, weft_memo; print(*(n for n in sys.modules if n.startswith(('weft', 'blake3'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"weft_memo", "weft_memo.__about__"}


def test_names() -> None:
    assert set(weft_memo.__all__) <= set(dir(weft_memo))
    for name in weft_memo.__all__:
        assert getattr(weft_memo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        weft_memo.nothing  # noqa: B018
