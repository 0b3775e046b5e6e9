"""What must hold of results of CMAP: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import CMAP
from nnsight_et.measuring.audit import Finding, differences, finding
from nnsight_et.measuring.context import Measured
from nnsight_et.measuring.evidence import Evidence, Groups, circuit_json, places, plain_circuit, random_groups
from nnsight_et.measuring.patched_sets import roles_of
from nnsight_et.measuring.recount import interval, mean_and_std
from nnsight_et.methods.cmap.summary import CMAPSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import LOST, MOVED, Statement, below, near

WAYS = [("query",), ("key",), ("value",), ("query", "key", "value")]


def audit_output(evidence: Evidence[CMAP, CMAPSummary]) -> Iterator[Finding]:
    """Which heads of which model were given to which, and what the recipient then answers."""
    spec, (donor, recipient) = evidence.job.spec, evidence.job.models
    if evidence.context.data.made:  # a notebook's models may share a name, and are then numbered
        yield finding("asked", (donor.name, recipient.name) == (spec.donor, spec.recipient), "donor and recipient")
    circuit, shape = _patched(evidence), evidence.context.models.shape(recipient)
    groups = [group for group in circuit if group[2]]
    random = random_groups(circuit, shape.n_layers, shape.n_heads, spec.random_sets, evidence.job.seed)
    sets, alone = [*([group] for group in groups), groups, *random], [evidence.step(f"{one.name} alone") for one in
                                                                      (donor, recipient)]  # fmt: skip
    examples = alone[0].measurement.step.examples
    yield from evidence.drawn(examples, "evaluation", spec.examples, recipient)
    yield from _outputs_asked(evidence, sets, alone)
    outputs = evidence.step("recipient outputs")
    right, predicted = evidence.right(outputs), evidence.values(outputs)
    names = [*(name for name, _, _ in groups), "all"]
    sizes = [*(len(heads) for _, _, heads in groups), sum(len(heads) for _, _, heads in groups)]
    rows = [_row("output", name, size, one) for name, size, one in zip(names, sizes, right[: len(names)], strict=True)]
    scores = {f"output.{key}": tensor for key, tensor in predicted.items()} | evidence.answers(examples)
    for group in groups if spec.inputs else ():
        one = evidence.step(f"recipient inputs of {group[0]}")
        yield from _inputs_asked(evidence, group, one)
        scores |= {f"{group[0]}.input.{key}": tensor for key, tensor in evidence.values(one).items()}
        for way, each in zip(WAYS, evidence.right(one), strict=True):
            rows.append(_row("+".join(way), group[0], len(group[2]), each))
    own = [evidence.right(one) for one in alone]
    mean, std = mean_and_std(to_list(right[len(names) :].mean(-1)))
    drawn = {"mean": mean, "std": std, "mean_interval": interval(right[len(names) :].mean(0))}
    expected = {
        "donor": donor.name,
        "recipient": recipient.name,
        "models": {one.name: each.mean().item() for one, each in zip(evidence.job.models, own, strict=True)},
        "model_intervals": {one.name: interval(each) for one, each in zip(evidence.job.models, own, strict=True)},
        "rows": rows,
        "random": drawn if spec.random_sets else None,
        "circuit": circuit_json(circuit),
    }
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), scores, "scores")


def _patched(evidence: Evidence[CMAP, CMAPSummary]) -> Groups:
    """Of each group the heads selected for its main role; all of one that has none, or where there are no roles."""
    spec = evidence.job.spec
    circuit = evidence.circuit(spec.circuit)
    if spec.roles is None:
        return circuit
    roles, kept = roles_of(evidence, spec.roles), Groups()
    for name, at, heads in circuit:
        role = spec.main_role.get(name)
        chosen = heads if role is None else roles.heads(name, role)
        kept.append((name, at, [head for head in heads if head in chosen]))
    return kept


def _outputs_asked(
    evidence: Evidence[CMAP, CMAPSummary], sets: list[Groups], alone: list[Measured]
) -> Iterator[Finding]:
    """That the donor gives the heads of all sets, and the recipient takes each set's, on the prompts of both alone."""
    donor, recipient = evidence.job.models
    given, taken = evidence.step("donor outputs"), evidence.step("recipient outputs")
    for one in (alone[1], given, taken):
        yield from evidence.same_base(alone[0].measurement.step.examples, one)
    for one, choice in zip(alone, (donor, recipient), strict=True):
        yield from evidence.calls(one, "model_readouts", lambda _: None, None, choice)
    yield from evidence.calls(given, "donor_outputs", lambda said: list(map(plain_circuit, said[1])), sets, donor)
    yield from evidence.calls(
        taken, "recipient_readouts", lambda said: list(map(plain_circuit, said[2])), sets, recipient
    )
    yield from _given(evidence, given, taken)
    named = dict[str, dict[int, set[int]]]()
    for _, at, heads in (group for one in sets for group in one):
        for layer, head in heads:
            named.setdefault(at, {}).setdefault(layer, set()).add(head)
    expected = {at: {layer: sorted(some) for layer, some in layers.items()} for at, layers in named.items()}
    yield from evidence.calls(taken, "recipient_readouts", _heads_given, expected, recipient)


def _inputs_asked(
    evidence: Evidence[CMAP, CMAPSummary], group: tuple[str, str, list[tuple[int, int]]], one: Measured
) -> Iterator[Finding]:
    """The same of one group's queries, keys and values."""
    (donor, recipient), (name, at, heads) = evidence.job.models, group
    given, told = evidence.step(f"donor inputs of {name}"), [name, at, heads]
    for step in (given, one):
        yield from evidence.same_base(evidence.step(f"{donor.name} alone").measurement.step.examples, step)
    yield from evidence.calls(given, "donor_inputs", lambda said: _told(said[1]), told, donor)
    yield from evidence.calls(
        one, "recipient_input_readouts", lambda said: [_told(said[1][0]), list(said[2])], [told, WAYS], recipient
    )
    yield from _given(evidence, given, one)


def _given(evidence: Evidence[CMAP, CMAPSummary], given: Measured, taken: Measured) -> Iterator[Finding]:
    """That the recipient of each batch gets just what the donor gave for its prompts, head by head."""
    for batch, key in given.keys.items():
        if batch not in taken.keys:
            yield finding("asked", False, f"step {taken.measurement.step.name}: its batches")
            continue
        cell = evidence.context.cells.read(key)
        arguments: Any = evidence.call(taken, batch).arguments
        places: Any = arguments[1] if isinstance(arguments[1], dict) else arguments[1][1]
        told = dict[str, Tensor]()
        for name, layers in places.items():
            for layer, values in layers.items():
                told[f"{name} {layer}"] = values[1] if isinstance(values, tuple) else values
        right = set(told) == set(cell) and all(_is_end_of(told[name], cell[name]) for name in told)
        yield finding("asked", right, f"step {taken.measurement.step.name}: what the donor gave")


def _is_end_of(some: Tensor, whole: Tensor) -> bool:
    """Whether they are the same, but for the tokens of a batch's padding, which come first."""
    return some.ndim == whole.ndim and torch.equal(some, whole[:, whole.shape[1] - some.shape[1] :])


def _heads_given(arguments: tuple[Any, ...]) -> Any:
    return {at: {layer: list(heads) for layer, (heads, _) in layers.items()} for at, layers in arguments[1].items()}


def _told(group: Any) -> list[Any]:
    return [group.name, group.at, places(group.heads)]


def _row(patched: str, name: str, heads: int, right: Tensor) -> dict[str, Any]:
    said = {"patched": patched, "group": name, "heads": heads, "accuracy": right.mean().item()}
    return said | {"accuracy_interval": interval(right)}


def statements(known: Known, _: str, result: MethodResult[CMAPSummary]) -> Iterator[Statement]:
    """Patched groups before the one that differs move nothing, it and those after it all of the gap."""
    summary = result.summary
    silenced = summary.recipient.removeprefix("without-")
    reached = known.downstream(silenced)
    told = {(known.groups[name].into, known.groups[name].via) for name in reached} | {(silenced, "key")}
    low, high = summary.models[summary.recipient], summary.models[summary.donor]
    yield near("donor alone", 1.0, high)
    yield below("recipient alone", LOST, low)
    for row in summary.rows:
        name, patched = row.group, row.patched
        whole = (name, patched) in told
        if patched in ("output", "query+key+value"):
            whole = name == "all" or name in reached
        share = (row.accuracy - low) / (high - low) if high > low else float("nan")
        yield near(f"{silenced} silenced; {patched} of {name}: share of the gap", float(whole), share, MOVED)
