"""Path-patching jobs: stage by stage from the logits back, one cell per batch of examples."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.batch import Example
from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.errors import ExperimentError, TaskError
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.jobs.cells import Batch, data_digest, measured, suffixes
from nnsight_et.jobs.correct import chosen_examples
from nnsight_et.jobs.work import Outcome, Progress, Work
from nnsight_et.manifest import PathPatching, Stage
from nnsight_et.metrics import patching_ratio, patching_score
from nnsight_et.models.named import Shape
from nnsight_et.plan import Job
from nnsight_et.statistics import bootstrap_interval

SPLIT = "discovery"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made, or a stage keeps more heads than the model has."""
    spec, choice = _spec(job), job.models[0]
    shape = work.shape(choice)
    heads = shape.n_layers * shape.n_heads
    for index, stage in enumerate(spec.stages):
        if stage.keep > heads:
            raise _too_many(job, index, stage, f"{choice.name} has {heads} heads", heads)
    work.examples(job, choice, SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Run the stages in order; each one's receivers are the best heads of the stage it patches into."""
    spec, choice = _spec(job), job.models[0]
    shape = work.shape(choice)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    ranked: dict[str, list[Head]] = {}
    scores: dict[str, Tensor] = {}
    stages: list[dict[str, Any]] = []
    for index, stage in enumerate(spec.stages):
        receivers = tuple(ranked[stage.into][: _receivers(spec, stage)]) if stage.via else ()
        path = Path(stage.at, stage.via, receivers)
        senders = path.reaching(shape.n_layers, shape.n_heads)
        if stage.keep > len(senders):
            raise _too_many(job, index, stage, f"{len(senders)} can reach {stage.into}", len(senders))
        probabilities = yield from _probabilities(work, job, path, stage.group, examples)
        _check_finite(job, index, probabilities["base"])
        found = stage_scores(probabilities, senders, shape, job.seed)
        scores |= {f"{stage.group}.{name}": tensor for name, tensor in found.items()}
        ranked[stage.group] = ranking(found["score"], senders)[: stage.keep]
        stages.append(_described(stage, receivers, ranked[stage.group], found))
    circuit = assembled(spec.stages, ranked)
    return Outcome(scores, {"circuit": circuit.to_dict(), "stages": stages}, data_digest(examples))


def _probabilities(
    work: Work, job: Job, path: Path, name: str, examples: list[Example]
) -> Generator[Progress, None, dict[str, Tensor]]:
    """{"base": [example], "patched": [sender, example]} over all examples, in their order."""
    choice, shape = job.models[0], work.shape(job.models[0])
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))
    senders = path.reaching(shape.n_layers, shape.n_heads)
    step = suffixes(job, choice, name, examples, [path.at], chunks.examples)

    def measure(batch: Batch) -> dict[str, Tensor]:
        model = work.model(job, choice)
        return path_probabilities(model, work.pair(model, choice, examples, batch), path, senders, job.engine, chunks)

    what = {"path": [path.at, path.via, sorted(map(str, path.receivers))]}
    return (yield from measured(work, step, what, measure))


def stage_scores(probabilities: dict[str, Tensor], senders: list[Head], shape: Shape, seed: int) -> dict[str, Tensor]:
    """A stage's tensors by name, [layer, head, ...]; heads that cannot reach the end of the path score exactly 0.

    score, its bootstrap interval low and high, the median and largest ratio; per_example [layer, head, example]; base
    [example], the answer's probability in the base run; reach, which heads were run.
    """
    base = probabilities["base"].double()
    patched = probabilities["patched"].double()
    ratio = patching_ratio(patched, base)
    low, high = bootstrap_interval(ratio, seed)
    per_head = {
        "score": patching_score(patched, base),
        "low": low,
        "high": high,
        "median": ratio.median(-1).values,
        "largest": ratio.max(-1).values,
        "per_example": ratio.to(probabilities["patched"].dtype),
    }
    rows = torch.tensor([sender.layer * shape.n_heads + sender.index for sender in senders])
    found = {"base": probabilities["base"]}
    for name, values in per_head.items():
        whole = values.new_zeros(shape.n_layers * shape.n_heads, *values.shape[1:])
        whole[rows] = values
        found[name] = whole.unflatten(0, (shape.n_layers, shape.n_heads))
    reach = torch.zeros(shape.n_layers * shape.n_heads, dtype=torch.bool)
    reach[rows] = True
    return found | {"reach": reach.unflatten(0, (shape.n_layers, shape.n_heads))}


def ranking(score: Tensor, senders: list[Head]) -> list[Head]:
    """The senders by score [layer, head], the most negative first; ties in row-major order."""
    return sorted(senders, key=lambda head: (score[head].item(), head))


def assembled(stages: tuple[Stage, ...], ranked: dict[str, list[Head]]) -> Circuit:
    """The circuit of the kept heads; a head that a later stage keeps at the same position leaves the earlier group."""
    groups = []
    for index, stage in enumerate(stages):
        later = {head for other in stages[index + 1 :] if other.at == stage.at for head in ranked[other.group]}
        heads = tuple(head for head in ranked[stage.group] if head not in later)
        groups.append(HeadGroup(stage.group, stage.at, heads))
    return Circuit(tuple(groups))


def _described(stage: Stage, receivers: tuple[Head, ...], kept: list[Head], found: dict[str, Tensor]) -> dict[str, Any]:
    numbers = ("score", "low", "high", "median", "largest")
    heads = [{"head": str(head)} | {name: found[name][head].item() for name in numbers} for head in kept]
    return {
        "group": stage.group,
        "into": stage.into,
        "via": stage.via,
        "at": stage.at,
        "receivers": [str(head) for head in receivers],
        "kept": heads,
        "base_probability": found["base"].double().mean().item(),
        "base_probability_1%": found["base"].double().quantile(0.01).item(),
    }


def _receivers(spec: PathPatching, stage: Stage) -> int | None:
    return next(earlier.receivers for earlier in spec.stages if earlier.group == stage.into)


def _spec(job: Job) -> PathPatching:
    assert isinstance(job.spec, PathPatching)
    return job.spec


def _check_finite(job: Job, index: int, base: Tensor) -> None:
    """Raise ExperimentError where the score, a ratio to p_base, does not exist."""
    without = int((~(base > 0)).sum())
    if without:
        found = f"the answer's probability in the base run is 0 or no number in {without} of {len(base)} examples"
        accept = "prompts the model gives some chance, such as only_correct: true, or dtype: float64"
        raise ExperimentError(f"experiments.{job.name}.stages[{index}]: {found}; accepted: {accept}")


def _too_many(job: Job, index: int, stage: Stage, found: str, most: int) -> TaskError:
    where = f"experiments.{job.name}.stages[{index}].keep"
    accept = f"1 to {most}" if most else "fewer stages, or other receivers: those kept are in the first layer"
    return TaskError(f"{where}: {stage.keep} heads; {found}; accepted: {accept}")
