"""method: discovery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Scored, SpecModel, ValidationContext, twice

Share = Annotated[float, Field(gt=0, lt=1, strict=True)]


class Budget(SpecModel):
    """What the search may cost: one of the two."""

    token_layers: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """How many tokens times layers, by formula; the same on every machine."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """After how many minutes of this run no further branch is opened."""


class Discovery(Scored):
    """Find a circuit from the task alone: which heads, at which positions, through which inputs (docs/discovery.md)."""

    needs_desiderata: ClassVar[bool] = False
    finds_circuit: ClassVar[bool] = True
    template: ClassVar[str] = """
        # the circuit from the task alone, without stages: docs/discovery.md
        discovered: {method: discovery, model: <model>, examples: <100>, held_out_examples: <200>, metric: <metric>}
    """

    method: Literal["discovery"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    examples: Count = 100
    """How many pairs of a base and a source prompt are searched on."""
    held_out_examples: Count = 200
    """On how many further pairs of the same split every edge is measured and tested."""
    only_correct: Flag = False
    """Whether only prompts that the model itself answers right count."""
    positions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The named positions of nodes; when absent all that the task has. The last one is always among them."""
    mlps: Flag = False
    """Whether MLPs can be nodes. They belong to no circuit."""
    effect: Share = 0.02
    """The least score worth keeping, as a share of the base: of the probability, or of the mean difference."""
    level: Share = 0.05
    """The probability that any edge of the graph has no effect is at most this."""
    keep: Count = 12
    """How many senders of a branch are kept at most, the strongest first."""
    branches: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 40
    """How many branches are opened at most."""
    closed_sample: Annotated[int, Field(ge=0, le=1000, strict=True)] = 2
    """How many of the closed branches are searched all the same."""
    alike: Annotated[float, Field(ge=-1, le=1)] = 0.7
    """How alike the profiles of a group's nodes are: the least cosine."""
    budget: Budget | None = None
    """What the search may cost; when absent, what it takes."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the metric, the positions or the budget, if anything."""
        yield from self.metric_problems()
        if self.metric == "kl":
            accept = "probability_ratio, logit_difference or probability_difference"
            yield Problem(("metric",), f"kl, which has no sign to test; accepted: {accept}")
        for index, position in enumerate(self.positions or ()):
            if position not in known.positions:
                yield Problem(
                    ("positions", index), f"no position {position!r}; {accepted_names(position, known.positions)}"
                )
        yield from twice(("positions",), self.positions or ())
        if self.budget and (self.budget.token_layers is None) == (self.budget.minutes is None):
            yield Problem(("budget",), "accepted: either token_layers or minutes")

    def places(self, every: tuple[str, ...]) -> tuple[str, ...]:
        """The positions of nodes, in the order of a prompt, of all that the task has."""
        return tuple(one for one in every if self.positions is None or one in self.positions or one == every[-1])
