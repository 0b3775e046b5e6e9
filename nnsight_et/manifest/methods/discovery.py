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
    """A limit on the cost of the search, in one of two units."""

    token_layers: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Tokens times layers, by formula: the same on every machine."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Minutes of this run after which no further branch is opened."""


class Discovery(Scored):
    """Find a circuit from the task alone: heads, their positions, the inputs they act through (docs/discovery.md)."""

    needs_desiderata: ClassVar[bool] = False
    finds_circuit: ClassVar[bool] = True
    template: ClassVar[str] = """
        # the circuit from the task alone, without stages: docs/discovery.md
        discovered:
          method: discovery
          model: <model>
          examples: <100>
          held_out_examples: <200>
          metric: <metric>
    """

    method: Literal["discovery"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    examples: Count = 100
    """How many pairs of a base and a source prompt to search on."""
    held_out_examples: Count = 200
    """How many further pairs of the same split to measure and test every edge on."""
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""
    positions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The named positions at which nodes may be; by default all that the task has. `last` is always included."""
    mlps: Flag = False
    """Let MLPs be nodes too. They do not join the circuit."""
    effect: Share = 0.02
    """The smallest score worth keeping, as a share of the base run's probability, or of its mean difference."""
    level: Share = 0.05
    """Upper bound on the probability that any edge in the graph has no effect."""
    keep: Count = 12
    """At most how many senders to keep in each branch, the strongest first."""
    branches: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 40
    """At most how many branches to open."""
    closed_sample: Annotated[int, Field(ge=0, le=1000, strict=True)] = 2
    """How many closed branches to search anyway, as a sample of what closing them missed."""
    alike: Annotated[float, Field(ge=-1, le=1)] = 0.7
    """How similar the profiles of nodes in one group must be: the smallest cosine."""
    budget: Budget | None = None
    """A limit on the cost of the search; none by default."""

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
            found = "neither token_layers nor minutes" if self.budget.minutes is None else "token_layers and minutes"
            yield Problem(("budget",), f"found {found}; accepted: one of token_layers and minutes")

    def places(self, every: tuple[str, ...]) -> tuple[str, ...]:
        """The positions of nodes, in the order of a prompt, out of all that the task has."""
        return tuple(one for one in every if self.positions is None or one in self.positions or one == every[-1])
