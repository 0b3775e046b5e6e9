"""method: dcm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, WithJsonSchema

from nnsight_et.core.errors import accepted_names, quantity
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.written import Count, OnCircuit, ValidationContext, twice

BOXES_DESIDERATA = (
    "object",
    "label",
    "position",
    "text_at_start",
    "text_at_end",
    "tokens_between",
    "segment_at_start",
    "segment_at_end",
    "boxes_before",
    "incorrect_segment",
    "altered_order",
    "altered_association",
    "no_comma",
    "comma_after_object",
)
"""The variables a prompt of the boxes task has, and the ways to write position (Fig. 2, Tables A11-A13)."""
Desideratum = Annotated[
    str,
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"enum": list(BOXES_DESIDERATA)}, {"type": "string"}]}),
]
"""One of the task's: BOXES_DESIDERATA, name, position or duplicate of ioi, or those of a task of your own."""


def desiderata_problems(path: KeyPath, names: Sequence[str], known: ValidationContext) -> Iterator[Problem]:
    """A problem for each name that the task has no desideratum of, or that appears twice."""
    for index, name in enumerate(names):
        if name not in known.desiderata:
            yield Problem((*path, index), f"found {name!a:.60}; {accepted_names(name, known.desiderata)}")
    yield from twice(path, tuple(names))


class DCM(OnCircuit):
    """Find which heads of each group carry which variable, by masks trained with gradients (§5.1-5.2, App. H)."""

    needs_desiderata: ClassVar[bool] = True
    template: ClassVar[str] = """
        # which heads carry which variable (section 5.1)
        roles: {method: dcm, circuit: <circuit>, desiderata: <desiderata>}
    """

    method: Literal["dcm"]
    desiderata: Annotated[tuple[Desideratum, ...], Field(min_length=1)] = ("object", "label", "position")
    """The variables to find heads for. Required for every task but boxes."""
    training_examples: Count = 1000
    """How many pairs to train the masks on."""
    validation_examples: Count = 500
    """How many pairs to choose the best mask of each training on."""
    test_examples: Count = 500
    """How many pairs to test the selected heads on."""
    sparsity: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False, strict=True)] = 0.01
    """The paper's lambda: what each selected head adds to the loss."""
    learning_rate: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False, strict=True)] = 0.1
    """Learning rate of the optimizer, Adam."""
    epochs: Annotated[int, Field(ge=1, le=1000, strict=True)] = 2
    """How many times training goes through its pairs."""
    batch: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 32
    """How many pairs each training step uses."""
    validate_every: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 4
    """How many batches to train between validations."""

    @property
    def least_training(self) -> int:
        """With how many training pairs a mask can get from 1 to 0.5, where a head is selected.

        Adam moves it by about learning_rate in a step.
        """
        batches = ceil(0.5 / max(self.learning_rate * self.epochs, 1e-7))
        return self.batch * (batches - 1) + 1

    def with_limit(self, examples: int) -> Self:
        """The same with at most so many examples, but no fewer training pairs than can select a head."""
        fewer, least = super().with_limit(examples), min(self.least_training, self.training_examples)
        return fewer.model_copy(update={"training_examples": max(fewer.training_examples, least)})

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuit or the desiderata, if anything."""
        yield from super().problems(known)
        yield from desiderata_problems(("desiderata",), self.desiderata, known)
        if self.training_examples < self.least_training:
            steps = self.epochs * ceil(self.training_examples / self.batch)
            found = (
                f"{quantity(self.training_examples, 'pair')}, so {quantity(steps, 'step')} of {self.learning_rate:g}"
            )
            accept = f"{self.least_training} or more, a smaller batch, more epochs or a larger learning_rate"
            text = f"{found}, too few for a mask to get from 1 to 0.5, where a head is selected; accepted: {accept}"
            yield Problem(("training_examples",), text)
