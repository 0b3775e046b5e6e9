"""What the record says about a model: accuracy, path patching scores per stage, faithfulness of what they find.

The package's own engine is not used (see forward.py): the record can be made, and doubted, without it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.zoo.plant import layers_of
from tools.embedded_models.forward import CleanRun, after_attention, capture_run, suffix_logits


class PatchingStage(NamedTuple):
    """One stage of path patching: whose senders, at which position, into which input of the stage before."""

    group: str
    at: str
    via: str | None
    keep: int
    receivers: int


class Scores(NamedTuple):
    """Path patching of one stage: p_base [example], p_patched [head, example], heads in row-major order."""

    p_base: Tensor
    p_patched: Tensor

    @property
    def ratios(self) -> Tensor:
        """[head, example]: (p_patched - p_base) / p_base; the patching score is its mean over examples."""
        return (self.p_patched - self.p_base) / self.p_base


def all_heads(model: LlamaForCausalLM) -> list[Head]:
    """Every head, row-major."""
    return [Head(i, j) for i in range(model.config.num_hidden_layers) for j in range(model.config.num_attention_heads)]


def last_logits(model: LlamaForCausalLM, tokens: Tensor, **settings) -> Tensor:
    """[batch, vocab]: logits after the last token."""
    with torch.no_grad():
        return model(input_ids=tokens, logits_to_keep=1, **settings).logits[:, -1].float()


def accuracy(model: LlamaForCausalLM, pair: Pair) -> float:
    """The share of base prompts whose answer is the likeliest of all tokens."""
    right = [
        last_logits(model, tokens).argmax(-1) == answer
        for tokens, answer in zip(pair.base.tokens.split(250), pair.answer.split(250), strict=True)
    ]
    return torch.cat(right).double().mean().item()


@torch.no_grad()
def stage_scores(model: LlamaForCausalLM, pair: Pair, stage: PatchingStage, receivers: Sequence[Head]) -> Scores:
    """The stage's scores for all heads; those that cannot reach a receiver are not run, their p_patched is p_base."""
    heads = all_heads(model)
    p_base = torch.zeros(len(pair.answer))
    p_patched = torch.zeros(len(heads), len(pair.answer))
    end = max((head.layer for head in receivers), default=model.config.num_hidden_layers)
    senders = [head for head in heads if head.layer < end]
    position = pair.base.positions[stage.at]
    for p in position.unique().tolist():
        rows = torch.nonzero(position == p).squeeze(-1)
        base, patched = scores_at(model, rows_of(pair, rows), (stage, p), senders, receivers)
        p_base[rows] = base
        p_patched[:, rows] = base
        p_patched[: len(senders), rows] = patched
    return Scores(p_base, p_patched)


def rows_of(pair: Pair, rows: Tensor) -> Pair:
    """The pair's examples at `rows`."""

    def some(run: PromptBatch) -> PromptBatch:
        return PromptBatch(run.tokens[rows], run.mask[rows], {name: at[rows] for name, at in run.positions.items()})

    return Pair(some(pair.base), some(pair.source), pair.answer[rows])


def scores_at(model, pair: Pair, place: tuple[PatchingStage, int], senders: Sequence[Head], receivers: Sequence[Head]):
    """p_base [example] and p_patched [sender, example] where every example has the stage's position at token p."""
    stage, p = place
    row = torch.arange(len(pair.answer))
    clean, donor = capture_run(model, pair.base.tokens), capture_run(model, pair.source.tokens)
    changed = one_token_run(model, clean, p, donated_outputs(donor, pair.source.positions[stage.at], senders))
    if receivers:
        wanted = {(h.layer, stage.via): [g.index for g in receivers if g.layer == h.layer] for h in receivers}
        start = min(head.layer for head in receivers)

        def receive(layer: int, what: str, now: Tensor) -> Tensor:
            if (layer, what) in wanted:
                part = layers_of(model)[layer]
                projection = getattr(part.self_attn, f"{what[0]}_proj")
                run_1 = projection(part.input_layernorm(changed[layer])).unflatten(-1, now.shape[-2:])
                now = now.clone()
                now[:, :, 0, wanted[layer, what]] = run_1[:, :, wanted[layer, what]]
            return now

        x = clean.entering[start][:, None, p:].expand(-1, len(senders), -1, -1)
        logits = suffix_logits(model, clean, x, (start, p), receive)
    else:
        logits = model.lm_head(model.model.norm(changed[-1]))
    p_base = last_logits(model, pair.base.tokens).softmax(-1)[row, pair.answer]
    return p_base, logits.softmax(-1)[row, :, pair.answer].T


def donated_outputs(donor: CleanRun, at: Tensor, senders: Sequence[Head]) -> list[tuple[Head, Tensor]]:
    """Each sender with its output [batch, d_head] in the donor's run."""
    row = torch.arange(len(at))
    return [(head, donor.heads[head.layer][row, at, head.index]) for head in senders]


def one_token_run(model, clean: CleanRun, p: int, sent: list[tuple[Head, Tensor]]) -> list[Tensor]:
    """Run 1 at token p: what enters each layer and, last, what leaves the model, each [batch, sender, d_model].

    All heads keep their clean outputs, but for the sender's; freezing the later tokens too changes nothing at p.
    """
    x = clean.entering[0][:, p, None].expand(-1, len(sent), -1)
    entering = [x]
    for layer, heads in enumerate(clean.heads):
        z = heads[:, p, None].repeat(1, len(sent), 1, 1)
        for number, (head, value) in enumerate(sent):
            if head.layer == layer:
                z[:, number, head.index] = value
        x = after_attention(model, layer, x, z)
        entering.append(x)
    return entering


def discover_circuit(
    model: LlamaForCausalLM, pair: Pair, stages: Sequence[PatchingStage]
) -> tuple[Circuit, dict[str, Scores]]:
    """The circuit the stages find (a head kept in A and in B stays in B alone), and every stage's scores."""
    heads, found, scores = all_heads(model), [], {}
    receivers: tuple[Head, ...] = ()
    for stage in stages:
        scores[stage.group] = stage_scores(model, pair, stage, receivers)
        means = scores[stage.group].ratios.mean(-1).tolist()
        ranked = sorted((i for i in range(len(heads)) if means[i] < 0), key=lambda i: (means[i], i))
        kept = tuple(heads[i] for i in ranked[: stage.keep])
        found.append(HeadGroup(stage.group, stage.at, kept))
        receivers = kept[: stage.receivers]
    twice = set(found[1].heads) if len(found) > 1 else set()
    first = HeadGroup(found[0].name, found[0].at, tuple(head for head in found[0].heads if head not in twice))
    return Circuit((first, *found[1:])), scores


def circuit_accuracy(model: LlamaForCausalLM, pair: Pair, means: Sequence[Tensor], circuit: Circuit) -> float:
    """Accuracy when only the circuit works: all other heads, and all heads elsewhere, output their mean."""
    row = torch.arange(len(pair.answer))
    with ExitStack() as hooks:
        for number, layer in enumerate(layers_of(model)):
            kept = torch.zeros(*pair.base.tokens.shape, model.config.num_attention_heads, 1, dtype=torch.bool)
            for position in circuit.positions:
                for head in circuit.at(position):
                    if head.layer == number:
                        kept[row, pair.base.positions[position], head.index] = True

            def ablate_heads(_, args, kept: Tensor = kept, mean: Tensor = means[number]) -> tuple[Tensor]:
                return (torch.where(kept, args[0].unflatten(-1, mean.shape[-2:]), mean).flatten(-2),)

            hooks.callback(layer.self_attn.o_proj.register_forward_pre_hook(ablate_heads).remove)
        logits = last_logits(model, pair.base.tokens)
    return (logits.argmax(-1) == pair.answer).double().mean().item()


def random_circuit(model: LlamaForCausalLM, circuit: Circuit, seed: int) -> Circuit:
    """As many heads per position as the circuit has, drawn without replacement."""
    draw, heads = random.Random(seed), all_heads(model)
    return Circuit(tuple(HeadGroup(at, at, tuple(draw.sample(heads, len(circuit.at(at))))) for at in circuit.positions))
