"""method: comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import PUBLISHED, CircuitName, Method, ValidationContext, circuit_problems


class Comparison(Method):
    """Measure how two circuits overlap, group by group, and rank their heads by causal impact (App. E4, F4)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # how the two circuits overlap (App. E4)
        overlap: {method: comparison, circuits: [<circuit>, <finetuned_circuit>], scores: <finetuned_circuit>}
    """

    method: Literal["comparison"]
    circuits: tuple[CircuitName, CircuitName]
    """The two circuits, each an experiment, a .json file or a shipped circuit; the pretrained model's comes first."""
    scores: str | None = None
    """Rank the heads by these scores: a path_patching experiment, or shipped scores such as published/goat."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuits or the scores, if anything."""
        for index, name in enumerate(self.circuits):
            yield from circuit_problems(("circuits", index), name, known)
        names = (*known.scores, *PUBLISHED)
        if self.scores is not None and self.scores not in names:
            yield Problem(("scores",), f"no scores {self.scores!a}; {accepted_names(self.scores, names)}")
