"""`python -m benchmarks.transformer_lens`: path patching by this package's engine and by TransformerLens, side by side.

The same random Llama and prompts as benchmarks.engine, for what TransformerLens can be asked for with its own hooks at
the last token: paths into the logits, and into the queries of four heads. Written as its users do: activations of base
and source runs from run_with_cache, every head's output frozen but the sender's, then the receivers' queries put into
a second run; eight senders side by side, the first run stopped above the last receiver. And what it has by itself,
get_act_patch_direct_path: one head's output into the queries of every later head, an edge at a time, past the MLPs
between them; beside it the engine's path from every head into one receiver's queries, MLPs included.

TransformerLens is not among what this project needs: benchmarks/requirements_transformer_lens.txt says how to have it.
"""

# To a type checker `transformer_lens` is this file, which lies beside itself.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from transformer_lens import patching  # isort: skip - its type checker cannot be imported after nnsight
from transformer_lens.model_bridge import TransformerBridge  # isort: skip

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.engine import paths
from benchmarks.setting import SIZES, Size, examples, llama, medians, named, tokenizer, traced, written
from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Component, Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.models.model import Model

SENDERS = 8  # side by side in one batch
STAGES = ("direct", "query at last")
EDGE = Head(3, 0)  # a head in the middle, whose edges into all later heads are patched
CLOSE = 1e-4  # of logits and probability ratios
PLAIN, BRIDGE = "plain forward", "TransformerLens forward"


def bridged(size: Size) -> Any:
    """The same Llama, with the same weights, in TransformerLens."""
    return TransformerBridge.boot_transformers("benchmark", hf_model=llama(size), tokenizer=tokenizer(), device="cpu")


def stage(bridge: Any, pair: Pair, path: Path, senders: Sequence[Component]) -> Tensor:
    """[sender, batch]: the answer's probability with the path from each sender at the last token patched."""
    base, source = (_head_outputs(bridge, run.tokens) for run in (pair.base, pair.source))
    return stage_of_captured(bridge, pair, path, senders, (base, source))


def stage_of_captured(
    bridge: Any, pair: Pair, path: Path, senders: Sequence[Component], outputs: tuple[list[Tensor], list[Tensor]]
) -> Tensor:
    """The same from the heads' outputs, per layer [batch, head, d_head], of the base and the source run."""
    parts = [senders[first : first + SENDERS] for first in range(0, len(senders), SENDERS)]
    return torch.cat([_some(bridge, pair, path, some, outputs) for some in parts])


def _head_outputs(bridge: Any, tokens: Tensor) -> list[Tensor]:
    """Per layer [batch, head, d_head] at the last token."""
    _, cache = bridge.run_with_cache(tokens, names_filter=lambda name: name.endswith("attn.hook_z"))
    return [cache[f"blocks.{layer}.attn.hook_z"][:, -1] for layer in range(bridge.cfg.n_layers)]


def _some(
    bridge: Any, pair: Pair, path: Path, senders: Sequence[Component], outputs: tuple[list[Tensor], list[Tensor]]
) -> Tensor:
    tokens, batch = pair.base.tokens.repeat(len(senders), 1), len(pair.answer)
    frozen = [z.repeat(len(senders), 1, 1) for z in outputs[0]]
    for copy, sender in enumerate(senders):
        donated = outputs[1][sender.layer][:, sender.index]
        frozen[sender.layer][copy * batch : (copy + 1) * batch, sender.index] = donated

    def freeze(layer: int) -> tuple[str, Callable]:
        def hook(z: Tensor, hook: Any) -> Tensor:
            z[:, -1] = frozen[layer]
            return z

        return f"blocks.{layer}.attn.hook_z", hook

    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> tuple[str, Callable]:
        return f"blocks.{layer}.attn.hook_q", lambda queries, hook: kept.__setitem__(layer, queries[:, -1].clone())

    def put(layer: int) -> tuple[str, Callable]:
        mine = [receiver.index for receiver in path.receivers if receiver.layer == layer]

        def hook(queries: Tensor, hook: Any) -> Tensor:
            queries[:, -1, mine] = kept[layer][:, mine]
            return queries

        return f"blocks.{layer}.attn.hook_q", hook

    hooks = [freeze(layer) for layer in range(bridge.cfg.n_layers)]
    if path.receivers:
        ends = sorted({receiver.layer for receiver in path.receivers})
        first_run, above = [*hooks[: ends[-1]], *map(keep, ends)], ends[-1] + 1
        bridge.run_with_hooks(tokens, fwd_hooks=first_run, stop_at_layer=above)
        hooks = [put(layer) for layer in ends]
    logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    return logits.softmax(-1)[torch.arange(len(logits)), pair.answer.repeat(len(senders))].unflatten(0, (-1, batch))


def edges(bridge: Any, pair: Pair) -> Tensor:
    """[layer, head]: its own direct path patching from one head into the queries of every later one."""
    caches = [bridge.run_with_cache(run.tokens)[1] for run in (pair.source, pair.base)]

    def probability(logits: Tensor) -> Tensor:
        return logits[:, -1].softmax(-1)[torch.arange(len(pair.answer)), pair.answer].mean()

    sweep = patching.get_act_patch_direct_path
    return sweep(bridge, pair.base.tokens, *caches, probability, EDGE.layer, EDGE.index, "q", verbose=False)


@torch.no_grad()
def main(given: Sequence[str] | None = None) -> None:
    """Check that all agree, measure, print, and write results/transformer_lens.json, or transformer_lens_SIZE.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="headline", help="small: to see that all of it runs")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    size = SIZES[options.size]
    module, bridge = llama(size), bridged(size)
    model, pair = traced(module), collate(examples(size))
    run = pair.base
    assert bool(run.mask.all()), "prompts of one length: nothing is padded"

    def plain() -> Tensor:
        return module(input_ids=run.tokens, position_ids=run.position_ids, use_cache=False).logits

    gap = (plain() - bridge(run.tokens)).abs().max().item()
    work: dict[str, Callable[[], Any]] = {PLAIN: plain, BRIDGE: lambda: bridge(run.tokens)}
    heads = {}
    for name in STAGES:
        path = paths(size)[name]
        senders = path.reaching(size.layers, size.heads)
        gap = max(gap, _disagreement(model, bridge, pair, path, senders))
        work[f"{name}, engine"] = _engine(model, pair, path, senders)
        work[f"{name}, TransformerLens"] = lambda path=path, senders=senders: stage(bridge, pair, path, senders)
        heads[name] = size.layers * size.heads
    if not gap <= CLOSE:
        raise SystemExit(f"the two differ by {gap:.1e}; accepted: {CLOSE:.0e}")
    one = Path("last", "query", (Head(size.layers - 1, 0),))
    work["edge, engine"] = _engine(model, pair, one, one.reaching(size.layers, size.heads))
    work["edge, TransformerLens"] = lambda: edges(bridge, pair)
    found = medians(work, PLAIN, options.rounds)
    rows = [_row(f"path patching, {name}", "head", found, name, (heads[name], heads[name])) for name in STAGES]
    later = (size.layers - 1 - EDGE.layer) * size.heads
    rows.append(
        _row("one edge into queries", "edge", found, "edge", (len(one.reaching(size.layers, size.heads)), later))
    )
    data = {"transformer_lens": version("transformer-lens"), "largest_difference": gap, "size": vars(size)}
    console = Console(width=130)
    console.print(_table(rows, found[BRIDGE], size))
    place = written(named("transformer_lens", options.size), data | {"plain_forward": found[BRIDGE], "rows": rows})
    console.print(f"Written to {place}")


def _engine(model: Model, pair: Pair, path: Path, senders: Sequence[Component]) -> Callable[[], Any]:
    return lambda: path_probabilities(model, pair, path, senders, "default", Chunks())


def _disagreement(model: Model, bridge: Any, pair: Pair, path: Path, senders: Sequence[Component]) -> float:
    """The largest relative difference of the patched probabilities, as TransformerLens and the engine find them."""
    ours = path_probabilities(model, pair, path, senders, "default", Chunks())["patched"]
    return (stage(bridge, pair, path, senders) / ours - 1).abs().max().item()


def _row(what: str, per: str, found: dict[str, float], name: str, counts: tuple[int, int]) -> dict[str, Any]:
    ours, theirs = (
        found[f"{name}, {by}"] / count for by, count in zip(("engine", "TransformerLens"), counts, strict=True)
    )
    return {"what": what, "per": per, "engine": ours, "transformer_lens": theirs, "ratio": theirs / ours}


def _table(rows: Sequence[dict[str, Any]], forward: float, size: Size) -> Table:
    title = f"plain forwards of a batch of {size.batch}; one forward of TransformerLens is {forward:.2f} of them"
    table = Table(title=title)
    for column in ("what", "per", "this engine", "TransformerLens", "ratio"):
        table.add_column(column, justify="left" if column in ("what", "per") else "right")
    for row in rows:
        numbers = f"{row['engine']:.3f}", f"{row['transformer_lens']:.3f}", f"{row['ratio']:.0f}"
        table.add_row(row["what"], row["per"], *numbers)
    return table


if __name__ == "__main__":
    main()
