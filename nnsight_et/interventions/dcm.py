"""Desiderata-based component masking (§5.1, App. H): which heads of a group carry one variable, found by gradient.

Idea: learn for each head whether its output should come from the base (m = 1) or from a source in which one variable
has another value (m = 0), so that the answer becomes what that swap should give.

    z <- m · z_base + (1 - m) · z_source;   loss = -mean(logit of the target) + sparsity · sum(1 - m)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Pair
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.metrics import is_right
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, capture_run, head_outputs, suffix_of
from nnsight_et.engine.readout import LogitOf, Readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.activation_patching import layers_of
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model

STEPS = {torch.float64: 1e-3, torch.float32: 0.02, torch.float16: 0.1, torch.bfloat16: 0.25}
"""How far a mask is moved for a finite difference: wide enough that the logits' rounding does not decide."""


@dataclass(frozen=True)
class Training:
    """How a mask is trained: the paper's numbers are the defaults (App. H)."""

    sparsity: float = 0.01  # lambda: what each selected head costs
    learning_rate: float = 0.1
    epochs: int = 2
    validate_every: int = 4  # batches


@dataclass(frozen=True)
class Prepared:
    """One batch, ready for any mask of one group: its capture, and the source's outputs of the group's heads."""

    capture: Capture
    start: int
    answer: Tensor | Answers
    slot: Tensor
    donated: dict[int, Tensor]  # layer -> [batch, head, d_head]


def trained_masks(
    model: Model,
    groups: Sequence[HeadGroup],
    training: Training,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    chunks: Chunks,
) -> list[dict[str, Tensor]]:
    """Per group {"mask": [head], "accuracies": [validation], "masks": [validation, head]}, heads in the group's order.

    "autograd" [] says whether the gradients were autograd's; see mask_gradient. "course" [step, head] is the mask after
    every step, "gradients" [step, head] what the step's mean logit of the target changes by with it.

    Per head m in [0, 1], one at first: z <- m * z_base + (1 - m) * z_source, each at its own position. Minimised:
    -(mean logit of the target) + sparsity * sum(1 - m). The mask returned is the rounded one (0.5 -> 0: selected) with
    the best validation accuracy; on a tie the one with fewer selected heads, then the earlier. Every group is trained
    by itself; they share the plain runs.

    Validated are the masks after steps 4, 8, ... (`validate_every`) of the whole training and after its last step. The
    authors' code validates after batches 1, 5, 9, ... of every epoch, so an epoch's last mask is tried only where that
    falls on it; its first validation, one step of 0.1 from ones, can select no head.
    """
    with model.session():
        trainer, untouched = (
            _Trainer(model, groups, training, train, chunks),
            [initial_state(group) for group in groups],
        )
        states = trainer.resume(untouched, steps_of(training, train))
        outcome = nnsight.save(_select_masks(model, groups, states, validation, chunks))
    return [check_numbers(model, one, (*train, *validation)) for one in outcome]


State = dict[str, Tensor]
"""A training that has gone on for some steps: its "mask" [head], Adam's "average" and "square" of the gradients [head],
the "step" [] it is at, the rounded "masks" [validation, head] so far, and of each step its mask and gradient: "course"
and "gradients" [step, head]."""
COURSE = ("course", "gradients")


def initial_state(group: HeadGroup) -> State:
    """A training before its first step."""
    size = len(group.heads)
    moments = {name: torch.zeros(size, dtype=torch.float64) for name in ("average", "square")}
    mask, nothing_yet = torch.ones(size, dtype=torch.float64), torch.empty(0, size)
    steps = dict.fromkeys(("masks", *COURSE), nothing_yet)
    return {"mask": mask, "step": torch.tensor(0)} | steps | moments


def resume_training(
    model: Model,
    groups: Sequence[HeadGroup],
    training: Training,
    train: Sequence[Pair],
    progress: tuple[Sequence[State], int],
    chunks: Chunks,
) -> list[State]:
    """The trainings, from these states until so many steps have been made: what trained_masks does, in parts."""
    states, until = progress
    with model.session():
        outcome = nnsight.save(_Trainer(model, groups, training, train, chunks).resume(states, until))
    return [check_numbers(model, one, train) for one in outcome]


def select_masks(
    model: Model, groups: Sequence[HeadGroup], states: Sequence[State], validation: Sequence[Pair], chunks: Chunks
) -> list[dict[str, Tensor]]:
    """What trained_masks returns, of trainings that are at their end."""
    with model.session():
        outcome = nnsight.save(_select_masks(model, groups, states, validation, chunks))
    return [check_numbers(model, one, validation) for one in outcome]


def steps_of(training: Training, train: Sequence[Pair]) -> int:
    """How many steps a whole training has."""
    return training.epochs * len(train)


def masked_readout(
    model: Model, group: HeadGroup, batch: Prepared, mask: Tensor, chunks: Chunks, asked: LogitOf | None = None
) -> Readout:
    """[mask, batch]: the readout under each of the masks [mask, head], or [mask, batch, head]; gradients flow to them.

    asked: what is read, if not the answers. Opens traces.
    """
    edits = []
    for layer in sorted({head.layer for head in group.heads}):
        members = [i for i, head in enumerate(group.heads) if head.layer == layer]
        heads = torch.tensor([group.heads[i].index for i in members], device=model.device)
        edits.append(Edit(layer, "z", batch.slot, heads, batch.donated[layer][None][:, :, heads], mask[..., members]))
    return suffix(model, batch.capture, batch.start, edits, batch.answer if asked is None else asked, chunks)


def prepare_batches(model: Model, groups: Sequence[HeadGroup], pair: Pair) -> list[Prepared]:
    """The batch for each group: one base run and one source run serve them all. Opens traces."""
    pair = pair.by_row()
    base, starts = pair.base, [min(head.layer for head in group.heads) for group in groups]
    donated = head_outputs(model, pair.source, layers_of([Circuit(tuple(groups))]))
    first = torch.stack([base.positions[group.at] for group in groups]).min(0).values
    whole = capture_run(model, base, suffix_of(base, first), starts)
    ready = []
    for group, start in zip(groups, starts, strict=True):
        capture = whole.with_live(suffix_of(base, base.positions[group.at]))
        ready.append(
            Prepared(capture, start, pair.answer, capture.live_index(base.positions[group.at]), donated[group.at])
        )
    return ready


@dataclass
class _Trainer:
    """The training batches of some groups, prepared when first asked for and kept while they are few enough."""

    model: Model
    groups: Sequence[HeadGroup]
    training: Training
    pairs: Sequence[Pair]
    chunks: Chunks
    kept: dict[int, list[Prepared]] = field(default_factory=dict)

    def resume(self, states: Sequence[State], until: int) -> list[State]:
        """Every group's training after its first `until` steps; in fp32 at least."""
        return [self._resume_group(index, state, until) for index, state in enumerate(states)]

    def _resume_group(self, index: int, state: State, until: int) -> State:
        model, group, training = self.model, self.groups[index], self.training
        wide = torch.float32 if model.dtype in (torch.float16, torch.bfloat16) else model.dtype
        mask = state["mask"].to(model.device, wide).clone().requires_grad_()
        optimizer = torch.optim.Adam([mask], lr=training.learning_rate)
        made = int(state["step"])
        if made:
            average, square = (state[name].to(model.device, wide).clone() for name in ("average", "square"))
            optimizer.state[mask] = {"step": torch.tensor(float(made)), "exp_avg": average, "exp_avg_sq": square}
        rows = {name: [one.to(model.device, wide) for one in state[name]] for name in ("masks", *COURSE)}
        for step in range(made, until):
            if step and step % training.validate_every == 0:
                rows["masks"].append(mask.detach().clamp(0, 1).round())
            with torch.no_grad():
                mask.clamp_(0, 1)
            batch = self._prepare_batches(step % len(self.pairs))[index]
            slope = mask_gradient(model, group, batch, mask, self.chunks)
            mask.grad = -training.sparsity - slope
            optimizer.step()
            rows["course"].append(mask.detach().clamp(0, 1))
            rows["gradients"].append(slope)
        moments = optimizer.state[mask]
        ended = {"mask": mask, "average": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        ended |= {"step": torch.tensor(until)}
        ended |= {name: torch.stack(some) if some else state[name] for name, some in rows.items()}
        return {name: tensor.detach().cpu() for name, tensor in ended.items()}

    def _prepare_batches(self, index: int) -> list[Prepared]:
        if index in self.kept:
            return self.kept[index]
        ready = prepare_batches(self.model, self.groups, self.pairs[index])
        if (index + 1) * len(self.pairs[0].base.tokens) <= self.chunks.kept:
            self.kept[index] = ready
        return ready


def mask_gradient(model: Model, group: HeadGroup, batch: Prepared, mask: Tensor, chunks: Chunks) -> Tensor:
    """[head]: the derivative of the mean logit of the target by the mask [head]. Opens traces.

    By autograd; where gradients do not pass through the model by central differences, each head's mask moved up and
    down by STEPS of its dtype.
    """
    asked = None if isinstance(batch.answer, Answers) else LogitOf(batch.answer)
    if model.gradients:
        leaf = mask.detach().requires_grad_()
        logit = masked_readout(model, group, batch, leaf[None], chunks, asked).logit.mean()
        if not logit.requires_grad:
            raise ExperimentError(
                "mask training: no gradient comes back through the model; accepted: finite differences"
            )
        (slope,) = torch.autograd.grad(logit, leaf)
        return slope
    step = STEPS[model.dtype]
    moves = step * torch.eye(len(mask), dtype=mask.dtype, device=mask.device)
    moved = torch.cat([mask.detach() + moves, mask.detach() - moves])  # [2 * head, head]
    with torch.no_grad():
        up, down = masked_readout(model, group, batch, moved, chunks, asked).logit.mean(-1).split(len(mask))
    return ((up - down) / (2 * step)).to(mask.dtype)


def _select_masks(
    model: Model,
    groups: Sequence[HeadGroup],
    states: Sequence[State],
    validation: Sequence[Pair],
    chunks: Chunks,
) -> list[dict[str, Tensor]]:
    """Per group its masks' accuracies, and the best of them; masks that round alike are tried once."""
    masks = [torch.cat([state["masks"].to(state["mask"]), state["mask"][None].clamp(0, 1).round()]) for state in states]
    tried = [found.to(model.device).unique(dim=0, return_inverse=True) for found in masks]
    right = [torch.zeros(len(different), dtype=torch.float64, device=model.device) for different, _ in tried]
    for pair in validation:
        for i, (group, batch) in enumerate(zip(groups, prepare_batches(model, groups, pair), strict=True)):
            found = masked_readout(model, group, batch, tried[i][0], chunks)
            right[i] += is_right(found.predicted, pair.right).double().where(found.logit.isfinite(), torch.nan).sum(-1)
    count, outcomes = sum(len(pair.base.tokens) for pair in validation), []
    for state, found, (_, which), correct in zip(states, masks, tried, right, strict=True):
        accuracies = (correct / count)[which].cpu()
        best = _best(found, accuracies)
        outcome = {"mask": found[best].clone(), "masks": found, "accuracies": accuracies}
        outcome |= {name: state[name] for name in COURSE}
        outcomes.append(outcome | {"autograd": torch.tensor(model.gradients)})
    return outcomes


def _best(masks: Tensor, accuracies: Tensor) -> int:
    """The index of the best mask: on a tie of accuracy the one with fewer selected heads, then the earlier."""
    return max(range(len(masks)), key=lambda i: (accuracies[i].item(), masks[i].sum().item(), -i))
