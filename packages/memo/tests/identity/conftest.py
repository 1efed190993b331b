"""Projects of real files, imported afresh."""

from __future__ import annotations

import importlib
import itertools
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Writes files into a folder of their own and imports one of their modules, as a new process would."""
    numbers, paths, before = itertools.count(), list(sys.path), set(sys.modules)

    def forget() -> None:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if name == "app" or (file and file.startswith(str(tmp_path))):
                del sys.modules[name]
        sys.path[:] = paths

    def load(files: Mapping[str, str] | str, name: str = "app", folder: str = "") -> ModuleType:
        forget()
        root = tmp_path / str(next(numbers)) / folder
        for path, text in ({f"{name}.py": files} if isinstance(files, str) else files).items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    forget()
    linecache.clearcache()
