"""How a job of the in-memory provider finds the in-memory executor whose manager it is to start."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

__all__ = ["MANAGER_PROGRAM", "announce", "start_manager"]

MANAGER_PROGRAM = "weft-memory-manager"


class Registers(Protocol):
    """Takes managers that come up in a block."""

    def register(self, block_id: str) -> None:
        """One manager is up."""


_executors: weakref.WeakValueDictionary[str, Registers] = weakref.WeakValueDictionary()


def announce(key: str, executor: Registers) -> None:
    """Let commands that carry ``key`` find this executor for as long as it lives."""
    _executors[key] = executor


def start_manager(arguments: Sequence[str]) -> None:
    """Do what ``weft-memory-manager KEY BLOCK`` says; an executor that is gone is not an error, as at a real
    site.
    """
    key, block_id = arguments
    executor = _executors.get(key)
    if executor is not None:
        executor.register(block_id)
