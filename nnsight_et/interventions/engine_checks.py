"""What must hold of every model and every prompt, whatever an experiment asks of them."""

from __future__ import annotations

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Pair, Run
from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import captured, suffix_of
from nnsight_et.engine.readout import plain, readout
from nnsight_et.engine.suffix import suffix
from nnsight_et.interventions.activation_patching import with_donation
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.models.model import Model, Via

PADDING = 3


def engine_errors(model: Model, pair: Pair) -> dict[str, float]:
    """By check: how far the model is from what must hold; relative to the larger of 1 and the expected value.

    source = base: a path from a run into itself changes no probability, in the reference engine not by one bit.
    out of reach: nor does a sender in the layer of the receivers. all heads: with every head at `last` from the source
    run the base run ends as it does, where both have that token. padding: padded prompts, whole and recomputed from
    their last tokens, answer as unpadded ones. writes: what each head writes adds up to the attention's output. heads
    of queries, keys, values: one head of a projection moves the outputs of its own query heads and of no other.
    """
    with model.session():
        errors = nnsight.save(_errors(model, pair))
    return {name: error.item() for name, error in errors.items()} | _path_errors(model, pair)


def _errors(model: Model, pair: Pair) -> dict[str, Tensor]:
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    errors = {"writes": torch.stack([_writes(model, pair.base, layer) for layer in layers]).max()}
    errors["padding"] = _padding(model, pair)
    for via, name in (("query", "queries"), ("key", "keys"), ("value", "values")):
        errors[f"heads of {name}"] = _heads_of(model, pair.base, layers[1], via)
    if torch.equal(_last_token(pair.base), _last_token(pair.source)):
        errors["all heads"] = _all_heads(model, pair)
    return {name: error.detach().cpu() for name, error in errors.items()}


def _path_errors(model: Model, pair: Pair) -> dict[str, float]:
    """How far a path's effect is from none: of a source that is the base, and of a sender above its receivers."""
    if model.n_layers == 1:
        return {}
    own = Pair(pair.base, pair.base, pair.answer)
    layer = max(1, model.n_layers // 2)
    path, senders = Path("last", "query", (Head(layer, 0),)), [Head(0, 0), Head(layer - 1, model.n_heads - 1)]
    senders = sorted(set(senders))
    default = path_probabilities(model, own, path, senders, "default", Chunks())
    exact = path_probabilities(model, own, path, senders, "reference", Chunks())
    late = path_probabilities(model, pair, path, [Head(layer, model.n_heads - 1)], "reference", Chunks())
    return {
        "source = base": _change(default),
        "reference: source = base": _change(exact),
        "out of reach": _change(late),
    }


def _change(found: dict[str, Tensor]) -> float:
    ratio = found["patched"].double() / found["base"].double()
    return (ratio - 1).abs().max().item()


def _writes(model: Model, run: Run, layer: int) -> Tensor:
    """[]: how far the sum of every head's own write is from what the attention of `layer` adds."""
    last = run.positions["last"]
    row = torch.arange(len(last), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        z = model.z(layer)[row, last]  # [batch, head, d_head]
        alone = torch.diag_embed(z.transpose(1, 2)).permute(3, 0, 2, 1)  # [head, batch, head, d_head]
        nothing = model.attention_of(layer, torch.zeros_like(z))
        written = (model.attention_of(layer, alone) - nothing).sum(0) + nothing
        error = gap(written, model.attention(layer)[row, last])
        model.skip_unembedding(model.layer(model.n_layers - 1).output)
    return error


def _padding(model: Model, pair: Pair) -> Tensor:
    """[]: how far padded prompts' logits are from the same prompts' alone."""
    wide = _padded(pair.base)
    capture = captured(model, wide, suffix_of(wide, wide.positions["last"] - 1), [0])
    again = suffix(model, capture, 0, [], pair.answer, Chunks())
    alone = [_logit(model, pair, index) for index in range(len(pair.answer))]
    return torch.maximum(
        gap(readout(capture.logits, pair.answer).logit, torch.cat(alone)), gap(again.logit[0], torch.cat(alone))
    )


def _logit(model: Model, pair: Pair, index: int) -> Tensor:
    """[1]: the answer's logit of one prompt of the batch, by itself and without padding."""
    real = pair.base.mask[index].bool()
    first = int(real.long().argmax())
    run = Run(
        pair.base.tokens[index : index + 1, real],
        pair.base.mask[index : index + 1, real],
        {name: position[index : index + 1] - first for name, position in pair.base.positions.items()},
    )
    return plain(model, run, pair.answer[index : index + 1]).logit


def _padded(run: Run) -> Run:
    """The same prompts with more padding on the left."""
    before = run.tokens.new_zeros(len(run.tokens), PADDING)
    positions = {name: position + PADDING for name, position in run.positions.items()}
    return Run(torch.cat([before, run.tokens], 1), torch.cat([torch.zeros_like(before), run.mask], 1), positions)


def _heads_of(model: Model, run: Run, layer: int, via: Via) -> Tensor:
    """[]: how far heads that share no projection with one changed head move; infinite if its own ones do not."""
    last = run.positions["last"]
    row = torch.arange(len(last), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        before = model.z(layer)[row, last]
        model.skip_unembedding(model.layer(model.n_layers - 1).output)
    with model.trace(run.tokens, run.position_ids, run.mask):
        changed = model.projection(layer, via).clone()
        changed[row, last, -1] = 1 - 2 * changed[row, last, -1]
        model.write_projection(layer, via, changed)
        after = model.z(layer)[row, last]
        model.skip_unembedding(model.layer(model.n_layers - 1).output)
    moved = (after - before).abs().amax((0, 2))  # [head]
    own = [model.receiver(head, via) == model.heads_of(via) - 1 for head in range(model.n_heads)]
    group = model.n_heads // model.heads_of(via)
    mine = torch.tensor(own, device=moved.device)
    others = moved[~mine].max() if len(moved) > int(mine.sum()) else moved.new_zeros(())
    still = int(mine.sum()) != group or bool((moved[-group:] == 0).any())
    return moved.new_tensor(torch.inf) if still else others


def _all_heads(model: Model, pair: Pair) -> Tensor:
    """[]: how far the answer's logit is from the source run's own when every head at `last` is the source's."""
    every = tuple(Head(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads))
    circuit = Circuit((HeadGroup("all", "last", every),))
    z = reference.head_outputs(model, pair.source)
    row = torch.arange(len(pair.answer), device=model.device)
    donated = {"last": {layer: one[row, pair.source.positions["last"]] for layer, one in enumerate(z)}}
    found = with_donation(model, pair.question, donated, [circuit], "default", Chunks())
    return gap(found.logit[0], plain(model, pair.source, pair.answer).logit)


def _last_token(run: Run) -> Tensor:
    return run.tokens.gather(1, run.positions["last"][:, None])


def gap(found: Tensor, expected: Tensor) -> Tensor:
    """[]: the largest difference, relative to the larger of 1 and the expected value."""
    return ((found - expected).abs() / expected.abs().clamp(min=1)).max().double()
