"""A page per method with its picture, formula, manifest and result, and a report to click on: `make gallery`.

Everything comes from a run of docs/gallery.yaml, from the docstrings of the methods, and from the manifest's own text.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.table import Table
from nnsight_et.manifest import load
from nnsight_et.methods import METHODS
from nnsight_et.planning.plan import plan
from nnsight_et.report.html import report_html
from nnsight_et.report.html.figure_files import figure_files
from nnsight_et.report.html.reading import reading_of
from nnsight_et.report.results import headline, plates, tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study, study_of
from nnsight_et.runner.run import run

DOCS = Path(__file__).parents[1] / "docs"
MANIFEST = DOCS / "gallery.yaml"
DEFINED = {
    "path_patching": ("Path patching", "path_patching", "path-patching-41"),
    "discovery": ("Discovery", "path_patching", "without-stages"),
    "faithfulness": ("Faithfulness", "ablation", "mean-ablation-and-faithfulness-42-43-tables-1-a5-a9"),
    "minimality": ("Minimality", "ablation", "minimality-app-b"),
    "completeness": ("Completeness", "ablation", "completeness-app-c"),
    "dcm": ("DCM", "dcm", "dcm-which-heads-carry-which-variable-51-app-h"),
    "activation_patching": (
        "Activation patching",
        "activation_patching",
        "activation-patching-52-53-figures-3-a8-a9",
    ),
    "cmap": ("Cross-model activation patching", "cmap", "cross-model-activation-patching-6-figure-4"),
    "knockout": ("Attention knockout", "knockout", "attention-knockout-app-a-figures-a1-a2"),
    "attention_patterns": ("Attention patterns", "attention_patterns", "attention-patterns"),
    "attribution": ("Attribution", "attribution", "attribution"),
    "comparison": ("Comparing circuits", None, "comparing-circuits-app-e4-f4-tables-a6-a10-figures-a5-a7"),
}
"""Method -> its name, the module of interventions/ whose docstring has the formula, and its section in methods.md."""
OWN = {
    "comparison": (
        "How many heads two circuits share, group by group, and how much the others matter.\n\n"
        "    precision = shared / heads of the first;   recall = shared / heads of the second"
    )
}
LEAD = """\
This page shows every method once, on small models that come with the package, from one [manifest](gallery.yaml). Click
a picture for its formula, manifest and result. [The report of this run](live/report.html) shows the numbers behind
every mark."""
FILES = "[Result files](../reference/results.md)"
ROWS = 8  # of a table; the report has the rest


def write_gallery(folder: Path) -> None:
    """Run the manifest, and write gallery.md, gallery/, pictures/gallery/ and live/report.html into `folder`."""
    with TemporaryDirectory() as place:
        jobs = plan(load(MANIFEST))
        for step in run(jobs, Path(place)):
            if step.finished:
                print(step.experiment, file=sys.stderr)
        study = study_of(jobs, folder_of(Path(place), jobs))
    for name, text in pages(study).items():
        _write(folder / name, text.encode())
    for method in DEFINED:
        _write(folder / picture_of(method), figure_files(_plate(study, method), ("svg",)).popitem()[1])
    _write(folder / "live" / "report.html", report_html(study).encode())


def pages(study: Study) -> dict[str, str]:
    """Every page, by its path below docs/."""
    return {"gallery.md": _overview(study)} | {f"gallery/{name}.md": _page(study, name) for name in DEFINED}


def picture_of(method: str) -> str:
    """Where a method's picture is, below docs/."""
    return f"pictures/gallery/{method}.svg"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _result(study: Study, method: str) -> Result:
    result = study.result(method)
    assert result is not None, method
    return result


def _plate(study: Study, method: str) -> FigureGroup:
    """The figure that stands for a method: its first, and of path patching the heat maps."""
    found = plates(_result(study, method), study)
    return found[1] if method == "path_patching" else found[0]


def _overview(study: Study) -> str:
    said = ["<!-- made by `make gallery` -->", "# Gallery", LEAD]
    for method, (title, _, _) in DEFINED.items():
        words = _plate(study, method).title.replace("[", "").replace("]", "")
        said += [
            f"## {title}",
            f"{headline_of(study, method)}.",
            f"[![{words}]({picture_of(method)})](gallery/{method}.md)",
        ]
    return "\n\n".join(said) + "\n"


def headline_of(study: Study, method: str) -> str:
    """The result in a few words, as a sentence begins."""
    text = headline(_result(study, method).header)
    return text[0].upper() + text[1:]


def _page(study: Study, method: str) -> str:
    title, module, section = DEFINED[method]
    plate = _plate(study, method)
    spec = METHODS[method].spec.__name__.lower()
    said = [
        "<!-- made by `make gallery` -->",
        f"# {title}",
        f"![{plate.title}](../{picture_of(method)})",
        f"*{plate.title}.* {plate.caption} **How to read it.** {reading_of(plate.panels[0])}",
        "## Formula",
        f"```text\n{formula(method, module)}\n```",
        f"[Full definition](../methods.md#{section}), including what the paper leaves open.",
        "## Manifest",
        f"```yaml\n{manifest_of(method)}\n```",
        f"All keys: [`method: {method}`](../reference/manifest.md#{spec}).",
        "## Result",
        f"{headline_of(study, method)}.",
        *(text for table in tables(_result(study, method).header)[:1] for text in _table(table)),
        f"See [the report](../live/report.html#x-{method}) for all figures, and {FILES} for the format.",
    ]
    return "\n\n".join(said) + "\n"


def formula(method: str, module: str | None) -> str:
    """The idea and the formula, as the code that measures them says."""
    if module is None:
        return OWN[method]
    return inspect.cleandoc(import_module(f"nnsight_et.interventions.{module}").__doc__ or "")


def manifest_of(method: str) -> str:
    """A manifest of the method's experiment and of those it needs, as they are written."""
    text = MANIFEST.read_text(encoding="utf-8")
    experiments = load(MANIFEST).experiments
    wanted = {method}
    for name in reversed(experiments):  # one that is needed stands earlier
        if name in wanted:
            wanted.update(experiments[name].needs)
    written = {name: re.search(rf"^  {name}:.*?(?=^  \w|\Z)", text, re.MULTILINE | re.DOTALL) for name in experiments}
    parts = [found[0].rstrip() for name, found in written.items() if name in wanted and found]
    task = re.search(r"^seed:.*?(?=^experiments:)", text, re.MULTILINE | re.DOTALL)
    assert task is not None
    return "\n".join([f"name: {method.replace('_', '-')}", task[0].strip(), "experiments:", *parts])


def _table(table: Table) -> Iterator[str]:
    """The first rows of a table, and its note."""
    cut = [" | ".join(cell.replace("|", "\\|") or " " for cell in row) for row in table.rows[:ROWS]]
    rule = " | ".join("--:" if column in table.numeric else "---" for column in table.columns)
    head = " | ".join(column or " " for column in table.columns)
    yield "\n".join(f"| {row} |" for row in (head, rule, *cut))
    if len(table.rows) > ROWS:
        yield f"And {quantity(len(table.rows) - ROWS, 'row')} more."
    if table.note:
        yield table.note


if __name__ == "__main__":
    write_gallery(DOCS)
