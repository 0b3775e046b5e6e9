"""`python -m benchmarks.screening`: a circuit's stages with a screen beside the same stages without one.

Side by side in one process, a run of each per round: token-layers, counted where MLPs put out; processor seconds; which
heads are kept. `--model` is a folder in Hugging Face format, by default the embedded model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.setting import written
from nnsight_et.manifest import parse
from nnsight_et.manifest.template import STUDIES, stages_of
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import run

SCREENS: dict[str, dict[str, Any] | None] = {
    "all prompts": None,
    "first: 4": {"first": 4},
    "first: 8": {"first": 8},
    "effects alone": {"first": 8, "gradient": False},
}


@contextmanager
def counted_token_layers() -> Iterator[list[int]]:
    """Tokens that pass through an MLP, in a list of one number; skipped modules do not count."""
    count = [0]

    def add(module: torch.nn.Module, _: Any, output: Any) -> None:
        if type(module).__name__.endswith("MLP") and isinstance(output, Tensor):
            count[0] += output.shape[:-1].numel()

    hook = register_module_forward_hook(add)
    try:
        yield count
    finally:
        hook.remove()


def measured(task: str, model: str, examples: int, seed: int, screen: dict[str, Any] | None) -> dict[str, Any]:
    """One run: its stages, token-layers and seconds of the processor. Nothing of it stays on the disk."""
    stages = [stage | ({"screen": screen} if screen else {}) for stage in stages_of(task, "a model")]
    kind = "{kind: ioi, order: mixed, templates: 1}" if task == "ioi" else f"{{kind: {task}}}"
    named = f"models: {{it: {{path: {model}}}}}\n" if "/" in model else ""
    metric = STUDIES[task].metric if task in STUDIES else "probability_ratio"
    experiment = {"method": "path_patching", "model": "it" if named else model, "examples": examples, "metric": metric}
    settings = f"name: screening\nseed: {seed}\ntask: {kind}\n{named}experiments:\n  circuit: "
    manifest = settings + json.dumps(experiment | {"stages": stages}) + "\n"
    with tempfile.TemporaryDirectory() as folder, counted_token_layers() as count:
        made = plan(parse(manifest, "screening.yaml", ("self_check=off",)))
        start = time.process_time()
        for _ in run(made, Path(folder)):
            pass
        seconds = time.process_time() - start
        result = read_result(folder_of(Path(folder), made) / "circuit")
    return {"seconds": seconds, "token_layers": count[0], "stages": list(_stages(result, examples))}


def _stages(result: Result, examples: int) -> Iterator[dict[str, Any]]:
    for stage in result.header.summary["stages"]:
        share = stage["screen"]["measured"] if "screen" in stage else 1.0
        yield {"group": stage["group"], "kept": [one["head"] for one in stage["kept"]], "receivers": stage["receivers"],
               "measured": share, "bar": stage["kept"][-1]["score"]}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write results/screening.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama-tiny")
    parser.add_argument("--task", default="boxes")
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--screens", nargs="*", choices=list(SCREENS), default=list(SCREENS))
    chosen = parser.parse_args(arguments)
    rows = dict[str, dict[str, Any]]()
    runs = {name: list[dict[str, Any]]() for name in chosen.screens}
    for _ in range(chosen.rounds):
        for name in chosen.screens:
            runs[name].append(measured(chosen.task, chosen.model, chosen.examples, 20, SCREENS[name]))
            seconds = statistics.median(one["seconds"] for one in runs[name])
            rows[name] = runs[name][0] | {"seconds": seconds}
            given = {key: getattr(chosen, key) for key in ("task", "examples")} | {"rounds": len(runs[name])}
            written("screening" if chosen.model == "llama-tiny" else "screening_real", given | {"runs": rows})
    Console().print(_table(rows))


def _table(rows: dict[str, dict[str, Any]]) -> Table:
    whole = rows.get("all prompts", next(iter(rows.values())))
    table = Table("screen", "token-layers", "seconds", "head and prompt pairs", "same kept", title="of a run without")
    for name, row in rows.items():
        pairs = " ".join(f"{stage['measured']:.2f}" for stage in row["stages"])
        same = all(one["kept"] == two["kept"] for one, two in zip(row["stages"], whole["stages"], strict=True))
        shares = [f"{row[key] / whole[key]:.3f}" for key in ("token_layers", "seconds")]
        table.add_row(name, *shares, pairs, "yes" if same else "no")
    return table


if __name__ == "__main__":
    main()
