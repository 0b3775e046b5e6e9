"""`python -m tests.mutation`: all faults and mutants, or those named, and docs/mutation.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from . import mechanical, report, seeded
from .faults import FAULTS, problems
from .report import Line
from .runner import ROOT

KEPT = ROOT / "runs" / "mutation"


def main() -> None:
    """Run what is asked for, line by line, and write the page from all lines that are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names or kinds of seeded faults: try these, write nothing")
    parser.add_argument(
        "--only", choices=["seeded", "mechanical", "page"], help="one half, or the page from kept lines"
    )
    parser.add_argument("--workers", type=int, default=1, help="how many at a time (1)")
    options = parser.parse_args()
    if found := problems():
        raise SystemExit("\n".join(found))
    if options.names:
        chosen = [one for one in FAULTS if any(name in (one.kind, one.name) for name in options.names)]
        for tried in seeded.tried(chosen, options.workers):
            print(f"{tried.fault.name}: run {tried.run}; tests {tried.tests}")
        return
    if options.only in (None, "seeded"):
        keep("seeded", (report.line_of_fault(one) for one in seeded.tried(FAULTS, options.workers)))
    if options.only in (None, "mechanical"):
        keep(
            "mechanical", (report.line_of_mutant(*one) for one in mechanical.tried(mechanical.every(), options.workers))
        )
    report.write(ROOT / "docs" / "mutation.md", kept("seeded"), kept("mechanical"))


def keep(name: str, lines: Iterable[Line]) -> None:
    """Write each line as it comes."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with path(name).open("w") as file:
        for line in lines:
            print(f"{line.place} {line.name}: {line.run.get('caught', '')} {line.tests['caught']}", flush=True)
            print(json.dumps(asdict(line)), file=file, flush=True)


def kept(name: str) -> list[Line]:
    """The lines of the last run; none if there was none."""
    return [Line(**json.loads(line)) for line in path(name).read_text().splitlines()] if path(name).is_file() else []


def path(name: str) -> Path:
    """Where a half's lines are."""
    return KEPT / f"{name}.jsonl"


if __name__ == "__main__":
    main()
