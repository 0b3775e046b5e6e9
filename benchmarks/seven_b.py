"""`python -m benchmarks.seven_b`: the paper's four stages of path patching on a model of 7B shape, beside their floor.

Random weights in bf16, made on the device. Prompts of random tokens, laid out as boxes prompts are: seven boxes, 54
tokens, and the queries evenly over the boxes. All heads are senders; receivers are those the paper's scores rank first.

The floor is what must be computed, at two FLOPs a multiplication and addition, on a device at its peak. Per layer a
token passes through A = 2 d (n_heads + n_kv_heads) d_head weights of attention and M = 3 d d_mlp of the MLP; for each
token it sees, its scores and the values they weigh are 4 n_heads d_head FLOPs. With n prompts of T tokens, of which s
come no earlier than the path's position, and L layers:

    capture      n T tokens through A + M in all layers of the base run, and those of the source run that have senders;
                 the base run's n answers through the vocabulary
    first pass   per sender n tokens through M alone, from its layer up to the last receiver's, that one not included;
                 into the logits up to L, and then through the vocabulary, d V
    second pass  per sender n s tokens through A + M, from the first receiver's layer above it up to L; then n tokens
                 through d V

Left out, so that it stays a floor: norms, softmax, projections of single heads. The formula: nnsight_et.planning.cost.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from nnsight import TransformersModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.setting import timed, tokenizer, written
from nnsight_et.circuits import published
from nnsight_et.core.batch import Example, Prompt, collate
from nnsight_et.core.circuit import Component, Head
from nnsight_et.engine.budget import Chunks, chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.measuring.steps import batches
from nnsight_et.models.catalog import LLAMA_7B, Shape
from nnsight_et.models.load import wrap_model
from nnsight_et.models.model import Model
from nnsight_et.planning.cost.methods import Count, Prompts, Sizes, total
from nnsight_et.planning.cost.paths import path_patching

LLAMA3_8B = Shape(n_layers=32, n_heads=32, n_kv_heads=8, d_head=128, d_model=4096, d_mlp=14336, vocabulary=128256)
SMALL = Shape(n_layers=8, n_heads=4, n_kv_heads=2, d_head=8, d_model=32, d_mlp=48, vocabulary=320)
SHAPES = {"llama-7b": LLAMA_7B, "llama3-8b": LLAMA3_8B, "small": SMALL}
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0}  # dense bf16, by device
MINUTES, GIB = 5.0, 70.0  # the target of a 7B model on one H100
AT_ONCE = Chunks(tokens=1 << 60, branch_tokens=1 << 60)  # all variants in one pass, none of them twice
STAGES = {  # name -> position, receivers' input, the group whose heads receive, and how many of them
    "into the logits at last": ("last", None, "", 0),
    "query at last": ("last", "query", "value_fetcher", 20),
    "value at query label": ("query_label", "value", "position_transmitter", 5),
    "value at previous label": ("previous_query_label", "value", "position_detector", 10),
}


def floor(shape: Shape, path: Path, examples: Sequence[Example]) -> Count:
    """What path patching of all heads on these prompts must compute; see above."""
    senders = path.reaching(shape.n_layers, shape.n_heads)
    alike = [Prompts(1, len(example.base.tokens), example.base.positions) for example in examples]
    return total(path_patching(Sizes(shape, AT_ONCE), one, path, senders) for one in alike)


def model_of(shape: Shape, device: str, seed: int = 0) -> Model:
    """A Llama of this shape with random weights in bf16, made on the device, under nnsight."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.d_head,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    return wrap_model(TransformersModel(module, task="text-generation", tokenizer=tokenizer()), "seven_b")


def prompts(count: int, boxes: int, vocabulary: int, seed: int = 0) -> list[Example]:
    """Pairs of random tokens, with positions of boxes prompts: after <s> 7 tokens a box, then `Box L contains the`."""
    generator = torch.Generator().manual_seed(seed)
    length = 7 * boxes + 5
    tokens = torch.randint(3, vocabulary, (count, 2, length), generator=generator).tolist()
    answers = torch.randint(3, vocabulary, (count,), generator=generator).tolist()
    made = []
    for index, (base, source) in enumerate(tokens):
        label = 7 * (index % boxes) + 6
        positions = {"previous_query_label": label, "query_label": length - 3, "last": length - 1}
        made.append(Example(Prompt(tuple(base), positions), Prompt(tuple(source), positions), answers[index]))
    return made


def paths(shape: Shape) -> dict[str, Path]:
    """The four stages; a shape with fewer layers or heads has the paper's receivers at the same depth."""
    found = {}
    for name, (at, via, group, count) in STAGES.items():
        heads = _best(group, count) if via else []
        scaled = {Head(layer * shape.n_layers // 32, index * shape.n_heads // 32) for layer, index in heads}
        found[name] = Path(at, via, tuple(sorted(scaled)))
    return found


def _best(group: str, count: int) -> list[Head]:
    """The heads of LLaMA-7B that the published scores rank first: the more negative, the more important."""
    rows = published.scores("llama")[group]
    ranked = sorted((score, Head(layer, index)) for layer, row in enumerate(rows) for index, score in enumerate(row))
    return [head for _, head in ranked[:count]]


def measured(model: Model, shape: Shape, examples: Sequence[Example], sizes: Chunks, peak: float | None) -> list[dict]:
    """A row per stage: seconds; tokens per second, those of one layer counting 1 / L; given a peak the floor."""
    rows = []
    for name, path in paths(shape).items():
        stage_batches = _batches(examples, path.at, sizes.examples)
        senders = path.reaching(shape.n_layers, shape.n_heads)
        top = [sender for sender in senders if sender.layer == senders[-1].layer]  # passes as wide as any
        _run(model, path, top, stage_batches[:1], sizes)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(lambda path=path, senders=senders, some=stage_batches: _run(model, path, senders, some, sizes))
        least = floor(shape, path, examples)
        flops = least.flops(shape)
        rows.append(
            {
                "stage": name,
                "senders": len(senders),
                "receivers": len(path.receivers),
                "examples": len(examples),
                "seconds": seconds,
                "tokens_per_second": least.token_layers / shape.n_layers / seconds,
                "tflop": flops / 1e12,
                "floor_seconds": flops / peak / 1e12 if peak else None,
                "share_of_peak": flops / peak / 1e12 / seconds if peak else None,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if model.device.type == "cuda" else None,
            }
        )
    return rows


def _batches(examples: Sequence[Example], at: str, most: int) -> list[list[Example]]:
    """As a run makes them: prompts with as many tokens from the position on together."""
    sizes = [(len(one.base.tokens) - one.base.positions[at], len(one.base.tokens)) for one in examples]
    return [[examples[index] for index in batch] for batch in batches(sizes, most)]


def _run(
    model: Model, path: Path, senders: Sequence[Component], some: Sequence[Sequence[Example]], sizes: Chunks
) -> None:
    for batch in some:
        found = path_probabilities(model, collate(batch).to(model.device), path, senders, "default", sizes)
        if found["patched"].shape != (len(senders), len(batch)) or not found["patched"].isfinite().all():
            raise SystemExit(f"{path.at}: a probability is missing or no number")


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write results/seven_b_SHAPE.json."""
    options = _options(given)
    shape, device = SHAPES[options.shape], options.device
    name = torch.cuda.get_device_name() if device == "cuda" else device
    peak = options.peak_tflops or next((value for part, value in PEAK_TFLOPS.items() if part in name), None)
    sizes = chunks(shape, torch.bfloat16.itemsize, 7 * options.boxes + 5, _bytes(options.memory))
    if options.batch:
        sizes = replace(sizes, examples=options.batch)
    model = model_of(shape, device)
    examples = prompts(options.examples, options.boxes, shape.vocabulary)
    rows = measured(model, shape, examples, sizes, peak)
    setting = {"shape": options.shape, "device": name, "peak_tflops": peak, "boxes": options.boxes, "dtype": "bfloat16"}
    target = {"minutes": MINUTES, "gib": GIB} if shape is LLAMA_7B and options.examples == 300 else None
    data = setting | {"chunks": asdict(sizes), "target": target, "stages": rows}
    console = Console(width=130)
    console.print(_table(rows, f"{options.shape} shape, bf16, on {name}, {options.examples} prompts"))
    console.print(f"Written to {written('seven_b_' + options.shape.replace('-', '_'), data)}")


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-7b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--examples", type=int, default=300, help="prompts of each stage")
    parser.add_argument("--boxes", type=int, default=7, help="of a prompt, 7 tokens each: 14 make 103 tokens")
    parser.add_argument("--batch", type=int, help="prompts of one captured batch; from the memory budget when absent")
    parser.add_argument("--memory", default="16GiB", help="what one chunk of work may take, such as 16GiB")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16; known for H100 and H200")
    return parser.parse_args(given)


def _bytes(amount: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(MiB|GiB)", amount)
    if found is None:
        raise SystemExit(f"--memory: found {amount}; accepted: an amount such as 512MiB or 16GiB")
    return int(float(found[1]) * (1 << (20 if found[2] == "MiB" else 30)))


def _table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for column in ("stage", "senders", "receivers", "seconds", "floor, s", "share of peak", "tokens/s", "peak, GiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    whole = {key: _total(rows, key) for key in ("seconds", "floor_seconds")}
    for row in [*rows, {"stage": "all", "senders": "", "receivers": ""} | whole]:
        numbers = ("seconds", ".2f"), ("floor_seconds", ".2f"), ("share_of_peak", ".1%"), ("tokens_per_second", ",.0f")
        shown = [_shown(row.get(key), style) for key, style in (*numbers, ("peak_gib", ".1f"))]
        table.add_row(row["stage"], str(row["senders"]), str(row["receivers"]), *shown)
    return table


def _total(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if None in values else sum(values)


def _shown(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


if __name__ == "__main__":
    main()
