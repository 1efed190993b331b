"""Three integrals, each computed by an MPI program that has nodes of its own: see README.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import weft

PROGRAM = str(Path(__file__).resolve().with_name("ranks.py"))
STEPS = 400_000


@weft.shell(ranks_per_node=2)
def integrate(function: str, steps: int) -> list[str]:
    """The command that runs the program once for each rank of this task."""
    return [*weft.mpi_prefix(), sys.executable, PROGRAM, function, str(steps)]


def main() -> None:
    """Two programs on a node each, one on two nodes, as soon as there are nodes for them."""
    with weft.run():
        futures = [
            integrate.options(nodes=1)("4/(1+x^2)", STEPS),
            integrate.options(nodes=2)("1/(1+x)", 2 * STEPS),
            integrate.options(nodes=1)("e^x", STEPS),
        ]
        results = [json.loads(each.stdout) for each in weft.gather(futures).result()]
    for found in results:
        hosts = ", ".join(sorted(set(found["hosts"])))
        print(f"{found['function']:10} {found['value']:.9f}  {found['ranks']} ranks on {hosts}")
    Path("integrals.json").write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
