"""`python -m benchmarks.half_precision`: how far each engine is in bf16 and fp16 from the reference engine in fp32.

The four stages of path patching on the embedded model, with the receivers its circuit is found with. An error is
|log of the ratio of p_patched / p_base to that of the truth|, about the error of a patching score plus 1; over all
senders and prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from nnsight import TransformersModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.setting import prompts, tokenizer, written
from nnsight_et.circuits import published
from nnsight_et.core.batch import Example, collate
from nnsight_et.core.circuit import Component, Via
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.measuring.steps import batches
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.models.load import wrap_model
from nnsight_et.models.model import Model

DTYPES = ("bfloat16", "float16")
ENGINES = ("default", "reference")


def paths(name: str = "llama-tiny") -> dict[str, Path]:
    """The four stages, into the heads of the embedded model's circuit."""
    circuit, found = published.circuit(name), {"into the logits at last": Path("last")}
    ends: list[tuple[str, Via, str]] = [
        ("last", "query", "value_fetcher"),
        ("query_label", "value", "position_transmitter"),
        ("previous_query_label", "value", "position_detector"),
    ]
    for at, via, group in ends:
        found[f"{via} at {at.replace('_', ' ')}"] = Path(at, via, tuple(sorted(circuit.group(group).heads)))
    return found


def log_ratio(model: Model, some: Sequence[Example], path: Path, engine: str) -> Tensor:
    """[sender, example] in float64: log of p_patched / p_base."""
    senders: list[Component] = path.reaching(model.n_layers, model.n_heads)
    sizes = [(len(one.base.tokens) - one.base.positions[path.at], len(one.base.tokens)) for one in some]
    parts, order = [], []
    for batch in batches(sizes, 50):
        pair = collate([some[index] for index in batch]).to(model.device)
        found = path_probabilities(model, pair, path, senders, engine, Chunks())
        parts.append(found["patched"].double().log() - found["base"].double().log())
        order += batch
    return torch.cat(parts, 1)[:, torch.tensor(order).argsort()]


def errors(truth: Model, half: Model, some: Sequence[Example], path: Path) -> dict[str, dict[str, float]]:
    """Engine -> mean and max absolute error in half precision, against the reference engine of `truth`."""
    expected, found = log_ratio(truth, some, path, "reference"), {}
    for engine in ENGINES:
        gap = (log_ratio(half, some, path, engine) - expected).abs()
        found[engine] = {"mean": gap.mean().item(), "max": gap.max().item()}
    return found


def embedded(dtype: torch.dtype, device: str) -> Model:
    """The embedded model in that dtype."""
    module: Any = AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama-tiny", dtype=dtype, attn_implementation="sdpa")
    nn = TransformersModel(module.to(device), task="text-generation", tokenizer=tokenizer())
    return wrap_model(nn, "llama-tiny")


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write results/half_precision.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bfloat16"], help="fp16 is slow on a CPU")
    options = parser.parse_args(given)
    truth, some = embedded(torch.float32, options.device), prompts(options.examples)
    rows: list[dict[str, Any]] = []
    for dtype in options.dtypes:
        half = embedded(getattr(torch, dtype), options.device)
        for stage, path in paths().items():
            found = errors(truth, half, some, path)
            rows.append({"dtype": dtype, "stage": stage} | found)
    console = Console(width=130)
    console.print(_table(rows, f"llama-tiny on {options.device}, {options.examples} prompts: error of log p ratios"))
    data = {"device": options.device, "examples": options.examples, "rows": rows}
    console.print(f"Written to {written('half_precision', data)}")


def _table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    numbers = [(engine, kind) for kind in ("mean", "max") for engine in ENGINES]
    for column in ("dtype", "stage", *(f"{kind}, {engine}" for engine, kind in numbers)):
        table.add_column(column, justify="left" if column in ("dtype", "stage") else "right")
    for row in rows:
        table.add_row(row["dtype"], row["stage"], *(f"{row[engine][kind]:.4f}" for engine, kind in numbers))
    return table


if __name__ == "__main__":
    main()
