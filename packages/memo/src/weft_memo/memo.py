"""The settings of memoization, as a configuration holds them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from weft_interfaces import ConfigError, MemoStore, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from .memoizer import ContentMemoizer
    from .remote import RemoteStore
    from .store import FileStore

__all__ = ["Memo", "Policy", "open_store"]

Policy = Literal["deep", "body", "name"]


@dataclass(frozen=True, kw_only=True)
class Memo:
    """What is remembered of calls, and where. Nothing is opened, or made, before a call asks for it.

    store: a folder of this machine, made when missing; a URL that fsspec knows; or a store, which whoever
    made it closes.
    policy: what of a function counts, for tasks that do not say: ``"deep"``, its code, the user's own code
    and the globals that it reaches, and the versions of packages; ``"body"``, its own code; ``"name"``, its
    name.
    every: whether all tasks are remembered that do not say ``memo=False``; else those that say ``memo=``.
    max_size (bytes, or text such as ``"10GB"``), max_age (seconds, or text such as ``"30 days"``): what the
    store is cut down to at the end of a run, the oldest first; None keeps all.
    """

    store: str | Path | MemoStore = "weft-memo.db"
    policy: Policy = "deep"
    every: bool = False
    max_size: int | str | None = None
    max_age: float | str | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            known = ", ".join(repr(policy) for policy in get_args(Policy))
            raise ConfigError(f"policy: {self.policy!r} is not one of {known}", "policy")
        if self.store == "" or not isinstance(self.store, (str, os.PathLike, MemoStore)):
            raise ConfigError(f"store: {self.store!r} is neither a path, nor a URL, nor a store", "store")
        if self.max_size is not None:
            parse_bytes(self.max_size, "max_size")
        if self.max_age is not None:
            parse_seconds(self.max_age, "max_age")

    def open_store(self) -> MemoStore:
        """The store itself. Raises what opening it raises."""
        if not isinstance(self.store, (str, os.PathLike)):
            return self.store
        return open_store(self.store, max_size=self.max_size, max_age=self.max_age)

    @property
    def place(self) -> str:
        """Where the store is, for messages and for ``weft why``: an absolute path or a URL; empty for an
        object.
        """
        if not isinstance(self.store, (str, os.PathLike)):
            return ""
        place = os.fspath(self.store)
        return place if "://" in place else os.path.abspath(place)

    def open(self, run_id: str, directory: Path) -> ContentMemoizer:
        """The memoizer of one run, whose record is put into ``directory``. Nothing is opened yet."""
        from .memoizer import ContentMemoizer

        return ContentMemoizer(self, run_id=run_id, directory=directory)


def open_store(
    place: str | os.PathLike[str],
    *,
    max_size: int | str | None = None,
    max_age: float | str | None = None,
) -> FileStore | RemoteStore:
    """The store at a path of this machine, or a URL that fsspec knows.

    Raises :class:`MissingPluginError` for a URL when fsspec is not installed, and what opening it raises.
    """
    if "://" in os.fspath(place):
        from .remote import RemoteStore

        return RemoteStore(os.fspath(place))
    from .store import FileStore

    return FileStore(place, max_size=max_size, max_age=max_age)
