"""The definition: two whole forward passes per path, nothing cached, nothing skipped. Written for reading.

`engine: reference` in a manifest runs it; tests and self-checks compare the default engine with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN, UNFINISHED, Answers, Pair, PromptBatch
from nnsight_et.core.circuit import Component, Head, Mlp
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Asked, Readout, ReadoutSpec
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Replacement:
    """z of one layer for every token: values [batch, seq, head, d_head] where `where` [batch, seq, head] is true.

    Or its MLP's output: values [batch, seq, d], where [batch, seq].
    """

    values: Tensor
    where: Tensor

    def of(self, current: Tensor) -> Tensor:
        """What the run computes, with what is replaced."""
        return torch.where(self.where[..., None], self.values, current)


NONE: Mapping[int, Replacement] = {}


def head_outputs(model: Model, run: PromptBatch) -> list[Tensor]:
    """Per layer z [batch, seq, head, d_head] of a plain run."""
    with model.trace(run.tokens, run.position_ids, run.mask):
        z = []
        for layer in range(model.n_layers):
            z.append(model.z(layer))
    return z


def mlp_outputs(model: Model, run: PromptBatch) -> list[Tensor]:
    """Per layer what its MLP adds [batch, seq, d] in a plain run."""
    with model.trace(run.tokens, run.position_ids, run.mask):
        outputs = []
        for layer in range(model.n_layers):
            outputs.append(model.mlp(layer, len(run.tokens)))
    return outputs


def run_with_replacements(
    model: Model,
    run: PromptBatch,
    replacements: dict[int, Replacement],
    spec: Asked,
    mlps: Mapping[int, Replacement] = NONE,
) -> Readout:
    """[batch]: the readout of a run in which head outputs of some layers are replaced; later layers see it.

    Of layers in `mlps` the MLP's output is replaced too.
    """
    row = torch.arange(len(run.tokens), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in sorted({*replacements, *mlps}):
            if layer in replacements:
                model.write_z(layer, replacements[layer].of(model.z(layer)))
            if layer in mlps:
                model.write_mlp(layer, mlps[layer].of(model.mlp(layer, len(row))))
        outcome = reference_readout(logits_read(model, run), spec)
    return outcome


def path_effects(model: Model, pair: Pair, path: Path, senders: Sequence[Component]) -> tuple[Readout, list[Readout]]:
    """The base run's readout [batch], and one per sender when only the path from it to its end donates (§4.1)."""
    base_z, source_z = head_outputs(model, pair.base), head_outputs(model, pair.source)
    source_mlp = mlp_outputs(model, pair.source) if path.senders == "mlps" else []
    logits = last_logits(model, pair.base)
    asked = ReadoutSpec.of(pair, logits)
    clean = reference_readout(logits, asked)
    patched = []
    for sender in senders:
        frozen = frozen_but(pair, path.at, None if isinstance(sender, Mlp) else sender, base_z, source_z)
        mlps = {sender.layer: donating(pair, path.at, source_mlp[sender.layer])} if isinstance(sender, Mlp) else NONE
        if path.via is None:
            patched.append(run_with_replacements(model, pair.base, frozen, asked, mlps))
        else:
            inputs = receiver_inputs(model, pair.base, frozen, path, mlps)
            if path.via == "input":
                run_2 = with_mlp_inputs
            else:
                run_2 = with_inputs if path.kv_heads == "shared" else with_inputs_of_their_own
            patched.append(run_2(model, pair.base, path, inputs, asked))
    return clean, patched


def probe_effects(
    model: Model, pair: Pair, probes: Sequence[tuple[Path, Sequence[Head] | None]]
) -> tuple[Readout, list[Readout]]:
    """The base run's readout [batch], and one per probe: the inputs at the end of its path are what heads make them.

    The heads write at the position what they write in the source run, all others what they write in the base run; None:
    the inputs are those of the source run.
    """
    base_z, source_z = head_outputs(model, pair.base), head_outputs(model, pair.source)
    row = torch.arange(len(pair.base.tokens), device=model.device)
    logits = last_logits(model, pair.base)
    asked = ReadoutSpec.of(pair, logits)
    patched = []
    for path, heads in probes:
        here, there = pair.base.positions[path.at], pair.source.positions[path.at]
        if heads is None:
            as_it_is = {layer: Replacement(z, torch.zeros_like(z[..., 0]).bool()) for layer, z in enumerate(source_z)}
            given = receiver_inputs(model, pair.source, as_it_is, path)
            inputs = {}
            for layer, values in given.items():
                inputs[layer] = values.new_zeros(len(row), pair.base.tokens.shape[1], *values.shape[2:])
                inputs[layer][row, here] = values[row, there]
        else:
            frozen = frozen_but(pair, path.at, None, base_z, source_z)
            for layer, index in heads:
                frozen[layer].values[row, here, index] = source_z[layer][row, there, index]
            inputs = receiver_inputs(model, pair.base, frozen, path)
        run_2 = with_mlp_inputs if path.via == "input" else with_inputs
        patched.append(run_2(model, pair.base, path, inputs, asked))
    return reference_readout(logits, asked), patched


def last_logits(model: Model, run: PromptBatch) -> Tensor:
    """[batch, vocabulary]: the logits at `last` of a plain run; with a continuation [batch, token, vocabulary]."""
    with model.trace(run.tokens, run.position_ids, run.mask):
        logits = logits_read(model, run)
    return logits


def logits_read(model: Model, run: PromptBatch) -> Tensor:
    """Inside a trace: the same of that run."""
    row = torch.arange(len(run.tokens), device=model.device)
    if run.continuation:
        return model.logits()[row[:, None], run.read]
    return model.logits()[row, run.positions["last"]]


def frozen_but(
    pair: Pair, at: str, sender: Head | None, base_z: list[Tensor], source_z: list[Tensor]
) -> dict[int, Replacement]:
    """Every head from the position to `last` as in the base run, except the sender at the position, as in the source.

    None: no head donates. What is behind the prompt recomputes.
    """
    position = pair.base.positions[at]
    row = torch.arange(len(position), device=position.device)
    columns = torch.arange(pair.base.tokens.shape[1], device=position.device)
    replacements = {}
    for layer, z in enumerate(base_z):
        values = z.clone()
        if sender and layer == sender.layer:
            donated = source_z[layer][row, pair.source.positions[at], sender.index]
            values[row, position, sender.index] = donated
        frozen = (columns >= position[:, None]) & ~pair.base.behind
        where = frozen[..., None].expand(values.shape[:-1])
        replacements[layer] = Replacement(values, where)
    return replacements


def donating(pair: Pair, at: str, source_mlp: Tensor) -> Replacement:
    """An MLP that adds at the position what it adds in the source run, [batch, seq, d], at the source's own."""
    row = torch.arange(len(source_mlp), device=source_mlp.device)
    columns = torch.arange(pair.base.tokens.shape[1], device=source_mlp.device)
    donated = source_mlp[row, pair.source.positions[at]]  # [batch, d]
    where = columns == pair.base.positions[at][:, None]
    return Replacement(donated[:, None].expand(-1, len(columns), -1), where)


def receiver_inputs(
    model: Model, run: PromptBatch, frozen: dict[int, Replacement], path: Path, mlps: Mapping[int, Replacement] = NONE
) -> dict[int, Tensor]:
    """Receiver layer -> its queries, keys or values [batch, seq, head, d_head] in the frozen run (run 1).

    Or, via input, what enters its MLP [batch, seq, width].
    """
    layers = {receiver.layer for receiver in path.receivers}
    inputs = {}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(model.n_layers):
            if layer in layers and path.via and path.via != "input":
                inputs[layer] = model.projection(layer, path.via)
            model.write_z(layer, frozen[layer].of(model.z(layer)))
            if layer in layers and path.via == "input":
                inputs[layer] = model.mlp_input(layer, len(run.tokens))
            if layer in mlps:
                model.write_mlp(layer, mlps[layer].of(model.mlp(layer, len(run.tokens))))
    return inputs


def with_mlp_inputs(model: Model, run: PromptBatch, path: Path, inputs: dict[int, Tensor], spec: Asked) -> Readout:
    """[batch]: run 2 of MLPs: the base run with what enters all of them at the position replaced at once."""
    position = run.positions[path.at]
    row = torch.arange(len(run.tokens), device=model.device)
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in sorted(inputs):
            current = model.mlp_input(layer, len(row)).clone()
            current[row, position] = inputs[layer][row, position]
            model.write_mlp_input(layer, current)
        outcome = reference_readout(logits_read(model, run), spec)
    return outcome


def with_inputs(model: Model, run: PromptBatch, path: Path, inputs: dict[int, Tensor], spec: Asked) -> Readout:
    """[batch]: the base run with all receivers' inputs at the position replaced at once, nothing frozen (run 2)."""
    position = run.positions[path.at]
    row = torch.arange(len(run.tokens), device=model.device)
    assert path.via not in (None, "input")
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in sorted(inputs):
            current = model.projection(layer, path.via).clone()
            for receiver in path.receivers:
                if receiver.layer == layer:
                    index = model.receiver(receiver.index, path.via)
                    current[row, position, index] = inputs[layer][row, position, index]
            model.write_projection(layer, path.via, current)
        outcome = reference_readout(logits_read(model, run), spec)
    return outcome


def with_inputs_of_their_own(
    model: Model, run: PromptBatch, path: Path, inputs: dict[int, Tensor], spec: Asked
) -> Readout:
    """[batch]: run 2 if no query head but the receivers sees the replaced keys or values.

    Every prompt runs twice, side by side: without the replaced inputs, and with them. In each receiver layer the
    receivers' outputs are those with them and all others' those without, in both copies; so the copies stay the same.
    """
    position, batch = run.positions[path.at], len(run.tokens)
    row = torch.arange(batch, device=model.device)
    assert path.via not in (None, "input")
    with model.trace(run.tokens.repeat(2, 1), run.position_ids.repeat(2, 1), run.mask.repeat(2, 1)):
        for layer in sorted(inputs):
            current = model.projection(layer, path.via).clone()
            mine = [receiver.index for receiver in path.receivers if receiver.layer == layer]
            for index in [model.receiver(head, path.via) for head in mine]:
                current[batch + row, position, index] = inputs[layer][row, position, index]
            model.write_projection(layer, path.via, current)
            z = model.z(layer)
            outputs = z[:batch].clone()
            outputs[:, :, mine] = z[batch:, :, mine]
            model.write_z(layer, outputs.repeat(2, 1, 1, 1))
        outcome = reference_readout(logits_read(model, run), spec)
    return outcome


def run_with_blocked_attention(
    model: Model, run: PromptBatch, first: int, blind: Tensor, to: Tensor, answer: Tensor | Answers
) -> Readout:
    """[batch]: the run in which no head of layers >= first at `blind` [batch] attends to `to` [batch] (App. A)."""
    row = torch.arange(len(run.tokens), device=model.device)
    order = torch.arange(run.tokens.shape[1], device=model.device)
    sees = ((order <= order[:, None]) & run.mask.bool()[:, None]) | (order == order[:, None])  # [batch, seq, seq]
    fewer = sees.clone()
    fewer[row, blind, to] = False
    lowest = torch.finfo(model.dtype).min
    masks = [torch.zeros(seen.shape, dtype=model.dtype, device=model.device) for seen in (sees, fewer)]
    masks = [mask.masked_fill(~seen, lowest)[:, None] for mask, seen in zip(masks, (sees, fewer), strict=True)]
    with model.trace(run.tokens, run.position_ids, masks[0]):
        model.narrow_windows(masks[0], run.position_ids, run.position_ids)
        for layer in range(first, model.n_layers):
            model.write_attention_mask(layer, masks[1], run.position_ids)
        outcome = reference_readout(logits_read(model, run), answer)
    return outcome


def reference_readout(logits: Tensor, spec: Asked) -> Readout:
    """The readout of logits [batch, vocabulary], by code of its own: p = exp(logit - log sum exp), in float64."""
    answer = spec.answer if isinstance(spec, ReadoutSpec) else spec
    wide = logits.double()
    if isinstance(answer, Answers):
        return readout_of_several(wide, answer, spec, logits.dtype)
    largest = wide.max(-1)
    logit = wide[torch.arange(len(wide), device=wide.device), answer]
    normaliser = largest.values + (wide - largest.values[:, None]).exp().sum(-1).log()
    kept = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    value = value_of(wide, spec).to(kept) if isinstance(spec, ReadoutSpec) else None
    return Readout((logit - normaliser).exp().to(kept), logit.to(kept), largest.indices, value)


def readout_of_several(wide: Tensor, answers: Answers, spec: Asked, dtype: torch.dtype) -> Readout:
    """The same of answers of several tokens and logits [row, token, vocabulary], prompt by prompt and text by text."""
    log_q = wide - wide.logsumexp(-1, keepdim=True)
    texts = [[token for token in row if token != NO_TOKEN] for row in answers.tokens.tolist()]
    log_p = []
    for row, text in enumerate(texts):
        log_p.append(torch.stack([log_q[row, i, token] for i, token in enumerate(text)]).sum())
    said = [wide[row, : len(text)].argmax(-1).tolist() for row, text in enumerate(texts)]
    probability, logit, predicted, values = [], [], [], []
    for number, (row, *others) in enumerate(answers.right.tolist()):
        right = [row, *(other for other in others if other != NO_TOKEN)]
        probability.append(log_p[row].exp())
        logit.append(torch.stack([wide[row, i, token] for i, token in enumerate(texts[row])]).sum())
        begun = said[row][0] in [texts[one][0] for one in right]
        predicted.append(UNFINISHED if begun and all(said[one] != texts[one] for one in right) else said[row][0])
        if isinstance(spec, ReadoutSpec) and spec.metric == "kl":
            clean = spec.base[row, : len(texts[row])].double().log_softmax(-1)
            terms = clean.exp() * (clean - log_q[row, : len(texts[row])])
            values.append(terms.masked_fill(clean == -torch.inf, 0.0).sum())
        elif isinstance(spec, ReadoutSpec):
            assert answers.foils is not None
            wrong = torch.stack([log_p[one] for one in answers.foils[number].tolist() if one != NO_TOKEN])
            if spec.metric == "logit_difference":
                values.append(log_p[row] - wrong.mean())
            else:
                values.append(torch.stack([log_p[one] for one in right]).exp().sum() - wrong.exp().sum())
    kept = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    value = torch.stack(values).to(kept) if values else None
    first = torch.tensor(predicted, device=wide.device)
    return Readout(torch.stack(probability).to(kept), torch.stack(logit).to(kept), first, value)


def value_of(wide: Tensor, spec: ReadoutSpec) -> Tensor:
    """[batch]: the metric's value of logits [batch, vocabulary] in float64, prompt by prompt, from its definition."""
    assert isinstance(spec.answer, Tensor)
    values = []
    if spec.function is not None:  # each prompt by itself: whatever mixes those of a batch gives another number
        for row, logits in enumerate(wide):
            values.append(spec.function(logits[None], of_one_prompt(spec, row))[0].double())
        return torch.stack(values)
    for row, logits in enumerate(wide):
        log_q = logits - logits.logsumexp(-1)
        right, foils = (
            [] if tokens is None else [token for token in tokens[row].tolist() if token != NO_TOKEN]
            for tokens in (spec.right, spec.foils)
        )
        if spec.metric == "kl":
            clean = spec.base[row].double()
            log_p = clean - clean.logsumexp(-1)
            terms = log_p.exp() * (log_p - log_q)
            values.append(terms.masked_fill(log_p == -torch.inf, 0.0).sum())
        elif spec.metric == "logit_difference":
            values.append(logits[spec.answer[row]] - torch.stack([logits[token] for token in foils]).mean())
        else:
            values.append(sum(log_q[token].exp() for token in right) - sum(log_q[token].exp() for token in foils))
    return torch.stack(values)


def of_one_prompt(spec: ReadoutSpec, row: int) -> ReadoutSpec:
    """What is read of one prompt of the batch, as a batch of one."""
    assert isinstance(spec.answer, Tensor)
    one = slice(row, row + 1)
    foils = None if spec.foils is None else spec.foils[one]
    base = spec.base[one].double()
    return ReadoutSpec(spec.answer[one], spec.metric, spec.right[one], foils, base, spec.function)
