"""The study that is shipped, here and on a server of this machine: the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run

ROOT = Path(__file__).parents[2]
SAME = ("path_patching", "faithfulness", "minimality", "completeness", "cmap", "knockout")


def found(backend: str, out: Path, limit: int | None) -> dict[str, tuple[str, bytes, object]]:
    """Experiment -> its method, the bytes of its scores, and the heads that mask training selected."""
    manifest = load(ROOT / "experiments.yaml", [f"backend={backend}"])
    manifest = manifest if limit is None else manifest.with_limit(limit)
    for _ in run(plan(manifest), out, fresh=True):
        pass
    results = {}
    for path in sorted(folder_of(out, plan(manifest)).glob("*/scores.safetensors")):
        header = read_result(path.parent).header
        rows = header.summary.get("rows", ())
        selected = [(row["group"], row["desideratum"], row["selected"]) for row in rows if "selected" in row]
        results[path.parent.name] = (header.job.spec.method, path.read_bytes(), selected)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20, None], ids=["short", "whole"])
def test_the_shipped_study_gives_the_same_bytes_on_a_server(tmp_path, limit):
    """With as many threads on both sides."""
    here, there = (found(backend, tmp_path / backend, limit) for backend in ("local", "simulate"))
    assert set(here) == set(there)
    assert {method for method, _, _ in here.values()} >= set(SAME) | {"dcm"}
    for name, (method, scores, selected) in here.items():
        assert there[name][2] == selected, name
        if method in SAME:
            assert there[name][1] == scores, name
