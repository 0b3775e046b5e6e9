"""method: faithfulness."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.methods.shared import CircuitName, Measured, circuit_problems, twice
from nnsight_et.manifest.written import Surroundings, is_file


class Faithfulness(Measured):
    """How much of each model's accuracy a circuit keeps when all other heads are ablated (§4.2, Table 1)."""

    finds_circuit: ClassVar[bool] = False

    method: Literal["faithfulness"]
    circuit: CircuitName
    """An experiment that finds a circuit, a .json file, or one of published/llama, embedded/llama-tiny, ..."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """The models to measure, in the order of the table."""
    random_circuits: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 10
    """How many random circuits of the same size per position to compare with."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The experiment whose circuit is measured, unless it comes from a file."""
        return () if is_file(self.circuit) else (self.circuit,)

    @property
    def circuit_names(self) -> tuple[str, ...]:
        """The circuits this experiment uses, as it names them."""
        return (self.circuit,)

    @property
    def model_names(self) -> dict[KeyPath, str]:
        """Where this experiment names a model -> the name."""
        return {("models", index): name for index, name in enumerate(self.models)}

    def problems(self, known: Surroundings) -> Iterator[Problem]:
        """What is wrong with the circuit or the models, if anything."""
        yield from circuit_problems(("circuit",), self.circuit, known)
        yield from twice(("models",), self.models)
