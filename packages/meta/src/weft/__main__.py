"""``python -m weft``, and the command ``weft``."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of this process, and exit."""
    from ._command import app

    app(prog_name="weft")


if __name__ == "__main__":
    main()
