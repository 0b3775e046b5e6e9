"""The search: from the logits back, branch by branch, on examples that have no say in what is concluded."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Component, Head
from nnsight_et.core.lists import to_list
from nnsight_et.engine.paths import Kind, Path
from nnsight_et.interventions.probes import Probe
from nnsight_et.manifest import Discovery, IOITask
from nnsight_et.measuring.context import Progress
from nnsight_et.measuring.stage_scores import effects
from nnsight_et.methods.discovery.graph import (
    LOGITS,
    Branch,
    Edge,
    Group,
    Node,
    branches_of,
    free_name,
    grouped,
    halves,
    halves_of_layers,
    inputs_of,
    is_bottom,
)
from nnsight_et.methods.discovery.race import MARGIN, Family, Raced, Trials
from nnsight_et.methods.discovery.summary import OPEN, ProbeRecord, Why
from nnsight_et.models.catalog import Shape

SPLITS = 2  # of the heads below a branch, each into two halves
Steps = Generator[Progress, None, None]


@dataclass(frozen=True)
class Halves:
    """Halves of the layers below a branch, each patched at once on the first examples, and which were opened."""

    members: tuple[tuple[Head, ...], ...]
    effect: Tensor
    """[half, example]"""
    opened: tuple[int, ...]
    """The numbers of those whose heads were patched one by one."""
    sampled: int | None
    """One of the others, drawn at random, whose heads were so all the same."""

    @property
    def alone(self) -> list[Head]:
        """The heads to be patched one by one."""
        numbers = [*self.opened, *([] if self.sampled is None else [self.sampled])]
        return sorted(head for number in numbers for head in self.members[number])


@dataclass(frozen=True)
class Tested:
    """The senders of a branch; one by one were patched all of them, or those of the halves that were opened."""

    senders: tuple[Component, ...]
    raced: Raced


@dataclass
class Searched:
    """A branch and what became of it."""

    branch: Branch
    why: Why
    probes: list[ProbeRecord] = field(default_factory=list[ProbeRecord])
    probed: Tensor | None = None
    """[probe, example]: their effects."""
    halves: Halves | None = None
    """The halves of layers that were patched before its heads; of the logits none."""
    tested: dict[Kind, Tested] = field(default_factory=dict["Kind", Tested])
    candidates: list[Node] = field(default_factory=list[Node])

    @property
    def open(self) -> bool:
        """Whether its senders were patched one by one."""
        return self.why in OPEN


@dataclass
class Search:
    """One search: what was found so far. `steps` makes it; nothing else changes it."""

    trials: Trials
    groups: dict[str, Group] = field(default_factory=dict[str, Group])
    group_of: dict[Node, str] = field(default_factory=dict[Node, str])
    profiles: dict[Node, list[float]] = field(default_factory=dict[Node, "list[float]"])
    branches: dict[str, Searched] = field(default_factory=dict[str, Searched])
    scores: dict[Edge, float] = field(default_factory=dict[Edge, float])
    """The candidates' scores."""
    sampled_from: int = 0
    """How many branches were closed when the sample of them was drawn."""
    started: float = field(default_factory=monotonic)

    @property
    def spec(self) -> Discovery:
        """What the manifest says."""
        return self.trials.job.spec

    @property
    def shape(self) -> Shape:
        """The model's."""
        return self.trials.shape

    @property
    def positions(self) -> tuple[str, ...]:
        """Where nodes can be, in the order of a prompt."""
        return self.spec.places(self.trials.job.task.all_positions)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What nodes can be."""
        return ("heads", "mlps") if self.spec.mlps else ("heads",)

    @property
    def opened(self) -> int:
        """How many branches were opened, the logits' left out."""
        return sum(one.open for one in self.branches.values()) - 1

    def steps(self) -> Steps:
        """Search until nothing more is found, or no more may be searched."""
        logits = Searched(Branch(LOGITS, None, self.positions[-1]), "logits")
        self.branches[LOGITS] = logits
        yield from self._patch_senders([logits], LOGITS)
        rounds = 0
        while True:
            while new := self._new_nodes():
                rounds += 1
                yield from self._form_groups(new, rounds)
                yield from self._open((yield from self._probe_branches(rounds)), "effect", str(rounds))
            if any(one.why == "sampled" for one in self.branches.values()):
                break
            yield from self._open(self._sample(), "sampled", "sampled")
            if not self._new_nodes():
                break

    def _unordered(self, one: str, other: str) -> bool:
        task = self.trials.job.task
        return isinstance(task, IOITask) and task.is_unordered(one, other)

    def _new_nodes(self) -> list[Node]:
        """The candidates that are in no group yet, the strongest first."""
        best: dict[Node, float] = {}
        for (node, _), score in self.scores.items():
            if node not in self.group_of:
                best[node] = min(score, best.get(node, score))
        return sorted(best, key=lambda node: (best[node], node))

    def _open(self, some: Sequence[Searched], why: Why, name: str) -> Steps:
        """Search as many of the branches as may be: halves of layers of all of them at once, then their senders."""
        opened, reserved = list[Searched](), 0
        for one in some:
            limit = self._limit(one.branch, reserved)
            if limit is None:
                one.why = why
                opened.append(one)
                reserved += self._most(one.branch)
            elif why == "effect":
                one.why = limit
        yield from self._patch_halves(opened, f"layers {name}")
        yield from self._patch_senders(opened, f"senders {name}")

    def _patch_senders(self, some: Sequence[Searched], name: str) -> Steps:
        """Patch the senders of branches, one by one, in the same measurements, and choose the branches' candidates."""
        asked = list[tuple[Searched, Kind, list[Component], list[int]]]()
        for one in some:
            for kind in self.kinds:
                senders, found = one.branch.senders(self.shape, kind), one.halves if kind == "heads" else None
                alone = [index for index, sender in enumerate(senders) if found is None or sender in found.alone]
                if senders:
                    asked.append((one, kind, senders, alone))
        edges = [(one.branch.path(kind), senders[index]) for one, kind, senders, alone in asked for index in alone]
        families = [Family(len(alone), len(senders)) for _, _, senders, alone in asked]
        run = self.trials.run_all if name == LOGITS else self.trials.race
        raced = yield from run(partial(self.trials.edges, edges, name), len(edges), "search", families)
        parts = raced.split([family.run for family in families])
        for (one, kind, senders, alone), part in zip(asked, parts, strict=True):
            one.tested[kind] = Tested(tuple(senders), part.among(alone, len(senders)))
        for one in some:
            self._choose_candidates(one)

    def _choose_candidates(self, one: Searched) -> None:
        ranked = list[tuple[float, Node]]()
        for tested in one.tested.values():
            raced = tested.raced
            chosen = (raced.score <= -self.trials.threshold) & (raced.p_bh <= self.spec.level)
            indices: list[int] = to_list(torch.nonzero(chosen)[:, 0])
            ranked += [(raced.score[index].item(), Node(tested.senders[index], one.branch.at)) for index in indices]
        for score, node in sorted(ranked)[: self.spec.keep]:
            one.candidates.append(node)
            self.scores[Edge(node, one.branch)] = score

    def _patch_halves(self, some: Sequence[Searched], name: str) -> Steps:
        """Patch halves of layers at once, and open those that move the answer of any prompts enough, up or down."""
        seed, trials = self.trials.job.seed, self.trials
        asked = {
            one.branch.name: halves_of_layers(
                one.branch.senders(self.shape, "heads"), f"{seed}/layers/{one.branch.name}"
            )
            for one in some
        }
        probes = [Probe(one.branch.path(), half) for one in some for half in asked[one.branch.name]]
        if not probes:
            return
        found = yield from trials.values(
            partial(trials.probes, probes, name), range(len(probes)), trials.first, "search"
        )
        every, start = effects(found, trials.metric), 0
        for one in some:
            members = asked[one.branch.name]
            effect = every[start : start + len(members)]
            start += len(members)
            size = effect.abs()
            most = size.mean(-1) + MARGIN * size.std(-1) / sqrt(size.shape[-1])
            opened: list[int] = to_list(torch.nonzero(most >= trials.threshold)[:, 0])
            cleared = [number for number in range(len(members)) if number not in opened]
            draw = random.Random(f"{seed}/cleared/{one.branch.name}")
            one.halves = Halves(members, effect, tuple(opened), draw.choice(cleared) if cleared else None)

    def _form_groups(self, new: Sequence[Node], rounds: int) -> Steps:
        """Put new nodes into groups by what each loses when one of its inputs is the source's as a whole.

        Heads of layer 0, which nothing sends to, are one group at each position.
        """
        for node in filter(is_bottom, new):
            known = [group for group in self.groups.values() if group.bottom and group.at == node.at]
            fresh = Group(free_name(node.at, "heads", self.groups), node.at, "heads", (), rounds)
            group = known[0] if known else fresh
            self.groups[group.name] = replace(group, parts=(*group.parts, node.part))
            self.group_of[node] = group.name
        above = [node for node in new if not is_bottom(node)]
        if not above:
            return
        inputs = {node: inputs_of(node.kind, node.at, self.positions, self._unordered) for node in above}
        probes = [Probe(Path(at, via, (node.part,))) for node in above for via, at in inputs[node]]
        measured = partial(self.trials.probes, probes, f"profiles {rounds}")
        found = yield from self.trials.values(measured, range(len(probes)), self.trials.first, "probes")
        shares = iter(to_list((effects(found, self.spec.metric).mean(-1) / self.trials.unit).clamp(-1, 1)))
        profiles: dict[Node, list[float]] = {node: [next(shares) for _ in inputs[node]] for node in above}
        self.profiles |= profiles
        for group in grouped(profiles, self.spec.effect, self.spec.alike, self.groups, rounds):
            self.groups[group.name] = group
            self.group_of |= {Node(part, group.at): group.name for part in group.parts}

    def _probe_branches(self, rounds: int) -> Generator[Progress, None, list[Searched]]:
        """Probe all branches of the round's groups; those to be opened, the strongest first."""
        probes, asked = list[Probe](), list[tuple[Searched, list[str]]]()
        for group in self.groups.values():
            if group.round == rounds and not group.bottom:
                for branch in branches_of(group, self.positions, self._unordered):
                    given = list(self._probes_of(branch))
                    asked.append((Searched(branch, "nothing"), [what for what, _ in given]))
                    probes += [probe for _, probe in given]
        if not probes:
            return []
        measured = partial(self.trials.probes, probes, f"branches {rounds}")
        raced = yield from self.trials.race(measured, len(probes), "probes")
        first, strong = 0, list[tuple[float, Searched]]()
        for one, kinds in asked:
            self.branches[one.branch.name] = one
            here = range(first, first + len(kinds))
            first += len(kinds)
            one.probed = raced.effect[here.start : here.stop]
            for what, index in zip(kinds, here, strict=True):
                row: dict[str, Any] = {"what": what, "score": raced.score[index].item(), "p": raced.p[index].item()}
                one.probes.append(ProbeRecord.model_validate(row))
            if (strength := self._judge(one)) < 0:
                strong.append((strength, one))
        return [one for _, one in sorted(strong, key=lambda entry: (entry[0], entry[1].branch.name))]

    def _probes_of(self, branch: Branch) -> Iterator[tuple[str, Probe]]:
        """What is probed of a branch: the whole input, all heads below, and halves of them."""
        yield "whole", Probe(branch.path())
        heads = branch.senders(self.shape, "heads")
        if not heads:
            return
        yield "heads", Probe(branch.path(), tuple(Head(*head) for head in heads))
        for split in range(SPLITS if len(heads) > 1 else 0):
            order = list(range(len(heads)))
            random.Random(f"{self.trials.job.seed}/halves/{branch.name}/{split}").shuffle(order)
            for half in halves(heads, order):
                yield "half", Probe(branch.path(), half)

    def _judge(self, one: Searched) -> float:
        """The strongest effect that opens a branch; 0 if none does, and then why not."""
        strong = [probe for probe in one.probes if probe.score <= -self.trials.threshold and probe.p <= self.spec.level]
        if not any(one.branch.senders(self.shape, kind) for kind in self.kinds):
            one.why = "layer 0"
            return 0.0
        opening = [probe.score for probe in strong if self.spec.mlps or probe.what != "whole"]
        if not opening and strong:
            one.why = "token"
        return min(opening, default=0.0)

    def _limit(self, branch: Branch, reserved: int) -> Why | None:
        """Why the branch may not be opened, if so; reserved: what those take at most that are about to be."""
        if self.opened >= self.spec.branches:
            return "branches"
        budget = self.spec.budget
        if budget and budget.minutes is not None and monotonic() - self.started > 60 * budget.minutes:
            return "budget"
        most = budget.token_layers if budget else None
        if most is not None and sum(self.trials.cost.values()) + reserved + self._most(branch) > most:
            return "budget"
        return None

    def _most(self, branch: Branch) -> int:
        """What opening it costs at most: halves of layers, and then all senders on all examples."""
        members = halves_of_layers(branch.senders(self.shape, "heads"), "")
        probes = [Probe(branch.path(), half) for half in members]
        _, cost = self.trials.probes(probes, "", range(len(probes)), self.trials.first) if probes else (None, 0)
        return cost + self._exhaustive(branch, self.trials.examples)

    def _exhaustive(self, branch: Branch, some: Sequence[Example]) -> int:
        """What patching all its senders one by one costs."""
        return sum(
            self.trials.cost_of(branch.path(kind), branch.senders(self.shape, kind), some) for kind in self.kinds
        )

    def exhaustive_cost(self, held_out: Sequence[Example]) -> int:
        """What patching all senders of all branches of the same groups costs, on as many examples as test an edge.

        If the search had more, or none was tested, on those of the search.
        """
        most = max(self.trials.examples, held_out, key=len)
        return sum(self._exhaustive(one.branch, most) for one in self.branches.values())

    def _sample(self) -> list[Searched]:
        """Some of the branches that no probe opened, at random."""
        closed = [one for one in self.branches.values() if one.why in ("nothing", "token")]
        closed.sort(key=lambda one: one.branch.name)
        self.sampled_from = len(closed)
        draw = random.Random(f"{self.trials.job.seed}/closed branches")
        return draw.sample(closed, min(self.spec.closed_sample, len(closed)))
