"""Compares two calls by what they were identified by."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weft_interfaces import MemoStore

from .difference import differences

__all__ = ["Change", "compare_calls"]

_DIFF_LINES = 60
_CODE = ("function", "helper", "class")
_LOST = "it changed; what it was is not kept"
_INVISIBLE = "it differs in what its description does not show"
_COMPILED = "its source is the same, but not what Python makes of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs from an earlier call.

    what: ``"argument config"``, ``"helper app.norm"``, ``"package numpy"``, ``"policy"``. how: ``"changed"``,
    ``"added"`` or ``"removed"``. lines: what differs inside, in words. diff: the lines of a unified diff of
    the source, for code.
    """

    what: str
    how: str = "changed"
    lines: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.text())

    def text(self) -> list[str]:
        """The change in lines of text."""
        title = self.what if self.how == "changed" else f"{self.what}: {self.how}"
        inside = [*self.lines, *self.diff]
        if len(inside) == 1 and not self.diff:
            return [f"{title}: {inside[0]}"]
        if not inside:
            return [f"{title}: changed" if self.how == "changed" else title]
        return [f"{title}:", *(f"  {line}" for line in inside)]


def compare_calls(store: MemoStore, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Change]:
    """What differs between the components of two calls: the function first, then arguments and their classes.

    ``store`` has the descriptions. What several of them reach is named once.
    """
    told: set[tuple[str, bytes | None, bytes | None]] = set()
    for name in dict.fromkeys(("function", *new, *old)):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        kind, _, subject = name.partition(" ")
        if before is None or after is None:
            # The class of an argument comes and goes with the argument.
            if kind == "argument":
                yield Change(what=name, how="added" if before is None else "removed")
        elif kind == "argument":
            texts = store.description(before), store.description(after)
            yield Change(what=name, lines=tuple(_argument_lines(subject, *texts)))
        else:
            yield from _Identities(store, name, before, after, told).changes()


def _argument_lines(name: str, old: str | None, new: str | None) -> list[str]:
    if old is None or new is None:
        return ["it differs; what it was is not kept"]
    return differences(old, new, name) or [_INVISIBLE]


class _Identities:
    """Two identities of a function, or of the class of an argument: ``component``."""

    def __init__(
        self,
        store: MemoStore,
        component: str,
        old: bytes,
        new: bytes,
        told: set[tuple[str, bytes | None, bytes | None]],
    ) -> None:
        self._store = store
        self._component = component
        self._tables = tuple(_table(store.description(digest)) for digest in (old, new))
        self._told = told

    def changes(self) -> Iterator[Change]:
        before, after = self._tables
        if before is None or after is None:
            yield Change(what=self._component, lines=(_LOST,))
            return
        found = False
        for key in ("policy", "version"):
            if before.get(key) != after.get(key):
                found = True
                told = f"{before.get(key) or 'none'} -> {after.get(key) or 'none'}"
                yield Change(what=self._titled(key), lines=(told,))
        old, new = _parts(before), _parts(after)
        if before.get("policy") != after.get("policy"):  # then they have other parts, which says nothing
            old, new = ({name: parts[name] for name in old.keys() & new.keys()} for parts in (old, new))
        changed = [name for name in dict.fromkeys((*new, *old)) if old.get(name) != new.get(name)]
        renamed = self._renamed(old, new)
        for name in changed:
            found = True
            part = (name, old.get(name), new.get(name))
            if part in self._told or name in renamed.values():
                continue
            self._told.add(part)
            if name in renamed:
                yield Change(what=self._titled(name), lines=(f"renamed, from {renamed[name]}",))
            else:
                yield self._change(*part)
        if not found:
            yield Change(what=self._component, lines=("it changed, in nothing that was kept",))

    def _titled(self, part: str) -> str:
        """What is changed, and by what an argument leads to it, if that is not the function."""
        if self._component == "function":
            return part
        if part == self._component:
            return f"{part}, of which an argument is an instance"
        return f"{part}, through {self._component}"

    def _renamed(self, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> dict[str, str]:
        """The code that is there under another name, by its new name: the old one."""
        gone = {name: self._without_name(name, old[name]) for name in old if name not in new}
        found: dict[str, str] = {}
        for name in new:
            source = None if name in old else self._without_name(name, new[name])
            if source is None:
                continue
            for former, text in gone.items():
                if text == source and former not in found.values():
                    found[name] = former
                    break
        return found

    def _without_name(self, part: str, digest: bytes) -> str | None:
        """The source of code, without its name."""
        kind, _, name = part.partition(" ")
        text = self._store.description(digest)
        return None if text is None or kind not in _CODE else text.replace(name.rpartition(".")[2], "")

    def _change(self, part: str, old: bytes | None, new: bytes | None) -> Change:
        kind, _, name = part.partition(" ")
        what = self._titled(part)
        before, after = (None if one is None else self._store.description(one) for one in (old, new))
        if old is None or new is None:
            text = after if old is None else before
            inside = () if text is None or kind != "package" else (text,)
            return Change(what=what, how="added" if old is None else "removed", lines=inside)
        if before is None or after is None:
            return Change(what=what, lines=(_LOST,))
        if kind in _CODE:
            diff = _diff(before, after, name)
            return Change(what=what, lines=() if diff else (_COMPILED,), diff=tuple(diff))
        if _is_description(before) and _is_description(after):
            lines = differences(before, after, name.rpartition(".")[2] or part)
            return Change(what=what, lines=tuple(lines) or (_INVISIBLE,))
        if "\n" in before + after:
            return Change(what=what, diff=tuple(_diff(before, after, name or part)))
        return Change(what=what, lines=(f"{before} -> {after}" if before != after else _INVISIBLE,))


def _diff(old: str, new: str, name: str) -> list[str]:
    lines = list(
        difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"{name} (then)", f"{name} (now)", lineterm="", n=3
        )
    )
    if len(lines) > _DIFF_LINES:
        return [*lines[:_DIFF_LINES], f"... and {len(lines) - _DIFF_LINES} more lines"]
    return lines


def _is_description(text: str) -> bool:
    """Whether a text is one of :func:`describe`."""
    try:
        node = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(node, str) or (isinstance(node, dict) and "t" in node)


def _table(text: str | None) -> dict[str, Any] | None:
    try:
        table = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _parts(identity: Mapping[str, Any]) -> dict[str, bytes]:
    """The digests of the parts, by name; policy and version are told apart."""
    parts = identity.get("parts")
    found = {}
    for name, digest in parts.items() if isinstance(parts, dict) else ():
        if name not in ("policy", "version"):
            try:
                found[str(name)] = bytes.fromhex(digest)
            except (TypeError, ValueError):
                continue
    return found
