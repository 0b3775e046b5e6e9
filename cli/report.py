"""Write report.html from the results there are, and figures for papers. Runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nnsight_et.disk import write_file
from nnsight_et.errors import ManifestError, accepted
from nnsight_et.report.table import Table

from .render import output, show
from .shell import reading

if TYPE_CHECKING:
    from nnsight_et.plan import Plan
    from nnsight_et.report.study import Study

FORMATS = ("pdf", "png", "svg")


def write_page(study: Study, folder: Path) -> Path:
    """Put the study's report.html into its folder; its path."""
    from nnsight_et.report.html import REPORT, rendered

    write_file(folder / REPORT, rendered(study).encode())
    return folder / REPORT


def report_of(plan: Plan, folder: Path) -> Path:
    """Write the report of a plan's results in `folder`; its path."""
    from nnsight_et.report.study import study_of

    return write_page(study_of(plan, folder), folder)


def found(source: Path, settings: Sequence[str], out: Path, limit: int | None) -> tuple[Study, Path]:
    """The study a manifest or a run's folder names, and its folder; ManifestError if it has no result."""
    from nnsight_et.manifest import load
    from nnsight_et.plan import plan
    from nnsight_et.report.study import study_in, study_of
    from nnsight_et.store import Store

    if source.is_dir():
        with reading(source):
            return study_in(source), source
    manifest = load(source, settings)
    jobs = plan(manifest.limited(limit) if limit else manifest)
    folder = Store(out).folder(jobs)
    study = study_of(jobs, folder)
    if not study.results:
        first = study.missing[0]
        where = f"{folder}: none of {len(study.missing)} experiments can be shown ({first.experiment}: {first.why})"
        raise ManifestError(f"{where}; accepted: a manifest with a finished experiment, after `et run`")
    return study, folder


def formats_of(text: str) -> tuple[str, ...]:
    """The figure formats in `pdf,png`; ManifestError for one there is not, or if matplotlib is not installed."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            raise ManifestError(f"--formats: no format {name!a}; {accepted(name, FORMATS)}")
    if not names:
        raise ManifestError(f"--formats: none is named; accepted: {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise ManifestError("--figures: matplotlib is not installed; accepted: pip install 'nnsight-et[figures]'")
    return names


def write_figures(study: Study, folder: Path, formats: Sequence[str]) -> int:
    """Write every figure of the study in each format; how many files."""
    from nnsight_et.report.figure_data import plates
    from nnsight_et.report.paper_figures import figure_files

    count = 0
    for result in study.results:
        for plate in plates(result, study):
            for name, content in figure_files(plate, formats).items():
                write_file(folder / name, content)
                count += 1
    return count


def show_notices(study: Study) -> None:
    """Print what is to be known before the report is read; nothing if there is nothing."""
    from nnsight_et.report.study import told

    for notice, names in study.notices.items():
        typer.echo(f"Notice: {told(notice, names)}")


def show_missing(study: Study) -> None:
    """Print which experiments are not in the report, and why; nothing if all are."""
    if study.missing:
        rows = tuple((one.experiment, one.method, one.why) for one in study.missing)
        show(output(), Table("not in the report", ("experiment", "method", "why"), rows))
