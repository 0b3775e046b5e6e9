"""A study on a file of pairs and two random models: its manifest, its pairs, how it is written and run."""

from __future__ import annotations

import json
from pathlib import Path

from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import run

TASK = "task: {kind: pairs, file: pairs.jsonl, positions: [object, label, asked]}"
MANIFEST = f"""\
name: own
seed: 3
{TASK}
memory: 1MiB
models: {{one: {{path: one}}, two: {{path: two}}}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 6
    held_out_examples: 4
    stages:
      - {{group: a, into: logits, at: last, keep: 4, receivers: 2}}
      - {{group: b, into: a, via: value, at: asked, keep: 3}}
"""
EVERY = """\
  table1: {method: faithfulness, circuit: found, models: [one], examples: 5, ablation_examples: 4, random_circuits: 2}
  minimal: {method: minimality, circuit: found, examples: 4, ablation_examples: 4}
  complete: {method: completeness, circuit: found, examples: 4, ablation_examples: 4, draws: 2}
  overlap: {method: comparison, circuits: [found, minimal], scores: found}
  across: {method: cmap, donor: one, recipient: two, circuit: found, examples: 4, random_sets: 2}
  blind: {method: knockout, model: one, examples: 4, edges: [{blind: last, to: object}, {blind: asked, to: label}]}
  looks: {method: attention_patterns, circuit: found, examples: 4}
  screen: {method: attribution, model: one, at: [asked, last], examples: 4}
"""
THINGS = "book car paper letter game computer picture plant cup machine bill glass note stone fish drug".split()  # noqa: SIM905


def pair(index: int, more: bool = False) -> dict[str, str]:
    """One of 16 pairs; with `more`, its prompts have another box."""
    thing, other, box = THINGS[index], THINGS[(index + 5) % 16], "ABCDEFGHIJKLMNOP"[index]
    tail = ", the apple is in Box Z" if more else ""
    return {
        "base": f"The {{{{object|{thing}}}}} is in Box {{{{label|{box}}}}}{tail}. Box {{{{asked|{box}}}}} contains the",
        "source": f"The {{{{object|{other}}}}} is in Box {{{{label|Q}}}}{tail}. Box {{{{asked|Y}}}} contains the",
        "answer": thing,
    }


def lines(count: int = 16, **changes: str) -> list[str]:
    return [json.dumps(pair(index, more=index % 3 == 0) | changes) for index in range(count)]


def written(folder: Path, models: Path, text: str = MANIFEST, pairs: str | None = None) -> Path:
    for name in ("one", "two"):
        (folder / name).symlink_to(models / name)
    (folder / "pairs.jsonl").write_text("\n".join(lines()) if pairs is None else pairs, encoding="utf-8")
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"


def results(path: Path, *settings: str) -> dict[str, Result]:
    manifest = load(path, settings)
    list(run(plan(manifest), path.parent / "runs"))
    folder = folder_of(path.parent / "runs", plan(manifest))
    return {one.name: read_result(one) for one in folder.iterdir() if one.is_dir()}
