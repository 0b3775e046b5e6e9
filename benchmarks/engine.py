"""`python -m benchmarks.engine`: what each method costs in plain forward passes of the same prompts, on one thread."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import nnsight
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM

from benchmarks import hooks_loop
from benchmarks.setting import (
    SIZES,
    Size,
    batches,
    circuit,
    examples,
    llama,
    medians,
    named,
    receivers,
    traced,
    written,
)
from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Circuit
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts
from nnsight_et.interventions.cmap import donor_outputs, recipient_readouts, with_heads
from nnsight_et.interventions.dcm import masked_readout, prepare_batches
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.models.model import Model

TARGETS = {"direct": 0.05, "query at last": 0.06, "value at query label": 0.12, "value at previous label": 0.6}
CIRCUITS = 64
PROJECTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def paths(size: Size) -> dict[str, Path]:
    """The four stages of the paper, each with four receivers."""
    upper = range(size.layers // 2, size.layers // 2 + 4)
    lower = range(size.layers // 2 - 1, size.layers // 2 + 3)
    return {
        "direct": Path("last"),
        "query at last": Path("last", "query", receivers(upper, size.heads)),
        "value at query label": Path("query_label", "value", receivers(upper, size.heads)),
        "value at previous label": Path("previous_query_label", "value", receivers(lower, size.heads)),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print, and write results/engine.json, or engine_SIZE.json of another size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="headline", help="small: to see that all of it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of the reference engine and the hooks loop")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    module = llama(size)
    model = traced(module)
    whole = collate(examples(size))
    plain = {"plain forward": lambda: _forward(module, whole)}
    heads = size.layers * size.heads
    rows: list[dict[str, Any]] = []
    fast = medians(
        plain | {name: _stage(model, size, path, "default") for name, path in paths(size).items()},
        "plain forward",
        arguments.rounds,
    )
    slow_work: dict[str, Callable[[], Any]] = dict(plain)
    for name, path in paths(size).items():
        slow_work[f"{name}, reference"] = _stage(model, size, path, "reference")
        slow_work[f"{name}, hooks"] = _hooks(module, size, path)
    slow = medians(slow_work, "plain forward", arguments.slow_rounds)
    for name in paths(size):
        row = {"what": f"path patching, {name}", "per": "head", "forwards": fast[name] / heads, "target": TARGETS[name]}
        rows.append(row | {"reference": slow[f"{name}, reference"] / heads, "hooks": slow[f"{name}, hooks"] / heads})
    rows += _other_methods(module, model, size, arguments.rounds)
    console = Console(width=130)
    console.print(_table(rows, size))
    console.print(f"Written to {written(named('engine', arguments.size), {'size': vars(size), 'rows': rows})}")


def _forward(module: LlamaForCausalLM, pair: Pair) -> None:
    with torch.no_grad():
        run = pair.base
        module(input_ids=run.tokens, attention_mask=run.mask, position_ids=run.position_ids, use_cache=False)


def _stage(model: Model, size: Size, path: Path, engine: str) -> Callable[[], None]:
    """All heads as senders: those that cannot reach the receivers cost nothing, and count."""
    pairs, senders = batches(examples(size), path.at), path.reaching(size.layers, size.heads)

    def run() -> None:
        for pair in pairs:
            path_probabilities(model, pair, path, senders, engine, Chunks())

    return run


def _hooks(module: LlamaForCausalLM, size: Size, path: Path) -> Callable[[], torch.Tensor]:
    pair, senders = collate(examples(size)), path.reaching(size.layers, size.heads)
    ends = (PROJECTION[path.via or "query"], path.receivers)
    return lambda: hooks_loop.path_probabilities(module, pair, path.at, senders, ends)


def _other_methods(module: LlamaForCausalLM, model: Model, size: Size, rounds: int) -> list[dict[str, Any]]:
    whole, groups = collate(examples(size)), circuit(size)
    every = [groups.without(Circuit((group,))) for group in groups.groups] * (CIRCUITS // 4)
    donor = traced(llama(size, seed=1))
    sets = [Circuit((group,)) for group in groups.groups]
    edge = whole.base.positions["last"], whole.base.positions["query_label"]
    donated = with_heads(donor_outputs(donor, whole.base, sets), sets)
    work: dict[str, Callable[[], Any]] = {
        "plain forward": lambda: _forward(module, whole),
        "one circuit": lambda: circuit_readouts(
            model, whole.question, AblationValues(), every[:1], "default", Chunks()
        ),
        "circuits": lambda: circuit_readouts(model, whole.question, AblationValues(), every, "default", Chunks()),
        "donor": lambda: donor_outputs(donor, whole.base, sets),
        "recipient": lambda: recipient_readouts(model, whole.question, donated, sets, "default", Chunks()),
        "knockout": lambda: knockout_readouts(model, whole.question, edge, range(size.layers + 1), "default", Chunks()),
    }
    found = medians(work, "plain forward", rounds)
    step = _dcm(module, model, size, rounds)
    more = (found["circuits"] - found["one circuit"]) / (CIRCUITS - 1)
    return [
        {"what": "DCM step at last", "per": "forward and backward", "forwards": step, "target": 0.15},
        {"what": "one circuit of minimality or completeness", "per": "circuit", "forwards": more, "target": 0.12},
        {"what": "CMAP, donor's outputs of four groups", "per": "batch", "forwards": found["donor"]},
        {"what": "CMAP, recipient with each of four groups", "per": "group", "forwards": found["recipient"] / 4},
        {
            "what": "knockout of last -> query label",
            "per": "first layer",
            "forwards": found["knockout"] / (size.layers + 1),
        },
    ]


def _dcm(module: Any, model: Model, size: Size, rounds: int) -> float:
    """A training step of a mask, capture not included, over a whole forward and backward pass to the same mask."""
    whole, group = collate(examples(size)), circuit(size).groups[0]
    lowest = min(head.layer for head in group.heads)
    row, last = torch.arange(size.batch), whole.base.positions["last"]

    def mask() -> torch.Tensor:
        return torch.full((1, len(group.heads)), 0.5, requires_grad=True)

    def whole_step() -> None:
        weights = mask()
        scaled = torch.ones(size.heads * size.d_head)
        scaled = scaled.index_put((torch.arange(len(group.heads)) * size.d_head,), weights[0])
        hook = module.model.layers[lowest].self_attn.o_proj.register_forward_pre_hook(
            lambda _, args: (args[0] * scaled,)
        )
        run = whole.base
        logits = module(
            input_ids=run.tokens, attention_mask=run.mask, position_ids=run.position_ids, use_cache=False
        ).logits
        hook.remove()
        logits[row, last, whole.answer].mean().backward()

    with model.session():
        (batch,) = prepare_batches(model, [group], whole)

        def step() -> None:
            masked_readout(model, group, batch, mask(), Chunks()).logit.mean().backward()

        found = nnsight.save(medians({"whole": whole_step, "step": step}, "whole", rounds))
    return found["step"]


def _table(rows: list[dict[str, Any]], size: Size) -> Table:
    table = Table(
        title=f"plain forwards of a batch of {size.batch} ({size.layers} layers, d {size.d_model}, one thread)"
    )
    for column in ("what", "per", "forwards", "target", "reference engine", "hooks, two forwards"):
        table.add_column(column, justify="left" if column in ("what", "per") else "right")
    for row in rows:
        numbers = (row.get(key) for key in ("forwards", "target", "reference", "hooks"))
        table.add_row(row["what"], row["per"], *("" if value is None else f"{value:.3f}" for value in numbers))
    return table


if __name__ == "__main__":
    main()
