"""These tests have an environment of their own, ``hatch run test tensors``: PyTorch is large."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_tensors.py"]
