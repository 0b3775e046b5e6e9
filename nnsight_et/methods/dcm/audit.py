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
            right = to_list(tensors["mask"]) == to_list(tensors["masks"][number])
            yield finding("decisions", right, f"{group}, {name}: which mask is chosen")
            sets[name].append([(group, at, _zero(to_list(tensors["mask"]), heads))])
    test = evidence.step("test")
    yield from patched_findings(evidence, test, sets, ("mask_test", spec.test_examples), evidence.choice)
    right = right_by_source(evidence, test, [len(groups) + 1] * len(spec.desiderata))
    for name, each in zip(spec.desiderata, right, strict=True):
        bounds, shares = interval(each, evidence.job.seed), to_list(each.mean(-1))
        for number, (group, _, heads) in enumerate(groups):
            said = {"group": group, "desideratum": name, "heads": len(heads)} | chosen[group, name]
            said |= {"accuracy": shares[number], "accuracy_interval": bounds[number]}
            rows.append(said | {"do_nothing": shares[-1], "do_nothing_interval": bounds[-1]})
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
    return first, {"selected": selected, "tied": alike, "gradient": how}


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
        yield near(f"{what}: accuracy", float(carried), row.accuracy)
