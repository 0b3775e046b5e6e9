"""Mean ablation (§4.2, App. B, C): how well a circuit does alone, and how well a model does without some heads.

Idea: a head that outputs its mean over other prompts still writes what it always writes, but nothing about this one.

    F(C) = accuracy when every head outside C outputs its mean;   F(M without K) = accuracy when the heads K do
    faithfulness = F(C) / F(M)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nnsight
import torch
from torch import Tensor
from torch.nn.functional import pad

from nnsight_et.core.batch import Answers, PromptBatch, Question
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, capture_run, live_at, suffix_of
from nnsight_et.engine.readout import Readout, plain, stacked_readouts
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class AblationValues:
    """What an ablated head outputs instead: zero, its mean over other prompts, or its output in another prompt.

    means [layer, slot, head, d_head] with a slot per absolute position; or, with names, one per named position and a
    last one for all other tokens. Instead of the means, the `runs` they are of: they are taken when first asked for.
    `resampled` has a prompt of the same length for each of the batch.
    """

    means: Tensor | None = None
    names: tuple[str, ...] | None = None
    resampled: PromptBatch | None = None
    runs: tuple[PromptBatch, ...] = ()
    _taken: list[Tensor] = field(default_factory=list, compare=False)

    def outputs(self, model: Model, run: PromptBatch) -> list[Tensor]:
        """Per layer [batch, seq, head, d_head]: what each token of the run has if the head is ablated there.

        What is there behind the prompts says nothing: no head is ablated there.
        """
        if self.resampled is not None:
            found = reference.head_outputs(model, self.resampled.to(model.device))
            return [pad(z, (0, 0, 0, 0, 0, run.continuation)) for z in found] if run.continuation else found
        means = self._taken_means(model) if self.runs else self.means
        if means is None:
            zero = torch.zeros(*run.tokens.shape, model.n_heads, model.d_head, dtype=model.dtype, device=model.device)
            return [zero] * model.n_layers
        slot = slots(run, self.names)
        if run.continuation:
            slot = slot.masked_fill(run.behind, 0)
        return [layer[slot] for layer in means.to(model.device)]

    def by_row(self, answer: Tensor | Answers) -> AblationValues:
        """The same for a run with a row for each text of several tokens."""
        if self.resampled is None or not isinstance(answer, Answers):
            return self
        return replace(self, resampled=self.resampled.rows(answer.example.to(self.resampled.tokens.device)))

    def _taken_means(self, model: Model) -> Tensor:
        if not self._taken:
            runs = [run.to(model.device) for run in self.runs]
            self._taken.append(_mean_outputs(model, runs, self.names))
        return self._taken[0]


def slots(run: PromptBatch, names: tuple[str, ...] | None) -> Tensor:
    """[batch, seq]: the slot of a mean that each token belongs to."""
    if names is None:
        return run.position_ids
    named = torch.full_like(run.tokens, len(names))
    row = torch.arange(len(run.tokens), device=run.tokens.device)
    for slot, name in enumerate(names):
        named[row, run.positions[name]] = slot
    return named


def mean_outputs(model: Model, runs: Sequence[PromptBatch], names: tuple[str, ...] | None) -> dict[str, Tensor]:
    """{"z": [layer, slot, head, d_head]}: head outputs averaged in float64 over the tokens of plain runs (§4.2)."""
    with model.session():
        z = nnsight.save(_mean_outputs(model, runs, names))
    return check_numbers(model, {"z": z}, runs)


def _mean_outputs(model: Model, runs: Sequence[PromptBatch], names: tuple[str, ...] | None) -> Tensor:
    count = max(run.tokens.shape[1] for run in runs) if names is None else len(names) + 1
    total = torch.zeros(model.n_layers, count, model.n_heads, model.d_head, dtype=torch.float64, device=model.device)
    tokens = torch.zeros(count, dtype=torch.float64, device=model.device)
    for run in runs:
        real = run.mask.bool()
        slot = slots(run, names)[real]
        tokens.index_add_(0, slot, torch.ones_like(slot, dtype=torch.float64))
        with model.trace(run.tokens, run.position_ids, run.mask):
            for layer in range(model.n_layers):
                z = model.z(layer)
                total[layer].index_add_(0, slot, z[real].double())
            model.stop_before_mlp(model.n_layers - 1)
    return (total / tokens.clamp(min=1)[:, None, None]).to(model.dtype).cpu()


def circuit_readouts(
    model: Model, question: Question, fill: AblationValues, circuits: Sequence[Circuit], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, of each circuit alone: tensors [circuit, batch]. Their accuracy is F(C) (§4.2).

    Alone: at the positions of the circuits' groups heads outside the circuit are ablated, elsewhere all heads.
    """
    with model.session():
        alone = _reference_circuit_readout if engine == "reference" else _circuit_readout
        found = alone(model, question.by_row(), fill.by_row(question.answer), circuits, chunks)
        outcome = nnsight.save(found.numbers())
    return check_numbers(model, outcome, _all_runs(question, fill))


def remainder_readouts(
    model: Model, question: Question, fill: AblationValues, knocked: Sequence[Circuit], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, of the model without each of the sets of heads: tensors [set, batch]: F(M without K) (App. C).

    Only these heads are ablated, at their positions; nothing else is done to the run.
    """
    with model.session():
        remainder = _reference_remainder if engine == "reference" else _remainder
        found = remainder(model, question.by_row(), fill.by_row(question.answer), knocked, chunks)
        outcome = nnsight.save(found.numbers())
    return check_numbers(model, outcome, _all_runs(question, fill))


def model_readouts(model: Model, question: Question, engine: str) -> dict[str, Tensor]:
    """Readouts, by name, of the run nothing is done to: tensors [batch]."""
    with model.session():
        run, answer = question.by_row().run, question.answer
        found = (
            reference.run_with_replacements(model, run, {}, answer)
            if engine == "reference"
            else plain(model, run, answer)
        )
        outcome = nnsight.save(found.numbers())
    return check_numbers(model, outcome, [question.run])


def _all_runs(question: Question, fill: AblationValues) -> list[PromptBatch]:
    return [question.run, *fill.runs, *([] if fill.resampled is None else [fill.resampled])]


def _circuit_readout(
    model: Model, question: Question, fill: AblationValues, circuits: Sequence[Circuit], chunks: Chunks
) -> Readout:
    run, names = question.run, positions_of(circuits)
    background = fill.outputs(model, run)
    capture = capture_run(model, run, live_at(run, names), [0], background=background)
    keep = {name: members(model, circuits, name) for name in names}
    edits = _ablations(model, run, capture, background, keep)
    return suffix(model, capture, 0, edits, question.answer, chunks)


def _remainder(
    model: Model, question: Question, fill: AblationValues, knocked: Sequence[Circuit], chunks: Chunks
) -> Readout:
    run, names = question.run, positions_of(knocked)
    keep = {name: ~members(model, knocked, name) for name in names}
    first = torch.stack([run.positions[name] for name in names]).min(0).values
    capture = capture_run(model, run, suffix_of(run, first), [0])
    edits = _ablations(model, run, capture, fill.outputs(model, run), keep)
    return suffix(model, capture, 0, edits, question.answer, chunks)


def _ablations(
    model: Model, run: PromptBatch, capture: Capture, background: Sequence[Tensor], keep: dict[str, Tensor]
) -> list[Edit]:
    """Edits that give heads the background's outputs at each named position, but for those it keeps there."""
    row, heads = torch.arange(len(run.tokens), device=model.device), torch.arange(model.n_heads, device=model.device)
    return [
        Edit(
            layer,
            "z",
            capture.live_index(position),
            heads,
            background[layer][row, position][None],
            keep[name][:, layer],
        )
        for name, position in ((name, run.positions[name]) for name in keep)
        for layer in range(model.n_layers)
    ]


def _reference_circuit_readout(
    model: Model, question: Question, fill: AblationValues, circuits: Sequence[Circuit], chunks: Chunks
) -> Readout:
    names = positions_of(circuits)
    everywhere = [
        [(name, ~members(model, [circuit], name)[0]) for name in names] for circuit in circuits
    ]  # fmt: skip
    return _reference_ablation(model, question, fill, everywhere, elsewhere=True)


def _reference_remainder(
    model: Model, question: Question, fill: AblationValues, knocked: Sequence[Circuit], chunks: Chunks
) -> Readout:
    there = [[(name, members(model, [heads], name)[0]) for name in heads.positions] for heads in knocked]
    return _reference_ablation(model, question, fill, there, elsewhere=False)


def _reference_ablation(
    model: Model, question: Question, fill: AblationValues, sets: list[list[tuple[str, Tensor]]], elsewhere: bool
) -> Readout:
    """[set, batch]: whole runs with the heads [layer, head] of each set ablated at its positions, and all elsewhere."""
    run = question.run
    background = fill.outputs(model, run)
    row = torch.arange(len(run.tokens), device=model.device)
    readouts = []
    for heads in sets:
        replacements = {}
        for layer in range(model.n_layers):
            where = torch.full((*run.tokens.shape, model.n_heads), elsewhere, device=model.device)
            for name, ablated in heads:
                where[row, run.positions[name]] = ablated[layer]
            if run.continuation:
                where = where & ~run.behind[..., None]
            replacements[layer] = reference.Replacement(background[layer], where)
        readouts.append(reference.run_with_replacements(model, run, replacements, question.answer))
    return stacked_readouts(readouts)


def positions_of(circuits: Sequence[Circuit]) -> tuple[str, ...]:
    """The vital positions: those of any group of any of the circuits."""
    return tuple(dict.fromkeys(name for circuit in circuits for name in circuit.positions))


def members(model: Model, circuits: Sequence[Circuit], position: str) -> Tensor:
    """[circuit, layer, head]: whether each circuit has the head at `position`."""
    mask = torch.zeros(len(circuits), model.n_layers, model.n_heads, dtype=torch.bool)
    for i, circuit in enumerate(circuits):
        for head in circuit.at(position):
            mask[i, head.layer, head.index] = True
    return mask.to(model.device)


def random_circuits(circuit: Circuit, n_layers: int, n_heads: int, count: int, seed: int) -> list[Circuit]:
    """Circuits of the same size per position as `circuit`, their heads drawn without replacement (§4.3)."""
    draw = random.Random(f"{seed}/random circuits")
    every = [Head(layer, index) for layer in range(n_layers) for index in range(n_heads)]
    sizes = {at: len(circuit.at(at)) for at in circuit.positions}
    return [
        Circuit(tuple(HeadGroup(at, at, tuple(sorted(draw.sample(every, size)))) for at, size in sizes.items()))
        for _ in range(count)
    ]
