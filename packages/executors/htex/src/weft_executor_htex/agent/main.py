"""What runs on the login node: ``python3 weft-agent-*.pyz COMMAND RUN``.

``start`` starts the run's agent if there is none, and connects with it; ``attach`` connects with one that is
there;
``end`` ends it. The agent itself is a child of the first, which goes on when that ends.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .places import RunPlace
from .relay import relay

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("start", "attach", "end"):
        sys.stderr.write(f"weft agent: start, attach or end, and the id of a run, not {list(arguments)}\n")
        return 2
    command, run = arguments
    try:
        place = RunPlace(run)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"weft agent: {error}\n")
        return 2
    if command == "end":
        place.kill()
        return 0
    return relay(place, start=command == "start")
