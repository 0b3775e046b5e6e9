"""`python -m tests.mutation`: all faults and mutants, or those named, and docs/mutation.md."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from . import faults, faults_strangers, mechanical, report, seeded
from .faults import FAULTS
from .faults_strangers import SETS
from .report import Line
from .runner import ROOT

KEPT = ROOT / "runs" / "mutation"
STRANGERS = Path(__file__).parent / "strangers"
"""What came out when a set out of sample was first tried, a file for each: it is tried once."""


def main() -> None:
    """Run what is asked for, line by line, and write the page from all lines that are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names or kinds of seeded faults: try these, write nothing")
    parser.add_argument(
        "--only",
        choices=["seeded", "strangers", "mechanical", "page"],
        help="one part, or the page from kept lines; of strangers the sets that were never tried",
    )
    parser.add_argument("--workers", type=int, default=1, help="how many at a time (1)")
    options = parser.parse_args()
    if found := [*faults.problems(), *faults_strangers.problems()]:
        raise SystemExit("\n".join(found))
    if options.names:
        every = [*FAULTS, *(one for found in SETS.values() for one in found)]
        chosen = [one for one in every if any(name in (one.kind, one.name) for name in options.names)]
        for tried in seeded.tried(chosen, options.workers, faults_strangers.LIMIT):
            print(f"{tried.fault.name}: run {tried.run}; tests {tried.tests}")
        return
    if options.only in (None, "seeded"):
        keep(KEPT / "seeded.jsonl", (report.line_of_fault(one) for one in seeded.tried(FAULTS, options.workers)))
    for name, some in SETS.items() if options.only in (None, "strangers") else ():
        if not (STRANGERS / f"{name}.jsonl").is_file():
            tried = seeded.tried(some, options.workers, faults_strangers.LIMIT)
            keep(KEPT / f"{name}.jsonl", map(report.line_of_fault, tried))
            shutil.copy(KEPT / f"{name}.jsonl", STRANGERS)
    if options.only in (None, "mechanical"):
        tried_mutants = mechanical.tried(mechanical.every(), options.workers)
        keep(KEPT / "mechanical.jsonl", (report.line_of_mutant(*one) for one in tried_mutants))
    strangers = {name: kept(STRANGERS / f"{name}.jsonl") for name in SETS}
    tried_sets = {name: lines for name, lines in strangers.items() if lines}
    page = ROOT / "docs" / "mutation.md"
    report.write(page, kept(KEPT / "seeded.jsonl"), tried_sets, kept(KEPT / "mechanical.jsonl"))


def keep(path: Path, lines: Iterable[Line]) -> None:
    """Write each line as it comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for line in lines:
            print(f"{line.place} {line.name}: {line.run.get('caught', '')} {line.tests['caught']}", flush=True)
            print(json.dumps(asdict(line)), file=file, flush=True)


def kept(path: Path) -> list[Line]:
    """The lines of the last run; none if there was none."""
    return [Line(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
