"""Reports of models with many heads, and how fast a browser opens them.

`python -m tests.helpers.large_report` measures it: three times each, in a fresh Chromium.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nnsight_et.report.html import report_html
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study, study_in
from tests.helpers.browser import chromium
from tests.helpers.commands import ROOT

STAGES = 4
LARGEST = (80, 64)
"""Layers and heads of a model of 70 billion parameters."""
TIMES = """
[performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
 performance.getEntriesByType("navigation")[0].loadEventEnd].map(Math.round)
"""
"""Milliseconds from the start of navigation to the first text on the screen, and to the end of the load event."""


def large_study(result: Result, experiments: int, shape: tuple[int, int]) -> Study:
    """A study of experiments like this one of path patching, each with STAGES maps of that shape."""
    return Study("large", tuple(_large(result, f"large{index}", shape) for index in range(experiments)), ())


def _large(result: Result, name: str, shape: tuple[int, int]) -> Result:
    """The experiment under another name, its scores repeated as often as needed."""
    found = result.header.summary["stages"]
    stages, scores = [], {}
    for index in range(STAGES):
        stage = found[index % len(found)]
        stages.append(stage | {"group": f"group_{index}", "into": f"group_{index - 1}" if index else "logits"})
        for key, tensor in result.scores.items():
            if key.startswith(f"{stage['group']}."):
                large = tensor
                if tensor.dim() >= 2:
                    times = [-(-wanted // there) for wanted, there in zip(shape, tensor.shape, strict=False)]
                    large = tensor.repeat(*times, *[1] * (tensor.dim() - 2))[: shape[0], : shape[1]]
                scores[f"group_{index}.{key.partition('.')[2]}"] = large
    groups = [{"name": stage["group"], "at": "last", "heads": []} for stage in stages]
    summary = result.header.summary | {"stages": stages, "circuit": {"schema": 1, "groups": groups}}
    job = result.header.job.model_copy(update={"name": name})
    return replace(result, header=result.header.model_copy(update={"summary": summary, "job": job}), scores=scores)


def _measure_openings(page: Path, times: int) -> list[tuple[int, int]]:
    """TIMES of every opening, each in a browser that has opened nothing before."""
    found = []
    for _ in range(times):
        with TemporaryDirectory(ignore_cleanup_errors=True) as profile, chromium(Path(profile)) as view:
            view.open(page, 1280, "light")
            view.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            found.append(tuple(view.value(TIMES)))
    return found


if __name__ == "__main__":
    result = study_in(ROOT / "docs" / "real_study" / "real").result("circuit")
    assert result is not None
    with TemporaryDirectory() as folder:
        for experiments in (1, 3):
            page = Path(folder) / "report.html"
            page.write_text(report_html(large_study(result, experiments, LARGEST)), encoding="utf-8")
            size, maps = page.stat().st_size / 1e6, experiments * STAGES
            print(f"{maps} maps of {LARGEST}, {size:.1f} MB: {_measure_openings(page, 3)} ms")
