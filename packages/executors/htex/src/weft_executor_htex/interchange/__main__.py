"""``python -m weft_executor_htex.interchange``: see :mod:`weft_executor_htex.serve`."""

from __future__ import annotations

from ..serve import main

main()
