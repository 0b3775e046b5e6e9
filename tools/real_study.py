"""docs/real_study.md with your own numbers: `python -m tools.real_study RUNS FOLDER`; `make real-study` ends with it.

FOLDER/real_study/RUN keeps the results of each run, without the store's cells: what `et diff` compares and
`et.open_run` opens. Each table of FOLDER/real_study.md follows a line <!-- RUN EXPERIMENT: column, column --> and
is made of them, with these columns; EXPERIMENT of RUN `several` is MODEL/TABLE of tools/stability.py. The report of
`make real` is kept beside them.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnsight_et.display.table import Table
from nnsight_et.report.html import report_html
from nnsight_et.report.results import tables
from nnsight_et.results.store import HEADER
from nnsight_et.results.study import Study, study_in
from tools import stability

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "real_study.md"
RUNS = ("real", "real-names", "real-boxes", *stability.RUNS)
REPORTED = "real"
NO_HEADS = {("heads", "0"), *(("selected", f"0 of {count}") for count in range(100))}
"""Rows that say only that nothing was selected, and that nothing happens; they are left out."""
MARK = re.compile(r"(<!-- (\S+) (\S+): (.*) -->\n)(?:\n(?:\|.*\n)+)?")
"""A line that asks for a table, and the table below it."""


def keep_results(runs: Path, kept: Path) -> None:
    """Copy the newest finished run of each of RUNS, and write the report of one of them."""
    for name in RUNS:
        shutil.rmtree(kept / name, ignore_errors=True)
        for header in sorted(stability.newest(runs, name).glob(f"*/{HEADER}")):
            shutil.copytree(header.parent, kept / name / header.parent.name)
        if name == REPORTED:
            (kept / "report.html").write_bytes(report_html(study_in(kept / name)).encode())


def fill_tables(page: str, kept: Path) -> str:
    """The page with its tables made of the kept results."""
    studies = {name: study_in(kept / name) for name in RUNS if (kept / name).is_dir()}
    return MARK.sub(lambda found: found[1] + "\n" + _table(studies, found[2], found[3], found[4].split(", ")), page)


def _table(studies: Mapping[str, Study], run: str, experiment: str, columns: Sequence[str]) -> str:
    """The first table of an experiment that has all of these columns; or one over several runs."""
    if run == "several":
        table = stability.table(studies, *experiment.split("/"))
    else:
        result = studies[run].result(experiment)
        assert result is not None, experiment
        table = next(one for one in tables(result.header) if set(columns) <= set(one.columns))
    return "".join(f"| {row} |\n" for row in _rows(table, columns))


def _rows(table: Table, columns: Sequence[str]) -> list[str]:
    places = [table.columns.index(column) for column in columns]
    rule = " | ".join("--:" if column in table.numeric else "---" for column in columns)
    rows = [row for row in table.rows if not NO_HEADS & set(zip(table.columns, row, strict=True))]
    cells = [" | ".join(row[place].replace("|", "\\|") or " " for place in places) for row in rows]
    return [" | ".join(columns), rule, *cells]


def main(words: Sequence[str]) -> None:
    """Keep the results below the first folder in the second one, and write the page with their tables there."""
    runs, folder = map(Path, words)
    kept = folder / "real_study"
    keep_results(runs, kept)
    (folder / PAGE).write_text(fill_tables((DOCS / PAGE).read_text(encoding="utf-8"), kept), encoding="utf-8")
    print(folder / PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
