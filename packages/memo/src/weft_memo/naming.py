"""What classes and functions are called, in any process and in any version of Python."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any

__all__ = ["is_standard", "is_users_module", "qualified_name", "top_package"]

_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made while running, as by a class statement
_MAIN = ("__main__", "__mp_main__")


def qualified_name(named: Any) -> str:
    """``module.qualname`` of a class or function: of a script its file's stem stands for ``__main__``, and of
    the standard library the public package for the private module that it moved to.
    """
    module = getattr(named, "__module__", None) or "builtins"
    name = (
        getattr(named, "__qualname__", None) or getattr(named, "__name__", None) or type(named).__qualname__
    )
    if module in _MAIN:
        return f"{main_name()}.{name}"
    top = top_package(module)
    if (
        top != module
        and top in sys.stdlib_module_names
        and getattr(sys.modules.get(top), name, None) is named
    ):
        return f"{top}.{name}"
    return f"{module}.{name}"


def main_name() -> str:
    """What the module ``__main__`` would be called, were it imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if file else "__main__"


def top_package(module: Any) -> str:
    """``"numpy"`` of ``"numpy.random"``."""
    return module.partition(".")[0] if isinstance(module, str) else ""


def is_standard(named: Any) -> bool:
    """Whether the standard library has it under this name, as far as is loaded, or no Python code made it."""
    module = getattr(named, "__module__", None) or "builtins"
    if top_package(module) not in sys.stdlib_module_names:
        return False
    found: Any = sys.modules.get(module)
    for name in str(getattr(named, "__qualname__", "")).split("."):
        found = getattr(found, name, None)
    return found is named or (isinstance(named, type) and not named.__flags__ & _HEAP)


def is_users_module(module: Any) -> bool:
    """Whether a module is the user's own: neither the standard library's, nor installed, nor Weft's."""
    if module in _MAIN:
        return True
    top = top_package(module)
    if not top or top in sys.stdlib_module_names or top == "weft" or top.startswith("weft_"):
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(PurePath(file).parts)
