"""Sends what one thread prints to a file, and leaves the other threads' output where it goes.

``sys.stdout`` belongs to the whole process. While a call with ``stdout=`` runs, a proxy stands there that
asks which thread is writing. What is written below Python (by C libraries, by child processes) is not
redirected: a process executor does that.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

__all__ = ["redirected"]


@contextlib.contextmanager
def redirected(stdout: str | None, stderr: str | None) -> Iterator[None]:
    """While inside, this thread's ``sys.stdout`` and ``sys.stderr`` append to these files; None leaves one
    alone.

    Parents are made. Equal paths share one file. Raises :class:`OSError` when a file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        opened: dict[str, TextIO] = {}
        for proxy, path in ((_STDOUT, stdout), (_STDERR, stderr)):
            if path is None:
                continue
            if path not in opened:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                opened[path] = stack.enter_context(open(path, "a", encoding="utf-8", buffering=1))
            stack.enter_context(proxy.pointed_at(opened[path]))
        yield


class _ThreadStream:
    """Stands in for ``sys.stdout`` or ``sys.stderr`` while a thread is redirected, and is taken away
    afterwards.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._targets: dict[int, TextIO] = {}
        self._original: Any = None

    @contextlib.contextmanager
    def pointed_at(self, target: TextIO) -> Iterator[None]:
        """While inside, this thread writes to ``target``."""
        ident = threading.get_ident()
        with self._lock:
            current = getattr(sys, self._name)
            if current is not self:
                self._original = current
                setattr(sys, self._name, self)
            before = self._targets.get(ident)
            self._targets[ident] = target
        try:
            yield
        finally:
            with self._lock:
                if before is not None:
                    self._targets[ident] = before
                else:
                    del self._targets[ident]
                # Someone else may have replaced the stream meanwhile (pytest does): then it is theirs.
                if not self._targets and getattr(sys, self._name) is self:
                    setattr(sys, self._name, self._original)

    def write(self, text: str) -> int:
        return int(self._stream().write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def _stream(self) -> Any:
        return self._targets.get(threading.get_ident(), self._original)


_STDOUT = _ThreadStream("stdout")
_STDERR = _ThreadStream("stderr")
