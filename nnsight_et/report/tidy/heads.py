"""The values of single heads: scores, what a head adds to a circuit, masks, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, isnan
from typing import Any

from torch import Tensor

from nnsight_et.core.circuit import Circuit, Head, Mlp, Part
from nnsight_et.core.named_metrics import PAPERS
from nnsight_et.display.measurement import Measurement, of_experiment
from nnsight_et.results.headers import metric_of
from nnsight_et.results.store import Result, ResultHeader

BESIDE_IT = ("median", "largest", "log_ratio", "selection_frequency")  # beside the patching score


def path_patching(result: Result) -> Iterator[Measurement]:
    """Per stage and head, or MLP: the patching score with interval and p-value, and what else there is of its effect.

    What is of another metric than the paper's has it in its name: patching_score_kl.
    """
    suffix = of_metric(result.header)
    for stage in result.header.summary["stages"]:
        tensors = _of_group(result, stage["group"])
        condition = f"into {stage['into']}" + (f" via {stage['via']}" if stage["via"] else "")
        place = replace(of_experiment(result.header), group=stage["group"], at=stage["at"], condition=condition)
        kept = {one["head"] for one in stage["kept"]}
        all_parts = _all_mlps if stage.get("senders") == "mlps" else _all_heads
        for head in all_parts(tensors["score"]):
            reached = bool(tensors["reach"][head])
            one = replace(place.at_head(head), kept=str(head) in kept, reached=reached)
            yield from _of_score(one, {name: _at(values, head) for name, values in tensors.items()}, suffix)


def _of_score(head: Measurement, values: dict[str, float | None], suffix: str) -> Iterator[Measurement]:
    score = head.of(f"patching_score{suffix}", values["score"], (values["low"], values["high"]), values["p"])
    yield replace(score, p_adjusted=values["p_holm"])
    for name in BESIDE_IT:
        if name in values:
            yield head.of(name if name == "selection_frequency" else f"{name}{suffix}", values[name])
    if (again := values.get("held_out_score")) is not None:
        name, bounds = f"held_out_patching_score{suffix}", (values["held_out_low"], values["held_out_high"])
        yield head.of(name, again, bounds)


def of_metric(header: ResultHeader) -> str:
    """What the names of values end in: nothing for the paper's metric, for others an _ and its name."""
    metric = metric_of(header)
    return "" if metric == PAPERS else f"_{metric}"


def minimality(result: Result) -> Iterator[Measurement]:
    """Per head of the candidate circuit: accuracy with and without it, and what it adds."""
    positions = {group["name"]: group["at"] for group in result.header.summary["candidate"]["groups"]}
    for row in result.header.summary["heads"]:
        place = replace(of_experiment(result.header), group=row["group"], at=positions[row["group"]], kept=row["kept"])
        for name in ("contribution", "before", "after"):
            value = inf if row[name] == "infinite" else row[name]
            yield place.at_head(Head.parse(row["head"])).of(name, value, row.get(f"{name}_interval"))


def dcm(result: Result) -> Iterator[Measurement]:
    """Per group, desideratum and head: its mask; 1 keeps the base run's output, 0 takes the source's."""
    circuit = Circuit.from_dict(result.header.summary["circuit"])
    for row in result.header.summary["rows"]:
        group = circuit.group(row["group"])
        masks = result.scores[f"{group.name}.{row['desideratum']}.mask"]
        place = replace(of_experiment(result.header), group=group.name, at=group.at, desideratum=row["desideratum"])
        for head, mask in zip(group.heads, masks.tolist(), strict=True):
            yield replace(place.at_head(head), kept=str(head) in row["selected"]).of("mask", mask)


def attribution(result: Result) -> Iterator[Measurement]:
    """Per position and head: the exact effect of patching its output, and the gradient's estimate of it."""
    for row in result.header.summary["rows"]:
        tensors = _of_group(result, row["at"])
        place = replace(of_experiment(result.header), at=row["at"])
        for head in _all_heads(tensors["exact"]):
            one, values = place.at_head(head), {name: _at(tensor, head) for name, tensor in tensors.items()}
            yield one.of("exact_effect", values["exact"], (values["low"], values["high"]))
            yield one.of("attributed_effect", values["attributed"])


def attention_patterns(result: Result) -> Iterator[Measurement]:
    """Per head of the circuit: its mean attention from its position to each place."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), group=row["group"], at=row["at"])
        for column in result.header.summary["columns"]:
            to = replace(place.at_head(Head.parse(row["head"])), condition=f"to {column}")
            yield to.of("attention", row[column])


def comparison(result: Result) -> Iterator[Measurement]:
    """Per head: the patching score it is ordered by, as its size."""
    for row in result.header.summary.get("impact") or ():
        names = [name for name in ("pretrained", "finetuned") if row[f"in_{name}"]]
        place = replace(of_experiment(result.header), condition=f"in {' and '.join(names)}")
        yield place.at_head(Head.parse(row["head"])).of("causal_impact", row["score"])


def _none(result: Result) -> Iterator[Measurement]:
    yield from ()


HEADS: dict[str, Callable[[Result], Iterator[Measurement]]] = {
    "path_patching": path_patching,
    "faithfulness": _none,
    "minimality": minimality,
    "completeness": _none,
    "comparison": comparison,
    "dcm": dcm,
    "activation_patching": _none,
    "cmap": _none,
    "knockout": _none,
    "attention_patterns": attention_patterns,
    "attribution": attribution,
}


def _of_group(result: Result, group: str) -> dict[str, Tensor]:
    """The tensors [layer, head] under a name, by what follows it."""
    prefix = f"{group}."
    found = {name.removeprefix(prefix): tensor for name, tensor in result.scores.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if tensor.dim() == 2}


def _all_heads(values: Tensor) -> Iterator[Head]:
    layers, heads = values.shape
    return (Head(layer, index) for layer in range(layers) for index in range(heads))


def _all_mlps(values: Tensor) -> Iterator[Mlp]:
    return (Mlp(layer) for layer in range(len(values)))


def _at(values: Tensor, head: Part) -> Any:
    value = values[head].item()
    return None if isinstance(value, float) and isnan(value) else value
