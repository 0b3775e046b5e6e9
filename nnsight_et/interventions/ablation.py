"""Mean ablation (§4.2): what is left of the answer when heads take their mean over other prompts; F of circuits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Run
from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import captured, live_at
from nnsight_et.engine.readout import Readout, plain, stacked
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Means:
    """Mean head outputs: z [layer, slot, head, d_head].

    A slot is an absolute position; or, with names, the named position of that index, and the last slot the others.
    """

    z: Tensor
    names: tuple[str, ...] | None

    def of(self, run: Run, layer: int) -> Tensor:
        """[batch, seq, head, d_head]: the mean each token of the run has in `layer`."""
        return self.z[layer][slots(run, self.names)]


def slots(run: Run, names: tuple[str, ...] | None) -> Tensor:
    """[batch, seq]: the slot of Means that each token belongs to."""
    if names is None:
        return run.position_ids
    named = torch.full_like(run.tokens, len(names))
    row = torch.arange(len(run.tokens), device=run.tokens.device)
    for slot, name in enumerate(names):
        named[row, run.positions[name]] = slot
    return named


def mean_outputs(model: Model, runs: Sequence[Run], names: tuple[str, ...] | None) -> dict[str, Tensor]:
    """{"z": [layer, slot, head, d_head]}: head outputs averaged in float64 over the tokens of plain runs (§4.2)."""
    count = max(run.tokens.shape[1] for run in runs) if names is None else len(names) + 1
    with model.session():
        z = nnsight.save(_mean_outputs(model, runs, names, count))
    return {"z": z}


def _mean_outputs(model: Model, runs: Sequence[Run], names: tuple[str, ...] | None, count: int) -> Tensor:
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
            model.skip_unembedding(model.layer(model.n_layers - 1).output)
    return (total / tokens.clamp(min=1)[:, None, None]).to(model.dtype).cpu()


@dataclass(frozen=True)
class Question:
    """A batch of prompts and the token [batch] that answers each."""

    run: Run
    answer: Tensor


def circuit_readouts(
    model: Model, question: Question, means: Means, circuits: Sequence[Circuit], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, of each circuit alone: tensors [circuit, batch].

    Circuit alone: at the positions of the circuits' groups heads outside the circuit take their mean, elsewhere all.
    """
    with model.session():
        alone = _reference_alone if engine == "reference" else _alone
        outcome = nnsight.save(alone(model, question, means, circuits, chunks).numbers())
    return outcome


def model_readouts(model: Model, question: Question) -> dict[str, Tensor]:
    """Readouts, by name, of the run nothing is done to: tensors [batch]."""
    with model.session():
        outcome = nnsight.save(plain(model, question.run, question.answer).numbers())
    return outcome


def _alone(model: Model, question: Question, means: Means, circuits: Sequence[Circuit], chunks: Chunks) -> Readout:
    run, names = question.run, positions_of(circuits)
    background = [means.of(run, layer) for layer in range(model.n_layers)]
    capture = captured(model, run, live_at(run, names), [0], background=background)
    row, heads = torch.arange(len(run.tokens), device=model.device), torch.arange(model.n_heads, device=model.device)
    edits = []
    for name in names:
        keep = kept(model, circuits, name)
        slot = capture.slot(run.positions[name])
        for layer in range(model.n_layers):
            values = background[layer][row, run.positions[name]][None]
            edits.append(Edit(layer, "z", slot, heads, values, keep[:, layer]))
    return suffix(model, capture, 0, edits, question.answer, len(circuits), chunks)


def _reference_alone(
    model: Model, question: Question, means: Means, circuits: Sequence[Circuit], chunks: Chunks
) -> Readout:
    run, names = question.run, positions_of(circuits)
    row = torch.arange(len(run.tokens), device=model.device)
    readouts = []
    for circuit in circuits:
        replacements = {}
        for layer in range(model.n_layers):
            where = torch.ones(*run.tokens.shape, model.n_heads, dtype=torch.bool, device=model.device)
            for name in names:
                where[row, run.positions[name]] = ~kept(model, [circuit], name)[0, layer]
            replacements[layer] = reference.Replacement(means.of(run, layer), where)
        readouts.append(reference.replaced(model, run, replacements, question.answer))
    return stacked(readouts)


def positions_of(circuits: Sequence[Circuit]) -> tuple[str, ...]:
    """The vital positions: those of any group of any of the circuits."""
    return tuple(dict.fromkeys(name for circuit in circuits for name in circuit.positions))


def kept(model: Model, circuits: Sequence[Circuit], position: str) -> Tensor:
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
