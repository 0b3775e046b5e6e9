"""What must hold of results of path patching: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import PathPatching, Stage
from nnsight_et.measuring.audit import Finding, differences, finding
from nnsight_et.measuring.evidence import Evidence, Heads, circuit_json, name_of, places
from nnsight_et.measuring.recount import (
    LEVEL,
    benjamini_hochberg,
    holm,
    mean_interval,
    p_values,
    stability_bounds,
)
from nnsight_et.measuring.tolerance import ROUNDING
from nnsight_et.methods.path_patching.race_audit import Replay, effect_of, examples_of
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import MATTERS, NOTHING, Statement, same_heads

TESTED = {
    "probability_ratio": "mean log(p_patched / p_base)",
    "logit_difference": "mean(LD_patched - LD_base)",
    "probability_difference": "mean(PD_patched - PD_base)",
}
OF_BASE = {"logit_difference": "base_logit_difference", "probability_difference": "base_probability_difference"}


@dataclass
class _Stages:
    """What the stages must have found so far, from the cells: their kept ones, best first."""

    evidence: Evidence[PathPatching, PathPatchingSummary]
    examples: list[Example] = field(default_factory=list[Example])
    held_out: list[Example] = field(default_factory=list[Example])
    ranked: dict[str, Heads] = field(default_factory=dict[str, Heads])
    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def audit_output(evidence: Evidence[PathPatching, PathPatchingSummary]) -> Iterator[Finding]:
    """Stage by stage: its receivers and senders, its scores, its choice; then the circuit that comes of them."""
    spec, choice, stages = evidence.job.spec, evidence.choice, _Stages(evidence)
    stages.examples = examples_of(evidence, spec.stages[0])
    yield from evidence.selected(stages.examples, "discovery", spec.examples, choice, spec.only_correct)
    if spec.held_out_examples:
        stages.held_out = list(evidence.step(f"{spec.stages[0].group} held out").measurement.step.examples)
        count = spec.held_out_examples
        yield from evidence.selected(stages.held_out, "evaluation", count, choice, spec.only_correct)
    for stage in spec.stages:
        yield from _stage(stages, stage)
    shape = evidence.context.models.shape(choice)
    statistic = TESTED.get(spec.metric)
    test = {"statistic": statistic, "alternative": "below 0", "null": "t corrected for skew", "level": LEVEL}
    expected = {
        "circuit": circuit_json(_circuit(stages)),
        "mlps": [
            {"name": one.group, "at": one.at, "mlps": [name_of(head, True) for head in stages.ranked[one.group]]}
            for one in spec.stages
            if one.senders == "mlps"
        ],
        "stages": stages.records,
        "test": test if statistic else None,
        "examples": len(stages.examples),
        "held_out_examples": len(stages.held_out),
        "query_heads_per_kv_head": shape.n_heads // shape.n_kv_heads,
    }
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), stages.tensors, "scores")


def _stage(stages: _Stages, stage: Stage) -> Iterator[Finding]:
    evidence, spec, mlps = stages.evidence, stages.evidence.job.spec, stage.senders == "mlps"
    shape, group = evidence.context.models.shape(evidence.choice), stage.group
    receivers, tied_receivers, last = Heads(), list[str](), shape.n_layers
    if stage.via:
        into = next(one for one in spec.stages if one.group == stage.into)
        receivers = stages.ranked[stage.into][: into.receivers]
        last = max(layer for layer, _ in receivers)
        tied_receivers = _tied(stages, stages.ranked[stage.into], len(receivers), into)
    own = stage.via == "input" and not mlps and not shape.parallel  # a head reaches the MLP of its own layer
    layers, width = range(last + own), 1 if mlps else shape.n_heads
    senders = [(layer, index) for layer in layers for index in range(width)]
    path = {"at": stage.at, "via": stage.via, "kv_heads": stage.kv_heads, "senders": stage.senders}
    told = path | {"receivers": sorted(receivers), "metric": spec.metric}
    found, there, replay = yield from _measured(stages, stage, senders, told)
    ranks_low = spec.metric != "kl"
    effect, tensors, tests = _numbers(found, spec.metric, len(senders))
    whole = {key: _over_all(values, there, shape.n_layers, width, 0) for key, values in tensors.items()}
    whole |= {key: _over_all(values, there, shape.n_layers, width, nan) for key, values in tests.items()}
    said = evidence.scores[f"{group}.score"]  # what is decided is decided from what is stored
    direction = 1 if ranks_low else -1
    ranked = sorted(there, key=lambda head: (direction * said[head].item(), head))
    stages.ranked[group] = ranked[: stage.keep]
    kept = [there.index(head) for head in ranked[: stage.keep]]
    yield from _stability(evidence, group, direction * effect, (there, kept), whole)
    if replay:
        _add_those_that_left(replay, whole)
    if stages.held_out:
        yield from _held_out(stages, stage, told, whole)
    whole |= {key: found[key] for key in ("base", "base_value") if key in found}
    stages.tensors |= {f"{group}.{key}": tensor for key, tensor in whole.items()}
    record = _record(stage, ranked, whole, evidence, len(senders))
    if replay:
        record["screen"] = replay.record()
    record |= {"receivers": [name_of(head, stage.via == "input") for head in receivers]}
    stages.records.append(record | {"tied": _tied(stages, ranked, stage.keep, stage), "tied_receivers": tied_receivers})


def _measured(
    stages: _Stages, stage: Stage, senders: Heads, told: dict[str, Any]
) -> Generator[Finding, None, tuple[dict[str, Tensor], Heads, Replay | None]]:
    """What was found of the senders that were measured on all examples, these, and the race if there was one."""
    evidence = stages.evidence
    if stage.screen is not None:
        replay = Replay(evidence, stage, senders, stages.examples, _told, told)
        yield from replay.run()
        rows = {key: values[replay.whole] if values.ndim == 2 else values for key, values in replay.found.items()}
        return rows, [senders[number] for number in replay.whole], replay
    one = evidence.step(stage.group)
    same = list(one.measurement.step.examples) == stages.examples
    yield finding("splits", same, f"stage {stage.group}: its examples")
    yield from evidence.calls(one, "path_probabilities", _told, told | {"from": senders})
    return evidence.values(one), senders, None


def _numbers(
    found: dict[str, Tensor], metric: str, senders: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """[sender, example], the effect; what is said of it, and of its p-value: of other senders it is taken to be 1."""
    effect = effect_of(found, metric)
    low, high = mean_interval(effect).unbind(-1)
    tensors = {
        "score": effect.mean(-1), "low": low, "high": high,
        "median": effect.sort(-1).values[:, (effect.shape[1] - 1) // 2],
        "largest": effect.amax(-1), "per_example": effect.to(found["base"].dtype),
        "reach": torch.ones(len(effect), dtype=torch.bool),
    }  # fmt: skip
    sign = effect if metric != "kl" else None
    if metric == "probability_ratio":
        least = torch.finfo(found["patched"].dtype).tiny
        sign = found["patched"].double().clamp(min=least).log() - found["base"].double().log()
        tensors["log_ratio"] = sign.mean(-1)
    p = torch.full((len(effect),), nan).double() if sign is None else p_values(sign)
    every = p if sign is None else torch.cat([p, p.new_ones(max(0, senders - len(p)))])
    return effect, tensors, {"p": p, "p_holm": holm(every)[: len(p)], "p_bh": benjamini_hochberg(every)[: len(p)]}


def _add_those_that_left(replay: Replay, whole: dict[str, Tensor]) -> None:
    """Put in what a screened stage says of its senders: where they left no number but an interval."""
    bounds, effect = replay.bounds(), replay.effect
    whole["prompts"] = torch.zeros(whole["reach"].shape, dtype=torch.long)
    for number, head in enumerate(replay.senders):
        whole["prompts"][head], whole["reach"][head] = replay.counts[number], True
        if replay.counts[number] < len(replay.examples):
            for key in ("score", "median", "largest", "log_ratio", "selection_frequency"):
                if key in whole:
                    whole[key][head] = nan
            whole["low"][head], whole["high"][head] = bounds[number]
            whole["per_example"][head] = effect[number].to(whole["per_example"].dtype)


def _told(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What a call of path_probabilities patches."""
    pair, path, senders = arguments[:3]
    said = {"at": path.at, "via": path.via, "kv_heads": path.kv_heads, "senders": path.senders, "metric": pair.metric}
    return said | {"receivers": sorted(places(path.receivers)), "from": places(senders)}


def _over_all(values: Tensor, senders: Heads, n_layers: int, width: int, other: float) -> Tensor:
    """[layer, head, ...]: values [sender, ...] in their places, `other` elsewhere."""
    whole = values.new_full((n_layers, width, *values.shape[1:]), other)
    for number, (layer, index) in enumerate(senders):
        whole[layer, index] = values[number]
    return whole


def _stability(
    evidence: Evidence[PathPatching, PathPatchingSummary],
    group: str,
    effect: Tensor,
    chosen: tuple[Heads, list[int]],
    whole: dict[str, Tensor],
) -> Iterator[Finding]:
    """How firm the choice is said to be; where resampled scores tie, between what either order gives."""
    senders, kept = chosen
    low, high, least, most = stability_bounds(effect, kept, evidence.job.seed)
    said = evidence.scores[f"{group}.stability"].double()
    whole["stability"] = said.clamp(least, most)
    frequency = evidence.scores[f"{group}.selection_frequency"].double()
    bounds = [_over_all(one, senders, len(frequency), frequency.shape[1], 0) for one in (low, high)]
    whole["selection_frequency"] = frequency.clamp(bounds[0], bounds[1])
    yield finding("recount", said.ndim == 0, f"scores.{group}.stability")


def _held_out(stages: _Stages, stage: Stage, told: dict[str, Any], whole: dict[str, Tensor]) -> Iterator[Finding]:
    evidence, kept = stages.evidence, sorted(stages.ranked[stage.group])
    one = evidence.step(f"{stage.group} held out")
    right = list(one.measurement.step.examples) == stages.held_out
    yield finding("splits", right, f"stage {stage.group}: its held-out examples")
    yield from evidence.calls(one, "path_probabilities", _told, told | {"from": kept})
    effect = effect_of(evidence.values(one), evidence.job.spec.metric)
    low, high = mean_interval(effect).unbind(-1)
    layers, width = whole["reach"].shape
    for key, values in (("score", effect.mean(-1)), ("low", low), ("high", high)):
        whole[f"held_out_{key}"] = _over_all(values, kept, layers, width, nan)


def _tied(stages: _Stages, ranked: Heads, count: int, stage: Stage) -> list[str]:
    """Of what the stage ranked behind `count`, all whose score is the last one's to within rounding."""
    if not 0 < count < len(ranked):
        return []
    said = stages.evidence.scores[f"{stage.group}.score"]
    last = said[ranked[count - 1]].item()
    room = ROUNDING[stages.evidence.choice.dtype] * max(1.0, abs(last))
    return [name_of(head, stage.senders == "mlps") for head in ranked[count:] if abs(said[head].item() - last) <= room]


def _record(
    stage: Stage,
    ranked: Heads,
    whole: dict[str, Tensor],
    evidence: Evidence[PathPatching, PathPatchingSummary],
    senders: int,
) -> dict[str, Any]:
    """The stage's part of the summary, without receivers and ties."""
    metric, mlps = evidence.job.spec.metric, stage.senders == "mlps"
    tested = senders if metric in TESTED else 0
    numbers = ["score", "low", "high", "median", "largest", "p", "p_holm", "p_bh", "selection_frequency", "log_ratio",
               "held_out_score", "held_out_low", "held_out_high"]  # fmt: skip
    kept = [
        {"head": name_of(head, mlps), "beyond_chance": whole["p_holm"][head].item() <= LEVEL if tested else None}
        | {key: whole[key][head].item() for key in numbers if key in whole}
        for head in ranked[: stage.keep]
    ]
    said = {name: getattr(stage, name) for name in ("group", "into", "via", "at", "senders", "kv_heads")}
    base = whole["base"].double()
    said |= {"base_probability": base.mean().item(), "base_probability_1%": base.quantile(0.01).item()}
    if metric in OF_BASE:
        said[OF_BASE[metric]] = whole["base_value"].double().mean().item()
    score = evidence.scores[f"{stage.group}.score"]
    lowest = sorted(ranked, key=lambda head: (score[head].item(), head))
    for name, adjusted in (("beyond_chance", "p_holm"), ("beyond_chance_bh", "p_bh")):
        said[name] = [name_of(head, mlps) for head in lowest if whole[adjusted][head].item() <= LEVEL]
    said |= {"kept": kept, "tested": tested}
    return said | {"stability": whole["stability"].item()}


def _circuit(stages: _Stages) -> list[tuple[str, str, Heads]]:
    """The kept heads; one that a later stage keeps at the same position is the later one's."""
    groups = list[tuple[str, str, Heads]]()
    of_heads = [one for one in stages.evidence.job.spec.stages if one.senders == "heads"]
    for number, one in enumerate(of_heads):
        taken = [head for other in of_heads[number + 1 :] if other.at == one.at for head in stages.ranked[other.group]]
        groups.append((one.group, one.at, [head for head in stages.ranked[one.group] if head not in taken]))
    return groups


def statements(known: Known, _: str, result: MethodResult[PathPatchingSummary]) -> Iterator[Statement]:
    """Every stage finds its planted heads and no other; distractors score nothing."""
    loudest = 0.0
    for group in known.circuit.groups:
        score = result.scores[f"{group.name}.score"]
        below = {Head(*place) for place in to_list((score <= MATTERS).nonzero())}
        yield same_heads(group.name, set(group.heads), below)
        loudest = max([loudest, *(abs(score[head].item()) for head in known.unread)])
    if known.unread:
        numbers = {"largest_score": loudest}
        yield Statement("distractors", f"at most {NOTHING:.0e}", f"{loudest:.1e}", loudest <= NOTHING, numbers)
