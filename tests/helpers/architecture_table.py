"""Every method on a tiny model of every architecture: default engine, reference engine and plain hooks side by side.

`python -m tests.helpers.architecture_table` measures and writes docs/architectures.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts, mean_outputs
from nnsight_et.interventions.cmap import (
    by_place,
    donor_inputs,
    donor_outputs,
    recipient_input_readouts,
    recipient_readouts,
    with_heads,
)
from nnsight_et.interventions.dcm import masked_readout, prepare_batches
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.families import FAMILIES, REFUSED
from nnsight_et.models.model import Model
from tests.helpers import plain_hooks, plain_methods
from tests.helpers.architectures import ARCHITECTURES, hf_model
from tests.helpers.tiny_model import few_pairs, tiny_model

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
ENGINES = ("default", "reference")
SENDERS = [Head(0, 1), Head(1, 0)]
PATHS = {
    "path patching into logits": PatchedPath("last"),
    "q": PatchedPath("last", "query", (Head(1, 3), Head(2, 0))),
    "k": PatchedPath("query_label", "key", (Head(2, 3), Head(1, 0))),
    "v": PatchedPath("query_label", "value", (Head(2, 1), Head(2, 2))),
}
HEADS = {"last": {(0, 1), (1, 3), (2, 2)}, "query_label": {(0, 3), (1, 0)}}
SET = Circuit(tuple(HeadGroup(at, at, tuple(sorted(Head(*head) for head in heads))) for at, heads in HEADS.items()))
EDGES = (("last", "query_label"), ("last", "correct_object"), ("query_label", "previous_query_label"))


@cache
def made(name: str, seed: int = 0) -> tuple[Any, Model]:
    """The tiny model of that architecture, plain and as the package's."""
    module = hf_model(name, seed)
    return module, tiny_model(module, FAMILIES[module.config.model_type].implementations[0])


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of logarithms of probabilities."""
    return (one.double().log() - other.double().log()).abs().max().item()


def path_difference(name: str, path: PatchedPath) -> tuple[float, float]:
    """How far the engines and plain hooks are apart, and how large the largest effect is."""
    (module, model), pair = made(name), few_pairs((2, 3))
    path = replace(path, receivers=having(model, path))
    senders = [sender for sender in SENDERS if sender in path.reaching(model.n_layers, model.n_heads)]
    _, expected = plain_hooks.path_patching(module, pair, senders, path.receivers, path.via, path.at)
    found = [path_probabilities(model, pair, path, senders, engine, Chunks()) for engine in ENGINES]
    effect = apart(found[0]["patched"], found[0]["base"].expand_as(found[0]["patched"]))
    return max(apart(one["patched"], expected) for one in found), effect


def having(model: Model, path: PatchedPath) -> tuple[Any, ...]:
    """The path's receivers that have the input it ends in; if none has, the same heads of the last layer that has."""
    lost = [layer for layer, (vias, _) in model.lacking.items() if path.via in vias]
    kept = tuple(one for one in path.receivers if one.layer not in lost)
    last = max(layer for layer in range(model.n_layers) if layer not in lost)
    return kept or tuple(Head(last, one.index) for one in path.receivers)


def ablation_difference(name: str) -> tuple[float, float]:
    """The circuit alone, all other heads mean-ablated, with means per named position."""
    (module, model), pair = made(name), few_pairs((2, 3))
    run, names = pair.base, tuple(HEADS)
    slot = torch.full_like(run.tokens, len(names))
    for index, at in enumerate(names):
        slot[torch.arange(len(slot)), run.positions[at]] = index
    replaced = {}
    for layer, z in enumerate(plain_hooks.head_outputs(module, run)):
        by_slot = [z[run.mask.bool() & (slot == index)].mean(0) for index in range(len(names) + 1)]
        which = torch.ones(z.shape[:3], dtype=torch.bool)
        for at, heads in HEADS.items():
            for index in [index for here, index in heads if here == layer]:
                which[torch.arange(len(slot)), run.positions[at], index] = False
        replaced[layer] = (which, torch.stack(by_slot)[slot])
    expected = plain_methods.probabilities(plain_hooks.replaced_logits(module, run, replaced), pair.answer)
    fill = AblationValues(mean_outputs(model, [run], names)["z"], names)
    found = [circuit_readouts(model, pair.question, fill, [SET], engine, Chunks())["probability"] for engine in ENGINES]
    return max(apart(one[0], expected) for one in found), apart(expected, unpatched(name, pair))


def dcm_difference(name: str) -> tuple[float, float]:
    """A mask's logits, and their gradient by the mask, relative to the gradient's size."""
    (module, model), pair = made(name), few_pairs((2, 3))
    group = SET.groups[0]
    mask = torch.tensor([0.3, 1.0, 0.7], requires_grad=True)
    logits = plain_methods.masked_logits(module, pair, group.heads, "last", mask)
    expected = logits[torch.arange(len(pair.answer)), pair.answer]
    (slope,) = torch.autograd.grad(expected.sum(), mask)
    with model.session():
        (batch,) = prepare_batches(model, [group], pair)
        logit = masked_readout(model, group, batch, mask[None], Chunks()).logit[0]
        (gradient,) = torch.autograd.grad(logit.sum(), mask)
        outcome = nnsight.save([logit.detach(), gradient])
    found, own = outcome
    gaps = [(found - expected).abs().max(), (own - slope).abs().max() / slope.abs().max().clamp(min=1)]
    return max(gap.item() for gap in gaps), slope.abs().max().item()


def cmap_difference(name: str) -> tuple[float, float]:
    """Head outputs of another random model at two positions; and one group's queries, keys and values."""
    (module, model), (donor_module, donor), pair = made(name), made(name, 1), few_pairs((2, 3))
    question, gaps = pair.question, list[float]()
    kept = tuple(head for head in SET.groups[0].heads if head.layer in model.whole_layers)
    group = HeadGroup("last", "last", kept)
    logits = plain_methods.across_logits(module, donor_module, question.run, HEADS)
    expected = plain_methods.probabilities(logits, question.answer)
    given = with_heads(donor_outputs(donor, question.run, [SET]), [SET])
    vias = ("query", "key", "value")
    inputs = by_place(donor_inputs(donor, question.run, group))
    logits = plain_methods.across_input_logits(module, donor_module, question.run, group.heads, group.at, vias)
    with_inputs = plain_methods.probabilities(logits, question.answer)
    for engine in ENGINES:
        outputs = recipient_readouts(model, question, given, [SET], engine, Chunks())["probability"][0]
        changed = recipient_input_readouts(model, question, (group, inputs), [vias], engine, Chunks())
        gaps += [apart(outputs, expected), apart(changed["probability"][0], with_inputs)]
    return max(gaps), min(apart(one, unpatched(name, pair)) for one in (expected, with_inputs))


def knockout_difference(name: str) -> tuple[float, float]:
    """Three edges, each blocked from every layer up; the long ones reach beyond the windows."""
    (module, model), pair = made(name), few_pairs((2, 3))
    question, gaps, effects = pair.question, [], []
    for edge in EDGES:
        where = tuple(question.run.positions[at] for at in edge)
        rows = [plain_methods.knockout_logits(module, question.run, first, *where) for first in range(model.n_layers)]
        expected = torch.stack([plain_methods.probabilities(logits, question.answer) for logits in rows])
        for engine in ENGINES:
            found = knockout_readouts(model, question, (where[0], where[1]), range(model.n_layers), engine, Chunks())
            gaps.append(apart(found["probability"], expected))
        effects.append(apart(expected[0], unpatched(name, pair)))
    return max(gaps), max(effects)


def unpatched(name: str, pair: Pair) -> Tensor:
    """[batch]: the answer's probability in the plain run."""
    return plain_methods.probabilities(plain_methods.plain_logits(made(name)[0], pair.base), pair.answer)


COLUMNS: dict[str, Callable[[str], tuple[float, float]]] = {
    **{column: (lambda name, path=path: path_difference(name, path)) for column, path in PATHS.items()},
    "ablation": ablation_difference,
    "DCM": dcm_difference,
    "CMAP": cmap_difference,
    "knockout": knockout_difference,
}


@cache
def measured(name: str) -> dict[str, tuple[float, float]]:
    """Column -> how far engines and hooks are apart on that architecture, and the size of what is measured."""
    blockable = not made(name)[1].recurrent
    return {column: difference(name) for column, difference in COLUMNS.items() if blockable or column != "knockout"}


def table() -> str:
    """The differences as Markdown, one row per architecture."""
    lines = ["| architecture | model_type | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for name, (kind, _) in ARCHITECTURES.items():
        found = measured(name)
        cells = [f"{found[column][0]:.0e}" if column in found else "refused" for column in COLUMNS]
        lines.append(f"| {name} | `{kind}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def notes() -> str:
    """What is particular to each known architecture, and why others are refused, as Markdown."""
    told = {kind: [*parts.notes, *_only(parts.implementations)] for kind, parts in FAMILIES.items()}
    particular = [f"- `{kind}`: {'; '.join(lines)}." for kind, lines in told.items() if lines]
    limits = [
        f"- `{kind}` with `{need.key}` other than `{need.same_as or need.value}`: {need.why}."
        for kind, parts in FAMILIES.items()
        for need in parts.needs
    ]
    refused = [f"- `{kind}`: {why}." for kind, why in REFUSED.items()]
    return "\n".join(["## Particulars", "", *particular, "", "## Refused by name", "", *refused, *limits])


def _only(implementations: tuple[str, ...]) -> list[str]:
    return [] if "sdpa" in implementations else ["it supports eager attention only: `attention: eager` in the manifest"]


def document(text: str) -> str:
    """The document with its table and notes made anew; what is written by hand around them stays."""
    head, _, rest = text.partition("<!-- table -->\n")
    middle = rest.partition("<!-- /table -->\n")[2].partition("<!-- notes -->\n")[0]
    return f"{head}<!-- table -->\n{table()}\n<!-- /table -->\n{middle}<!-- notes -->\n{notes()}\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
