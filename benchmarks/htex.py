"""The pilot executor on this machine, beside the process pool of the standard library, a pipeline that does
nothing but to pass calls through ZeroMQ, and its peers.

``hatch run bench:htex``; with Parsl, Dask and Ray: ``hatch run bench-peers:htex``. One block of this machine,
two workers. Weft, the pool and the pipeline live in one process and take turns: figures are medians, ratios
are medians of the ratios of neighbours in time. Each of the peers comes after them in an interpreter of its
own, as do all where it is about memory and start. A contender that breaks is reported, and ends nothing but
itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from alone import Found, measure, measure_alone, warm_up
from cases import Case, Contender, interleave
from contenders import ENCRYPTED, OWN, PEERS, PEERS_ENCRYPTED, WEFT, side_by_side
from lines import PEERS as PEERS_SIZES
from lines import PEERS_QUICK, QUICK, SECTIONS, Line, Sizes
from record import Figure, Target, compared, keep, show, summarize

RESULTS = Path(__file__).parent / "results"
BESIDE = "ProcessPool"
TITLES = {
    "speed": "speed",
    "data": "large data",
    "memory": "memory of a pending task, in the client's process",
    "start": "fresh interpreter",
}


def measure_section(section: str, sizes: Sizes, peers: Sizes | None) -> Iterator[Figure]:
    """Everybody; one line of figures without encryption, and one with it where that is known."""
    lines = SECTIONS[section](sizes)
    found = together(lines) if lines[0].side_by_side else each(section, OWN, sizes)
    if peers is not None:
        found |= each(section, PEERS, peers)
    ours = {name: one for name, one in found.items() if name not in (ENCRYPTED, *PEERS_ENCRYPTED.values())}
    yield from figures(TITLES[section], lines, ours)
    theirs = {BESIDE: found[BESIDE]} | {
        name: found[other] for name, other in PEERS_ENCRYPTED.items() if other in found
    }
    yield from figures(f"{TITLES[section]}, encrypted", lines, {WEFT: found[ENCRYPTED], **theirs})


def together(lines: list[Line]) -> dict[str, Found]:
    """Those that can live in one process, in turn; without those that broke."""
    found: dict[str, Found] = {}

    def attempt(case: Case, contender: Contender) -> float | None:
        if found[contender.name].error:
            return None
        try:
            return measure(case, contender)
        except Exception as error:
            found[contender.name].error = f"{type(error).__name__}: {error}"
            return None

    with side_by_side() as contenders:
        for contender in contenders:
            warm_up(contender)
            found[contender.name] = Found()
        for line in lines:
            assert line.case is not None
            able = [one for one in contenders if one.share is not None or not line.sharing]
            for name, values in interleave(partial(attempt, line.case), able, line.rounds).items():
                if samples := [value for value in values if value is not None]:
                    found[name].samples[line.name] = samples
    return found


def each(section: str, names: Mapping[str, Any], sizes: Sizes) -> dict[str, Found]:
    """One after the other."""
    found = {}
    for name in names:
        print(f"  {name}", file=sys.stderr, flush=True)
        found[name] = measure_alone(name, section, sizes)
    return found


def figures(section: str, lines: list[Line], found: Mapping[str, Found]) -> Iterator[Figure]:
    """What was found, line by line. What broke stands where there is no figure for it, and at the end."""
    for line in lines:
        samples = {name: one.samples[line.name] for name, one in found.items() if line.name in one.samples}
        errors = {
            name: f"{section}: {one.words}"
            for name, one in found.items()
            if one.words and (line is lines[-1] or (one.error and name not in samples))
        }
        yield summarize(section, line.name, line.unit, samples, line.target, beside=BESIDE, errors=errors)
        for name, number in line.times.items():
            if samples.keys() >= {WEFT, name}:
                times = compared(samples, name)
                yield Figure(section, f"{line.name}, {name} = 1", "x", times, target=Target(">=", number))


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:htex", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    parser.add_argument("--peers", action="store_true", help=f"also {', '.join(PEERS)}")
    parser.add_argument("--output", type=Path, help="JSON file; the table gets the same name and .txt")
    arguments = parser.parse_args()
    if unknown := set(arguments.section) - SECTIONS.keys():
        parser.error(f"no section is called {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    default = RESULTS / f"htex{'-peers' if arguments.peers else ''}-{date.today():%Y-%m-%d}.json"
    sizes, peers = (QUICK, PEERS_QUICK) if arguments.quick else (Sizes(), PEERS_SIZES)
    found: list[Figure] = []
    for name in arguments.section or SECTIONS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        found += measure_section(name, sizes, peers if arguments.peers else None)
    show(found)
    settings = {**asdict(sizes), "peers": asdict(peers) if arguments.peers else None}
    keep(found, arguments.output or default, settings)
    if any(figure.weft is None and WEFT in figure.errors for figure in found):
        sys.exit("Weft broke: see above")


if __name__ == "__main__":
    main()
