"""Environments of conda, which conda-pack makes movable."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from weft_interfaces import ConfigError

from .archive import Archive, recompress

__all__ = ["pack_conda"]


def pack_conda(prefix: str, path: Path) -> Archive:
    """Pack an environment, as ``env/...``. Raises :class:`ConfigError`."""
    try:
        from conda_pack import CondaPackException, pack  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"environment: {prefix} was made by conda, and conda-pack is not installed: python -m pip "
            "install 'weft-executor-htex[pack]'",
            "environment",
        ) from error
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as scratch:
        plain = Path(scratch, "env.tar")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pack(
                    prefix=prefix,
                    output=str(plain),
                    format="tar",
                    arcroot="env",
                    ignore_editable_packages=True,
                    ignore_missing_files=True,
                )
        except (CondaPackException, OSError) as error:
            raise ConfigError(
                f"environment: conda-pack cannot pack {prefix}: {error}", "environment"
            ) from error
        return recompress(plain, path)
