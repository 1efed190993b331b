"""An MPI program: each rank adds up its part of an integral from 0 to 1, the first one prints the whole."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

from mpi4py import MPI

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "4/(1+x^2)": lambda x: 4 / (1 + x * x),
    "1/(1+x)": lambda x: 1 / (1 + x),
    "e^x": math.exp,
}


def main(name: str, steps: int) -> None:
    """Print the integral, and who has computed it, as JSON."""
    world, begun, function = MPI.COMM_WORLD, time.time(), FUNCTIONS[name]
    part = sum(function((step + 0.5) / steps) for step in range(world.rank, steps, world.size)) / steps
    value = world.reduce(part)
    hosts = world.gather(MPI.Get_processor_name())
    if world.rank == 0:
        found = {"value": value, "ranks": world.size, "hosts": hosts, "begun": begun, "ended": time.time()}
        print(json.dumps({"function": name, **found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
