"""A small study on two random models: its manifest, how it is run, and what it leaves on disk."""

from __future__ import annotations

from pathlib import Path

from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Progress, run
from tests.helpers.tiny_model import hf_llama, tokenizer

STUDY = """\
name: study
seed: 3
task: {kind: boxes, boxes: 2}
memory: 1MiB
models: {one: {path: model}, two: {path: other}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 7
    stages:
      - {group: a, into: logits, at: last, keep: 4, receivers: 2}
      - {group: b, into: a, via: query, at: last, keep: 2, receivers: 1}
      - {group: c, into: a, via: value, at: query_label, keep: 3}
      - {group: d, into: a, via: value, at: previous_query_label, keep: 2}
  table1:
    {method: faithfulness, circuit: found, models: [one, two], examples: 9, ablation_examples: 8, random_circuits: 3}
"""


def steps(root: Path, *settings: str, **options) -> list[Progress]:
    """The pieces of work of a run."""
    return [one for one in run(plan(load(root / "study.yaml", settings)), root / "runs", **options) if one.total]


def results(root: Path, *settings: str) -> dict[str, Result]:
    folder = folder_of(root / "runs", plan(load(root / "study.yaml", settings)))
    return {path.name: read_result(path) for path in folder.iterdir() if path.is_dir()}


def scores(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in root.glob("runs/study/*/*/scores.safetensors")}


def cells(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("runs/store/*/*.safetensors")}


def fresh_study(root: Path) -> Path:
    for name, seed in (("model", 0), ("other", 1)):
        hf_llama(seed=seed).save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
    (root / "study.yaml").write_text(STUDY)
    return root
