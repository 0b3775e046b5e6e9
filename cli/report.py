"""Write report.html from the results there are, and figures for papers. Runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nnsight_et.core.errors import ManifestError, ResultError, accepted_names, quantity
from nnsight_et.display.table import Table
from nnsight_et.results.disk import write_file

from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.manifest import Manifest
    from nnsight_et.results.study import Study

SHOWN = 3  # other runs


def write_page(study: Study, folder: Path) -> Path:
    """Put the study's report.html into its folder; its path."""
    from nnsight_et.report.html import REPORT, report_html

    write_file(folder / REPORT, report_html(study).encode())
    return folder / REPORT


def find_study(source: Path, settings: Sequence[str], out: Path, limit: int | None) -> tuple[Study, Path]:
    """The study a manifest or a run's folder names, and its folder; ManifestError if it has no result."""
    from nnsight_et.manifest import load
    from nnsight_et.planning.plan import plan
    from nnsight_et.results.headers import folder_of
    from nnsight_et.results.study import study_in, study_of

    if source.is_dir():
        return study_in(source), source
    manifest = load(source, settings)
    jobs = plan(manifest.with_limit(limit) if limit else manifest)
    folder = folder_of(out, jobs)
    study = study_of(jobs, folder)
    if not study.results:
        first = study.missing[0]
        count = quantity(len(study.missing), "experiment")
        where = f"{folder}: none of {count} can be shown ({first.experiment}: {first.why})"
        accept = "a manifest with a finished experiment, after `et run`"
        if others := [_folder_and_limit(manifest, one, limit) for one in runs_beside(folder)]:
            accept = f"{', or '.join(others)}"
        raise ManifestError(f"{where}; accepted: {accept}")
    return study, folder


def runs_beside(folder: Path) -> list[Path]:
    """The folders of other runs of the same name that have a result, the newest first."""
    newest: dict[Path, float] = {}
    for path in folder.parent.glob("*/*/result.json"):
        newest[path.parent.parent] = max(path.stat().st_mtime, newest.get(path.parent.parent, 0.0))
    return sorted((one for one in newest if one != folder), key=lambda one: -newest[one])[:SHOWN]


def _folder_and_limit(manifest: Manifest, folder: Path, limit: int | None) -> str:
    """A run's folder, and the --limit it was made with, where that is all that is different."""
    from nnsight_et.planning.plan import plan
    from nnsight_et.results.headers import read_header

    if limit and plan(manifest).digest == folder.name:
        return f"the run without --limit ({folder})"
    numbers = set[int]()
    for path in folder.glob("*/result.json"):
        try:
            spec = read_header(path.parent).job.spec
        except ResultError:
            continue
        numbers |= {value for key, value in spec if key.endswith("examples") and type(value) is int}
    for number in sorted(numbers):
        if number and plan(manifest.with_limit(number)).digest == folder.name:
            return f"the run with --limit {number} ({folder})"
    return str(folder)


def formats_of(text: str) -> tuple[str, ...]:
    """The figure formats in `pdf,png`; ManifestError for one there is not, or that cannot be made here."""
    from nnsight_et.report.html.figure_files import FORMATS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            raise ManifestError(f"--formats: no format {name!a}; {accepted_names(name, FORMATS)}")
    if not names:
        raise ManifestError(f"--formats: no format is named; accepted: {', '.join(FORMATS)}")
    if set(names) != {"svg"} and find_spec("vl_convert") is None:
        accept = "--formats svg, or pip install 'nnsight-et[figures]'"
        raise ManifestError(f"--figures: vl-convert-python is not installed; accepted: {accept}")
    return names


def write_figures(study: Study, folder: Path, formats: Sequence[str]) -> int:
    """Write every figure of the study in each format; how many files."""
    from nnsight_et.report.html.figure_files import figure_files
    from nnsight_et.report.results import plates

    count = 0
    for result in study.results:
        for plate in plates(result, study):
            for name, content in figure_files(plate, formats).items():
                write_file(folder / name, content)
                count += 1
    return count


def show_notices(study: Study) -> None:
    """Print what is to be known before the report is read; nothing if there is nothing."""
    from nnsight_et.results.study import notice_text

    for notice, names in study.notices.items():
        typer.echo(f"Notice: {notice_text(notice, names)}")


def show_missing(study: Study) -> None:
    """Print which experiments are not in the report, and why; nothing if all are."""
    if study.missing:
        rows = tuple((one.experiment, one.method, one.why) for one in study.missing)
        show(output(), Table("not in the report", ("experiment", "method", "why"), rows))
