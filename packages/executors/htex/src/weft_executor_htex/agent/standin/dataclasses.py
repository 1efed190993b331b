"""Dataclasses as of Python 3.10, for a host whose Python is older: there they have a dictionary and no slots,
and their fields are taken by place, too. Inside the agent's file it is called ``weft_dataclasses``.

What was pickled elsewhere comes as such Pythons pickle it.
"""

from __future__ import annotations

import dataclasses as _dataclasses
import sys
from dataclasses import *  # noqa: F403
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036  here it never is

    def dataclass(cls: Any = None, *, slots: bool = False, kw_only: bool = False, **options: Any) -> Any:
        """See :func:`dataclasses.dataclass`."""

        def make(cls: Any) -> Any:
            made = _dataclasses.dataclass(**options)(cls)
            if slots and options.get("frozen") and "__setstate__" not in cls.__dict__:
                made.__setstate__ = _set_fields
            return made

        return make if cls is None else make(cls)

    def _set_fields(self: Any, state: Any) -> None:
        """Of a frozen class with slots the values come in the order of its fields."""
        names = [field.name for field in _dataclasses.fields(self)]
        for name, value in state.items() if isinstance(state, dict) else zip(names, state):  # noqa: B905
            object.__setattr__(self, name, value)
