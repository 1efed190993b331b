"""What runs on the login node: ``python3 weft-agent-*.pyz COMMAND RUN``.

``start`` starts the run's agent if there is none, and connects with it; ``attach`` connects with one that is
there; ``end`` ends it. The agent itself is a child of the first, which goes on when that ends. ``find OWNER``
lists the agents that were started for somebody, ``reap OWNER`` ends them, and lists those that it could not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from .places import RunPlace, places_of
from .relay import relay

__all__ = ["main"]

_COMMANDS = ("start", "attach", "end", "find", "reap")
_PATIENCE = 10.0  # seconds in which an agent is to end by itself


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    if len(arguments) != 2 or arguments[0] not in _COMMANDS:
        words = f"{', '.join(_COMMANDS)}, and the id of a run or its owner"
        sys.stderr.write(f"weft agent: {words}, not {list(arguments)}\n")
        return 2
    command, run = arguments
    if command in ("find", "reap"):
        return _look(run, reap=command == "reap")
    try:
        place = RunPlace(run)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"weft agent: {error}\n")
        return 2
    if command == "end":
        place.kill()
        return 0
    return relay(place, start=command == "start")


def _look(owner: str, *, reap: bool) -> int:
    try:
        places = places_of(owner)
    except OSError as error:
        sys.stderr.write(f"weft agent: {error}\n")
        return 1
    for place in places:
        if reap and not place.elsewhere:
            place.end(_PATIENCE)
        else:
            about = {name: place.about.get(name, "?") for name in ("host", "pid")}
            said = json.dumps({**about, "runs": place.runs, "here": not place.elsewhere})
            sys.stdout.write(f"weft-agent {said}\n")
    sys.stdout.write("weft-end\n")
    return 0
