"""What DCM selects and what is patched, once more: roles as they are written, the sets of heads, and their data."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.audit import Finding, differences, finding, right_answers
from nnsight_et.measuring.context import Measured
from nnsight_et.measuring.evidence import (
    Evidence,
    Groups,
    Heads,
    place,
    plain_circuit,
    same_answers,
    same_prompts,
    shipped,
)
from nnsight_et.planning.plan import ModelChoice


@dataclass(frozen=True)
class Roles:
    """A circuit, and which heads of its groups were selected for which desideratum."""

    circuit: Groups
    selected: Mapping[str, Mapping[str, Heads]]

    def heads(self, group: str, desideratum: str) -> Heads:
        """The group's heads for a desideratum; of a variant that has none of its own, those for position."""
        chosen = self.selected[group]
        return chosen[desideratum] if desideratum in chosen else chosen["position"]

    def sets(self, desideratum: str) -> list[Groups]:
        """Per group that heads were selected from, those for the desideratum."""
        return [[(name, at, self.heads(name, desideratum))] for name, at, _ in self.circuit if name in self.selected]


def roles_of(evidence: Evidence, name: str, desiderata: Sequence[str] = ()) -> Roles:
    """The roles that the manifest names, as their result or the package has them written.

    Where heads were selected for nothing, all of a circuit's groups are for each of the desiderata.
    """
    if is_shipped(name):
        model = name.partition("/")[2]
        chosen = {
            group: {one: list(map(place, heads)) for one, heads in some.items()}
            for group, some in shipped(model, "selections").items()
        }
        return Roles(plain_circuit(shipped(model, "circuit")), chosen)
    summary, found = evidence.earlier_summary(name), dict[str, dict[str, Heads]]()
    if "rows" not in summary or not all("selected" in row for row in summary["rows"]):
        circuit = plain_circuit(summary["circuit"])
        return Roles(circuit, {group: dict.fromkeys(desiderata, heads) for group, _, heads in circuit if heads})
    for row in summary["rows"]:
        found.setdefault(row["group"], {})[row["desideratum"]] = list(map(place, row["selected"]))
    return Roles(plain_circuit(summary["circuit"]), found)


def patched_findings(
    evidence: Evidence,
    one: Measured,
    sets: Mapping[str, Sequence[Groups]],
    split: tuple[str, int],
    choice: ModelChoice,
) -> Iterator[Finding]:
    """That each desideratum's sets, and nothing, were patched from that desideratum's sources on as many pairs."""
    every = [[number, heads] for number, some in enumerate(sets.values()) for heads in (*some, [])]

    def told(arguments: tuple[Any, ...]) -> list[list[Any]]:
        return [[number, plain_circuit(heads)] for number, heads in arguments[2]]

    yield from evidence.calls(one, "patched_readouts_by_source", told, every, choice)
    where, given = f"step {one.measurement.step.name}", one.measurement.sources
    yield finding("asked", len(given) == len(sets), f"{where}: how many sources")
    yield finding("splits", list(given[0]) == list(one.measurement.step.examples), f"{where}: its examples")
    for name, examples in zip(sets, given, strict=False):
        yield from evidence.drawn(examples, *split, choice, swapped=name)
        yield finding("splits", _bases(examples) == _bases(given[0]), f"{where}: the base prompts of {name}")
    for batch in one.measurement.step.batches:
        sources = evidence.call(one, batch).arguments[1]
        for question, examples in zip(sources, given, strict=True):
            some = [examples[index] for index in batch]
            right = same_prompts(question.run, [example.source for example in some])
            right = right and same_answers(question.answer, some)
            yield finding("asked", right, f"{where}: the source prompts")


def _bases(examples: Sequence[Example]) -> list[Any]:
    return [example.base for example in examples]


def right_by_source(evidence: Evidence, one: Measured, sizes: Sequence[int]) -> list[Tensor]:
    """Per desideratum [set + 1, example]: 1 where its own target is predicted."""
    parts = evidence.values(one)["predicted"].split_with_sizes(list(sizes))
    return [
        right_answers(predicted, [(example.answer, *example.also_right) for example in examples])
        for predicted, examples in zip(parts, one.measurement.sources, strict=True)
    ]


def trained_findings(
    evidence: Evidence, name: str, groups: Groups
) -> Generator[Finding, None, list[dict[str, Tensor]]]:
    """What a desideratum's masks were trained and validated on and how; returned: what each group's training found."""
    spec, (trained,) = (
        evidence.job.spec,
        [one for one in evidence.context.trained[evidence.job.name] if one.name == name],
    )
    splits = (("mask_training", spec.training_examples), ("mask_validation", spec.validation_examples))
    for (split, count), examples in zip(splits, trained.data, strict=True):
        yield from evidence.drawn(examples, split, count, evidence.choice, swapped=name)
    if evidence.context.data.made:
        apart = not {one.base.tokens for one in trained.data[0]} & {one.base.tokens for one in trained.data[1]}
        yield finding("splits", apart, f"{name}: masks are validated on pairs they were trained on")
    if trained.call is not None:
        wanted, training, train, validation = trained.call.arguments[:4]
        told = [[group.name, group.at, list(map(tuple, group.heads))] for group in wanted]
        missing = [list(group) for group in groups if group[0] in trained.missing]
        yield from _asked(told, missing, f"{name}: which groups")
        numbers = {key: getattr(spec, key) for key in ("sparsity", "learning_rate", "epochs", "validate_every")}
        yield from _asked(vars(training), numbers, f"{name}: how")
        for pairs, examples in ((train, trained.data[0]), (validation, trained.data[1])):
            cuts = [list(examples[first : first + spec.batch]) for first in range(0, len(examples), spec.batch)]
            right = len(cuts) == len(pairs) and all(
                same_prompts(pair.base, [one.base for one in some])
                and same_prompts(pair.source, [one.source for one in some])
                and same_answers(pair.answer, some)
                for pair, some in zip(pairs, cuts, strict=True)
            )
            yield finding("asked", right, f"{name}: the pairs of training or validation")
    return [evidence.context.cells.read(key) | evidence.context.cells.read(course) for key, course in trained.keys]


def _asked(found: Any, expected: Any, where: str) -> Iterator[Finding]:
    for one in differences(found, expected, where):
        yield one._replace(check="asked")
