"""What must hold of every model and every prompt, whatever an experiment asks of them."""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup, Mlp, Via
from nnsight_et.core.metrics import clamp_to_normal
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import capture_run, suffix_of
from nnsight_et.engine.readout import plain, readout
from nnsight_et.engine.suffix import suffix
from nnsight_et.interventions.ablation import AblationValues
from nnsight_et.interventions.activation_patching import patched_readouts, with_donation
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.models.model import Model

PADDING = 3
PARTNER: dict[Via, Via] = {"query": "key", "key": "query", "value": "value"}
VIAS: tuple[tuple[Via, str], ...] = (("query", "queries"), ("key", "keys"), ("value", "values"))


def engine_errors(model: Model, pair: Pair) -> dict[str, float]:
    """By check: how far the model is from what must hold, relative to the size of what is compared.

    source = base: a path from a run into itself changes no probability, in the reference engine not by one bit.
    out of reach: nor does a sender in the layer of the receivers. all heads: with every head at `last` from the source
    run the base run ends as it does, where both begin alike there. padding: padded prompts, whole and recomputed from
    their last tokens, answer as unpadded ones. writes: what each head writes adds up to the attention's output. heads
    of queries, keys, values: one head of a projection moves the outputs of its own query heads and of no other. paths
    into queries, keys, values: both engines agree on a path into one head that has a projection to itself. paths into
    MLPs: they agree on a path from an MLP into two later ones. sources: at
    each position a patched head has the source's output at the source's own position. fill: an ablated head takes what
    belongs to its layer and position. adapter: what adapted modules give is their base's output and the adapter's.
    """
    pair = pair.first_tokens()
    with model.session():
        errors = nnsight.save(_errors(model, pair))
    found = {name: error.item() for name, error in errors.items()} | _path_errors(model, pair)
    return found | {"sources": _sources(model, pair), "fill": _fill(model, pair.base)}


def _errors(model: Model, pair: Pair) -> dict[str, Tensor]:
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    errors = {"writes": torch.stack([_writes(model, pair.base, layer) for layer in layers]).max()}
    errors["padding"] = _padding(model, pair)
    for via, name in VIAS if model.whole_layers else ():
        errors[f"heads of {name}"] = _heads_of(model, pair.base, _middle(model.whole_layers), via)
    adapted = [_adapter(model, pair.base, layer) for layer in layers if model.adapted]
    if any(error is not None for error in adapted):
        errors["adapter"] = torch.stack([error for error in adapted if error is not None]).max()
    if torch.equal(_at_last(model, pair.base), _at_last(model, pair.source)):
        errors["all heads"] = _all_heads(model, pair)
    return {name: error.detach().cpu() for name, error in errors.items()}


def _middle(layers: Sequence[int]) -> int:
    return layers[len(layers) // 2]


def _path_errors(model: Model, pair: Pair) -> dict[str, float]:
    """How far a path's effect is from none: of a source that is the base, and of a sender above its receivers."""
    ends = [layer for layer in model.whole_layers if layer]
    if not ends:
        return {}
    own = Pair(pair.base, pair.base, pair.answer)
    layer = _middle(ends[:-1] or ends)
    path, senders = Path("last", "query", (Head(layer, 0),)), [Head(0, 0), Head(layer - 1, model.n_heads - 1)]
    senders = sorted(set(senders))
    default = path_probabilities(model, own, path, senders, "default", Chunks())
    exact = path_probabilities(model, own, path, senders, "reference", Chunks())
    late = path_probabilities(model, pair, path, [Head(layer, model.n_heads - 1)], "reference", Chunks())
    return {
        "source = base": _change(default),
        "reference: source = base": _change(exact),
        "out of reach": _change(late),
    } | _disagreements(model, pair, layer, ends[-1])


def _disagreements(model: Model, pair: Pair, layer: int, last: int) -> dict[str, float]:
    """How far the engines are apart on paths into the second head of `layer` and the last one of layer `last`."""
    receivers, found = (Head(layer, min(1, model.n_heads - 1)), Head(last, model.n_heads - 1)), {}
    for via, name in VIAS:
        path = Path("last", via, tuple(dict.fromkeys(receivers)))
        found[f"paths into {name}"] = _engine_gap(model, pair, path, Head(0, 0))
    mlps = tuple(dict.fromkeys((Mlp(layer), Mlp(model.n_layers - 1))))
    apart = {name: int((at != pair.source.positions[name]).sum()) for name, at in pair.base.positions.items()}
    at = max(("last", *apart), key=lambda name: apart[name])  # where the source's position is another
    found["paths into MLPs"] = _engine_gap(model, pair, Path(at, "input", mlps, senders="mlps"), Mlp(0))
    return found


def _engine_gap(model: Model, pair: Pair, path: Path, sender: Component) -> float:
    """How far the engines are apart, in logarithms, on the path from one sender."""
    one, other = (
        path_probabilities(model, pair, path, [sender], engine, Chunks())["patched"]
        for engine in ("default", "reference")
    )
    return (clamp_to_normal(one).log() - clamp_to_normal(other).log()).abs().max().item()


def _change(found: dict[str, Tensor]) -> float:
    ratio = clamp_to_normal(found["patched"]) / clamp_to_normal(found["base"])
    return (ratio - 1).abs().max().item()


def _writes(model: Model, run: PromptBatch, layer: int) -> Tensor:
    """[]: how far the sum of all heads' writes is from the attention's output, and what z adds from what it adds.

    The sum relative to its terms, channel by channel: real models have channels thousands of times as large as others.
    """
    last = run.positions["last"]
    row = torch.arange(len(last), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        z = model.z(layer)[row, last]  # [batch, head, d_head]
        alone = torch.diag_embed(z.transpose(1, 2)).permute(3, 0, 2, 1)  # [head, batch, head, d_head]
        nothing = model.write_of(layer, torch.zeros_like(z))
        written = (model.write_of(layer, alone) - nothing).sum(0) + nothing
        terms = model.size_of_write(layer, z)
        added = model.attention_of(layer, z)
        whole, attention = model.attention_output(layer)[row, last], model.attention(layer)[row, last]
        cancelled = (_rms(terms) / _rms(whole)).clamp(min=1)  # a norm behind it, if there is one, keeps this share
        error = relative(written - whole, terms)
        error = torch.maximum(error, relative(added - attention, cancelled * _rms(attention)))
        model.skip_unembedding(model.residual(model.n_layers))
    return error


def _padding(model: Model, pair: Pair) -> Tensor:
    """[]: how far padded prompts' logits are from the same prompts' alone."""
    wide = _more_padding(pair.base)
    capture = capture_run(model, wide, suffix_of(wide, wide.positions["last"] - 1), [0])
    again = suffix(model, capture, 0, [], pair.answer, Chunks())
    alone = [_logit(model, pair, index) for index in range(len(pair.base.tokens))]
    return torch.maximum(
        gap(readout(capture.logits, pair.answer).logit, torch.cat(alone)), gap(again.logit[0], torch.cat(alone))
    )


def _logit(model: Model, pair: Pair, index: int) -> Tensor:
    """[1]: the answer's logit of one prompt of the batch: its tokens alone, without mask, places or padding."""
    tokens = pair.base.tokens[index, pair.base.mask[index].bool()]
    with model.nn.trace(input_ids=tokens[None], use_cache=False):
        logits = model.logits()[:, -1]
    return readout(logits, pair.right[index : index + 1, 0]).logit


def _more_padding(run: PromptBatch) -> PromptBatch:
    """The same prompts with more padding on the left."""
    before = run.tokens.new_zeros(len(run.tokens), PADDING)
    positions = {name: position + PADDING for name, position in run.positions.items()}
    return PromptBatch(
        torch.cat([before, run.tokens], 1), torch.cat([torch.zeros_like(before), run.mask], 1), positions
    )


def _heads_of(model: Model, run: PromptBatch, layer: int, via: Via) -> Tensor:
    """[]: how far heads that share no projection with one changed head move; infinite if its own ones do not."""
    last = run.positions["last"]
    row = torch.arange(len(last), device=model.device)
    partner: Via = PARTNER[via]
    with model.trace(run.tokens, run.position_ids, run.mask):
        other = model.projection(layer, partner)[:, :, -1]
        before = model.z(layer)[row, last]
        model.skip_unembedding(model.residual(model.n_layers))
    with model.trace(run.tokens, run.position_ids, run.mask):
        changed = model.projection(layer, via).clone()
        changed[:, :, -1] = 1 - 2 * changed[:, :, -1]  # of all tokens: the last may hardly attend to itself
        model.write_projection(layer, via, changed)
        after = model.z(layer)[row, last]
        model.skip_unembedding(model.residual(model.n_layers))
    moved = (after - before).abs().amax((0, 2))  # [head]
    own = [model.receiver(head, via) == model.heads_of(via) - 1 for head in range(model.n_heads)]
    group = model.n_heads // model.heads_of(via)
    mine = torch.tensor(own, device=moved.device)
    others = moved[~mine].max() if len(moved) > int(mine.sum()) else moved.new_zeros(())
    dead = not bool(other.any())  # a query without keys, or the other way round, moves nothing and says nothing
    still = int(mine.sum()) != group or (bool((moved[-group:] == 0).any()) and not dead)
    return moved.new_tensor(torch.inf) if still else others


def _all_heads(model: Model, pair: Pair) -> Tensor:
    """[]: how far the answer's logit is from the source run's own when every head at `last` is the source's."""
    every = tuple(Head(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads))
    circuit = Circuit((HeadGroup("all", "last", every),))
    z = reference.head_outputs(model, pair.source)
    row = torch.arange(len(pair.base.tokens), device=model.device)
    donated = {"last": {layer: one[row, pair.source.positions["last"]] for layer, one in enumerate(z)}}
    found = with_donation(model, pair.question, donated, [circuit], "default", Chunks())
    return gap(found.logit[0], plain(model, pair.source, pair.answer).logit)


def _sources(model: Model, pair: Pair) -> float:
    """How far a head patched at every position is from one whose output is read off the whole source run there."""
    head = Head(model.n_layers // 2, 0)
    sets = [Circuit((HeadGroup(name, name, (head,)),)) for name in pair.base.positions]
    found = patched_readouts(model, pair, sets, "default", Chunks())["logit"]
    with model.session():
        z = reference.head_outputs(model, pair.source)[head.layer]
        row = torch.arange(len(z), device=z.device)
        donated = {name: {head.layer: z[row, place]} for name, place in pair.source.positions.items()}
        expected = nnsight.save(with_donation(model, pair.question, donated, sets, "reference", Chunks()).numbers())
    return gap(found, expected["logit"]).item()


def _fill(model: Model, run: PromptBatch) -> float:
    """0 if means numbered by layer and slot come out at their layer and position; infinite if not."""
    count, names = run.tokens.shape[1], tuple(run.positions)
    numbers = torch.arange(model.n_layers * count, dtype=torch.float32).unflatten(0, (-1, count))[..., None, None]
    last = run.position_ids.gather(1, run.positions["last"][:, None])[:, 0]
    for means, chosen, slot in (
        (numbers, None, last.tolist()),
        (numbers[:, : len(names) + 1], names, [names.index("last")] * len(last)),
    ):
        for layer, outputs in enumerate(AblationValues(means, chosen).outputs(model, run)):
            for row, (place, expected) in enumerate(zip(run.positions["last"].tolist(), slot, strict=True)):
                if outputs[row, place].item() != means[layer, expected].item():
                    return float("inf")
    return 0.0


def _adapter(model: Model, run: PromptBatch, layer: int) -> Tensor | None:
    """[]: how far the layer's adapted modules are from base and LoRA together; None if none has plain LoRA."""
    owned = {path: model.part(path, layer)._module for path in model.projected(layer)}
    adapted = {path: owner for path, owner in owned.items() if _is_plain_lora(owner)}
    errors = []
    with model.trace(run.tokens, run.position_ids, run.mask):
        for path, owner in adapted.items():
            part = model.part(path, layer)
            given, base = part.input, part.base_layer.output
            output = part.output
            for name in owner.active_adapters:
                lower, upper = getattr(part.lora_A, name), getattr(part.lora_B, name)
                half = given.dtype in (torch.bfloat16, torch.float16)  # over halves peft 0.21 holds LoRA in float32
                entering = given.to(lower.weight.dtype) if half else given
                base = base + upper(lower(entering)) * owner.scaling[name]
            errors.append(row_gap(output, base.to(output.dtype)))
        model.skip_unembedding(model.residual(model.n_layers))
    return torch.stack(errors).max().to(model.device) if errors else None


def _is_plain_lora(module: torch.nn.Module) -> bool:
    """Whether a module is peft's LoRA over another: no variant, not merged into it, not over a bare parameter."""
    modules = isinstance(getattr(module, "lora_B", None), torch.nn.ModuleDict)  # AdaLoRA's are parameters
    return modules and not (module.lora_variant or module.merged or hasattr(module, "parameter_name"))


def _at_last(model: Model, run: PromptBatch) -> Tensor:
    """[batch, d]: what enters the first layer at `last`: the token, and its place if places are learned."""
    row = torch.arange(len(run.tokens), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        embedded = model.residual(0)
        model.skip_layers(range(model.n_layers), embedded)
        model.skip_unembedding(embedded)
    return embedded[row, run.positions["last"]]


def gap(found: Tensor, expected: Tensor) -> Tensor:
    """[]: the largest difference of single numbers, relative to the larger of 1 and the expected one."""
    return relative(found - expected, expected.abs().clamp(min=1))


def row_gap(found: Tensor, expected: Tensor) -> Tensor:
    """[]: the largest difference of rows [..., d], relative to the largest of 1, the expected value, and its row's.

    Of a row that is its root mean square: sums of large terms that come out small are rounded as the large ones are.
    """
    size = torch.maximum(expected.double().abs(), _rms(expected)).clamp(min=1)
    return relative(found.double() - expected.double(), size)


def _rms(rows: Tensor) -> Tensor:
    """[..., 1]: the root mean square of rows [..., d]."""
    return rows.double().square().mean(-1, keepdim=True).sqrt()


def relative(difference: Tensor, size: Tensor) -> Tensor:
    """[]: the largest difference beside the size of what it is of; 0 where there is none."""
    shares = difference.double().abs() / size.double()
    return shares.masked_fill(difference == 0, 0.0).max()
