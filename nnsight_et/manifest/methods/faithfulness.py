"""method: faithfulness."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import CircuitName, Measured, ValidationContext, circuit_problems, twice


class Faithfulness(Measured):
    """Measure how much of each model's accuracy a circuit keeps when all other heads are ablated (§4.2, Table 1)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # how much of each model's accuracy the circuit alone keeps (Table 1)
        faithful: {method: faithfulness, circuit: <circuit>, models: <models>, examples: <500>}
    """

    method: Literal["faithfulness"]
    circuit: CircuitName
    """An experiment that finds a circuit, a .json file, or one of published/llama, embedded/llama-tiny, ..."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """The models to measure, in the order of the table."""
    random_circuits: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 10
    """How many random circuits, with as many heads at each position, to compare with."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuit or the models, if anything."""
        yield from circuit_problems(("circuit",), self.circuit, known)
        yield from twice(("models",), self.models)
