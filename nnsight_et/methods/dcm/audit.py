"""What must hold of results of DCM: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import DCM
from nnsight_et.measuring.audit import NEAR, Finding, differences, finding
from nnsight_et.measuring.evidence import Evidence, Groups, Heads, circuit_json, name_of
from nnsight_et.measuring.patched_sets import patched_findings, right_by_source, trained_findings
from nnsight_et.measuring.recount import interval
from nnsight_et.methods.dcm.summary import DCMSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import GUESSED, Statement, below, near, same_heads


def audit_output(evidence: Evidence[DCM, DCMSummary]) -> Iterator[Finding]:
    """Desideratum by desideratum: what masks learned from, which was chosen, and what it does elsewhere."""
    spec, circuit = evidence.job.spec, evidence.circuit(evidence.job.spec.circuit)
    groups = [group for group in circuit if group[2]]
    scores, rows, sets = dict[str, Tensor](), list[dict[str, Any]](), dict[str, list[Groups]]()
    chosen = dict[tuple[str, str], dict[str, Any]]()
    for name in spec.desiderata:
        found = yield from trained_findings(evidence, name, groups)
        sets[name] = []
        for (group, at, heads), tensors in zip(groups, found, strict=True):
            scores |= {f"{group}.{name}.{key}": tensor for key, tensor in tensors.items() if key != "autograd"}
            number, chosen[group, name] = _chosen(tensors, heads)
            counts = to_list(tensors["accuracies"].double() * spec.validation_examples)
            whole_counts = all(abs(one - round(one)) < 1e-3 for one in counts)
            yield finding("recount", whole_counts, f"{group}, {name}: accuracies are no shares of the validation pairs")
            right = to_list(tensors["mask"]) == to_list(tensors["masks"][number])
            yield finding("decisions", right, f"{group}, {name}: which mask is chosen")
            sets[name].append([(group, at, _zero(to_list(tensors["mask"]), heads))])
    whole = {name: [[group] for group in groups] for name in spec.desiderata}
    test, possible = evidence.step("test"), evidence.step("ceiling")
    yield from patched_findings(evidence, test, sets, ("mask_test", spec.test_examples), evidence.choice)
    yield from patched_findings(
        evidence, possible, whole, ("mask_validation", spec.validation_examples), evidence.choice
    )
    sizes = [len(groups) + 1] * len(spec.desiderata)
    found = (right_by_source(evidence, one, sizes) for one in (test, possible))
    predicted = evidence.values(possible)["predicted"].split_with_sizes(sizes)
    for name, examples, said, tested, validated in zip(
        spec.desiderata, possible.measurement.sources, predicted, *found, strict=True
    ):
        scores |= evidence.answers(examples, f"{name}.") | {f"{name}.floor.predicted": said[-1]}
        scores |= {f"{group}.{name}.ceiling.predicted": said[number] for number, (group, _, _) in enumerate(groups)}
        for number, (group, _, heads) in enumerate(groups):
            row = {"group": group, "desideratum": name, "heads": len(heads)} | chosen[group, name]
            row |= _share("accuracy", tested[number]) | _share("do_nothing", tested[-1])
            row |= _share("ceiling", validated[number]) | _share("floor", validated[-1])
            rows.append(row)
    yield from _explained(evidence.summary, rows)
    yield from differences(evidence.summary.to_dict(), {"rows": rows, "circuit": circuit_json(circuit)})
    yield from differences(dict(evidence.scores), scores, "scores")


def _chosen(found: dict[str, Tensor], heads: Heads) -> tuple[int, dict[str, Any]]:
    """Which of a training's masks is best: right most often, then with the fewest heads, then the earliest."""
    tried, shares = to_list(found["masks"]), to_list(found["accuracies"])
    best = [number for number, share in enumerate(shares) if share > max(shares) - NEAR]
    fewest = max(sum(tried[number]) for number in best)
    (first, *others) = [number for number in best if sum(tried[number]) == fewest]
    alike = list[list[str]]()
    for number in others:
        names = list(map(name_of, _zero(tried[number], heads)))
        if tried[number] != tried[first] and names not in alike:
            alike.append(names)
    how = "autograd" if bool(found["autograd"]) else "finite differences"
    selected = list(map(name_of, _zero(tried[first], heads)))
    return first, {"selected": selected, "tied": alike, "gradient": how, "validated": shares[first]}


def _share(name: str, right: Tensor) -> dict[str, Any]:
    return {name: right.mean().item(), f"{name}_interval": interval(right)}


def _explained(summary: DCMSummary, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """That a selection without heads, and one of several alike, says so; what it says is prose, and taken as it is."""
    for said, row in zip(summary.to_dict()["rows"], rows, strict=True):
        kinds, where = {one["kind"] for one in said["why"]}, f"{row['group']}, {row['desideratum']}: why"
        yield finding("decisions", bool(kinds) or bool(row["selected"]), where)
        yield finding("decisions", "tie" in kinds or not row["tied"], where)
        row["why"] = said["why"]


def _zero(mask: Sequence[float], heads: Heads) -> Heads:
    return [head for head, keep in zip(heads, mask, strict=True) if keep < 0.5]


def statements(known: Known, _: str, result: MethodResult[DCMSummary]) -> Iterator[Statement]:
    """All heads of a group are selected for the variable it carries, and none for any other."""
    for row in result.summary.rows:
        name, variable = row.group, row.desideratum
        what = f"{name}, {variable}"
        if (name, variable) in known.guesses:
            yield below(f"{what}: guesses", GUESSED, row.accuracy)
            continue
        carried = known.groups[name].carries == variable
        planted = set(known.circuit.group(name).heads) if carried else set[Head]()
        yield same_heads(what, planted, {Head.parse(head) for head in row.selected})
        if name not in known.backed_up:  # a backup restores the answer
            yield near(f"{what}: accuracy", float(carried), row.accuracy)
