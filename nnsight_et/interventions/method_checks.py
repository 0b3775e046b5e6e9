"""What the methods are told or learn before anything is scored, once more by other ways: means, donations, masks."""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Via
from nnsight_et.core.metrics import accuracy
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import mean_outputs
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.engine_checks import gap, row_gap
from nnsight_et.models.model import Model

SHARE = 0.05  # of the way to the source, on both sides of the base: what finite differences are taken over
STEP = 0.75  # a learning rate: Adam's first step is that long, so the mask's rounding shows the gradient's sign
CLEAR = 0.1  # gradients smaller than this share of the largest have no clear sign
VIAS: tuple[Via, ...] = ("query", "key", "value")


def taken_means_error(
    model: Model, together: Sequence[PromptBatch], alone: Sequence[PromptBatch], names: tuple[str, ...] | None
) -> float:
    """How far the means over prompts run in the batches of `together` are from those of the same, run one by one."""
    return means_error(model, alone, names, mean_outputs(model, together, names)["z"])


def means_error(model: Model, alone: Sequence[PromptBatch], names: tuple[str, ...] | None, means: Tensor) -> float:
    """How far means [layer, slot, head, d_head] are from those of these prompts, each run by itself, token by token."""
    sums: dict[tuple[int, int], list[Tensor]] = {}
    for run in alone:
        with model.session():
            z = nnsight.save([one.detach().cpu() for one in reference.head_outputs(model, run)])
        places = {} if names is None else {int(run.positions[name][0]): i for i, name in enumerate(names)}
        for layer, outputs in enumerate(z):
            for token, output in enumerate(outputs[0]):
                slot = token if names is None else places.get(token, len(names))
                sums.setdefault((layer, slot), []).append(output.double())
    gaps = [row_gap(means[place].double(), torch.stack(found).mean(0)) for place, found in sums.items()]
    return torch.stack(gaps).max().item()


def donated_values(model: Model, run: PromptBatch, given: Sequence[Circuit] | HeadGroup) -> dict[str, Tensor]:
    """What a donor gives in a run of one prompt, read off whole forward passes: by "place layer", without a batch.

    Of sets of heads a place is a position, for outputs [k, d_head]. Of a group it is "query", for [k, d_head] at its
    position, or "key" or "value", for [c, k, d_head] of the c tokens before it.
    """
    with model.session():
        found = _inputs_of(model, run, given) if isinstance(given, HeadGroup) else _outputs_of(model, run, given)
        values = nnsight.save({name: tensor.detach().cpu() for name, tensor in found.items()})
    return values


def _outputs_of(model: Model, run: PromptBatch, sets: Sequence[Circuit]) -> dict[str, Tensor]:
    z, found = reference.head_outputs(model, run), {}
    for group in (group for heads in sets for group in heads.groups):
        for layer in {head.layer for head in group.heads}:
            every = {head.index for some in sets for head in some.at(group.at) if head.layer == layer}
            found[f"{group.at} {layer}"] = z[layer][0, run.positions[group.at][0], sorted(every)]
    return found


def _inputs_of(model: Model, run: PromptBatch, group: HeadGroup) -> dict[str, Tensor]:
    inputs = _projections(model, run)
    return {
        f"{via} {layer}": _of_group(model, run, group, (layer, via), inputs[layer][via])
        for via in VIAS
        for layer in {head.layer for head in group.heads}
    }


def _projections(model: Model, run: PromptBatch) -> list[dict[Via, Tensor]]:
    with model.trace(run.tokens, run.position_ids, run.mask):
        found = []
        for layer in range(model.n_layers):
            found.append({via: model.projection(layer, via) for via in VIAS})
    return found


def _of_group(model: Model, run: PromptBatch, group: HeadGroup, where: tuple[int, str], values: Tensor) -> Tensor:
    layer, via = where
    each = 1 if via == "query" else model.n_heads // model.n_kv_heads
    heads = sorted({head.index // each for head in group.heads if head.layer == layer})
    at = int(run.positions[group.at][0])
    return values[0, at, heads] if via == "query" else values[0, :at, heads]


def training_errors(model: Model, group: HeadGroup, pair: Pair, validation: Pair) -> dict[str, float]:
    """By check: how far DCM's gradient is from the reference engine's, and whether a step of training goes down.

    mask gradient: of p / p_base by every mask component, where nothing is selected. mask training: infinite unless one
    step selects just the heads whose loss, by finite differences of whole runs, falls when they take the source, and
    the accuracy that training gives for that mask is the reference engine's on the pair of validation.
    """
    one, other = (
        head_effects(model, pair, group.at, group.heads, engine, Chunks())["attributed"]
        for engine in ("default", "reference")
    )
    slopes = torch.stack([_logit_slope(model, pair, group.at, head) for head in group.heads])
    sparsity = slopes.abs().mean().item()  # between the slopes' sizes, so that it decides about some
    gradient = -sparsity - slopes
    clear = gradient.abs() > CLEAR * gradient.abs().max()
    right = True
    for epochs in (1, 2):  # the mask after one step is the last one, and the first of two
        training = Training(sparsity, STEP, epochs, validate_every=1)
        (trained,) = trained_masks(model, [group], training, [pair], [validation], Chunks())
        right &= torch.equal(trained["masks"][0][clear] == 1, gradient[clear] < 0)
        right &= trained["accuracies"][0].item() == _accuracy(model, group, validation, trained["masks"][0])
    return {"mask gradient": gap(one, other).item(), "mask training": 0.0 if right else float("inf")}


def _accuracy(model: Model, group: HeadGroup, pair: Pair, mask: Tensor) -> float:
    """The share of targets the reference engine predicts when the heads whose mask is 0 are the source's."""
    heads = tuple(head for head, keep in zip(group.heads, mask.tolist(), strict=True) if keep == 0)
    chosen = Circuit((HeadGroup(group.name, group.at, heads),))
    predicted = patched_readouts(model, pair, [chosen], "reference", Chunks())["predicted"][0]
    return accuracy(predicted, pair.right.cpu())


def _logit_slope(model: Model, pair: Pair, at: str, head: Head) -> Tensor:
    """[]: the derivative of the mean logit of the answer by the head's mask at 1, from two whole runs beside it."""
    with model.session():
        pair = pair.by_row()
        base, source = (reference.head_outputs(model, run)[head.layer] for run in (pair.base, pair.source))
        row = torch.arange(len(pair.base.tokens), device=model.device)
        where = torch.zeros(base.shape[:-1], dtype=torch.bool, device=model.device)
        where[row, pair.base.positions[at], head.index] = True
        own = base[row, pair.base.positions[at], head.index]
        other = source[row, pair.source.positions[at], head.index]
        logits = []
        for share in (SHARE, -SHARE):
            values = base.clone()
            values[row, pair.base.positions[at], head.index] = own + share * (other - own)
            replaced = {head.layer: reference.Replacement(values, where)}
            logits.append(
                reference.run_with_replacements(model, pair.base, replaced, pair.answer).logit.double().mean()
            )
        slope = nnsight.save(((logits[1] - logits[0]) / (2 * SHARE)).detach().cpu())
    return slope
