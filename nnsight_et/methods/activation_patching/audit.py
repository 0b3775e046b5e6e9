"""What must hold of results of activation patching: of what was asked and found, and on models with a known circuit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import ActivationPatching
from nnsight_et.measuring.audit import Finding, differences, finding
from nnsight_et.measuring.evidence import Evidence, circuit_json
from nnsight_et.measuring.patched_sets import Roles, patched_findings, right_by_source, roles_of
from nnsight_et.measuring.recount import interval, mean_and_std
from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, near


def audit_output(evidence: Evidence[ActivationPatching, ActivationPatchingSummary]) -> Iterator[Finding]:
    """Model by model: the heads that were selected, patched on every draw of fresh pairs."""
    spec = evidence.job.spec
    roles = roles_of(evidence, spec.roles, spec.desiderata or ())
    rows, scores = list[dict[str, Any]](), dict[str, Tensor]()
    for choice in evidence.job.models:
        names = list(spec.desiderata or dict.fromkeys(name for chosen in roles.selected.values() for name in chosen))
        yield from _draws_differ(evidence, choice)
        for draw in range(1, spec.draws + 1):
            one, sets = evidence.step(f"{choice.name} draw {draw}"), {name: roles.sets(name) for name in names}
            yield from patched_findings(evidence, one, sets, ("evaluation", spec.examples), choice)
        for number in range(len(names)):
            rows += _rows(evidence, roles, choice, (number, names), scores)
    expected = {"rows": rows, "circuit": circuit_json(roles.circuit)}
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), scores, "scores")


def _draws_differ(
    evidence: Evidence[ActivationPatching, ActivationPatchingSummary], choice: ModelChoice
) -> Iterator[Finding]:
    if evidence.context.data.made:
        steps = [evidence.step(f"{choice.name} draw {draw}") for draw in range(1, evidence.job.spec.draws + 1)]
        drawn = [tuple(one.base.tokens for one in step.measurement.step.examples) for step in steps]
        yield finding("splits", len(set(drawn)) == len(drawn), f"{choice.name}: two draws are the same")


def _rows(
    evidence: Evidence[ActivationPatching, ActivationPatchingSummary],
    roles: Roles,
    choice: ModelChoice,
    which: tuple[int, list[str]],
    scores: dict[str, Tensor],
) -> list[dict[str, Any]]:
    """A row per set of a desideratum, over the draws."""
    (number, names), draws = which, range(1, evidence.job.spec.draws + 1)
    sizes = [len(roles.sets(name)) + 1 for name in names]
    right = [right_by_source(evidence, evidence.step(f"{choice.name} draw {draw}"), sizes)[number] for draw in draws]
    each = torch.stack([one.mean(-1) for one in right], -1)  # [set + 1, draw]
    scores[f"{choice.name}.{names[number]}.accuracy"] = each
    bounds = interval(torch.cat(right, -1))
    rows = list[dict[str, Any]]()
    for index, ((group, _, heads),) in enumerate(roles.sets(names[number])):
        mean, std = mean_and_std(to_list(each[index]))
        said = {"model": choice.name, "group": group, "desideratum": names[number], "heads": len(heads)}
        nothing, _ = mean_and_std(to_list(each[-1]))
        said |= {"mean": mean, "std": std, "mean_interval": bounds[index], "draws": len(draws)}
        rows.append(said | {"do_nothing": nothing, "do_nothing_interval": bounds[-1]})
    return rows


def statements(known: Known, _: str, result: MethodResult[ActivationPatchingSummary]) -> Iterator[Statement]:
    """The selected heads, patched on fresh prompts, give the target of the variable they carry."""
    for row in result.summary.rows:
        name, variable = row.group, row.desideratum
        if (name, variable) not in known.guesses and name not in known.backed_up:
            yield near(f"{name}, {variable}", float(known.groups[name].carries == variable), row.mean)
